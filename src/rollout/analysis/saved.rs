//! What is kept of an analysis over a restart: the evidence, so that the error stays one for the whole rollout.
//!
//! Open blocks and latencies are not kept: a new window begins. Leaving out what was counted between the last save and a crash
//! changes nothing of the validity, as long as the crash does not depend on what was counted.

use serde::{Deserialize, Serialize};

use super::{
    Analysis, Finding, Settings,
    counts::Sides,
    evidence::{ALTERNATIVES, Evidence},
    strata::Strata,
};

/// An analysis as it is kept. Made by [`Analysis::save`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    tests: Vec<SavedTest>,
    totals: Sides,
    compared: u64,
    finding: Option<Finding>,
}

/// One criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedTest {
    together: SavedEvidence,
    alone: Vec<SavedStratum>,
}

/// One stratum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedStratum {
    pub(super) evidence: Option<SavedEvidence>,
    /// The guess at the stable's rate: requests, and events in them.
    pub(super) base: [f64; 2],
}

/// One portfolio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedEvidence {
    pub(super) ln_worth: [f64; ALTERNATIVES],
    pub(super) event_blocks: u64,
    pub(super) requests: u64,
    pub(super) out: [f64; 2],
    pub(super) released: f64,
}

impl SavedEvidence {
    /// Whether it can have been written by us: what is damaged must not count as evidence.
    pub(super) fn is_sound(&self) -> bool {
        let parts = self.out.iter().chain([&self.released]);
        self.ln_worth.iter().all(|worth| worth.is_finite())
            && parts.into_iter().all(|part| (0.0..=1.0).contains(part))
    }
}

impl Analysis {
    /// What is to be kept.
    pub fn save(&self) -> Saved {
        let test = |strata: &Strata| SavedTest {
            together: strata.together().save(),
            alone: strata.save_alone(),
        };
        Saved {
            tests: self.evidence().map(test).into(),
            totals: self.totals(),
            compared: self.compared(),
            finding: self.finding().copied(),
        }
    }

    /// The analysis that was saved; `None` where it is of another number of strata, or damaged.
    pub fn restore(settings: &Settings, saved: &Saved) -> Option<Self> {
        let mut analysis = Self::new(settings);
        if saved.tests.len() != analysis.evidence().len() {
            return None;
        }
        for (strata, test) in analysis.evidence_mut().into_iter().zip(&saved.tests) {
            strata.restore(&test.together, &test.alone)?;
        }
        analysis.resume(saved.totals, saved.compared, saved.finding);
        Some(analysis)
    }
}

impl Evidence {
    /// What was saved, on this schedule.
    pub(super) fn restored(&self, saved: &SavedEvidence) -> Option<Self> {
        saved.is_sound().then(|| self.with(saved))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rollout::analysis::{Batch, Criterion, Outcomes, Window};

    fn after(strata: usize, batches: u64) -> (Settings, Analysis) {
        let settings = Settings::new(0.999, 0.005, 0.05, strata).unwrap();
        let mut analysis = Analysis::new(&settings);
        analysis.begin_step(Duration::ZERO, 1);
        observe(&mut analysis, strata, 1, 0..batches);
        (settings, analysis)
    }

    fn observe(analysis: &mut Analysis, strata: usize, step: u32, range: std::ops::Range<u64>) {
        let side = |n: u64, failures| Outcomes {
            successes: n - failures,
            failures,
            ..Outcomes::default()
        };
        for interval in range {
            let window = Window { step, stratum: interval as usize % strata, interval };
            let failures = u64::from(interval % 7 == 0);
            let sides = Sides { stable: side(90, 0), candidate: side(10, failures) };
            analysis.observe(Duration::from_secs(interval), &Batch { window, sides });
        }
    }

    #[test]
    fn what_was_saved_goes_on_as_if_nothing_had_been() {
        for strata in [1, 3] {
            let (settings, mut analysis) = after(strata, 40);
            let text = serde_json::to_string(&analysis.save()).unwrap();
            let saved: Saved = serde_json::from_str(&text).unwrap();
            let mut restored = Analysis::restore(&settings, &saved).unwrap();
            assert_eq!(restored.save(), saved);
            let seconds = Duration::from_secs(40);
            analysis.begin_window(seconds, 3);
            restored.begin_window(seconds, 3);
            observe(&mut analysis, strata, 3, 40..90);
            observe(&mut restored, strata, 3, 40..90);
            for criterion in Criterion::ALL {
                let (a, b) = (analysis.ln_evidence(criterion), restored.ln_evidence(criterion));
                assert!((a - b).abs() < 1e-6, "{strata} {criterion}: {a} {b}");
            }
            assert_eq!(analysis.totals(), restored.totals());
            assert_eq!(analysis.finding().is_some(), restored.finding().is_some());
        }
    }

    #[test]
    fn a_finding_is_kept() {
        let (settings, mut analysis) = after(1, 0);
        let failing = Outcomes { failures: 10, ..Outcomes::default() };
        let stable = Outcomes { successes: 90, ..Outcomes::default() };
        for interval in 0..20 {
            let window = Window { step: 1, stratum: 0, interval };
            let sides = Sides { stable, candidate: failing };
            analysis.observe(Duration::ZERO, &Batch { window, sides });
        }
        let text = serde_json::to_string(&analysis.save()).unwrap();
        let restored = Analysis::restore(&settings, &serde_json::from_str(&text).unwrap());
        assert_eq!(restored.unwrap().finding(), analysis.finding());
    }

    #[test]
    fn what_is_damaged_or_of_another_shape_is_not_taken() {
        let (settings, analysis) = after(2, 10);
        let other = Settings::new(0.999, 0.005, 0.05, 1).unwrap();
        assert!(Analysis::restore(&other, &analysis.save()).is_none());
        let damages: [fn(&mut Saved); 5] = [
            |saved| saved.tests[0].together.ln_worth[0] = f64::INFINITY,
            |saved| saved.tests[1].together.released = 2.0,
            |saved| saved.tests[2].alone[0].base[0] = -1.0,
            |saved| saved.tests[0].alone[1].evidence = None,
            |saved| drop(saved.tests.pop()),
        ];
        for damage in damages {
            let mut saved = analysis.save();
            damage(&mut saved);
            assert!(Analysis::restore(&settings, &saved).is_none());
        }
    }
}
