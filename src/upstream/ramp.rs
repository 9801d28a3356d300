//! Slow start: the share that an endpoint gets in the time after it came back or joined.
//!
//! Ten steps from a tenth to the whole, so that the eligible endpoints are listed anew ten times and a pick still reads one
//! number. Shares are relative: where all endpoints start slowly at once, or there is no other, it has no effect.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Steps to the whole share.
const STEPS: u32 = 10;

/// The whole share, in the unit of [`Step::thousandths`].
pub(super) const WHOLE: u32 = 1_000;

/// Times are counted from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When an endpoint last came back or joined.
#[derive(Debug, Default)]
pub(super) struct Ramp {
    /// In milliseconds since the epoch, and 1; 0 where it never did.
    began: AtomicU64,
}

/// The share of an endpoint, and when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) thousandths: u32,
    /// `None` where it has the whole.
    pub(super) until: Option<Instant>,
}

impl Ramp {
    /// It has come back, or joined.
    pub(super) fn start(&self, now: Instant) {
        let at = now.saturating_duration_since(*EPOCH).as_millis();
        self.began.store(u64::try_from(at).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// Its share, where a whole slow start takes `whole`.
    pub(super) fn step(&self, whole: Duration, now: Instant) -> Step {
        let done = Step { thousandths: WHOLE, until: None };
        let Some(began) = self.began.load(Ordering::Relaxed).checked_sub(1) else { return done };
        let Some(began) = EPOCH.checked_add(Duration::from_millis(began)) else { return done };
        let step = whole / STEPS;
        let age = now.saturating_duration_since(began);
        if age >= whole || step.is_zero() {
            return done;
        }
        let passed = (age.as_nanos() / step.as_nanos()).min(u128::from(STEPS - 1)) as u32;
        Step {
            thousandths: (passed + 1) * WHOLE / STEPS,
            until: began.checked_add(step * (passed + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_in_tenths_and_says_when() {
        let start = *EPOCH + Duration::from_mins(1);
        let at = |millis: u64| start + Duration::from_millis(millis);
        let whole = Duration::from_secs(10);
        let ramp = Ramp::default();
        assert_eq!(ramp.step(whole, start), Step { thousandths: 1_000, until: None }, "never");
        ramp.start(start);
        for (millis, thousandths, until) in [
            (0, 100, Some(1_000)),
            (999, 100, Some(1_000)),
            (1_000, 200, Some(2_000)),
            (5_500, 600, Some(6_000)),
            (9_999, 1_000, Some(10_000)),
            (10_000, 1_000, None),
        ] {
            let expected = Step { thousandths, until: until.map(at) };
            assert_eq!(ramp.step(whole, at(millis)), expected, "{millis}");
        }
        assert_eq!(ramp.step(Duration::ZERO, start).thousandths, 1_000, "off");
        ramp.start(at(20_000));
        assert_eq!(ramp.step(whole, at(20_000)).thousandths, 100, "again");
    }
}
