//! Evidence against one null hypothesis: the worth of a portfolio of bets that began with 1.
//!
//! For each alternative `k` (how many times worse the candidate is) the worth of all bets begun so far is one number,
//! since bets on the same alternative multiply by the same e-value from their start on:
//!
//! ```text
//! worth_k(next) = (worth_k + money staked now) * e-value_k(block),      evidence = money kept + sum worth_k
//! ```
//!
//! Each step is at most the evidence before it in expectation, so the evidence is a nonnegative supermartingale that
//! begins at 1 and, by Ville's inequality (1939), ever reaches `1 / error` with probability at most `error` while the
//! null hypothesis holds, however often it is looked at. This is the mixture over starts of the e-detectors of Shin,
//! Ramdas and Rinaldo (2024), with weights that have a finite sum: an error in total, not one in a run length.
//!
//! Everything is a logarithm, so that neither billions of counts nor a single block can overflow.

use super::{
    saved::SavedEvidence,
    starts::{Schedule, Starts},
};

/// How many alternatives a portfolio bets on.
pub(super) const ALTERNATIVES: usize = 7;

/// The alternatives: the candidate's rate over the largest that is allowed. The money is spread evenly.
pub(super) const RATIOS: [f64; ALTERNATIVES] = [1.5, 2.5, 5.0, 12.0, 40.0, 150.0, 1_000.0];

/// A portfolio.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// Logarithm of each alternative's worth.
    ln_worth: [f64; ALTERNATIVES],
    starts: Starts,
}

impl Evidence {
    pub(super) fn new(schedule: Schedule) -> Self {
        let each = (schedule.first / ALTERNATIVES as f64).ln();
        Self { ln_worth: [each; ALTERNATIVES], starts: Starts::new(schedule) }
    }

    /// Takes a block in: its e-value for each alternative, as logarithms. Then stakes what is due on the next block.
    pub(super) fn multiply(
        &mut self,
        ln_values: &[f64; ALTERNATIVES],
        has_event: bool,
        candidate_requests: u64,
    ) {
        for (worth, value) in self.ln_worth.iter_mut().zip(ln_values) {
            *worth += value;
        }
        let money = self.starts.advance(has_event, candidate_requests);
        if money > 0.0 {
            let each = (money / ALTERNATIVES as f64).ln();
            for worth in &mut self.ln_worth {
                *worth = ln_sum([*worth, each]);
            }
        }
    }

    /// What is to be kept of it.
    pub(super) fn save(&self) -> SavedEvidence {
        let (event_blocks, requests, out, released) = self.starts.numbers();
        SavedEvidence { ln_worth: self.ln_worth, event_blocks, requests, out, released }
    }

    /// The same bets with what was kept.
    pub(super) fn with(&self, saved: &SavedEvidence) -> Self {
        let SavedEvidence { ln_worth, event_blocks, requests, out, released } = *saved;
        Self { ln_worth, starts: self.starts.with(event_blocks, requests, out, released) }
    }

    /// Logarithm of the evidence.
    pub(super) fn ln_total(&self) -> f64 {
        ln_sum(self.ln_worth.into_iter().chain([self.starts.kept().ln()]))
    }
}

/// `ln(sum of e^x)`. Negative infinity stands for 0.
pub(super) fn ln_sum(terms: impl IntoIterator<Item = f64, IntoIter: Clone>) -> f64 {
    let terms = terms.into_iter();
    let most = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if !most.is_finite() {
        return most;
    }
    most + terms.map(|term| (term - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_one() {
        for tolerance in [0.0, 0.005] {
            assert!(Evidence::new(Schedule::new(tolerance)).ln_total().abs() < 1e-12);
        }
    }

    #[test]
    fn a_block_that_says_nothing_changes_nothing() {
        let mut evidence = Evidence::new(Schedule::new(0.0));
        evidence.multiply(&[0.0; ALTERNATIVES], true, 5);
        assert!(evidence.ln_total().abs() < 1e-12, "money only moves");
    }

    #[test]
    fn bets_that_were_lost_leave_what_was_kept() {
        let mut evidence = Evidence::new(Schedule::new(0.0));
        evidence.multiply(&[-1e9; ALTERNATIVES], true, 5);
        let kept = evidence.ln_total().exp();
        assert!((kept - 0.6).abs() < 1e-9, "{kept}");
        evidence.multiply(&[30.0; ALTERNATIVES], true, 5);
        assert!(evidence.ln_total() > 20.0, "what was staked since then wins");
    }

    #[test]
    fn no_number_is_too_large() {
        let mut evidence = Evidence::new(Schedule::new(0.0));
        for sign in [1.0, -1.0, 1.0] {
            for _ in 0..10 {
                evidence.multiply(&[sign * 1e21; ALTERNATIVES], true, u64::MAX);
                assert!(evidence.ln_total().is_finite());
            }
        }
    }

    #[test]
    fn sums_of_logarithms() {
        assert!((ln_sum([0.0, 0.0]) - 2.0_f64.ln()).abs() < 1e-15);
        assert!((ln_sum([f64::NEG_INFINITY, 3.0]) - 3.0).abs() < 1e-15);
        assert!(ln_sum([f64::NEG_INFINITY, f64::NEG_INFINITY]).is_infinite());
        assert!((ln_sum([1e9, 1e9]) - 1e9).abs() < 1.0);
    }
}
