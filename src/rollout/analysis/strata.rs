//! One criterion over several strata (routes), so that a different mix of requests can neither fake nor hide a
//! difference.
//!
//! A block holds requests of one stratum only, so each e-value compares like with like, and a candidate that merely
//! gets more of a route that fails often looks no worse (Simpson's paradox has nothing to work on). The e-values are
//! combined in two ways, at once:
//!
//! - **together**: one portfolio is multiplied by the blocks of all strata as they come. A product of e-values, each
//!   valid given the past, is again a supermartingale; it grows fastest on a difference that all strata share.
//! - **alone**: one portfolio a stratum, multiplied by its own blocks. It finds what is bad on one route only.
//!
//! The criterion's evidence is their average with fixed weights (Turner and Grünwald 2023 combine strata by such
//! averages too). A weighted average of supermartingales that begin at 1 is one; no correction for many tests is needed
//! beyond the weights. The null hypothesis: in every stratum and at every moment the candidate's rate is at most the
//! stable's plus the tolerance.

use super::{
    base_rate::BaseRate,
    bet,
    block::Block,
    evidence::{ALTERNATIVES, Evidence, RATIOS, ln_sum},
    saved::{SavedEvidence, SavedStratum},
    settings::TOGETHER,
    starts::Schedule,
    verdict::Scope,
};

/// A stratum's own portfolio.
#[derive(Clone, Debug)]
struct Alone {
    /// Absent where there is one stratum only: then `together` says all.
    evidence: Option<Evidence>,
    base: BaseRate,
    /// Logarithm of its part of the criterion's evidence.
    ln_part: f64,
}

/// The evidence on one criterion.
#[derive(Clone, Debug)]
pub(super) struct Strata {
    tolerance: f64,
    together: Evidence,
    ln_together: f64,
    alone: Vec<Alone>,
    ln_alone_weight: f64,
    /// Logarithm of the evidence that there was when these portfolios began; 0 at the start.
    ln_capital: f64,
    /// Logarithm of the criterion's evidence.
    ln_total: f64,
}

impl Strata {
    /// `rate`: a first guess at the stable's rate of events.
    pub(super) fn new(tolerance: f64, strata: usize, rate: f64) -> Self {
        let schedule = Schedule::new(tolerance);
        let (together, alone) =
            if strata > 1 { (TOGETHER, (1.0 - TOGETHER) / strata as f64) } else { (1.0, 0.0) };
        let ln_alone_weight = f64::ln(alone);
        let one = Alone {
            evidence: (strata > 1).then(|| Evidence::new(schedule)),
            base: BaseRate::new(rate),
            ln_part: ln_alone_weight,
        };
        Self {
            tolerance,
            together: Evidence::new(schedule),
            ln_together: f64::ln(together),
            alone: vec![one; strata],
            ln_alone_weight,
            ln_capital: 0.0,
            ln_total: 0.0,
        }
    }

    /// The same portfolios, begun with the evidence of others as their capital: what there is, is staked anew.
    pub(super) fn with_capital(mut self, ln_capital: f64) -> Self {
        self.ln_capital = ln_capital;
        self.ln_total = self.sum();
        self
    }

    /// Logarithm of what it began with.
    pub(super) fn ln_capital(&self) -> f64 {
        self.ln_capital
    }

    /// Takes in a block of one stratum.
    pub(super) fn add(&mut self, stratum: usize, block: &Block) {
        let Some(own) = self.alone.get_mut(stratum) else { return };
        let (split, base) = (block.split(), own.base.rate());
        own.base.learn(block.stable);
        let has_event = block.events() > 0;
        // Without a tolerance a block without an event leaves every bet as it is.
        if !block.has_both_sides() || (!has_event && self.tolerance <= 0.0) {
            return;
        }
        let mut ln_values = [0.0; ALTERNATIVES];
        for (value, ratio) in ln_values.iter_mut().zip(RATIOS) {
            let stake = bet::stake(ratio, base, self.tolerance, split);
            *value = bet::ln_value(block, stake, self.tolerance);
        }
        self.together.multiply(&ln_values, has_event, block.candidate.trials);
        if let Some(evidence) = &mut own.evidence {
            evidence.multiply(&ln_values, has_event, block.candidate.trials);
            own.ln_part = self.ln_alone_weight + evidence.ln_total();
        }
        self.ln_total = self.sum();
    }

    /// The portfolio over all strata.
    pub(super) fn together(&self) -> &Evidence {
        &self.together
    }

    /// What is to be kept of each stratum.
    pub(super) fn save_alone(&self) -> Vec<SavedStratum> {
        let save = |one: &Alone| SavedStratum {
            evidence: one.evidence.as_ref().map(Evidence::save),
            base: one.base.numbers(),
        };
        self.alone.iter().map(save).collect()
    }

    /// Takes what was kept; `None` where it does not fit.
    pub(super) fn restore(
        &mut self,
        together: &SavedEvidence,
        alone: &[SavedStratum],
    ) -> Option<()> {
        if alone.len() != self.alone.len() {
            return None;
        }
        self.together = self.together.restored(together)?;
        for (one, saved) in self.alone.iter_mut().zip(alone) {
            one.base = BaseRate::restored(saved.base)?;
            match (&mut one.evidence, &saved.evidence) {
                (None, None) => {}
                (Some(evidence), Some(saved)) => {
                    *evidence = evidence.restored(saved)?;
                    one.ln_part = self.ln_alone_weight + evidence.ln_total();
                }
                _ => return None,
            }
        }
        self.ln_total = self.sum();
        Some(())
    }

    /// Logarithm of the criterion's evidence.
    pub(super) fn ln_total(&self) -> f64 {
        self.ln_total
    }

    fn sum(&self) -> f64 {
        let together = self.ln_together + self.together.ln_total();
        self.ln_capital + ln_sum(self.alone.iter().map(|one| one.ln_part).chain([together]))
    }

    /// Where most of the evidence is from.
    pub(super) fn scope(&self) -> Scope {
        let together = (Scope::All, self.ln_together + self.together.ln_total());
        let alone = self.alone.iter().enumerate().map(|(n, one)| (Scope::Stratum(n), one.ln_part));
        alone.fold(together, |most, one| if one.1 > most.1 { one } else { most }).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::analysis::block::Trials;

    /// A block that may come next, with its probability.
    type Possible = (f64, usize, Block);

    fn choose(n: u64, k: u64) -> f64 {
        (1..=k).map(|i| (n - k + i) as f64 / i as f64).product()
    }

    /// All outcomes of a block with independent requests.
    fn outcomes(stratum: usize, candidate: (u64, f64), stable: (u64, f64)) -> Vec<Possible> {
        let part = |(n, p): (u64, f64), k: u64| {
            choose(n, k) * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
        };
        let mut all = Vec::new();
        for x in 0..=candidate.0 {
            for y in 0..=stable.0 {
                let block = Block {
                    candidate: Trials::new(candidate.0, x),
                    stable: Trials::new(stable.0, y),
                };
                all.push((part(candidate, x) * part(stable, y), stratum, block));
            }
        }
        all
    }

    /// Over all paths through the steps, exactly: the expectation of the evidence at the end, and the probability that
    /// it was ever at least `high`.
    fn all_paths(start: &Strata, steps: &[Vec<Possible>], high: f64) -> (f64, f64) {
        let Some((step, rest)) = steps.split_first() else {
            return (start.ln_total().exp(), 0.0);
        };
        let (mut expectation, mut ever_high) = (0.0, 0.0);
        for (part, stratum, block) in step.iter().filter(|(part, ..)| *part > 0.0) {
            let mut next = start.clone();
            next.add(*stratum, block);
            let (later, later_high) = all_paths(&next, rest, high);
            expectation += part * later;
            ever_high += part * if next.ln_total().exp() >= high { 1.0 } else { later_high };
        }
        (expectation, ever_high)
    }

    /// A common rate that jumps and a split that changes: the candidate is as much worse as it may be.
    fn at_the_border(tolerance: f64, strata: usize) -> Vec<Vec<Possible>> {
        [(0.01, 1, 3), (0.9, 2, 2), (0.2, 1, 2), (0.0, 3, 1), (0.3, 1, 1)]
            .into_iter()
            .enumerate()
            .map(|(n, (base, n_c, n_s))| outcomes(n % strata, (n_c, base + tolerance), (n_s, base)))
            .collect()
    }

    #[test]
    fn the_evidence_is_a_supermartingale_on_all_paths() {
        for tolerance in [0.0, 0.005, 0.1] {
            for strata in [1, 2] {
                let steps = at_the_border(tolerance, strata);
                let start = Strata::new(tolerance, strata, 0.01);
                for length in 1..=steps.len() {
                    let (expectation, _) = all_paths(&start, &steps[..length], f64::INFINITY);
                    assert!(
                        expectation <= 1.0 + 1e-12,
                        "{expectation} after {length}, tolerance {tolerance}, {strata} strata"
                    );
                    assert!(expectation > 0.5, "it would be valid and say nothing: {expectation}");
                }
            }
        }
    }

    #[test]
    fn high_evidence_is_as_rare_as_stated_at_any_time() {
        for tolerance in [0.0, 0.1] {
            let steps = at_the_border(tolerance, 1);
            for high in [2.0, 5.0, 10.0] {
                let (_, ever) = all_paths(&Strata::new(tolerance, 1, 0.01), &steps, high);
                assert!(ever > 0.0 && ever <= 1.0 / high, "{ever} for {high} at {tolerance}");
            }
        }
    }

    fn block(candidate: (u64, u64), stable: (u64, u64)) -> Block {
        Block {
            candidate: Trials::new(candidate.0, candidate.1),
            stable: Trials::new(stable.0, stable.1),
        }
    }

    /// Simpson's paradox: the candidate gets more of the route that fails often.
    #[test]
    fn another_mix_of_requests_fakes_no_difference() {
        let mut strata = Strata::new(0.0, 2, 0.01);
        let mut pooled = Strata::new(0.0, 1, 0.01);
        for _ in 0..40 {
            // 10 % of the first route fail on both sides, 1 % of the second.
            strata.add(0, &block((90, 9), (100, 10)));
            strata.add(1, &block((10, 0), (900, 9)));
            pooled.add(0, &block((100, 9), (1_000, 19)));
        }
        assert!(strata.ln_total() < 0.0, "{}", strata.ln_total());
        assert!(pooled.ln_total() > 100.0, "without strata the difference is faked");
    }

    #[test]
    fn another_mix_of_requests_hides_no_difference() {
        let mut strata = Strata::new(0.0, 2, 0.01);
        let mut pooled = Strata::new(0.0, 1, 0.01);
        for _ in 0..40 {
            // The candidate fails twice as often on each route, and gets more of the one that fails less.
            strata.add(0, &block((10, 2), (900, 90)));
            strata.add(1, &block((90, 2), (100, 1)));
            pooled.add(0, &block((100, 4), (1_000, 91)));
        }
        assert!(strata.ln_total() > 10.0, "{}", strata.ln_total());
        assert!(pooled.ln_total() < 0.0, "without strata the difference is hidden");
    }

    #[test]
    fn one_bad_route_is_found_among_good_ones_and_named() {
        let mut strata = Strata::new(0.0, 4, 0.01);
        for _ in 0..60 {
            for good in [0, 1, 3] {
                strata.add(good, &block((10, 1), (90, 9)));
            }
            strata.add(2, &block((10, 2), (90, 1)));
        }
        assert!(strata.ln_total() > 10.0, "{}", strata.ln_total());
        assert_eq!(strata.scope(), Scope::Stratum(2));
    }

    #[test]
    fn a_difference_on_all_routes_is_found_together() {
        let mut strata = Strata::new(0.0, 8, 0.01);
        for route in 0..8 {
            strata.add(route, &block((10, 2), (90, 0)));
        }
        assert!(strata.ln_total() > 10.0, "{}", strata.ln_total());
        assert_eq!(strata.scope(), Scope::All);
    }

    #[test]
    fn stakes_are_chosen_by_the_rate_of_the_stratum_s_own_stable() {
        let mut strata = Strata::new(0.005, 2, 0.001);
        (0..1_000).for_each(|_| strata.add(1, &block((10, 5), (100, 3))));
        let rates = [strata.alone[0].base.rate(), strata.alone[1].base.rate()];
        assert!((rates[0] - 0.001).abs() < 1e-9 && (rates[1] - 0.03).abs() < 0.002, "{rates:?}");
    }

    #[test]
    fn one_side_alone_and_strange_strata_say_nothing() {
        let mut strata = Strata::new(0.005, 2, 0.01);
        strata.add(0, &block((100, 100), (0, 0)));
        strata.add(0, &block((0, 0), (100, 100)));
        strata.add(7, &block((100, 100), (100, 0)));
        assert!(strata.ln_total().abs() < 1e-12);
    }
}
