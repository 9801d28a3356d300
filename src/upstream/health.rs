//! Whether an endpoint is healthy: what probes have found, and the task that probes.
//!
//! Not on the request path: a changed verdict rebuilds the sets of eligible endpoints (`set.rs`), which requests read.
//! Keyed by upstream, address and everything that shapes a probe; a changed check starts from nothing, a changed weight
//! does not. Probing runs while an endpoint set needs it; the last verdict stays with the registry for a rollback.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::types::{EndpointAddress, Name, defaults};

use super::{
    probe::Probe,
    task::{TaskGuard, TaskSlot},
    watch::Watchers,
};

/// What is known of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No probe has ended yet: used only where no endpoint is known to be healthy.
    Unknown,
    /// Gets requests.
    Healthy,
    /// Gets none.
    Unhealthy,
}

/// How many equal outcomes in a row change a verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Good probes that make it healthy.
    pub(super) healthy_after: u32,
    /// Failed probes that make it unhealthy.
    pub(super) unhealthy_after: u32,
}

/// A verdict, when it was reached, and what last went wrong.
#[derive(Clone, Debug)]
pub(super) struct HealthState {
    pub(super) verdict: Verdict,
    /// When the verdict was reached.
    pub(super) since: SystemTime,
    /// The last failed probe: what and when. It stays after the endpoint has recovered.
    pub(super) last_error: Option<(Arc<str>, SystemTime)>,
    /// Good probes in a row, up to now.
    pub(super) good_in_a_row: u32,
    /// Probes in a row that speak against the verdict.
    against: u32,
    /// The next outcome decides at once.
    decides_at_once: bool,
}

impl HealthState {
    /// Nothing is known.
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            verdict: Verdict::Unknown,
            since: now,
            last_error: None,
            good_in_a_row: 0,
            against: 0,
            decides_at_once: true,
        }
    }

    /// Probing starts again after a pause: the verdict stands until the next outcome, which decides at once.
    pub(super) fn resume(&mut self) {
        self.good_in_a_row = 0;
        self.against = 0;
        self.decides_at_once = true;
    }

    /// Its last probe was good, and it takes more of them to be healthy again.
    pub(super) fn is_recovering(&self) -> bool {
        self.verdict == Verdict::Unhealthy && self.against > 0
    }

    /// Takes the outcome of a probe, and says whether the verdict has changed.
    pub(super) fn record(
        &mut self,
        thresholds: Thresholds,
        outcome: Result<(), Arc<str>>,
        now: SystemTime,
    ) -> bool {
        let (found, needed) = match outcome {
            Ok(()) => {
                self.good_in_a_row = self.good_in_a_row.saturating_add(1);
                (Verdict::Healthy, thresholds.healthy_after)
            }
            Err(error) => {
                self.good_in_a_row = 0;
                self.last_error = Some((error, now));
                (Verdict::Unhealthy, thresholds.unhealthy_after)
            }
        };
        let decides_at_once = std::mem::take(&mut self.decides_at_once);
        if found == self.verdict {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        if !decides_at_once && self.against < needed {
            return false;
        }
        self.verdict = found;
        self.since = now;
        self.against = 0;
        true
    }
}

/// The health of one endpoint under one check.
pub(super) struct Health {
    upstream: Name,
    endpoint: EndpointAddress,
    probe: Probe,
    state: Mutex<HealthState>,
    has_been_probed: AtomicBool,
    watchers: Watchers,
    task: TaskSlot,
}

impl Health {
    pub(super) fn new(upstream: Name, endpoint: EndpointAddress, probe: Probe) -> Self {
        Self {
            upstream,
            endpoint,
            probe,
            state: Mutex::new(HealthState::new(SystemTime::now())),
            has_been_probed: AtomicBool::new(false),
            watchers: Watchers::default(),
            task: TaskSlot::default(),
        }
    }

    /// Who is told when the verdict changes.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// What it asks.
    pub(super) fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The present verdict.
    pub(super) fn verdict(&self) -> Verdict {
        self.lock().verdict
    }

    /// The verdict and what belongs to it, as they are now.
    pub(super) fn state(&self) -> HealthState {
        self.lock().clone()
    }

    /// Whether it is unhealthy, and its last probe was good.
    pub(super) fn is_recovering(&self) -> bool {
        self.lock().is_recovering()
    }

    /// Whether at least one probe has ended.
    pub(super) fn has_been_probed(&self) -> bool {
        self.has_been_probed.load(Ordering::Acquire)
    }

    /// Probes for as long as the guard lives. The first probe starts at once.
    pub(super) fn run(self: &Arc<Self>, handle: &Handle) -> Arc<TaskGuard> {
        self.task.share(handle, || {
            self.lock().resume();
            let health = Arc::clone(self);
            async move {
                loop {
                    let outcome = health.probe.run().await;
                    health.record(
                        outcome.map_err(|error| Arc::from(describe(&error))),
                        SystemTime::now(),
                    );
                    let pause = spread(health.probe.check().interval, fastrand::f64());
                    tokio::time::sleep(pause).await;
                }
            }
        })
    }

    fn record(&self, outcome: Result<(), Arc<str>>, now: SystemTime) {
        let error = outcome.as_ref().err().cloned();
        let check = self.probe.check();
        let thresholds = Thresholds {
            healthy_after: check.healthy_after,
            unhealthy_after: check.unhealthy_after,
        };
        let (is_changed, is_new_hope) = {
            let mut state = self.lock();
            let was_recovering = state.is_recovering();
            let is_changed = state.record(thresholds, outcome, now);
            (is_changed, was_recovering != state.is_recovering())
        };
        let is_first = !self.has_been_probed.swap(true, Ordering::AcqRel);
        if is_changed {
            let (upstream, endpoint) = (&self.upstream, &self.endpoint);
            match error {
                None => tracing::info!(%upstream, %endpoint, "endpoint healthy"),
                Some(error) => tracing::warn!(%upstream, %endpoint, %error, "endpoint unhealthy"),
            }
        }
        if is_changed || is_first || is_new_hope {
            self.watchers.notify();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// The interval, up to 20 % shorter or longer. `random` is from 0 to 1.
fn spread(interval: Duration, random: f64) -> Duration {
    let share = defaults::HEALTH_JITTER_PERCENT as f64 / 100.0;
    interval.mul_f64(1.0 - share + 2.0 * share * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { healthy_after: 2, unhealthy_after: 3 };

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// `+` a good probe, `-` a failed one, `|` a pause; the verdicts after each as `?`, `h`, `u`.
    fn verdicts(outcomes: &str) -> String {
        let mut state = HealthState::new(at(0));
        let mut now = 0;
        outcomes
            .chars()
            .map(|outcome| {
                now += 1;
                match outcome {
                    '+' => _ = state.record(THRESHOLDS, Ok(()), at(now)),
                    '-' => _ = state.record(THRESHOLDS, Err("down".into()), at(now)),
                    _ => state.resume(),
                }
                match state.verdict {
                    Verdict::Unknown => '?',
                    Verdict::Healthy => 'h',
                    Verdict::Unhealthy => 'u',
                }
            })
            .collect()
    }

    #[test]
    fn verdicts_follow_the_table() {
        for (outcomes, expected) in [
            ("+", "h"),               // the first probe decides at once
            ("-", "u"),               //
            ("+--", "hhh"),           // two failures are not enough
            ("+---", "hhhu"),         // three are
            ("+--+--", "hhhhhh"),     // a good one between starts the count anew
            ("---++", "uuuuh"),       // two good ones bring it back
            ("-+-+-+", "uuuuuu"),     // one by one they do not
            ("+---+-++", "hhhuuuuh"), //
            ("+|-", "hhu"),           // after a pause the first decides at once
            ("-|+", "uuh"),           //
            ("+--|+-", "hhhhhh"),     // and the count is forgotten
            ("|+", "?h"),             //
        ] {
            assert_eq!(verdicts(outcomes), expected, "{outcomes}");
        }
    }

    #[test]
    fn since_is_the_change_and_the_last_error_stays() {
        let mut state = HealthState::new(at(0));
        assert!(state.record(THRESHOLDS, Ok(()), at(1)));
        assert!(!state.record(THRESHOLDS, Err("one".into()), at(2)));
        assert!(!state.record(THRESHOLDS, Err("two".into()), at(3)));
        assert_eq!(state.since, at(1));
        assert!(state.record(THRESHOLDS, Err("three".into()), at(4)));
        assert_eq!((state.verdict, state.since), (Verdict::Unhealthy, at(4)));
        assert!(!state.record(THRESHOLDS, Err("four".into()), at(5)));
        assert_eq!(state.since, at(4));
        assert!(!state.record(THRESHOLDS, Ok(()), at(6)));
        assert!(state.record(THRESHOLDS, Ok(()), at(7)));
        assert_eq!((state.verdict, state.since), (Verdict::Healthy, at(7)));
        assert_eq!(state.last_error, Some(("four".into(), at(5))));
    }

    /// Against a model that looks at the whole history: the verdict changes exactly when the last outcomes all speak against it.
    #[test]
    fn a_seeded_run_agrees_with_the_history() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let thresholds =
                Thresholds { healthy_after: random.u32(1..5), unhealthy_after: random.u32(1..5) };
            let mut state = HealthState::new(at(0));
            let mut history = Vec::new();
            let mut model = Verdict::Unknown;
            for step in 0..500 {
                let is_good = random.f64() < 0.6;
                history.push(is_good);
                let outcome = if is_good { Ok(()) } else { Err(Arc::from("down")) };
                let before = state.verdict;
                let is_changed = state.record(thresholds, outcome, at(step));
                let run = history.iter().rev().take_while(|good| **good == is_good).count() as u32;
                let (found, needed) = if is_good {
                    (Verdict::Healthy, thresholds.healthy_after)
                } else {
                    (Verdict::Unhealthy, thresholds.unhealthy_after)
                };
                if model == Verdict::Unknown || run >= needed {
                    model = found;
                }
                assert_eq!(state.verdict, model, "seed {seed}, step {step}");
                assert_eq!(is_changed, before != state.verdict);
                assert!(state.against < thresholds.healthy_after.max(thresholds.unhealthy_after));
            }
        }
    }

    #[test]
    fn intervals_are_spread_by_a_fifth() {
        let interval = Duration::from_secs(5);
        assert_eq!(spread(interval, 0.0), Duration::from_secs(4));
        assert_eq!(spread(interval, 0.5), interval);
        assert_eq!(spread(interval, 1.0), Duration::from_secs(6));
    }
}
