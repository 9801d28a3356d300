//! What enters the analysis: counts of what became of tries, by side, stratum and interval.
//!
//! Invariant: batches of one window can be added in any order, so that the counts of workers, and later of replicas,
//! become one batch. Counts saturate; they never wrap.

use serde::{Deserialize, Serialize};

/// What became of the tries that one side was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Tries that were answered well.
    pub successes: u64,
    /// Tries that count as failed.
    pub failures: u64,
    /// Successes whose time to the first byte was compared with the thresholds.
    pub timed: u64,
    /// Of those, the ones above the stable's p95.
    pub above_p95: u64,
    /// Of those, the ones above the stable's p99.
    pub above_p99: u64,
}

impl Outcomes {
    /// All tries.
    pub fn requests(&self) -> u64 {
        self.successes.saturating_add(self.failures)
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.successes = self.successes.saturating_add(other.successes);
        self.failures = self.failures.saturating_add(other.failures);
        self.timed = self.timed.saturating_add(other.timed);
        self.above_p95 = self.above_p95.saturating_add(other.above_p95);
        self.above_p99 = self.above_p99.saturating_add(other.above_p99);
    }
}

/// Outcomes of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides {
    /// What the stable's tries became.
    pub stable: Outcomes,
    /// What the candidate's tries became.
    pub candidate: Outcomes,
}

impl Sides {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.stable.add(&other.stable);
        self.candidate.add(&other.candidate);
    }
}

/// Which tries a batch is about: those of one stratum that were *sent* in one step of the plan and counted in one
/// interval. The step is that of the decision, not of the answer: the split of a try is the one it was decided under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Number of the step, growing. Whenever the split changes a new step begins.
    pub step: u32,
    /// The route, as a number below [`super::Settings::strata`].
    pub stratum: usize,
    /// Number of the interval: the same on all replicas whose counts are to be added.
    pub interval: u64,
}

/// Counts of both sides in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the counts are about.
    pub window: Window,
    /// What was counted.
    pub sides: Sides,
}

/// Two batches of different windows can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("counts of different steps, strata or intervals can't be added")]
pub struct Mismatch;

impl Batch {
    /// Nothing counted yet.
    pub fn empty(window: Window) -> Self {
        Self { window, sides: Sides::default() }
    }

    /// Adds another worker's or replica's counts of the same window.
    ///
    /// # Errors
    /// [`Mismatch`] when the windows differ; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Mismatch> {
        if self.window != other.window {
            return Err(Mismatch);
        }
        self.sides.add(&other.sides);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { step: 1, stratum: 0, interval: 7 };

    fn outcomes(n: u64) -> Outcomes {
        Outcomes { successes: n, failures: n + 1, timed: n + 2, above_p95: n + 3, above_p99: n + 4 }
    }

    fn sides() -> Sides {
        Sides { stable: outcomes(10), candidate: outcomes(1) }
    }

    #[test]
    fn batches_of_one_window_add_up() {
        let mut sum = Batch::empty(WINDOW);
        let part = Batch { window: WINDOW, sides: sides() };
        sum.merge(&part).unwrap();
        assert_eq!(sum, part);
        sum.merge(&part).unwrap();
        let twice = Outcomes { successes: 2, failures: 4, timed: 6, above_p95: 8, above_p99: 10 };
        assert_eq!(sum.sides.candidate, twice);
        assert_eq!(sum.sides.stable.requests(), 42);
    }

    #[test]
    fn batches_of_different_windows_are_not_added() {
        for window in [
            Window { step: 2, ..WINDOW },
            Window { stratum: 1, ..WINDOW },
            Window { interval: 8, ..WINDOW },
        ] {
            let mut sum = Batch::empty(WINDOW);
            let other = Batch { window, sides: sides() };
            assert_eq!(sum.merge(&other), Err(Mismatch));
            assert_eq!(sum, Batch::empty(WINDOW));
        }
    }

    #[test]
    fn counts_saturate() {
        let most = Outcomes { successes: u64::MAX, failures: u64::MAX, ..outcomes(0) };
        let mut sum = most;
        sum.add(&most);
        assert_eq!((sum.successes, sum.requests()), (u64::MAX, u64::MAX));
    }
}
