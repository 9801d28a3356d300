//! What a rollout is waiting for.

use std::{fmt, time::Duration};

use crate::{
    rollout::analysis::{Criterion, Trials, Waiting},
    types::{HumanDuration, Name},
};

/// What a rollout is waiting for.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// The candidate has too few endpoints that can serve.
    CandidateEndpoints {
        /// Those that can.
        have: usize,
        /// Asked for.
        need: u32,
        /// Good probes in a row that each needs.
        probes: u32,
    },
    /// Its endpoints are asked what the plan lists.
    Preflight,
    /// One of them did not answer as it must.
    PreflightFailed {
        /// What was asked, where, and what came.
        text: String,
    },
    /// The stable has too few endpoints to take the traffic back.
    StableEndpoints {
        /// Those in service.
        have: usize,
        /// Asked for.
        need: u32,
    },
    /// Steps are taken at other times.
    Schedule,
    /// A person has paused it.
    Paused,
    /// The plan asks for a person.
    Person,
    /// The file gives a revision other upstreams than those that it began with.
    OtherUpstreams {
        /// The revision.
        revision: Name,
        /// The stable that it began with.
        stable: Name,
        /// The candidate.
        candidate: Name,
    },
    /// The file asks for another revision while what was promoted has all requests.
    StillPromoted {
        /// What was promoted.
        live: Name,
    },
    /// Neither side has an endpoint in service, or had a moment ago: nobody can be judged.
    BothDown,
    /// More requests, compared at the same moment.
    Requests {
        /// Compared so far.
        compared: u64,
        /// Asked for.
        needed: u64,
    },
    /// More time.
    Time {
        /// Passed so far.
        passed: Duration,
        /// Asked for.
        needed: Duration,
    },
    /// Blue-green: the rest of the watch.
    Watch {
        /// Passed so far.
        passed: Duration,
        /// Asked for.
        needed: Duration,
        /// Requests that were compared with some from before the switch.
        compared: u64,
        /// Requests from before the switch that are left to compare with.
        left: u64,
    },
    /// Another system has no answer, or none yet.
    Check {
        /// The check.
        name: Option<Name>,
        /// Why it has none.
        text: String,
    },
    /// Evidence against the candidate that grows or fades.
    Doubt {
        /// What is in doubt.
        criterion: Criterion,
        /// A healthy candidate ever looks so bad with at most this probability.
        probability: f64,
    },
    /// The stable itself fails: nobody can be judged.
    StableFails {
        /// Its tries of the last half minute, and the failed ones.
        stable: Trials,
        /// The candidate's.
        candidate: Trials,
    },
}

impl Hold {
    /// Whether it is worth an event: not what every step waits for.
    pub(super) fn is_news(&self) -> bool {
        !matches!(
            self,
            Self::Requests { .. }
                | Self::Time { .. }
                | Self::Watch { .. }
                | Self::Paused
                | Self::Preflight
        )
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl From<Waiting> for Hold {
    fn from(waiting: Waiting) -> Self {
        match waiting {
            Waiting::Requests { compared, needed } => Self::Requests { compared, needed },
            Waiting::Duration { passed, needed } => Self::Time { passed, needed },
            Waiting::Doubt { criterion, probability } => Self::Doubt { criterion, probability },
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| HumanDuration::from_secs(time.as_secs());
        let rate = |side: &Trials| 100.0 * side.events as f64 / side.trials.max(1) as f64;
        match self {
            Self::CandidateEndpoints { have, need, probes: 0 } => {
                write!(f, "{have} of {need} endpoints of the candidate are in service")
            }
            Self::CandidateEndpoints { have, need, probes } => write!(
                f,
                "{have} of {need} endpoints of the candidate have been healthy {probes} times in a row"
            ),
            Self::Preflight => f.write_str("the endpoints are asked what the preflight lists"),
            Self::StableEndpoints { have, need } => write!(
                f,
                "the stable has {have} of {need} endpoints in service, too few to take the traffic back"
            ),
            Self::Schedule => f.write_str("the schedule takes no step at this time"),
            Self::Paused => f.write_str("paused; `resume` goes on"),
            Self::OtherUpstreams { revision, stable, candidate } => write!(
                f,
                "revision \"{revision}\" is from \"{stable}\" to \"{candidate}\"; for other upstreams write a new `revision` to the file"
            ),
            Self::StillPromoted { live } => write!(
                f,
                "\"{live}\" was promoted, and the file does not say so: write `stable = \"{live}\"`, or `abort` it, before another revision begins"
            ),
            Self::BothDown => f.write_str(
                "both sides lost their endpoints together: neither is to blame, and both are to come back",
            ),
            Self::Person => f.write_str("the plan waits for a person here; `resume` goes on"),
            Self::Requests { compared, needed } => write!(
                f,
                "{compared} of {needed} requests of the candidate were compared with the stable's"
            ),
            Self::Time { passed, needed } => {
                write!(f, "{} of {} have passed", seconds(passed), seconds(needed))
            }
            Self::Watch { passed, needed, compared, left } => {
                let (passed, needed) = (seconds(passed), seconds(needed));
                write!(
                    f,
                    "{passed} of {needed} have passed; {compared} requests were compared with those from before the switch"
                )?;
                if *left == 0 {
                    f.write_str(
                        ", of which there are no more: only endpoints and checks are judged",
                    )?;
                }
                Ok(())
            }
            Self::Check { name: Some(name), text } => {
                write!(f, "the check \"{name}\" has no answer: {text}")
            }
            Self::PreflightFailed { text } | Self::Check { name: None, text } => f.write_str(text),
            Self::Doubt { criterion, probability } => write!(
                f,
                "a doubt, {criterion}: a healthy candidate looks like this with a probability of at most {:.2} %; it grows to a verdict or fades",
                100.0 * probability
            ),
            Self::StableFails { stable, candidate } => write!(
                f,
                "the stable itself fails {:.1} % of its requests ({} of {}), the candidate {:.1} %: neither is to blame",
                rate(stable),
                stable.events,
                stable.trials,
                rate(candidate)
            ),
        }
    }
}
