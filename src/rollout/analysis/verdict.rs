//! What the analysis says.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::block::Trials;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Criterion {
    /// Tries that failed.
    Failures,
    /// Answers slower than the stable's p95.
    AboveP95,
    /// Answers slower than the stable's p99.
    AboveP99,
}

impl Criterion {
    /// All, in the order of their shares of the error budget.
    pub const ALL: [Self; 3] = [Self::Failures, Self::AboveP95, Self::AboveP99];
}

impl Criterion {
    /// What is compared, where `stable` is what the stable is called.
    fn text(self, stable: &str) -> String {
        match self {
            Self::Failures => "failures".to_owned(),
            Self::AboveP95 => format!("answers slower than the p95 of {stable}"),
            Self::AboveP99 => format!("answers slower than the p99 of {stable}"),
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text("the stable"))
    }
}

/// Where a difference shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Over all routes together.
    All,
    /// On one route alone.
    Stratum(usize),
}

/// Why the candidate is bad.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it does more often than the stable, by more than the tolerance.
    pub criterion: Criterion,
    /// Where most of the evidence is from.
    pub scope: Scope,
    /// When it was found.
    pub at: Duration,
    /// Natural logarithm of the evidence: `e^-ln_evidence` is the probability that a healthy candidate would ever show
    /// as much, at most.
    pub ln_evidence: f64,
    /// The candidate's requests of the last half minute, and those of them with the event in question.
    pub candidate: Trials,
    /// The stable's.
    pub stable: Trials,
}

impl Finding {
    /// The finding in a sentence, where the two sides are called so.
    pub fn between(&self, candidate: &str, stable: &str) -> String {
        let rate = |side: Trials| 100.0 * side.events as f64 / side.trials.max(1) as f64;
        format!(
            "{} on {candidate}: {} of {} ({:.2} %); on {stable}: {} of {} ({:.2} %)",
            self.criterion.text(stable),
            self.candidate.events,
            self.candidate.trials,
            rate(self.candidate),
            self.stable.events,
            self.stable.trials,
            rate(self.stable),
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.between("the candidate", "the stable"))
    }
}

/// What a step asks for before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Requests of the candidate that were compared with the stable's.
    pub requests: u64,
    /// Time in the step.
    pub duration: Duration,
}

/// What is missing for a good verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Waiting {
    /// More requests of the candidate, each compared with the stable's of the same moment.
    Requests {
        /// Compared so far, in this step.
        compared: u64,
        /// Asked for.
        needed: u64,
    },
    /// More time.
    Duration {
        /// Passed so far, in this step.
        passed: Duration,
        /// Asked for.
        needed: Duration,
    },
    /// Evidence against the candidate, too much to go on and too little to take it back. It grows or it fades.
    Doubt {
        /// What is in doubt.
        criterion: Criterion,
        /// A healthy candidate ever looks so bad with at most this probability.
        probability: f64,
    },
}

/// What the analysis concludes now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Take the candidate back. Said once, it stays.
    Bad(Finding),
    /// The step's requests and duration are reached, with nothing against the candidate.
    Good,
    /// Not enough yet to go on.
    NotEnough(Waiting),
    /// The stable itself fails: neither side can be judged to be good, and the candidate is not to blame. Hold.
    StableFails {
        /// The stable's tries of the last half minute, and the failed ones.
        stable: Trials,
        /// The candidate's.
        candidate: Trials,
    },
}
