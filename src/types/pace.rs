//! Whether somebody keeps up with a least rate. Pure: the caller says how long was waited and what came of it.

use std::time::Duration;

use super::defaults;

/// A leaky bucket of seconds: waiting fills it, bytes empty it. What came faster than it had to is no credit for later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    behind: Duration,
}

impl Pace {
    /// After `waited`, `bytes` moved where `rate` bytes a second are the least (0: no limit). Says whether that is enough.
    #[must_use]
    pub fn moved(&mut self, waited: Duration, bytes: u64, rate: u64) -> bool {
        if rate == 0 {
            return true;
        }
        let worth = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        self.behind = (self.behind + waited).saturating_sub(worth);
        self.behind <= defaults::RATE_GRACE.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_trickle_is_too_slow_after_the_grace_and_a_steady_stream_never_is() {
        let mut pace = Pace::default();
        let kept = (0..20).take_while(|_| pace.moved(SECOND, 1, 1_024)).count();
        assert_eq!(kept, 5);
        let mut pace = Pace::default();
        assert!((0..1_000).all(|_| pace.moved(SECOND, 1_024, 1_024)));
        let mut pace = Pace::default();
        assert!((0..1_000).all(|_| pace.moved(20 * SECOND, 64 << 10, 1_024)), "in lumps");
    }

    #[test]
    fn speed_is_no_credit_and_no_rate_is_no_limit() {
        let mut pace = Pace::default();
        assert!(pace.moved(SECOND, 1 << 30, 1_024));
        assert!(!pace.moved(6 * SECOND, 1, 1_024));
        let mut pace = Pace::default();
        assert!(pace.moved(1_000 * SECOND, 0, 0));
    }
}
