//! What is kept of an analysis over a restart: the evidence, so that the error stays one for the whole rollout.
//!
//! A reload that changes what is judged goes the same way as a restart: what there was is saved under the old settings and
//! restored under the new ones ([`Analysis::restore`]), so that both decide alike.
//!
//! Open blocks and latencies are not kept: a new window begins. Leaving out what was counted between the last save and a crash
//! changes nothing of the validity, as long as the crash does not depend on what was counted.

use serde::{Deserialize, Serialize};

use super::{
    Analysis, Finding, Scope, Settings,
    counts::Sides,
    evidence::{ALTERNATIVES, Evidence},
    judge::fresh_evidence,
    settings::MOST_STRATA,
    strata::Strata,
};

/// Tolerances that differ by less are one: they are written in millionths, and read back from decimal digits.
const LEAST_CHANGE: f64 = 1e-9;

/// An analysis as it is kept. Made by [`Analysis::save`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// What each test tolerates; older files do not say.
    #[serde(default)]
    tolerances: Option<[f64; 3]>,
    /// The routes, by their numbers; older files do not say.
    #[serde(default)]
    routes: Option<Vec<String>>,
    tests: Vec<SavedTest>,
    totals: Sides,
    compared: u64,
    finding: Option<Finding>,
}

/// One criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedTest {
    #[serde(default)]
    ln_capital: f64,
    together: SavedEvidence,
    alone: Vec<SavedStratum>,
}

impl SavedTest {
    /// As it was, with this tolerance; `None` where it can't have been ours.
    fn evidence(&self, criterion: usize, tolerance: f64) -> Option<Strata> {
        let is_sound = (1..=MOST_STRATA).contains(&self.alone.len()) && self.ln_capital.is_finite();
        let fresh = fresh_evidence(criterion, tolerance, self.alone.len().clamp(1, MOST_STRATA));
        let mut strata = is_sound.then(|| fresh.with_capital(self.ln_capital))?;
        strata.restore(&self.together, &self.alone)?;
        Some(strata)
    }
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

impl Saved {
    /// Whether it was judged by the same tolerances, on the same routes.
    pub fn is_of(&self, settings: &Settings, routes: &[String]) -> bool {
        self.is_of_routes(settings, routes)
            && self.tolerances.is_none_or(|known| {
                known
                    .into_iter()
                    .zip(settings.tolerances())
                    .all(|(old, new)| (old - new).abs() < LEAST_CHANGE)
            })
    }

    fn is_of_routes(&self, settings: &Settings, routes: &[String]) -> bool {
        let strata = self.tests.first().map_or(0, |test| test.alone.len());
        strata == settings.strata() && self.routes.as_ref().is_none_or(|known| known == routes)
    }
}

impl Analysis {
    /// What is to be kept. `routes`: what the strata are called.
    pub fn save(&self, settings: &Settings, routes: &[String]) -> Saved {
        let test = |strata: &Strata| SavedTest {
            ln_capital: strata.ln_capital(),
            together: strata.together().save(),
            alone: strata.save_alone(),
        };
        Saved {
            tolerances: Some(settings.tolerances()),
            routes: Some(routes.to_vec()),
            tests: self.evidence().map(test).into(),
            totals: self.totals(),
            compared: self.compared(),
            finding: self.finding().copied(),
        }
    }

    /// Goes on with what was saved, under settings and routes that may be others; `None` where it is damaged. By criterion:
    ///
    /// - Nothing has changed, or the confidence only: the same portfolios.
    /// - Other routes, or a smaller tolerance: new portfolios, with the evidence so far as their capital. What spoke against
    ///   the larger tolerance speaks against the smaller one too, so that it is one test with one error.
    /// - A larger tolerance: another question, which begins without evidence, and with an error of its own.
    pub fn restore(settings: &Settings, routes: &[String], saved: &Saved) -> Option<Self> {
        let mut analysis = Self::new(settings);
        if saved.tests.len() != analysis.evidence().len() {
            return None;
        }
        let tolerances = settings.tolerances();
        let old = saved.tolerances.unwrap_or(tolerances);
        let is_of_routes = saved.is_of_routes(settings, routes);
        let each = analysis
            .evidence_mut()
            .into_iter()
            .zip(&saved.tests)
            .zip(old.into_iter().zip(tolerances));
        for (criterion, ((strata, test), (old, new))) in each.enumerate() {
            let before = test.evidence(criterion, old)?;
            if new > old + LEAST_CHANGE {
                continue;
            }
            let is_same = is_of_routes && new > old - LEAST_CHANGE;
            *strata = if is_same {
                before
            } else {
                fresh_evidence(criterion, new, settings.strata()).with_capital(before.ln_total())
            };
        }
        let is_same = saved.is_of(settings, routes);
        let finding = saved.finding.map(|finding| {
            // The number of a route says nothing among others.
            let scope = if is_of_routes { finding.scope } else { Scope::All };
            Finding { scope, ..finding }
        });
        analysis.resume(saved.totals, if is_same { saved.compared } else { 0 }, finding);
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

    fn routes(strata: usize) -> Vec<String> {
        (0..strata).map(|n| format!("shop.{n}")).collect()
    }

    /// A few blocks that speak against the candidate, and are not enough.
    fn observe_failing(analysis: &mut Analysis) {
        let side = |n: u64, failures| Outcomes {
            successes: n - failures,
            failures,
            ..Outcomes::default()
        };
        for interval in 0..3 {
            let window = Window { step: 1, stratum: 0, interval };
            let sides = Sides { stable: side(90, 0), candidate: side(10, 2) };
            analysis.observe(Duration::ZERO, &Batch { window, sides });
        }
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
            let text = serde_json::to_string(&analysis.save(&settings, &routes(strata))).unwrap();
            let saved: Saved = serde_json::from_str(&text).unwrap();
            let mut restored = Analysis::restore(&settings, &routes(strata), &saved).unwrap();
            assert_eq!(restored.save(&settings, &routes(strata)), saved);
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
        let text = serde_json::to_string(&analysis.save(&settings, &routes(1))).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        let restored = Analysis::restore(&settings, &routes(1), &saved);
        assert_eq!(restored.unwrap().finding(), analysis.finding());
    }

    #[test]
    fn what_is_damaged_is_not_taken() {
        let (settings, analysis) = after(2, 10);
        let saved = || analysis.save(&settings, &routes(2));
        let damages: [fn(&mut Saved); 7] = [
            |saved| saved.tests[0].together.ln_worth[0] = f64::INFINITY,
            |saved| saved.tests[1].together.released = 2.0,
            |saved| saved.tests[2].alone[0].base[0] = -1.0,
            |saved| saved.tests[0].alone[1].evidence = None,
            |saved| saved.tests[0].ln_capital = f64::NAN,
            |saved| saved.tests[1].alone.clear(),
            |saved| drop(saved.tests.pop()),
        ];
        for damage in damages {
            let mut saved = saved();
            damage(&mut saved);
            assert!(Analysis::restore(&settings, &routes(2), &saved).is_none());
        }
        // A file of before what was judged was written down in it.
        let mut old = serde_json::to_value(saved()).unwrap();
        for key in ["tolerances", "routes"] {
            old.as_object_mut().unwrap().remove(key).unwrap();
        }
        old["tests"][0].as_object_mut().unwrap().remove("ln_capital").unwrap();
        let old = serde_json::from_value(old).unwrap();
        let restored = Analysis::restore(&settings, &routes(2), &old).unwrap();
        assert_eq!(restored.save(&settings, &routes(2)), saved());
    }

    #[test]
    fn one_budget_is_not_handed_out_twice() {
        let (settings, mut analysis) = after(2, 70);
        observe_failing(&mut analysis);
        let with = |confidence, error, latency, strata| {
            Settings::new(confidence, error, latency, strata).unwrap()
        };
        let saved = analysis.save(&settings, &routes(2));
        let evidence =
            |analysis: &Analysis| Criterion::ALL.map(|criterion| analysis.ln_evidence(criterion));
        let (before, other) = (evidence(&analysis), ["x".to_owned(), "y".to_owned()]);
        let swapped: Vec<String> = routes(2).into_iter().rev().collect();
        assert!(before[0] > 1.0, "{before:?}");
        let cases: [(Settings, &[String], bool, bool); 7] = [
            (settings, &routes(2), true, true),
            (with(0.99, 0.005, 0.05, 2), &routes(2), true, true),
            (settings, &other, true, false),
            (settings, &swapped, true, false),
            (with(0.999, 0.005, 0.05, 1), &routes(1), true, false),
            (with(0.999, 0.001, 0.05, 2), &routes(2), true, false),
            (with(0.999, 0.02, 0.05, 2), &routes(2), false, false),
        ];
        for (case, (new, names, keeps, is_same)) in cases.into_iter().enumerate() {
            let restored = Analysis::restore(&new, names, &saved).unwrap();
            let after = evidence(&restored);
            let expected = if keeps { before[0] } else { 0.0 };
            assert!((after[0] - expected).abs() < 1e-9, "{case}: {after:?} {before:?}");
            assert!((after[1] - before[1]).abs() < 1e-9, "{case}: latency is judged as before");
            assert_eq!(restored.totals(), analysis.totals());
            assert_eq!(saved.is_of(&new, names), is_same, "{case}");
            assert_eq!(restored.compared(), if is_same { analysis.compared() } else { 0 });
            // And it goes on, through its own form on disk too.
            let again = restored.save(&new, names);
            let mut again = Analysis::restore(&new, names, &again).unwrap();
            assert!((evidence(&again)[0] - expected).abs() < 1e-9, "{case}");
            observe_failing(&mut again);
            assert!(evidence(&again)[0] > expected + 0.5, "{case}: {:?}", evidence(&again));
        }
        // Evidence that was lost is not given back either.
        let (settings, analysis) = after(2, 0);
        let mut analysis = analysis;
        let good = Outcomes { successes: 500, ..Outcomes::default() };
        for interval in 0..50 {
            let window = Window { step: 1, stratum: 0, interval };
            let sides = Sides { stable: good, candidate: good };
            analysis.observe(Duration::ZERO, &Batch { window, sides });
        }
        let before = evidence(&analysis)[0];
        assert!(before < -0.3, "{before}");
        let saved = analysis.save(&settings, &routes(2));
        let restored = Analysis::restore(&settings, &other, &saved).unwrap();
        assert!((evidence(&restored)[0] - before).abs() < 1e-9);
    }
}
