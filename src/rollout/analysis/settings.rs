//! What a judgement is made by, checked once.

use crate::types::defaults;

/// Strata at most: bounds the memory, and the budget that is left for each.
pub(in crate::rollout) const MOST_STRATA: usize = 64;

/// Shares of the error budget: failures, p95, p99. They add up to 1.
pub(super) const SHARES: [f64; 3] = [0.6, 0.3, 0.1];

/// Part of a criterion's evidence that is about all strata together, where there are several. The rest is spread evenly
/// over the strata alone.
pub(super) const TOGETHER: f64 = 0.5;

/// What a rollout's analysis is made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    error_budget: f64,
    max_error_increase: f64,
    max_latency_increase: f64,
    strata: usize,
}

/// Why settings were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// At 1 nothing could ever be concluded, at 0 everything would.
    #[error("the confidence must be at least 0.5 and at most 0.999999999")]
    Confidence,
    /// A tolerance is an increase in a rate.
    #[error("an increase that is tolerated must be at least 0 and less than 1")]
    Tolerance,
    /// The number of routes that are compared one by one.
    #[error("from 1 to {MOST_STRATA} strata can be compared")]
    Strata,
}

impl Settings {
    /// `confidence`: 1 less the probability that a healthy candidate is ever called bad, in one rollout, all tests
    /// together. `max_error_increase`, `max_latency_increase`: by how much more often, of all requests, the candidate may
    /// fail, or be slower than the stable's p95 or p99. `strata`: how many routes are compared one by one.
    ///
    /// # Errors
    /// [`SettingsError`] for a value that no judgement can be made by.
    pub fn new(
        confidence: f64,
        max_error_increase: f64,
        max_latency_increase: f64,
        strata: usize,
    ) -> Result<Self, SettingsError> {
        if !(0.5..=0.999_999_999).contains(&confidence) {
            return Err(SettingsError::Confidence);
        }
        if ![max_error_increase, max_latency_increase].iter().all(|t| (0.0..1.0).contains(t)) {
            return Err(SettingsError::Tolerance);
        }
        if !(1..=MOST_STRATA).contains(&strata) {
            return Err(SettingsError::Strata);
        }
        let error_budget = 1.0 - confidence;
        Ok(Self { error_budget, max_error_increase, max_latency_increase, strata })
    }

    /// The probability that a healthy candidate is ever called bad, at most.
    pub fn error_budget(&self) -> f64 {
        self.error_budget
    }

    /// How many strata there are; they are numbered from 0.
    pub fn strata(&self) -> usize {
        self.strata
    }

    /// Tolerances of failures, p95, p99.
    pub(super) fn tolerances(&self) -> [f64; 3] {
        [self.max_error_increase, self.max_latency_increase, self.max_latency_increase]
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            error_budget: 1.0 - defaults::ROLLOUT_CONFIDENCE,
            max_error_increase: defaults::MAX_ERROR_INCREASE,
            max_latency_increase: defaults::MAX_LATENCY_INCREASE,
            strata: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_judged_by_is_taken() {
        let made = |c, e, l, s| Settings::new(c, e, l, s).map(|_| ());
        assert_eq!(made(0.999, 0.005, 0.05, 1), Ok(()));
        assert_eq!(made(0.999, 0.0, 0.0, 64), Ok(()));
        for confidence in [1.0, 0.0, 0.49, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(made(confidence, 0.0, 0.0, 1), Err(SettingsError::Confidence));
        }
        for tolerance in [-0.001, 1.0, f64::NAN] {
            assert_eq!(made(0.999, tolerance, 0.0, 1), Err(SettingsError::Tolerance));
            assert_eq!(made(0.999, 0.0, tolerance, 1), Err(SettingsError::Tolerance));
        }
        for strata in [0, 65] {
            assert_eq!(made(0.999, 0.0, 0.0, strata), Err(SettingsError::Strata));
        }
    }

    #[test]
    fn the_defaults_are_settings_that_would_be_taken() {
        assert_eq!(Settings::new(0.999, 0.005, 0.05, 1), Ok(Settings::default()));
    }

    #[test]
    fn no_more_than_the_budget_is_shared_out() {
        assert!((SHARES.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((0.0..1.0).contains(&TOGETHER));
    }
}
