//! The analysis of one rollout: batches in, a verdict out.
//!
//! Each criterion has its share of the error budget and its own threshold, so that what a finding says of one criterion
//! holds whatever is the matter with the others. Bad is found the moment that evidence passes its threshold, also
//! between two looks, and stays.

use std::time::Duration;

use super::{
    block::{Block, Blocks, Trials},
    counts::{Batch, Sides},
    recent::Recent,
    settings::{SHARES, Settings},
    strata::Strata,
    threshold::{Estimator, LatencyCounts, Thresholds},
    verdict::{Criterion, Finding, Goal, Verdict, Waiting},
};

/// No step is good with fewer compared requests, whatever the plan says: an idle service does not pass by accident.
const LEAST_REQUESTS: u64 = 50;

/// Evidence from which on no step is good: odds of 20. A healthy candidate ever comes so far in at most one of twenty
/// rollouts, and then waits.
const DOUBT: f64 = 20.0;

/// First guesses at the stable's rate of failures, of answers above p95, above p99.
const FIRST_RATES: [f64; 3] = [0.001, 0.05, 0.01];

/// One criterion's evidence and how much of it is needed.
#[derive(Clone, Debug)]
struct Test {
    criterion: Criterion,
    evidence: Strata,
    /// Logarithm of 1 / (its share of the error budget).
    needed: f64,
}

/// No evidence on the criterion with this number.
pub(super) fn fresh_evidence(criterion: usize, tolerance: f64, strata: usize) -> Strata {
    Strata::new(tolerance, strata, FIRST_RATES.get(criterion).copied().unwrap_or_default())
}

/// What is known of one stratum.
#[derive(Clone, Debug, Default)]
struct Stratum {
    blocks: Blocks,
    latency: Estimator,
}

/// The analysis of one rollout, from its first step to its end. Memory: about 3 KiB a stratum.
#[derive(Clone, Debug)]
pub struct Analysis {
    tests: [Test; 3],
    strata: Vec<Stratum>,
    recent: Recent,
    totals: Sides,
    step: u32,
    step_began: Duration,
    /// Requests of the candidate in blocks of the step.
    compared: u64,
    finding: Option<Finding>,
}

impl Analysis {
    /// Begins with no evidence and no doubt.
    pub fn new(settings: &Settings) -> Self {
        let tolerances = settings.tolerances();
        let test = |n: usize, criterion| {
            let at = |list: &[f64; 3]| list.get(n).copied().unwrap_or_default();
            Test {
                criterion,
                evidence: fresh_evidence(n, at(&tolerances), settings.strata()),
                needed: -(settings.error_budget() * at(&SHARES)).ln(),
            }
        };
        let [failures, p95, p99] = Criterion::ALL;
        Self {
            tests: [test(0, failures), test(1, p95), test(2, p99)],
            strata: vec![Stratum::default(); settings.strata()],
            recent: Recent::default(),
            totals: Sides::default(),
            step: 0,
            step_began: Duration::ZERO,
            compared: 0,
            finding: None,
        }
    }

    /// A new step of the plan begins, with a new split. What was learned stays.
    pub fn begin_step(&mut self, now: Duration, step: u32) {
        (self.step, self.step_began, self.compared) = (step, now, 0);
    }

    /// A new window begins: after a reload that touches the rollout's route or upstreams. Nothing from before
    /// is compared with anything after; the evidence stays, since the error budget is one for the whole rollout. `step` is
    /// a new number, at least two above the last: late answers from before the window are then left out.
    pub fn begin_window(&mut self, now: Duration, step: u32) {
        for stratum in &mut self.strata {
            *stratum = Stratum { blocks: Blocks::from_step(step), latency: Estimator::default() };
        }
        self.recent = Recent::default();
        self.begin_step(now, step);
    }

    /// Takes in what was counted. Batches of a stratum come in the order of their intervals; a stratum that does not exist
    /// is ignored.
    pub fn observe(&mut self, now: Duration, batch: &Batch) {
        let Some(stratum) = self.strata.get_mut(batch.window.stratum) else { return };
        self.recent.add(now, &batch.sides);
        self.totals.add(&batch.sides);
        let [over, ended] = stratum.blocks.add(now, batch);
        if ended.is_some() && batch.window.step == self.step {
            let compared = ended.map_or(0, |block| block.candidate.requests());
            self.compared = self.compared.saturating_add(compared);
        }
        for joined in [over, ended].into_iter().flatten() {
            self.judge(now, batch.window.stratum, &joined);
        }
    }

    fn judge(&mut self, now: Duration, stratum: usize, joined: &Sides) {
        for test in &mut self.tests {
            let block = Block::of(joined, test.criterion);
            test.evidence.add(stratum, &block);
            let ln_evidence = test.evidence.ln_total();
            if ln_evidence >= test.needed && self.finding.is_none() {
                let recent = Block::of(&self.recent.sum(now), test.criterion);
                self.finding = Some(Finding {
                    criterion: test.criterion,
                    scope: test.evidence.scope(),
                    at: now,
                    ln_evidence,
                    candidate: recent.candidate,
                    stable: recent.stable,
                });
            }
        }
    }

    /// Learns times to the first byte of the stable's successes. They count for thresholds of later requests only.
    pub fn learn_latencies(&mut self, stratum: usize, stable: &LatencyCounts) {
        if let Some(stratum) = self.strata.get_mut(stratum) {
            stratum.latency.learn(stable);
        }
    }

    /// What requests of both sides are to be compared with from now on. None before enough is known; then no latency is
    /// judged.
    pub fn thresholds(&self, stratum: usize) -> Option<Thresholds> {
        self.strata.get(stratum)?.latency.thresholds()
    }

    /// What is concluded now. Changes nothing: looking often costs nothing.
    pub fn verdict(&self, now: Duration, goal: Goal) -> Verdict {
        if let Some(finding) = self.finding {
            return Verdict::Bad(finding);
        }
        let overall = Trials::new(self.totals.stable.requests(), self.totals.stable.failures);
        if let Some(stable) = self.recent.stable_trouble(now, overall) {
            let candidate = Block::of(&self.recent.sum(now), Criterion::Failures).candidate;
            return Verdict::StableFails { stable, candidate };
        }
        let needed = goal.requests.max(LEAST_REQUESTS);
        if self.compared < needed {
            return Verdict::NotEnough(Waiting::Requests { compared: self.compared, needed });
        }
        let passed = now.saturating_sub(self.step_began);
        if passed < goal.duration {
            return Verdict::NotEnough(Waiting::Duration { passed, needed: goal.duration });
        }
        for test in &self.tests {
            let ln_evidence = test.evidence.ln_total();
            if ln_evidence >= DOUBT.ln() {
                let (criterion, probability) = (test.criterion, (-ln_evidence).exp());
                return Verdict::NotEnough(Waiting::Doubt { criterion, probability });
            }
        }
        Verdict::Good
    }

    /// The evidence on each criterion.
    pub(super) fn evidence(&self) -> [&Strata; 3] {
        self.tests.each_ref().map(|test| &test.evidence)
    }

    pub(super) fn evidence_mut(&mut self) -> [&mut Strata; 3] {
        self.tests.each_mut().map(|test| &mut test.evidence)
    }

    /// Goes on with what was counted and found before.
    pub(super) fn resume(&mut self, totals: Sides, compared: u64, finding: Option<Finding>) {
        (self.totals, self.compared, self.finding) = (totals, compared, finding);
    }

    /// Requests of the candidate that were compared in this step.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Why the candidate is bad, if it is: the verdict's quickest question.
    pub fn finding(&self) -> Option<&Finding> {
        self.finding.as_ref()
    }

    /// What has been counted since the rollout began.
    pub fn totals(&self) -> Sides {
        self.totals
    }

    /// Natural logarithm of the evidence against the candidate: 0 at the start, falling while it is healthy.
    pub fn ln_evidence(&self, criterion: Criterion) -> f64 {
        let test = self.tests.iter().find(|test| test.criterion == criterion);
        test.map_or(0.0, |test| test.evidence.ln_total())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rollout::analysis::{
        counts::{Outcomes, Window},
        verdict::Scope,
    };

    const GOAL: Goal = Goal { requests: 100, duration: Duration::from_mins(1) };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Requests and failures of one side; all successes are timed, `above` of them are slow.
    fn side(requests: u64, failures: u64, above: u64) -> Outcomes {
        let successes = requests - failures;
        Outcomes { successes, failures, timed: successes, above_p95: above, above_p99: above / 5 }
    }

    fn batch(step: u32, candidate: Outcomes, stable: Outcomes) -> Batch {
        let window = Window { step, stratum: 0, interval: 0 };
        Batch { window, sides: Sides { stable, candidate } }
    }

    /// An analysis that has seen the same batch once a second.
    fn after(batches: u64, candidate: Outcomes, stable: Outcomes) -> Analysis {
        let mut analysis = Analysis::new(&Settings::default());
        analysis.begin_step(Duration::ZERO, 1);
        for n in 0..batches {
            analysis.observe(seconds(n), &batch(1, candidate, stable));
        }
        analysis
    }

    #[test]
    fn a_healthy_step_is_good_once_its_requests_and_its_time_are_reached() {
        let (candidate, stable) = (side(10, 0, 0), side(90, 0, 4));
        let analysis = after(9, candidate, stable);
        let waiting = Waiting::Requests { compared: 90, needed: 100 };
        assert_eq!(analysis.verdict(seconds(3_600), GOAL), Verdict::NotEnough(waiting));
        let analysis = after(10, candidate, stable);
        let waiting = Waiting::Duration { passed: seconds(59), needed: seconds(60) };
        assert_eq!(analysis.verdict(seconds(59), GOAL), Verdict::NotEnough(waiting));
        assert_eq!(analysis.verdict(seconds(60), GOAL), Verdict::Good);
    }

    #[test]
    fn an_idle_service_neither_passes_nor_fails() {
        let nothing = Goal { requests: 0, duration: Duration::ZERO };
        let waiting = |compared| Verdict::NotEnough(Waiting::Requests { compared, needed: 50 });
        let analysis = Analysis::new(&Settings::default());
        assert_eq!(analysis.verdict(seconds(86_400), nothing), waiting(0));
        let one_side = after(100, side(10, 10, 0), side(0, 0, 0));
        assert_eq!(one_side.verdict(seconds(86_400), nothing), waiting(0), "nothing was compared");
        let few = after(1, side(4, 1, 0), side(36, 0, 0));
        assert_eq!(few.verdict(seconds(86_400), nothing), waiting(4));
    }

    #[test]
    fn a_candidate_that_fails_is_bad_and_stays_bad() {
        let mut analysis = after(20, side(10, 3, 0), side(90, 0, 4));
        let Verdict::Bad(finding) = analysis.verdict(seconds(20), GOAL) else { panic!() };
        assert_eq!((finding.criterion, finding.scope), (Criterion::Failures, Scope::All));
        assert!(finding.at < seconds(10) && finding.ln_evidence > 7.0, "{finding:?}");
        assert!(finding.candidate.events >= 3 && finding.stable.events == 0, "{finding:?}");
        let text = finding.to_string();
        assert!(text.starts_with("failures on the candidate: ") && text.contains("(30.00 %)"));
        for n in 20..2_000 {
            analysis.observe(seconds(n), &batch(1, side(10, 0, 0), side(90, 30, 0)));
        }
        assert_eq!(analysis.verdict(seconds(2_000), GOAL), Verdict::Bad(finding));
    }

    #[test]
    fn a_slow_candidate_is_bad() {
        let analysis = after(40, side(10, 0, 5), side(90, 0, 5));
        let Verdict::Bad(finding) = analysis.verdict(seconds(40), GOAL) else { panic!() };
        assert_eq!(finding.criterion, Criterion::AboveP95);
        assert!(finding.candidate.events * 2 == finding.candidate.trials, "{finding:?}");
    }

    #[test]
    fn a_little_worse_is_tolerated() {
        // 1 of 250 more, where 1 of 200 is tolerated.
        let analysis = after(400, side(250, 1, 20), side(250, 0, 12));
        assert_eq!(analysis.verdict(seconds(400), GOAL), Verdict::Good);
    }

    #[test]
    fn a_stable_that_fails_as_much_holds_the_rollout() {
        let mut analysis = after(100, side(10, 0, 0), side(90, 0, 4));
        for n in 100..110 {
            analysis.observe(seconds(n), &batch(1, side(10, 6, 0), side(90, 54, 0)));
        }
        let verdict = analysis.verdict(seconds(110), GOAL);
        let Verdict::StableFails { stable, candidate } = verdict else { panic!("{verdict:?}") };
        assert_eq!((stable.events, candidate.events), (540, 60));
        for n in 110..140 {
            analysis.observe(seconds(n), &batch(1, side(10, 0, 0), side(90, 0, 4)));
        }
        assert_eq!(analysis.verdict(seconds(140), GOAL), Verdict::Good, "it is over");
    }

    #[test]
    fn doubt_holds_a_step_until_it_fades() {
        let mut analysis = after(20, side(10, 0, 0), side(90, 0, 4));
        while analysis.ln_evidence(Criterion::Failures) < DOUBT.ln() {
            analysis.observe(seconds(20), &batch(1, side(10, 2, 0), side(90, 0, 4)));
        }
        let verdict = analysis.verdict(seconds(60), GOAL);
        let Verdict::NotEnough(Waiting::Doubt { criterion, probability }) = verdict else {
            panic!("{verdict:?}")
        };
        assert!(criterion == Criterion::Failures && probability < 0.05, "{verdict:?}");
        for _ in 0..50 {
            analysis.observe(seconds(60), &batch(1, side(10, 0, 0), side(90, 0, 4)));
        }
        assert_eq!(analysis.verdict(seconds(60), GOAL), Verdict::Good);
    }

    #[test]
    fn a_new_step_counts_anew_and_keeps_the_evidence() {
        let mut analysis = after(100, side(10, 0, 0), side(90, 0, 4));
        let evidence = analysis.ln_evidence(Criterion::AboveP95);
        analysis.begin_step(seconds(100), 2);
        let waiting = Waiting::Requests { compared: 0, needed: 100 };
        assert_eq!(analysis.verdict(seconds(999), GOAL), Verdict::NotEnough(waiting));
        // An answer to a request of the step before counts for its evidence, not for the new step's number.
        analysis.observe(seconds(101), &batch(1, side(10, 0, 0), side(90, 0, 4)));
        assert_eq!(analysis.verdict(seconds(999), GOAL), Verdict::NotEnough(waiting));
        assert!(analysis.ln_evidence(Criterion::AboveP95) < evidence);
    }

    #[test]
    fn a_new_window_compares_nothing_with_what_was_before_it() {
        let mut analysis = after(10, side(10, 1, 0), side(90, 0, 4));
        analysis.observe(seconds(10), &batch(1, side(3, 3, 0), side(0, 0, 0)));
        let evidence = analysis.ln_evidence(Criterion::Failures);
        analysis.begin_window(seconds(11), 3);
        analysis.observe(seconds(11), &batch(1, side(9, 9, 0), side(9, 0, 0)));
        analysis.observe(seconds(11), &batch(3, side(3, 0, 0), side(90, 0, 0)));
        let after = analysis.ln_evidence(Criterion::Failures);
        assert!(after <= evidence, "the three failures are gone: {evidence}, {after}");
        assert_eq!(analysis.thresholds(0), None, "and so are the latencies");
        assert_eq!(analysis.totals().candidate.requests(), 115, "what is shown stays");
    }

    #[test]
    fn thresholds_are_those_of_the_stratum() {
        let mut analysis = Analysis::new(&Settings::new(0.999, 0.0, 0.05, 2).unwrap());
        let mut counts = LatencyCounts::default();
        (0..1_000).for_each(|n| counts.record(Duration::from_millis(n)));
        analysis.learn_latencies(1, &counts);
        assert_eq!(analysis.thresholds(0), None);
        let p95 = analysis.thresholds(1).unwrap().p95;
        assert!(p95 > seconds(1).mul_f64(0.93) && p95 < seconds(1).mul_f64(0.97), "{p95:?}");
    }

    proptest! {
        #[test]
        fn no_counts_break_it(
            batches in prop::collection::vec(any::<([u64; 5], [u64; 5], u32, usize, u32)>(), 1..60),
            tolerance in prop_oneof![Just(0.0), 0.0..0.9_f64],
        ) {
            let mut analysis = Analysis::new(&Settings::new(0.999, tolerance, tolerance, 3).unwrap());
            for (stable, candidate, step, stratum, at) in batches {
                let side = |[successes, failures, timed, above_p95, above_p99]: [u64; 5]| {
                    Outcomes { successes, failures, timed, above_p95, above_p99 }
                };
                let window = Window { step: step % 4, stratum: stratum % 4, interval: 0 };
                let sides = Sides { stable: side(stable), candidate: side(candidate) };
                let now = seconds(u64::from(at));
                analysis.observe(now, &Batch { window, sides });
                analysis.verdict(now, GOAL);
                for criterion in Criterion::ALL {
                    prop_assert!(analysis.ln_evidence(criterion).is_finite());
                }
            }
        }
    }
}
