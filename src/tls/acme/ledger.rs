//! Failed orders, by name, and when each certificate may be tried again: what keeps the edge within the authorities'
//! limits, also over restarts.
//!
//! Pure, with the wall clock's `now` in seconds since 1970. Bounded: failures older than an hour are forgotten, and
//! more than [`MAX_NAMES`] names are not remembered (the oldest go).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const HOUR: i64 = 3_600;
/// Names whose failures are remembered; an edge with more failing ones waits by its pauses alone.
const MAX_NAMES: usize = 10_000;

/// Failed orders and planned tries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Times of failed orders within the last hour, by name.
    failures: BTreeMap<String, Vec<i64>>,
    /// Failures in a row and the next try, by certificate.
    tries: BTreeMap<String, Tries>,
}

/// What is known of the tries for one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Failures in a row.
    pub failures: u32,
    /// Not before this.
    pub next: i64,
    /// The authority said so: nobody can have it sooner.
    #[serde(default)]
    pub is_limited: bool,
    /// Why the last one failed.
    pub error: String,
}

impl Ledger {
    /// When an order for these names keeps within `max` failures an hour: `now`, or later.
    pub(super) fn free_at(&self, names: &[String], max: u32, now: i64) -> i64 {
        let free = |name: &String| {
            let recent: Vec<i64> = self.recent(name, now).collect();
            // The one that has to be an hour old before there is room.
            let excess = recent.len().checked_sub(max as usize)?;
            recent.get(excess).map(|time| time.saturating_add(HOUR))
        };
        names.iter().filter_map(free).fold(now, i64::max)
    }

    /// Remembers a failed order.
    pub(super) fn failed(&mut self, names: &[String], now: i64) {
        for name in names {
            let recent: Vec<i64> = self.recent(name, now).chain([now]).collect();
            self.failures.insert(name.clone(), recent);
        }
        self.failures.retain(|_, times| times.last().is_some_and(|last| is_recent(*last, now)));
        while self.failures.len() > MAX_NAMES {
            let oldest = self.failures.iter().min_by_key(|(_, times)| times.last().copied());
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.failures.remove(&oldest);
        }
    }

    /// What is known of the tries for a certificate.
    pub(super) fn tries(&self, certificate: &str) -> Option<&Tries> {
        self.tries.get(certificate)
    }

    /// Plans the next try.
    pub(super) fn plan(&mut self, certificate: &str, tries: Tries) {
        if self.tries.len() >= MAX_NAMES && !self.tries.contains_key(certificate) {
            let earliest = self.tries.iter().min_by_key(|(_, tries)| tries.next);
            if let Some(earliest) = earliest.map(|(id, _)| id.clone()) {
                self.tries.remove(&earliest);
            }
        }
        self.tries.insert(certificate.to_owned(), tries);
    }

    /// Forgets the tries: it went well, or it is no longer wanted. Says whether there was something to forget.
    pub(super) fn forget(&mut self, certificate: &str) -> bool {
        self.tries.remove(certificate).is_some()
    }

    fn recent(&self, name: &str, now: i64) -> impl Iterator<Item = i64> + use<'_> {
        let times = self.failures.get(name).into_iter().flatten().copied();
        times.filter(move |time| is_recent(*time, now))
    }
}

/// Within the last hour. A time to come is one of a clock that was wrong: it counts, for an hour at most.
fn is_recent(time: i64, now: i64) -> bool {
    now.abs_diff(time) < HOUR.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_waits_after_so_many_failures_in_an_hour() {
        let mut ledger = Ledger::default();
        let (a, both) = (names(&["a"]), names(&["a", "b"]));
        for time in [100, 200, 300] {
            assert_eq!(ledger.free_at(&a, 3, time), time);
            ledger.failed(&a, time);
        }
        assert_eq!(ledger.free_at(&a, 3, 400), 100 + HOUR);
        assert_eq!(ledger.free_at(&both, 3, 400), 100 + HOUR, "one of its names waits");
        assert_eq!(ledger.free_at(&names(&["b"]), 3, 400), 400);
        assert_eq!(ledger.free_at(&a, 3, 100 + HOUR), 100 + HOUR);
        assert_eq!(ledger.free_at(&a, 2, 400), 200 + HOUR, "with a smaller limit from now on");
        assert_eq!(ledger.free_at(&a, 1, 500 + HOUR), 500 + HOUR, "an hour later all is forgotten");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut ledger = Ledger::default();
        for index in 0..MAX_NAMES + 50 {
            ledger.failed(&[format!("n{index}")], 1_000 + i64::try_from(index / 100).unwrap());
            ledger.plan(&format!("n{index}"), Tries::default());
        }
        assert!(ledger.failures.len() <= MAX_NAMES && ledger.tries.len() <= MAX_NAMES);
        ledger.failed(&names(&["last"]), 10 * HOUR);
        assert_eq!(ledger.failures.len(), 1, "what is older than an hour is forgotten");
        assert!(ledger.failures.contains_key("last"));
    }

    #[test]
    fn a_clock_that_was_wrong_does_not_block_for_good() {
        let mut ledger = Ledger::default();
        ledger.failed(&names(&["a"]), 1_000 * HOUR);
        assert_eq!(ledger.free_at(&names(&["a"]), 1, HOUR), HOUR);
    }
}
