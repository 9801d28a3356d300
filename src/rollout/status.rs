//! What is shown of a rollout.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    analysis::{LatencyCounts, bounds},
    controller::{Hold, Machine, Phase},
    dial::Side,
    mirror::MirrorStatus,
    plan::Strategy,
    raw::Finish,
};
use crate::types::{HumanDuration, Name};

/// A rollout as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Its name.
    pub name: Name,
    /// `canary` or `blue-green`.
    pub strategy: String,
    /// Of the attempt.
    pub revision: Option<Name>,
    /// Where it is.
    pub phase: Phase,
    /// The same in words.
    pub state: String,
    /// The step, from 1 on, and how many there are.
    pub step: Option<(usize, usize)>,
    /// The upstream that has all requests, or would have them without the candidate.
    pub live: Name,
    /// A person has paused it.
    pub is_paused: bool,
    /// What is in force is not what the file says: it holds as long as the state directory does.
    pub file_differs: bool,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// Why it is where it is.
    pub reason: Option<String>,
    /// When that was, in seconds of Unix time.
    pub reason_at: Option<i64>,
    /// What comes next.
    pub next: Option<String>,
    /// The probability that a healthy candidate would ever look as bad as this one does, at most.
    pub doubt: Option<f64>,
    /// Tries that count on neither side since the edge started: their client networks had failed too often in that minute.
    pub left_out: u64,
    /// The stable.
    pub stable: SideStatus,
    /// The candidate.
    pub candidate: Option<SideStatus>,
    /// The copies of a mirror.
    pub mirror: Option<MirrorStatus>,
    /// The routes that it serves: site and route.
    pub routes: Vec<String>,
    /// What other systems say.
    pub checks: Vec<CheckLine>,
    /// The last events, the newest last.
    pub events: Vec<EventStatus>,
}

/// A check, as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckLine {
    /// Its name.
    pub name: Name,
    /// What its last run said; `None` where that was no answer, or there was none yet.
    pub passes: Option<bool>,
    /// In words.
    pub text: String,
}

/// An event, as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventStatus {
    /// When, in seconds of Unix time.
    pub at: i64,
    /// Its word.
    pub event: String,
    /// In a sentence.
    pub text: String,
}

/// One side of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideStatus {
    /// Its upstream.
    pub upstream: Name,
    /// Its share of the requests, in millionths.
    pub share: u32,
    /// Endpoints in service.
    pub endpoints_in_service: usize,
    /// All its endpoints.
    pub endpoints: usize,
    /// Tries that were compared since the attempt began.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Where the rate of failures is, with the plan's confidence at all times: from, to.
    pub failure_rate: (f64, f64),
    /// The median time to the first byte, in seconds.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
}

/// What is known of a side beside its counts.
pub(super) struct SideFacts<'a> {
    pub(super) upstream: Name,
    pub(super) in_service: usize,
    pub(super) endpoints: usize,
    pub(super) times: &'a LatencyCounts,
}

impl SideStatus {
    pub(super) fn of(machine: &Machine, side: Side, facts: &SideFacts<'_>) -> Self {
        let counts = machine.totals_of(side);
        let error = 1.0 - machine.plan().analysis.confidence;
        let rate = bounds(counts.requests(), counts.failures, error);
        let share = machine.setting().share.millionths();
        let quantile = |quantile| Some(facts.times.quantile(quantile)?.as_secs_f64());
        Self {
            upstream: facts.upstream.clone(),
            share: match side {
                Side::Stable => 1_000_000 - share,
                Side::Candidate => share,
            },
            endpoints_in_service: facts.in_service,
            endpoints: facts.endpoints,
            requests: counts.requests(),
            failures: counts.failures,
            failure_rate: (rate.low, rate.high),
            p50: quantile(0.5),
            p95: quantile(0.95),
        }
    }
}

/// What comes next, in words.
pub(super) fn next(machine: &Machine) -> Option<String> {
    let plan = machine.plan();
    let progress = machine.progress();
    let candidate = plan.candidate.as_ref()?;
    let step_text = |place: usize| {
        let step = plan.strategy.steps().get(place)?;
        // Writing to a string does not fail.
        let mut text = format!("step {}: {} of the requests", place + 1, step.share);
        if !step.duration.is_zero() {
            let _ = write!(text, ", for {} at least", HumanDuration(step.duration));
        }
        if step.requests > 0 {
            let _ = write!(text, ", for {} requests at least", step.requests);
        }
        if step.pause {
            text.push_str(", then a person");
        }
        Some(text)
    };
    let finish = || match plan.strategy.canary() {
        None => "`mirror = { canary = { … } }` in the file, or its end".to_owned(),
        Some(canary) if canary.finish == Finish::Promote => {
            format!("\"{candidate}\" gets all requests")
        }
        _ => format!("`tidegate rollout promote {}`", plan.name),
    };
    if let Some(hold) = machine.standstill() {
        return Some(match hold {
            Hold::StillPromoted { live } => format!("write `stable = \"{live}\"` to the file"),
            _ => "write a new `revision` to the file".to_owned(),
        });
    }
    match (&plan.strategy, progress.phase) {
        (Strategy::BlueGreen(_), Phase::Preflight) => {
            Some(format!("\"{}\" gets all requests", progress.target.as_ref()?))
        }
        (Strategy::BlueGreen(_), _) if machine.file_differs() => {
            Some(format!("write `live = \"{}\"` to the file", progress.live.as_ref()?))
        }
        (Strategy::BlueGreen(_), _) => None,
        (Strategy::Mirror(mirror), Phase::Preflight) => {
            Some(format!("copies of {} of the requests", mirror.stage.share))
        }
        (_, Phase::NotStarted) => Some(format!("`tidegate rollout start {}`", plan.name)),
        (Strategy::Canary(_), Phase::Preflight) => step_text(0),
        (_, Phase::Mirror) => Some(step_text(0).unwrap_or_else(finish)),
        (_, Phase::Step) => Some(step_text(progress.step + 1).unwrap_or_else(finish)),
        (_, Phase::Ready) => Some(finish()),
        (_, Phase::Promoted) => Some(format!("write `stable = \"{candidate}\"` to the file")),
        (_, Phase::RolledBack | Phase::Aborted) => {
            Some("write a new `revision` to the file".to_owned())
        }
        _ => None,
    }
}
