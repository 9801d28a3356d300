//! Which endpoints of an upstream get requests: priorities, zones, thresholds, slow start; as written, and parsed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::RawUpstream;
use crate::types::{Name, Percent, defaults};

/// What to do with a request where no endpoint is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenNoneHealthy {
    /// 503 at once.
    #[default]
    Fail,
    /// Use all endpoints, as if they were healthy.
    Try,
}

/// Who gets requests, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EligibilityConfig {
    /// How long an endpoint that came back or joined takes to its whole share; zero is off.
    pub slow_start: Duration,
    /// With fewer healthy ones, all are used.
    pub panic_threshold: Option<Percent>,
    /// What to do where none is healthy.
    pub when_none_healthy: WhenNoneHealthy,
    /// With fewer that may get requests an event is raised.
    pub stable_min: Option<u32>,
    /// The edge's own zone: its endpoints are preferred.
    pub own_zone: Option<Name>,
    /// While at least this share of their weight gets requests.
    pub zone_threshold: Percent,
}

impl EligibilityConfig {
    /// Fills in the defaults. The own zone is not the upstream's: it is set by whoever knows it.
    pub(super) fn of(raw: &RawUpstream) -> Self {
        Self {
            slow_start: raw.slow_start.unwrap_or(defaults::SLOW_START).0,
            panic_threshold: raw.panic_threshold.filter(|share| share.millionths() > 0),
            when_none_healthy: raw.when_none_healthy.unwrap_or_default(),
            stable_min: raw.stable_min.filter(|least| *least > 0),
            own_zone: None,
            zone_threshold: raw.zone_threshold.unwrap_or(defaults::ZONE_THRESHOLD),
        }
    }
}

impl Default for EligibilityConfig {
    fn default() -> Self {
        Self::of(&RawUpstream::default())
    }
}
