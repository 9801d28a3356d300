//! The last half minute of both sides: the figures that a finding shows, and whether the stable itself is failing.

use std::time::Duration;

use super::{block::Trials, counts::Sides};

const SLOTS: usize = 6;
const SLOT: Duration = Duration::from_secs(5);

/// A stable that fails this part of its requests, and twice as often as over the rollout, has a trouble of its own.
const MANY: f64 = 0.1;
/// A stable that fails this part of its requests is in trouble even if it always was.
const MOST: f64 = 0.5;
/// With fewer failures nothing is said.
const LEAST_FAILURES: u64 = 10;

/// The ring of the last slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    slots: [(u64, Sides); SLOTS],
}

impl Recent {
    pub(super) fn add(&mut self, now: Duration, counts: &Sides) {
        let number = now.as_secs() / SLOT.as_secs();
        let at = (number % SLOTS as u64) as usize;
        if let Some((slot, sum)) = self.slots.get_mut(at) {
            if *slot != number {
                (*slot, *sum) = (number, Sides::default());
            }
            sum.add(counts);
        }
    }

    /// What was counted in the last slots.
    pub(super) fn sum(&self, now: Duration) -> Sides {
        let number = now.as_secs() / SLOT.as_secs();
        let mut sum = Sides::default();
        for (_, counts) in self.slots.iter().filter(|(slot, _)| *slot + SLOTS as u64 > number) {
            sum.add(counts);
        }
        sum
    }

    /// The stable's failures, if it has a trouble of its own. `overall`: its failures over the whole rollout.
    pub(super) fn stable_trouble(&self, now: Duration, overall: Trials) -> Option<Trials> {
        let rate = |trials: Trials| trials.events as f64 / trials.trials.max(1) as f64;
        let stable = self.sum(now).stable;
        let stable = Trials::new(stable.requests(), stable.failures);
        let is_trouble = stable.events >= LEAST_FAILURES
            && (rate(stable) >= MOST
                || (rate(stable) >= MANY && rate(stable) >= 2.0 * rate(overall)));
        is_trouble.then_some(stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::analysis::counts::Outcomes;

    fn stable(trials: u64, failures: u64) -> Sides {
        let stable = Outcomes { successes: trials - failures, failures, ..Outcomes::default() };
        Sides { stable, ..Sides::default() }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut recent = Recent::default();
        recent.add(Duration::from_secs(1), &stable(100, 50));
        recent.add(Duration::from_secs(12), &stable(10, 1));
        assert_eq!(recent.sum(Duration::from_secs(29)), stable(110, 51));
        assert_eq!(recent.sum(Duration::from_secs(30)), stable(10, 1));
        recent.add(Duration::from_secs(31), &stable(1, 0));
        assert_eq!(recent.sum(Duration::from_secs(31)), stable(11, 1));
        assert_eq!(recent.sum(Duration::from_hours(1)), Sides::default());
    }

    #[test]
    fn a_stable_in_trouble_is_told_from_one_that_always_fails_a_little() {
        let now = Duration::from_secs(3);
        for (recently, overall, is_trouble) in [
            ((100, 15), (10_000, 10), true),
            ((100, 15), (10_000, 1_200), false), // it always does
            ((100, 60), (10_000, 6_000), true),  // nothing works
            ((100, 9), (10_000, 0), false),
            ((10, 9), (10_000, 0), false), // too few to say
        ] {
            let mut recent = Recent::default();
            recent.add(now, &stable(recently.0, recently.1));
            let overall = Trials { trials: overall.0, events: overall.1 };
            let trouble = recent.stable_trouble(now, overall);
            assert_eq!(trouble.is_some(), is_trouble, "{recently:?} {overall:?}");
        }
    }
}
