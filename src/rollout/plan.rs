//! A rollout's plan: what `[rollouts.<name>]` says, with every default filled in, so that it can't be wrong in itself.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{
    analysis::Settings, checks::CheckConfig, mirror::Mirror, raw::Finish, schedule::Schedule,
};
use crate::{
    policy::{Conditions, RequestView},
    types::{KeyPath, Name, Percent, StickyCookie},
};

/// A plan.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands in the configuration.
    pub path: KeyPath,
    /// The upstream that serves.
    pub stable: Name,
    /// The upstream with the new version.
    pub candidate: Option<Name>,
    /// Names the attempt.
    pub revision: Option<Name>,
    /// Endpoints of the stable that must be in service before a step is taken.
    pub stable_min_endpoints: u32,
    /// Whether a client stays with its version.
    pub sticky: Option<Sticky>,
    /// Who gets the candidate, and who never does.
    pub forced: Forced,
    /// When steps may be taken.
    pub schedule: Option<Schedule>,
    /// What counts as a failed try.
    pub failures: Failures,
    /// What must hold before the candidate gets any request.
    pub preflight: Preflight,
    /// How the candidate is judged; for one route.
    pub analysis: AnalysisConfig,
    /// Other systems that are asked.
    pub checks: Vec<CheckConfig>,
    /// How traffic moves.
    pub strategy: Strategy,
}

/// What tells clients apart, so that each stays with its version.
#[derive(Clone, Debug, PartialEq)]
pub enum Sticky {
    /// A cookie of ours.
    Cookie(StickyCookie),
    /// The value of a header. Requests without it are dealt one by one.
    Header(HeaderName),
    /// The client's network.
    ClientAddress,
}

/// Requests that are not dealt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forced {
    /// Always the candidate.
    pub always: Vec<Conditions>,
    /// Never.
    pub never: Vec<Conditions>,
}

impl Forced {
    /// Whether anybody is named at all.
    pub fn is_empty(&self) -> bool {
        self.always.is_empty() && self.never.is_empty()
    }

    /// Whether a request gets the candidate, or does not; `None` where it is to be dealt.
    pub fn decide(&self, request: &RequestView<'_>) -> Option<bool> {
        let holds = |list: &[Conditions]| list.iter().any(|who| who.hold_but_for_method(request));
        if holds(&self.never) { Some(false) } else { holds(&self.always).then_some(true) }
    }
}

/// What counts as a failed try, beside no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// gRPC statuses, one bit each: bit 14 is `UNAVAILABLE`.
    pub grpc: u32,
    /// Answers whose first byte took longer.
    pub slower_than: Option<Duration>,
}

impl Failures {
    /// Whether an answer with this status, whose first byte came `after` the try began, is a failure.
    pub fn has_failed(&self, status: http::StatusCode, after: Duration) -> bool {
        let code = status.as_u16();
        self.statuses.iter().any(|(low, high)| (*low..=*high).contains(&code))
            || self.slower_than.is_some_and(|most| after > most)
    }

    /// Whether a gRPC status is a failure.
    pub fn has_failed_by_grpc(&self, status: u32) -> bool {
        status < 32 && self.grpc & (1 << status) != 0
    }
}

/// What must hold before the candidate gets any request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// Probes in a row that found each endpoint healthy.
    pub healthy: u32,
    /// Endpoints in service.
    pub min_endpoints: u32,
    /// What each endpoint must answer.
    pub requests: Vec<PreflightRequest>,
    /// What each is sent then.
    pub warm_up: Option<WarmUp>,
}

impl Preflight {
    /// Whether endpoints are asked anything.
    pub fn asks(&self) -> bool {
        !self.requests.is_empty() || self.warm_up.is_some()
    }
}

/// A request that must be answered well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightRequest {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Host header; `None` for the upstream's own.
    pub host: Option<HeaderValue>,
    /// Inclusive ranges of good statuses.
    pub statuses: Vec<(u16, u16)>,
    /// What the body must contain.
    pub body_contains: Option<String>,
    /// By when.
    pub timeout: Duration,
}

/// Requests whose answers don't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// How many each endpoint gets.
    pub requests: u32,
    /// In turn; at least one.
    pub paths: Vec<String>,
    /// Host header; `None` for the upstream's own.
    pub host: Option<HeaderValue>,
}

/// How the candidate is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnalysisConfig {
    /// See [`Settings::new`].
    pub confidence: f64,
    /// See [`Settings::new`].
    pub max_error_increase: f64,
    /// See [`Settings::new`].
    pub max_latency_increase: f64,
    /// Failures of one client network that count in a minute.
    pub max_client_failures: u32,
}

impl AnalysisConfig {
    /// For a rollout with so many routes.
    ///
    /// # Errors
    /// Values that no judgement can be made by.
    pub fn settings(&self, routes: usize) -> Result<Settings, super::analysis::SettingsError> {
        Settings::new(
            self.confidence,
            self.max_error_increase,
            self.max_latency_increase,
            routes.max(1),
        )
    }
}

/// How traffic moves.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// By growing shares.
    Canary(Canary),
    /// All at once.
    BlueGreen(BlueGreen),
    /// By copies first.
    Mirror(Mirror),
}

impl Strategy {
    /// Its word in the configuration and in the status.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Canary(_) => "canary",
            Self::BlueGreen(_) => "blue-green",
            Self::Mirror(_) => "mirror",
        }
    }

    /// Its canary: that of a mirror comes after it.
    pub fn canary(&self) -> Option<&Canary> {
        match self {
            Self::Canary(canary) => Some(canary),
            Self::Mirror(mirror) => mirror.canary.as_ref(),
            Self::BlueGreen(_) => None,
        }
    }

    /// Its mirror.
    pub fn mirror(&self) -> Option<&Mirror> {
        match self {
            Self::Mirror(mirror) => Some(mirror),
            Self::Canary(_) | Self::BlueGreen(_) => None,
        }
    }

    /// The steps of its canary.
    pub fn steps(&self) -> &[Step] {
        self.canary().map_or(&[], |canary| &canary.steps)
    }
}

/// Growing shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// At least one; shares never shrink.
    pub steps: Vec<Step>,
    /// What comes after the last.
    pub finish: Finish,
}

/// A step of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The candidate's share of the requests.
    pub share: Percent,
    /// It lasts so long at least.
    pub duration: Duration,
    /// It lasts until so many requests of the candidate were compared.
    pub requests: u64,
    /// Then a person must let it go on.
    pub pause: bool,
}

/// All at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlueGreen {
    /// Which upstream is live when there is no state.
    pub live: Name,
    /// How long a switch is watched.
    pub watch: Duration,
}
