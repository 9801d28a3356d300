//! A guess at the stable's rate of events, from its past. It only chooses stakes: a bad guess costs power, never
//! validity, which needs no more than that it is made before the block it is used for.

use super::block::Trials;

/// Requests that the first guess weighs as much as.
const PRIOR_TRIALS: f64 = 1_000.0;
/// From here on the past is halved, so that the guess follows the day.
const MOST_TRIALS: f64 = 40_000.0;

/// The running guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseRate {
    trials: f64,
    events: f64,
}

impl BaseRate {
    /// Begins at `rate`, which is above 0 and below 1.
    pub(super) fn new(rate: f64) -> Self {
        Self { trials: PRIOR_TRIALS, events: PRIOR_TRIALS * rate }
    }

    /// What is to be kept: requests, and events in them.
    pub(super) fn numbers(&self) -> [f64; 2] {
        [self.trials, self.events]
    }

    /// What was kept; `None` where it can't have been ours.
    pub(super) fn restored([trials, events]: [f64; 2]) -> Option<Self> {
        let is_rate = trials.is_finite() && events > 0.0 && events < trials;
        is_rate.then_some(Self { trials, events })
    }

    /// Above 0 and below 1.
    pub(super) fn rate(&self) -> f64 {
        self.events / self.trials
    }

    /// Learns from what has been judged.
    pub(super) fn learn(&mut self, stable: Trials) {
        // One block never weighs more than all of the past that is kept.
        let scale = (MOST_TRIALS / stable.trials.max(1) as f64).min(1.0);
        self.trials += stable.trials as f64 * scale;
        self.events += stable.events as f64 * scale;
        if self.trials > MOST_TRIALS {
            self.trials /= 2.0;
            self.events /= 2.0;
        }
        // Halved for ever, a service without any failure would come to 0, where no stake can be chosen.
        self.events = self.events.clamp(self.trials * 1e-6, self.trials * 0.999_999);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_guess_follows_the_stable() {
        let mut base = BaseRate::new(0.001);
        assert!((base.rate() - 0.001).abs() < 1e-9);
        (0..1_000).for_each(|_| base.learn(Trials::new(100, 5)));
        assert!((base.rate() - 0.05).abs() < 0.002, "{base:?}");
        (0..1_000).for_each(|_| base.learn(Trials::new(100, 0)));
        assert!(base.rate() < 0.01 && base.rate() > 0.0, "{base:?}");
    }

    #[test]
    fn years_without_a_failure_leave_a_rate_to_bet_on() {
        let mut base = BaseRate::new(0.001);
        (0..3_000).for_each(|_| base.learn(Trials::new(u64::MAX, 0)));
        assert!(base.rate() > 0.0, "{base:?}");
    }

    proptest! {
        #[test]
        fn the_guess_is_always_a_rate(blocks in prop::collection::vec(any::<(u64, u64)>(), 0..500)) {
            let mut base = BaseRate::new(0.001);
            for (trials, events) in blocks {
                base.learn(Trials::new(trials, events));
                prop_assert!(base.rate() > 0.0 && base.rate() < 1.0, "{base:?}");
            }
        }
    }
}
