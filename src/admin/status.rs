//! What `GET /v1/status` answers and `tidegate status` prints.
//!
//! Times are RFC 3339 in UTC ([`crate::telemetry::rfc3339`]). Fields may be added; none changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Readiness;
use crate::telemetry::{LogLevelStatus, metrics::ReloadResult};

/// The state of an edge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of Tidegate.
    pub version: String,
    /// Whether traffic should be sent to it.
    pub state: Readiness,
    /// When the process started.
    pub started: String,
    /// How long it has run, in seconds.
    pub uptime_seconds: u64,
    /// The number of the configuration in force.
    pub generation: u64,
    /// The configuration in force, and whether it is the one on disk.
    pub configuration: ConfigurationStatus,
    /// The level of the edge's own log; absent where the process's log is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogLevelStatus>,
    /// Listeners, by name.
    pub listeners: Vec<ListenerStatus>,
    /// Sites, by name.
    pub sites: Vec<SiteStatus>,
    /// Upstreams, by name.
    pub upstreams: Vec<UpstreamStatus>,
    /// What the whole edge has in flight, and can take.
    #[serde(default)]
    pub overload: OverloadStatus,
    /// Feature flags and A/B tests, by name.
    #[serde(default, skip_serializing_if = "ExperimentsStatus::is_empty")]
    pub experiments: ExperimentsStatus,
    /// Certificates, by site.
    pub certificates: Vec<CertificateStatus>,
    /// Requests by route, by site and name.
    pub routes: Vec<RouteStatus>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The file it was read from.
    pub file: String,
    /// The hash of the resolved configuration.
    pub hash: String,
    /// When it came into force.
    pub loaded_at: String,
    /// Whether the files on disk say the same.
    pub in_sync: bool,
    /// The last reload, where there was one.
    pub last_reload: Option<ReloadStatus>,
}

/// A reload that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When.
    pub at: String,
    /// How.
    pub result: ReloadResult,
    /// Why it was refused: `file:line:column key: what is wrong`.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// All experiments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExperimentsStatus {
    /// They, by name.
    pub experiments: Vec<ExperimentStatus>,
    /// Why what was switched is not what the state directory has, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl ExperimentsStatus {
    fn is_empty(&self) -> bool {
        self.experiments.is_empty() && self.problem.is_none()
    }
}

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentStatus {
    /// Its name: that of its policy.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// Whether the configuration says that it is on.
    pub enabled_in_file: bool,
    /// Whether the API has switched it to another state than the configuration's.
    pub file_differs: bool,
    /// When the API switched it last, unless that was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_at: Option<String>,
    /// The request header that tells endpoints the variant.
    pub header: String,
    /// The cookie that keeps clients in their variants, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Its variants, by name.
    pub variants: Vec<VariantStatus>,
}

/// A variant of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantStatus {
    /// Its name.
    pub name: String,
    /// Its share of the clients.
    pub share: String,
    /// Requests that endpoints were told it of.
    pub exposures: u64,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it is bound.
    pub address: String,
    /// It speaks TLS.
    pub tls: bool,
    /// Open connections.
    pub connections: u64,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Its host names.
    pub hosts: Vec<String>,
    /// The names of its routes.
    pub routes: Vec<String>,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// How a request finds its endpoint.
    pub balance: String,
    /// How many endpoints are healthy and not ejected.
    #[serde(default)]
    pub in_service: usize,
    /// Whether all are used, because too few are healthy. Only with `panic_threshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<bool>,
    /// Whether fewer than `stable_min` are in service. Only where that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_stable_min: Option<bool>,
    /// Its limits and its breaker.
    #[serde(default)]
    pub limits: LimitsStatus,
    /// Its endpoints, by address.
    pub endpoints: Vec<EndpointStatus>,
    /// Host names and services among them, as they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameStatus>,
}

/// The limits of an upstream. What has none is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Requests at it, without long streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// How many there may be now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// That is found from latency.
    #[serde(default)]
    pub adaptive: bool,
    /// Requests that wait for room.
    #[serde(default)]
    pub waiting: u32,
    /// Open connections of HTTP/1.1 and TCP, unused ones too.
    #[serde(default)]
    pub connections: u32,
    /// How many there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// `closed`, `half-open` or `open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
}

/// What the whole edge has in flight, and can take. What has no limit is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverloadStatus {
    /// Requests in flight, without long streams.
    pub in_flight: u32,
    /// How many there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How much it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Requests are being refused, or were in the last two seconds.
    pub shedding: bool,
    /// How many were since the process started.
    pub refused: u64,
}

/// A host name or service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameStatus {
    /// As it is written.
    pub name: String,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// What is wrong with it at present.
    pub error: Option<String>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it is reached.
    pub address: String,
    /// Its share of the requests, relative to the others.
    pub weight: u32,
    /// Lower ones go first.
    #[serde(default)]
    pub priority: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// That outlier detection keeps it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<EjectionStatus>,
    /// Its part of its weight, from 0 to 1, while it starts slowly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
    /// What its probes say.
    pub health: HealthStatus,
    /// Since when.
    pub since: Option<String>,
    /// What its last failed probe said.
    pub last_error: Option<String>,
    /// Requests that it is serving, long streams too.
    pub in_flight: u64,
    /// Those of them that are WebSockets, event streams, gRPC streams, or connections that are sent on.
    pub streams: u64,
    /// Tries sent to it so far.
    pub requests: u64,
    /// How long it takes to answer, in milliseconds, on an average of the last seconds that believes slow answers at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Those that it failed, by how; without those that never happened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
}

/// An ejection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EjectionStatus {
    /// Why: the label of the metric.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// From when on a probe can bring the endpoint back.
    pub until: String,
}

/// The health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It takes requests.
    Healthy,
    /// It takes none.
    Unhealthy,
    /// It has not been probed, or never is.
    Unknown,
}

impl HealthStatus {
    /// The word that is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// The certificate of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The site.
    pub site: String,
    /// The names it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// When it ends.
    pub not_after: String,
    /// Where it comes from.
    #[serde(default)]
    pub source: CertificateOrigin,
    /// The certificate of the edge's own authority stands in for one that is ordered.
    #[serde(default)]
    pub standing_in: bool,
    /// The ACME authority that issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// When the authority issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<String>,
    /// When it is ordered anew, or tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_renewal: Option<String>,
    /// Orders that failed since the process started.
    #[serde(default)]
    pub failures: u64,
    /// Why nothing newer is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateOrigin {
    /// It is ordered and renewed by ACME.
    Acme,
    /// The edge's own authority.
    #[default]
    Internal,
    /// Files.
    Files,
}

impl CertificateOrigin {
    /// The word that is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Internal => "internal",
            Self::Files => "files",
        }
    }
}

/// What a route has counted since the process started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The site.
    pub site: String,
    /// The route.
    pub route: String,
    /// The upstream, where there is one.
    pub upstream: Option<String>,
    /// Finished requests.
    pub requests: u64,
    /// Those of them that were answered with 5xx.
    pub server_errors: u64,
    /// Requests being served.
    pub in_flight: u64,
}
