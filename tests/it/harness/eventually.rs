//! Waiting for something to become true, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long [`assert_eventually!`](crate::assert_eventually) waits.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How often it looks.
const POLL: Duration = Duration::from_millis(10);

/// Whether `condition` becomes true within `limit`. It is asked at least twice: at once and after the limit.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return condition();
        }
        thread::sleep(POLL);
    }
}

/// Asserts that an expression becomes true within five seconds, or within a given time:
/// `assert_eventually!(origin.requests() == 3)`, `assert_eventually!(is_gone(), within Duration::from_secs(20))`.
#[macro_export]
macro_rules! assert_eventually {
    ($condition:expr) => {
        $crate::assert_eventually!($condition, within $crate::harness::eventually::DEADLINE)
    };
    ($condition:expr, within $limit:expr) => {{
        let limit: std::time::Duration = $limit;
        assert!(
            $crate::harness::eventually::eventually(limit, || $condition),
            "not true within {limit:?}: {}",
            stringify!($condition)
        );
    }};
}
