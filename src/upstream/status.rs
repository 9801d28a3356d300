//! What the API and the metrics show of an upstream. Read now and then, never by a request.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::{
    telemetry::metrics::{EjectionReason, Fault},
    types::Name,
};

use super::{endpoint::Endpoint, gates::GateStatus, health::Verdict, raw::Balance};

/// An upstream as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Name,
    /// How it balances.
    pub balance: Balance,
    /// How it stands as a whole.
    pub service: ServiceStatus,
    /// Its endpoints, those of host names resolved.
    pub endpoints: Vec<EndpointStatus>,
    /// Its host names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameStatus>,
    /// Its limits and its breaker.
    #[serde(skip)]
    pub gates: GateStatus,
}

/// What is known of an upstream's endpoints, for those who decide on its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetStanding {
    /// Those with a weight.
    pub endpoints: usize,
    /// Those that nothing speaks against: neither probes nor traffic.
    pub in_service: usize,
    /// Those that so many probes in a row, as were asked for, have found healthy.
    pub proven: usize,
}

/// How an upstream stands as a whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServiceStatus {
    /// How many endpoints nothing speaks against: neither probes nor traffic.
    pub in_service: usize,
    /// Whether all are used because too few are healthy. `None` without a panic threshold.
    pub is_panicking: Option<bool>,
    /// Whether there are fewer than there should be. `None` without `stable_min`.
    pub is_below_stable_min: Option<bool>,
}

/// An endpoint as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// Where it is reached.
    pub address: String,
    /// The host name its address was resolved from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its share; 0 is out.
    pub weight: u32,
    /// Lower ones go first.
    pub priority: u32,
    /// Where it stands.
    pub zone: Option<Name>,
    /// That outlier detection keeps it out.
    pub ejected: Option<EjectedStatus>,
    /// Ejections since it is known, by reason.
    pub ejections: Vec<(EjectionReason, u64)>,
    /// Its part of its weight, in thousandths, while it starts slowly.
    pub slow_start: Option<u32>,
    /// What the probes say; healthy where there is no health check.
    pub health: Verdict,
    /// Since when, in seconds of Unix time. `None` without a health check.
    pub since: Option<u64>,
    /// What last went wrong with a probe. It stays after the endpoint has recovered.
    pub last_error: Option<String>,
    /// When that was, in seconds of Unix time.
    pub last_error_at: Option<u64>,
    /// Tries that are with it now, long streams too.
    pub in_flight: usize,
    /// Those in flight that are long streams.
    pub streams: usize,
    /// Tries it has been given since it is known.
    pub requests: u64,
    /// How long it takes to answer, on an average of the last seconds. `None` where that is not known.
    pub latency: Option<Duration>,
    /// Those that it failed.
    pub faults: Faults,
}

/// An ejection as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EjectedStatus {
    /// Why.
    pub reason: EjectionReason,
    /// Since when, in seconds of Unix time.
    pub since: u64,
    /// When it is asked whether it is well, in seconds of Unix time.
    pub until: u64,
}

impl EjectedStatus {
    pub(super) fn of(endpoint: &Endpoint, now: Instant) -> Option<Self> {
        let out = endpoint.out()?;
        let since = SystemTime::now() - now.saturating_duration_since(out.since);
        let length = out.until.saturating_duration_since(out.since);
        Some(Self {
            reason: out.reason,
            since: unix_seconds(since),
            until: unix_seconds(since + length),
        })
    }
}

/// Tries that an endpoint failed since it is known, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::COUNT]);

impl Faults {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        Self(std::array::from_fn(|index| {
            Fault::ALL.get(index).map_or(0, |fault| endpoint.faults(*fault))
        }))
    }

    /// How many there were of each.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.iter().copied().zip(self.0)
    }
}

impl Serialize for Faults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(fault, count)| (fault.label(), count)))
    }
}

/// A host name as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct NameStatus {
    /// The name and the port.
    pub name: String,
    /// How many addresses it has.
    pub addresses: usize,
    /// What is wrong with it at present.
    pub error: Option<String>,
}

/// Seconds of Unix time.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
