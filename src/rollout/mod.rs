//! Rollouts: moving a route's traffic from one upstream, the stable, to another, the candidate.
//!
//! Place: between the route that names a rollout and the upstreams that it chooses from.

pub mod analysis;
mod attempt;
pub mod checks;
mod clients;
mod controlled;
mod controller;
mod counters;
mod dial;
mod kept;
mod live;
mod mirror;
mod parse;
mod plan;
mod preflight;
mod preflight_requests;
mod raw;
mod schedule;
mod status;
mod steps;
mod trial;

pub use attempt::{Attempt, AttemptKey};
pub use controlled::Plan;
pub use controller::{Command, Event, EventKind, Hold, Phase, Refused};
pub use dial::{Reading, Side};
pub use live::{CommandError, Listener, Live};
pub use mirror::{
    BodyComparison, Compare, Mirror, MirrorStatus, Pointer, RawBodyComparison, RawBodyWord,
    RawCompare, RawMirror, Shadow, Skipped,
};
pub use plan::{
    AnalysisConfig, BlueGreen, Canary, Failures, Forced, Preflight, PreflightRequest,
    RolloutConfig, Step, Sticky, Strategy, WarmUp,
};
pub use raw::{
    Finish, RawAnalysis, RawBlueGreen, RawCanary, RawFailures, RawPreflight, RawPreflightRequest,
    RawRollout, RawRolloutSticky, RawRolloutStickyTable, RawSchedule, RawStep, RawStepTable,
    RawStickyWord, RawWarmUp, RawWho,
};
pub use schedule::Schedule;
pub use status::{CheckLine, EventStatus, RolloutStatus, SideStatus};
pub use trial::{AnswerKind, Assignment, Client, Dealt, Trial, grpc_status};
