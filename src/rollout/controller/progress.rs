//! How far a rollout is: what is kept over restarts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{rollout::analysis::Saved, types::Name};

/// Attempts of the past that are remembered; of more the oldest go.
const MOST_PAST: usize = 100;

/// Where a rollout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There is nothing to do: no candidate, or the file agrees with what was promoted.
    #[default]
    Steady,
    /// There is a candidate, and a person must start it: nothing is known of what was before.
    NotStarted,
    /// The candidate is looked at before it gets any request.
    Preflight,
    /// Copies of requests go to the candidate.
    Mirror,
    /// A step of a canary.
    Step,
    /// All steps are done; a person must promote it.
    Ready,
    /// The candidate has all requests.
    Promoted,
    /// A verdict has taken the candidate back.
    RolledBack,
    /// A person has.
    Aborted,
    /// Blue-green: one side has all requests.
    Live,
    /// Blue-green: one side has had all requests for a short time, and is judged.
    Watch,
}

impl Phase {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::NotStarted => "not started",
            Self::Preflight => "preflight",
            Self::Mirror => "mirrored",
            Self::Step => "step",
            Self::Ready => "ready to promote",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Live => "live",
            Self::Watch => "watched",
        }
    }

    /// Its word in metrics and in the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::NotStarted => "not_started",
            Self::Preflight => "preflight",
            Self::Mirror => "mirror",
            Self::Step => "step",
            Self::Ready => "ready",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Live => "live",
            Self::Watch => "watch",
        }
    }
}

/// How an attempt of the past ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// Taken back, by a verdict or a person: it stays at 0.
    TakenBack,
    /// It got all requests.
    Promoted,
    /// Another revision came before it was over.
    Replaced,
}

/// An attempt of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) revision: Name,
    pub(super) ended: Ended,
    /// The upstream that was promoted.
    pub(super) live: Option<Name>,
}

/// Why it is where it is, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::rollout) struct Reason {
    /// For people, with figures.
    pub text: String,
    /// In seconds of Unix time; for showing only.
    pub at: i64,
}

/// How far a rollout is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::rollout) struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Of the attempt.
    pub revision: Option<Name>,
    /// The stable and the candidate of the attempt. Those of another are another attempt, whatever its revision.
    pub upstreams: Option<(Name, Name)>,
    /// The present step's place in the plan.
    pub step: usize,
    /// The candidate's share in it, in millionths: a plan that changes finds its step by it.
    pub share: u32,
    /// How long the step, or the watch, has lasted while the edge ran and nobody had paused it.
    pub passed: Duration,
    /// Requests that were compared in the step before the edge was last started.
    pub compared_before: u64,
    /// A person has paused it.
    pub is_paused: bool,
    /// A person has let the present step go on.
    pub is_resumed: bool,
    /// The upstream that serves: of a canary where it is not the file that says so, of blue-green always.
    pub live: Option<Name>,
    /// What was promoted does not have the requests: a file has given them to its stable without naming it, or the rollout was not
    /// in the file.
    #[serde(default)]
    pub is_out_of_force: bool,
    /// Blue-green: the upstream that is to be live next.
    pub target: Option<Name>,
    /// Blue-green, in a watch: the upstream that was live before it.
    pub returns_to: Option<Name>,
    /// Why it is where it is.
    pub reason: Option<Reason>,
    pub(super) past: Vec<Past>,
    /// The evidence.
    pub(super) analysis: Option<Saved>,
}

/// No step or watch is counted for longer, and no more requests are.
const MOST_PASSED: Duration = Duration::from_hours(24 * 365 * 100);
const MOST_COMPARED: u64 = 1 << 62;
const MOST_STEP: usize = 1 << 16;

impl Progress {
    /// What was read from disk may be anybody's work: no number in it is so large that it could not be counted on.
    pub(super) fn within_bounds(mut self) -> Self {
        self.passed = self.passed.min(MOST_PASSED);
        self.compared_before = self.compared_before.min(MOST_COMPARED);
        self.step = self.step.min(MOST_STEP);
        self
    }

    /// Remembers how an attempt ended.
    pub(super) fn remember(&mut self, revision: Name, ended: Ended, live: Option<Name>) {
        self.past.retain(|past| past.revision != revision);
        self.past.push(Past { revision, ended, live });
        let excess = self.past.len().saturating_sub(MOST_PAST);
        self.past.drain(..excess);
    }

    /// What was promoted, where it has all requests and it is not the file that says so.
    pub(super) fn promoted(&self) -> Option<&Name> {
        self.live.as_ref().filter(|_| self.phase == Phase::Promoted && !self.is_out_of_force)
    }

    /// A configuration without the rollout is in force: what was promoted has nothing by it.
    pub(in crate::rollout) fn leave(&mut self) {
        self.is_out_of_force |= self.phase == Phase::Promoted;
    }

    /// Whether it is the state of blue-green.
    pub(super) fn is_of_blue_green(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Watch) || self.target.is_some()
    }

    /// The revision that was promoted last.
    pub(super) fn last_promoted(&self) -> Option<&Name> {
        let last = self.past.iter().rev().find(|past| past.ended == Ended::Promoted);
        last.map(|past| &past.revision)
    }

    pub(super) fn past_of(&self, revision: &Name) -> Option<&Past> {
        self.past.iter().find(|past| past.revision == *revision)
    }
}
