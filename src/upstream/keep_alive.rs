//! How long an endpoint keeps an idle connection, as it says itself in `Keep-Alive: timeout=N`.
//!
//! A request sent on a connection that the endpoint is about to close is lost, and a POST can't be sent again. So the
//! pool must let go first: it takes the announced time less a margin.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What the pool takes before the first response: shorter than what servers commonly keep.
const BEFORE_FIRST_RESPONSE: Duration = Duration::from_secs(1);
/// What is taken off the announced time, or half of it where that is less.
const MARGIN: Duration = Duration::from_secs(1);
/// More is taken for this much.
const MAX_ANNOUNCED: Duration = Duration::from_hours(24);

/// No response yet.
const UNKNOWN: u64 = u64::MAX;
/// Responses without an announcement, so far.
const NONE: u64 = u64::MAX - 1;

/// The shortest time that an endpoint has announced, in milliseconds. Lock-free.
#[derive(Debug)]
pub(super) struct Announced(AtomicU64);

impl Announced {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(UNKNOWN))
    }

    /// Takes what one response said. The shortest wins; "nothing" is longer than any time.
    pub(super) fn learn(&self, announced: Option<Duration>) {
        let millis = announced.map_or(NONE, |d| d.min(MAX_ANNOUNCED).as_millis() as u64);
        // Nearly every response says the same: a load does not fight over the cache line.
        if millis < self.0.load(Ordering::Relaxed) {
            self.0.fetch_min(millis, Ordering::Relaxed);
        }
    }

    /// How long the pool may keep a connection, at most `pool_idle`.
    pub(super) fn idle_timeout(&self, pool_idle: Duration) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => BEFORE_FIRST_RESPONSE.min(pool_idle),
            NONE => pool_idle,
            millis => {
                let announced = Duration::from_millis(millis);
                announced.saturating_sub(MARGIN).max(announced / 2).min(pool_idle)
            }
        }
    }
}

/// The `timeout` of a `Keep-Alive` field value such as `timeout=5, max=1000`.
///
/// The field is not in a living standard; this follows RFC 2068, section 19.7.1.1, and what servers send. `None` where there is no
/// `timeout` of whole seconds.
pub fn parse_keep_alive(value: &[u8]) -> Option<Duration> {
    value.split(|byte| *byte == b',' || *byte == b';').find_map(|parameter| {
        let equals = parameter.iter().position(|byte| *byte == b'=')?;
        let (name, number) = parameter.split_at_checked(equals)?;
        if !name.trim_ascii().eq_ignore_ascii_case(b"timeout") {
            return None;
        }
        let number = number.get(1..)?.trim_ascii();
        let number = number
            .strip_prefix(b"\"")
            .and_then(|number| number.strip_suffix(b"\""))
            .unwrap_or(number);
        if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // Too many digits for a u64 is still a long time, not no announcement.
        let seconds = std::str::from_utf8(number).ok()?.parse().unwrap_or(u64::MAX);
        Some(Duration::from_secs(seconds).min(MAX_ANNOUNCED))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL_IDLE: Duration = Duration::from_secs(30);

    #[test]
    fn the_timeout_is_found_in_what_servers_send() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=1000", Some(5)),
            ("max=1000, timeout=5", Some(5)),
            ("max=100;timeout=15", Some(15)),
            ("  Timeout = 7 ", Some(7)),
            ("timeout=\"5\"", Some(5)),
            ("timeout=0", Some(0)),
            ("timeout=99999999999999999999999", Some(86_400)),
            ("", None),
            ("timeout", None),
            ("timeout=", None),
            ("timeout=\"", None),
            ("timeout=-1", None),
            ("timeout=5s", None),
            ("xtimeout=5", None),
            ("max=5", None),
        ] {
            assert_eq!(
                parse_keep_alive(value.as_bytes()),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
        assert_eq!(parse_keep_alive(b"timeout=\xff"), None);
    }

    #[test]
    fn the_pool_lets_go_before_the_endpoint_does() {
        for (seconds, idle_millis) in [(5, 4_000), (2, 1_000), (1, 500), (0, 0), (60, 30_000)] {
            let announced = Announced::new();
            announced.learn(Some(Duration::from_secs(seconds)));
            let idle = announced.idle_timeout(POOL_IDLE);
            assert_eq!(idle, Duration::from_millis(idle_millis), "{seconds} s");
        }
    }

    #[test]
    fn the_shortest_announcement_wins_and_silence_never_lengthens_it() {
        let announced = Announced::new();
        assert_eq!(announced.idle_timeout(POOL_IDLE), Duration::from_secs(1), "unknown: short");
        let short = Duration::from_millis(100);
        assert_eq!(announced.idle_timeout(short), short);
        announced.learn(None);
        assert_eq!(announced.idle_timeout(POOL_IDLE), POOL_IDLE);
        announced.learn(Some(Duration::from_secs(20)));
        announced.learn(Some(Duration::from_secs(5)));
        announced.learn(Some(Duration::from_mins(1)));
        announced.learn(None);
        assert_eq!(announced.idle_timeout(POOL_IDLE), Duration::from_secs(4));
    }

    proptest::proptest! {
        #[test]
        fn no_field_value_panics_and_the_pool_is_never_longer_than_announced(value: Vec<u8>) {
            if let Some(timeout) = parse_keep_alive(&value) {
                let announced = Announced::new();
                announced.learn(Some(timeout));
                proptest::prop_assert!(announced.idle_timeout(Duration::MAX) <= timeout);
            }
        }
    }
}
