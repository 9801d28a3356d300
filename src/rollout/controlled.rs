//! A rollout that is in force: its state machine with what it needs of the present generation, and what is shown of it.
//!
//! Driven by `live.rs`, under its lock.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::runtime::Handle;

use super::{
    analysis::LatencyCounts,
    attempt::Attempt,
    checks::{Checks, Outcome, Standing},
    controller::{Event, EventKind, Facts, Machine, Phase, Progress, Setting},
    dial::Side,
    plan::RolloutConfig,
    preflight::Run,
    status::{self, CheckLine, EventStatus, RolloutStatus, SideFacts, SideStatus},
};
use crate::upstream::Upstream;

/// Latencies are learned so often.
const LEARN: Duration = Duration::from_secs(1);

/// Events that are shown of each rollout.
const SHOWN_EVENTS: usize = 50;

/// Latencies shown are of about so many requests.
const SHOWN_TIMES: u64 = 20_000;

/// A rollout of one generation, as its controller needs it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What its configuration says.
    pub config: Arc<RolloutConfig>,
    /// Its dial; `None` without a candidate.
    pub attempt: Option<Arc<Attempt>>,
    /// The stable upstream.
    pub stable: Arc<Upstream>,
    /// The candidate.
    pub candidate: Option<Arc<Upstream>>,
    /// Its routes, by their numbers.
    pub routes: Vec<String>,
    /// Differs where its routes or upstreams differ.
    pub fingerprint: u64,
}

impl Plan {
    /// The number under which its attempt counts: a state machine that comes to it goes on above it, since what is counted
    /// under an older one is left out.
    pub(super) fn last_number(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.reading().step)
    }
}

/// A rollout that is in force.
pub(super) struct Controlled {
    pub(super) machine: Machine,
    pub(super) plan: Plan,
    set: Option<Setting>,
    /// Asks the endpoints what the preflight lists, while it is time for that.
    run: Option<Run>,
    /// Of the stable and of the candidate.
    times: [LatencyCounts; 2],
    last_learn: Duration,
    events: VecDeque<Event>,
    /// While the candidate is judged, and the plan has some.
    checks: Option<Checks>,
    /// How many there were of each kind.
    pub(super) counts: [u64; EventKind::OF_ROLLOUTS.len()],
}

impl Controlled {
    pub(super) fn new(plan: &Plan, kept: Option<Progress>, now: Duration, wall: Timestamp) -> Self {
        let (config, routes) = (plan.config.clone(), plan.routes.clone());
        send_copies(plan);
        Self {
            machine: Machine::new(
                config,
                routes,
                plan.fingerprint,
                plan.last_number(),
                kept,
                now,
                wall,
            ),
            plan: plan.clone(),
            set: None,
            run: None,
            times: Default::default(),
            last_learn: now,
            events: VecDeque::new(),
            checks: None,
            counts: [0; EventKind::OF_ROLLOUTS.len()],
        }
    }

    pub(super) fn take(&mut self, plan: &Plan) {
        let key = |plan: &Plan| plan.attempt.as_ref().map(|attempt| attempt.key().clone());
        if key(&self.plan) != key(plan) {
            // Another dial, which says nothing yet.
            self.set = None;
            self.times = Default::default();
            self.leave();
        }
        send_copies(plan);
        if self.plan.config.checks != plan.config.checks {
            self.checks = None;
        }
        self.plan = plan.clone();
    }

    /// The attempt is in force no more: what is still collected for it is not sent.
    pub(super) fn leave(&self) {
        if let Some(attempt) = &self.plan.attempt {
            attempt.copies().send_to(None);
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let probes = self.machine.plan().preflight.healthy;
        Facts {
            stable: self.plan.stable.standing(probes),
            candidate: self
                .plan
                .candidate
                .as_ref()
                .map(|candidate| candidate.standing(probes))
                .unwrap_or_default(),
            checks: self.checks.as_ref().map_or(Standing::Good, Checks::standing),
            preflight: self.run.as_ref().map(Run::result).unwrap_or_default(),
            wall: Timestamp::now(),
        }
    }

    /// Other systems are asked while there is something to ask about.
    pub(super) fn run_checks(&mut self, handle: &Handle) {
        let configs = &self.machine.plan().checks;
        let is_wanted = !configs.is_empty() && self.machine.is_judging();
        if is_wanted != self.checks.is_some() {
            self.checks = is_wanted.then(|| Checks::start(configs.clone(), handle));
        }
    }

    pub(super) fn look(&mut self, now: Duration, facts: &Facts) -> Vec<Event> {
        let counts = self.plan.attempt.as_ref().map(|attempt| attempt.collect());
        self.machine.look(now, facts, &counts.unwrap_or_default())
    }

    /// Sets the dial, where it is to say something else, and begins or ends asking the endpoints of the preflight.
    pub(super) fn set(&mut self, handle: &Handle) {
        self.set_dial();
        let upstream = self.machine.asks().and_then(|side| match side {
            Side::Stable => Some(&self.plan.stable),
            Side::Candidate => self.plan.candidate.as_ref(),
        });
        self.run = match (upstream, self.run.take()) {
            (None, _) => None,
            (Some(upstream), Some(run)) if run.goes_on(upstream, &self.plan.config) => Some(run),
            (Some(upstream), _) => Some(Run::start(handle, upstream, &self.plan.config)),
        };
    }

    fn set_dial(&mut self) {
        let Some(attempt) = &self.plan.attempt else { return };
        let setting = self.machine.setting();
        if self.set.replace(setting) == Some(setting) {
            return;
        }
        if setting.is_mirrored {
            attempt.mirror(setting.number);
        } else if setting.is_in_play {
            attempt.set(setting.share, setting.number, setting.is_in_play);
        } else {
            attempt.take_back(setting.number);
        }
    }

    pub(super) fn learn(&mut self, now: Duration) {
        if now < self.last_learn + LEARN {
            return;
        }
        self.last_learn = now;
        let Some(attempt) = &self.plan.attempt else { return };
        let times = attempt.collect_times();
        for (_, stable, candidate) in &times {
            let [of_stable, of_candidate] = &mut self.times;
            of_stable.add_within(stable, SHOWN_TIMES);
            of_candidate.add_within(candidate, SHOWN_TIMES);
        }
        for (stratum, thresholds) in self.machine.learn(now, &times) {
            attempt.set_thresholds(stratum, thresholds);
        }
    }

    pub(super) fn remember(&mut self, event: &Event) {
        if let Some(count) = self.counts.get_mut(event.kind as usize) {
            *count += 1;
        }
        if self.events.len() == SHOWN_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
    }

    pub(super) fn status(&self) -> RolloutStatus {
        let machine = &self.machine;
        let (plan, progress, phase) = (machine.plan(), machine.progress(), machine.shown_phase());
        let side = |side: Side, upstream: &Arc<Upstream>| {
            let standing = upstream.standing(0);
            let facts = SideFacts {
                upstream: upstream.config().name.clone(),
                in_service: standing.in_service,
                endpoints: standing.endpoints,
                times: match side {
                    Side::Stable => &self.times[0],
                    Side::Candidate => &self.times[1],
                },
            };
            SideStatus::of(machine, side, &facts)
        };
        let steps = plan.strategy.steps().len();
        let has_step = matches!(phase, Phase::Step | Phase::Ready) && steps > 0;
        let ln_evidence = super::analysis::Criterion::ALL
            .map(|criterion| machine.analysis().ln_evidence(criterion))
            .into_iter()
            .fold(f64::NEG_INFINITY, f64::max);
        RolloutStatus {
            name: plan.name.clone(),
            strategy: plan.strategy.word().to_owned(),
            revision: plan.revision.clone(),
            phase,
            state: phase.word().to_owned(),
            step: has_step.then_some((progress.step + 1, steps)),
            live: match machine.live_side() {
                Side::Candidate => plan.candidate.clone().unwrap_or_else(|| plan.stable.clone()),
                Side::Stable => plan.stable.clone(),
            },
            is_paused: progress.is_paused,
            file_differs: machine.file_differs(),
            waits_for: machine.hold().map(ToString::to_string),
            reason: progress.reason.as_ref().map(|reason| reason.text.clone()),
            reason_at: progress.reason.as_ref().map(|reason| reason.at),
            next: status::next(machine),
            doubt: machine.is_judging().then(|| (-ln_evidence).exp().min(1.0)),
            left_out: self.plan.attempt.as_ref().map_or(0, |attempt| attempt.left_out()),
            stable: side(Side::Stable, &self.plan.stable),
            candidate: self
                .plan
                .candidate
                .as_ref()
                .map(|candidate| side(Side::Candidate, candidate)),
            mirror: self
                .plan
                .attempt
                .as_ref()
                .filter(|_| plan.strategy.mirror().is_some())
                .map(|attempt| attempt.copies().status()),
            routes: self.plan.routes.clone(),
            checks: self.checks.iter().flat_map(Checks::status).map(check_status).collect(),
            events: self
                .events
                .iter()
                .map(|event| EventStatus {
                    at: event.at,
                    event: event.kind.word().to_owned(),
                    text: event.text.clone(),
                })
                .collect(),
        }
    }
}

/// Copies go to the candidate of the generation in force, also those of requests that began before it.
fn send_copies(plan: &Plan) {
    if let Some(attempt) = &plan.attempt {
        attempt.copies().send_to(plan.candidate.as_ref());
    }
}

fn check_status(status: super::checks::CheckStatus) -> CheckLine {
    let (passes, text) = match status.last {
        None => (None, "it has no result yet".to_owned()),
        Some(Outcome::Passes) => (Some(true), "passes".to_owned()),
        Some(Outcome::Fails { text }) => (Some(false), text),
        Some(Outcome::NoAnswer { text }) => (None, format!("no answer: {text}")),
    };
    CheckLine { name: status.name, passes, text }
}
