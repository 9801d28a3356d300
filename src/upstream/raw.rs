//! `[upstreams.<name>]` and `[upstream_defaults]` as they are written; `config.rs` parses them.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    eligibility_config::WhenNoneHealthy,
    hash_config::RawHash,
    limits_config::{RawBreaker, RawLimits},
    outlier::RawOutlierDetection,
    retries_config::RawRetries,
    sticky_config::RawSticky,
    tls_config::RawUpstreamTls,
};
use crate::types::{EndpointAddress, HumanDuration, Name, Percent, defaults, deserialize_by_form};

/// `[upstreams.<name>]`: a set of endpoints with one way of balancing, health and TLS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawUpstream {
    /// The endpoints: `"10.0.0.11:8080"`, `"app.internal:8080"` (resolved by DNS), `"srv:_http._tcp.app.internal"` (by SRV
    /// records, which have ports and weights; only those with the lowest priority value are used), `"unix:/run/app.sock"`, or
    /// `{ address = "10.0.0.11:8080", weight = 2 }`.
    pub endpoints: Option<Vec<RawEndpoint>>,
    /// Takes every key that does not stand here from another upstream.
    pub like: Option<Name>,
    /// How a request finds its endpoint.
    #[schemars(extend("default" = "least-conn"))]
    pub balance: Option<Balance>,
    /// The key of a request, for `balance = "consistent-hash"`: `{ header = "x-user" }`, `{ cookie = "user" }`, `{ query = "user" }`,
    /// `{ path = true }` or `{ client_address = true }`. A request without it goes anywhere.
    pub hash: Option<RawHash>,
    /// Sticky sessions: a signed cookie keeps a client at one endpoint while that may get requests, whatever `balance` says;
    /// `false` for none.
    pub sticky: Option<RawSticky>,
    /// The protocol spoken to the endpoints.
    #[schemars(extend("default" = "http1"))]
    pub protocol: Option<UpstreamProtocol>,
    /// TLS to the endpoints: `true`, or a table. Verification is on.
    pub tls: Option<RawUpstreamTls>,
    /// Active health check: a table, or `false` for none. Without it, endpoints count as healthy.
    pub health_check: Option<RawHealthCheck>,
    /// Outlier detection: ejects endpoints that the traffic shows to be worse than the others. A table, or `false` for none. On by default.
    pub outlier_detection: Option<RawOutlierDetection>,
    /// How long an endpoint that has recovered, or has joined others, takes to its whole share, in ten steps. "0s" is off.
    #[schemars(extend("default" = defaults::SLOW_START.to_string()))]
    pub slow_start: Option<HumanDuration>,
    /// Where a smaller share of the endpoints is healthy and not ejected, all are used. "0%" is off.
    #[schemars(extend("default" = "0%"))]
    pub panic_threshold: Option<Percent>,
    /// Where no endpoint is healthy: `fail` answers 503 at once, `try` uses all.
    #[schemars(extend("default" = "fail"))]
    pub when_none_healthy: Option<WhenNoneHealthy>,
    /// With fewer endpoints that are healthy and not ejected an event is raised: log, metric, status. 0 is off.
    #[schemars(extend("default" = 0))]
    pub stable_min: Option<u32>,
    /// Endpoints of `server.zone` are preferred while at least this share of their weight is healthy and not ejected.
    #[schemars(extend("default" = defaults::ZONE_THRESHOLD.to_string()))]
    pub zone_threshold: Option<Percent>,
    /// Timeouts towards the endpoints; a route may set its own.
    pub timeouts: Option<RawTimeouts>,
    /// When a request is tried again.
    pub retries: Option<RawRetries>,
    /// How much it is given at once; all off.
    pub limits: Option<RawLimits>,
    /// Asks nothing of it for a while when too much fails: `true`, or a table.
    #[schemars(extend("default" = false))]
    pub breaker: Option<RawBreaker>,
    /// `"keep"` sends the client's Host header on; anything else is sent in its place.
    #[schemars(extend("default" = "keep"))]
    pub host: Option<String>,
    /// How long an unused connection stays in the pool. The endpoint's own `Keep-Alive` header goes before it where it is shorter.
    #[schemars(extend("default" = defaults::POOL_IDLE.to_string()))]
    pub pool_idle: Option<HumanDuration>,
    /// Each connection to an endpoint begins with a PROXY header of this version, which names the client: `"v1"`, `"v2"`, or
    /// `"off"`. Connections then carry requests of one client connection only. Health checks send `UNKNOWN` (v1) or `LOCAL` (v2), and no header
    /// to a `port` of their own.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Option<RawProxyProtocol>,
}

/// One endpoint, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawEndpoint {
    /// Only its address.
    Address(EndpointAddress),
    /// With more said.
    Table(RawEndpointTable),
}

deserialize_by_form!(
    RawEndpoint,
    "an address such as \"10.0.0.11:8080\", or { address = \"10.0.0.11:8080\", weight = 2 }",
    { text => Address, table => Table }
);

/// One endpoint with more said.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEndpointTable {
    /// Where it is reached.
    pub address: EndpointAddress,
    /// Its share of the requests, relative to the others; 0 takes it out. At most 1000.
    #[serde(default)]
    #[schemars(extend("default" = 1))]
    pub weight: Option<u32>,
    /// Endpoints of a lower value go first: the next ones are added when less than half of its weight is healthy and not ejected.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub priority: Option<u32>,
    /// Where it stands: endpoints of `server.zone` are preferred.
    #[serde(default)]
    pub zone: Option<Name>,
}

/// How a request finds its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Each in turn, smoothly by weight, exactly.
    RoundRobin,
    /// The one with the fewest requests in flight per weight; ties at random.
    #[default]
    LeastConn,
    /// The one that would answer soonest, by how long it took of late and the requests it has in flight.
    PeakEwma,
    /// The one with fewer requests in flight per weight of two drawn at random by weight.
    RandomTwo,
    /// The one that the request's key belongs to (`hash`), while its load is within bounds.
    ConsistentHash,
}

/// The protocol spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN with TLS, with prior knowledge (h2c) without.
    Http2,
    /// HTTP/2 where ALPN offers it, else HTTP/1.1; needs `tls`.
    Auto,
}

/// The PROXY header that connections to endpoints begin with, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawProxyProtocol {
    /// None; an inherited one is dropped.
    Off,
    /// Version 1: text.
    V1,
    /// Version 2: binary.
    V2,
}

/// `health_check`, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawHealthCheck {
    /// `false`: none (an inherited one is dropped). `true`: a TCP connect.
    Switch(bool),
    /// A table.
    Table(RawHealthCheckTable),
}

deserialize_by_form!(
    RawHealthCheck,
    "false, or a table such as { path = \"/healthz\" } or { grpc = {} }",
    { bool => Switch, table => Table }
);

/// An active health check.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHealthCheckTable {
    /// `http` asks for `path`; `grpc` asks `grpc.health.v1.Health/Check`; `tcp` only connects.
    #[schemars(extend("default" = "http where `path` is set, grpc where `grpc` is, else tcp"))]
    pub kind: Option<HealthCheckKind>,
    /// The path asked for.
    pub path: Option<String>,
    /// Asks by gRPC: `{}` for the whole server, `{ service = "shop.Cart" }` for one service. Healthy is `SERVING`. Needs `protocol = "http2"`, or `auto` with TLS.
    pub grpc: Option<RawGrpcCheck>,
    /// The Host header of the probe. Default: the endpoint's address.
    pub host: Option<String>,
    /// Statuses that are healthy: `"200-399"`, `"200"`, or a list of them.
    #[schemars(extend("default" = "200-399"))]
    pub expect_status: Option<RawStatuses>,
    /// Text that the first 64 KiB of the body must contain.
    pub expect_body: Option<String>,
    /// Time between two probes of an endpoint, spread by ± 20 %.
    #[schemars(extend("default" = defaults::HEALTH_INTERVAL.to_string()))]
    pub interval: Option<HumanDuration>,
    /// A probe that has not ended by then has failed.
    #[schemars(extend("default" = defaults::HEALTH_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
    /// Good probes in a row that make an unhealthy endpoint healthy.
    #[schemars(extend("default" = defaults::HEALTHY_AFTER))]
    pub healthy_after: Option<NonZeroU32>,
    /// Failed probes in a row that make a healthy endpoint unhealthy. The first probe of an endpoint decides at once.
    #[schemars(extend("default" = defaults::UNHEALTHY_AFTER))]
    pub unhealthy_after: Option<NonZeroU32>,
    /// Another port to probe.
    pub port: Option<u16>,
}

/// A check by gRPC (`grpc.health.v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawGrpcCheck {
    /// The service asked about; empty for the whole server.
    #[schemars(extend("default" = ""))]
    pub service: Option<String>,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthCheckKind {
    /// Asks for a path.
    Http,
    /// Asks how a gRPC service does.
    Grpc,
    /// Connects (and shakes hands where the upstream has TLS).
    Tcp,
}

/// Statuses, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawStatuses {
    /// One status.
    Code(u16),
    /// `"200-399"` or `"200"`.
    Range(String),
    /// Several of them.
    List(Vec<RawStatuses>),
}

deserialize_by_form!(
    RawStatuses,
    "a status, a range such as \"200-399\", or a list of them",
    { number => Code, text => Range, list => List }
);

/// Timeouts towards endpoints, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTimeouts {
    /// Connecting, TLS included.
    #[schemars(extend("default" = defaults::UPSTREAM_CONNECT.to_string()))]
    pub connect: Option<HumanDuration>,
    /// From the end of the request to the first byte of the answer: 504 after it.
    #[schemars(extend("default" = defaults::UPSTREAM_FIRST_BYTE.to_string()))]
    pub first_byte: Option<HumanDuration>,
    /// Silence inside an answer.
    #[schemars(extend("default" = defaults::UPSTREAM_IDLE.to_string()))]
    pub idle: Option<HumanDuration>,
    /// Silence on a WebSocket, an event stream or a gRPC stream, and on a connection that is sent on as TCP.
    #[schemars(extend("default" = defaults::STREAM_IDLE.to_string()))]
    pub stream_idle: Option<HumanDuration>,
    /// The whole exchange, all tries together. Not for streams. Default: none.
    pub total: Option<HumanDuration>,
}
