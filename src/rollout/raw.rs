//! `[rollouts.<name>]` as it is written; `parse.rs` makes a plan of it.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{checks::RawCheck, mirror::RawMirror};
use crate::{
    policy::RawValueMatch,
    types::{Cidr, HumanDuration, Name, Percent, RawStickyCookie, defaults, deserialize_by_form},
    upstream::RawStatuses,
};

/// `[rollouts.<name>]`: two upstreams, and how traffic moves from one to the other.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRollout {
    /// The upstream that serves; what is live when there is no state. Must be there.
    pub stable: Option<Name>,
    /// The upstream with the new version. Without one all requests go to `stable`.
    pub candidate: Option<Name>,
    /// Names the attempt: letters, digits, `-`, `_` and `.`. Rolled back once, it stays at 0 until this changes. Must be
    /// there where a canary has a candidate.
    pub revision: Option<Name>,
    /// So many endpoints of `stable` must be in service before a step is taken: it has to be able to take the traffic back.
    #[schemars(extend("default" = 1))]
    pub stable_min_endpoints: Option<NonZeroU32>,
    /// A client stays with its version: `"cookie"` (signed), `"client-address"`, or a table. Default: each request is dealt
    /// by itself.
    pub sticky: Option<RawRolloutSticky>,
    /// Requests that always get the candidate while it has traffic: any of these conditions. They are not compared.
    pub always: Vec<RawWho>,
    /// Requests that never get the candidate; they go before `always`. They are not compared.
    pub never: Vec<RawWho>,
    /// When steps may be taken. Going back is always allowed. Default: at any time.
    pub schedule: Option<RawSchedule>,
    /// What counts as a failed try.
    pub failures: RawFailures,
    /// What must hold before the candidate gets any request.
    pub preflight: RawPreflight,
    /// How the candidate is judged.
    pub analysis: RawAnalysis,
    /// Strategy: growing shares of the requests.
    pub canary: Option<RawCanary>,
    /// Strategy: all requests at once, there and back.
    #[serde(rename = "blue-green")]
    pub blue_green: Option<RawBlueGreen>,
    /// Strategy: copies of requests, whose answers are compared with the live ones; then, where it is asked for, a canary.
    pub mirror: Option<RawMirror>,
}

/// Who a client is, for staying with a version, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawRolloutSticky {
    /// `false`: nobody stays.
    Switch(bool),
    /// `"cookie"` or `"client-address"`.
    Word(RawStickyWord),
    /// A table.
    Table(Box<RawRolloutStickyTable>),
}

deserialize_by_form!(
    RawRolloutSticky,
    "\"cookie\", \"client-address\", or a table such as { header = \"X-User\" }",
    { bool => Switch, text => Word, table => Table }
);

/// What tells clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawStickyWord {
    /// A cookie that the edge gives and signs.
    Cookie,
    /// The IPv4 address, or the 64 bits of an IPv6 network.
    ClientAddress,
}

/// What tells clients apart: one of the keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRolloutStickyTable {
    /// A cookie that the edge gives and signs, with its name and attributes.
    pub cookie: Option<RawStickyCookie>,
    /// The value of this request header.
    pub header: Option<String>,
    /// Not there yet.
    #[schemars(skip)]
    pub claim: Option<String>,
}

/// Conditions that hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawWho {
    /// Headers that must be there: `true`, or the value that one of them must have.
    pub headers: BTreeMap<String, RawValueMatch>,
    /// Cookies that must be there: `true`, or the value.
    pub cookies: BTreeMap<String, RawValueMatch>,
    /// Query parameters that must be there: `true`, or the value.
    pub query: BTreeMap<String, RawValueMatch>,
    /// Networks that the client's address must be in.
    pub client_address: Option<Vec<Cidr>>,
    /// Not there yet.
    #[schemars(skip)]
    pub claims: Option<toml::Table>,
}

/// When steps may be taken, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSchedule {
    /// The time zone that days and times are of, by its name in the IANA database: `"Europe/Berlin"`, `"UTC"`.
    pub zone: String,
    /// Days: `"mon"` to `"sun"`, and ranges such as `"mon-fri"`. Default: all.
    #[serde(default)]
    pub days: Option<Vec<String>>,
    /// From this time of day on: `"09:00"`. Default: the whole day.
    #[serde(default)]
    pub from: Option<String>,
    /// Up to this time of day; earlier than `from`, it is the next day's.
    #[serde(default)]
    pub to: Option<String>,
}

/// What counts as a failed try, as written. No answer always does.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawFailures {
    /// Statuses: `"500-599"`, `429`, or a list of them.
    #[schemars(extend("default" = "500-599"))]
    pub statuses: Option<RawStatuses>,
    /// gRPC statuses by name, such as `"UNAVAILABLE"`.
    pub grpc: Vec<String>,
    /// Answers whose first byte took longer.
    pub slower_than: Option<HumanDuration>,
}

/// What must hold before the candidate gets any request, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawPreflight {
    /// So many probes in a row must have found each endpoint healthy. 0 asks for no health check.
    #[schemars(extend("default" = defaults::PREFLIGHT_HEALTHY))]
    pub healthy: Option<u32>,
    /// So many endpoints must be in service.
    #[schemars(extend("default" = 1))]
    pub min_endpoints: Option<NonZeroU32>,
    /// Requests that each endpoint in service must answer as is said here, one after the other. One that fails is asked again
    /// every few seconds, and the candidate waits.
    pub requests: Vec<RawPreflightRequest>,
    /// Requests that are sent then, whose answers don't matter. Default: none.
    pub warm_up: Option<RawWarmUp>,
}

/// A request that must be answered well, as written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPreflightRequest {
    /// Its method.
    #[serde(default)]
    #[schemars(extend("default" = "GET"))]
    pub method: Option<String>,
    /// Path and query.
    pub path: String,
    /// Host header. Default: the upstream's `host`, else the endpoint's name or address.
    #[serde(default)]
    pub host: Option<String>,
    /// Statuses that are good: `"200-299"`, `204`, or a list of them.
    #[serde(default)]
    #[schemars(extend("default" = "200-299"))]
    pub status: Option<RawStatuses>,
    /// Text that the first 64 KiB of the body must contain.
    #[serde(default)]
    pub body_contains: Option<String>,
    /// The answer must be there by then.
    #[serde(default)]
    #[schemars(extend("default" = defaults::PREFLIGHT_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
}

/// Requests that fill caches and start compilers, as written: at most 8 at a time, for at most a minute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawWarmUp {
    /// How many each endpoint gets, at most 10000.
    #[schemars(extend("default" = defaults::WARM_UP_REQUESTS))]
    pub requests: Option<u32>,
    /// Paths, with queries, that are asked for in turn.
    #[schemars(extend("default" = ["/"]))]
    pub paths: Option<Vec<String>>,
    /// Host header. Default: the upstream's `host`, else the endpoint's name or address.
    pub host: Option<String>,
}

/// How the candidate is judged, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAnalysis {
    /// 1 less the probability that a healthy candidate is ever taken back, over the whole rollout and all tests together.
    #[schemars(extend("default" = defaults::ROLLOUT_CONFIDENCE))]
    pub confidence: Option<f64>,
    /// By how much more of its requests the candidate may fail, in percentage points.
    #[schemars(extend("default" = "0.5%"))]
    pub max_error_increase: Option<Percent>,
    /// By how much more of its answers may be slower than the stable's p95 or p99, in percentage points.
    #[schemars(extend("default" = "5%"))]
    pub max_latency_increase: Option<Percent>,
    /// Failures of one client network that count in a minute, on both sides together; after them nothing of it counts until the
    /// minute is over. One broken client is not to take a release back. With `sticky` the default is 1; a number above 1,023
    /// is no limit. Requests from addresses of `server.trusted_proxies` themselves are not limited.
    #[schemars(extend("default" = defaults::MAX_CLIENT_FAILURES))]
    pub max_client_failures: Option<NonZeroU32>,
    /// Other systems that are asked whether the candidate does well, by name, while it has requests.
    pub checks: BTreeMap<Name, RawCheck>,
}

/// Growing shares, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawCanary {
    /// What share of the requests the candidate gets, for how long at least, for how many of its requests at least, and
    /// whether a person must let it go on: `"10% 5m"`, `"10% 5m 2000"`, `"25% pause"`; or tables.
    #[schemars(extend("default" = defaults::CANARY_STEPS))]
    pub steps: Option<Vec<RawStep>>,
    /// After the last step: `wait` for `tidegate rollout promote`, or `promote`.
    #[schemars(extend("default" = "wait"))]
    pub finish: Option<Finish>,
}

/// A step, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawStep {
    /// `"10% 5m"`.
    Text(String),
    /// A table.
    Table(RawStepTable),
}

deserialize_by_form!(
    RawStep,
    "a step such as \"10% 5m\", or { share = \"10%\", duration = \"5m\" }",
    { text => Text, table => Table }
);

/// A step as a table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawStepTable {
    /// The candidate's share of the requests.
    pub share: Percent,
    /// The step lasts so long at least.
    #[serde(default)]
    #[schemars(extend("default" = "0s"))]
    pub duration: Option<HumanDuration>,
    /// It lasts until so many requests of the candidate were compared, and never fewer than 50.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub requests: Option<u64>,
    /// Then a person must let it go on: `tidegate rollout resume`.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub pause: Option<bool>,
}

/// What comes after the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A person promotes.
    #[default]
    Wait,
    /// The candidate gets all requests.
    Promote,
}

/// All at once, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawBlueGreen {
    /// Which of the two upstreams is live when there is no state: its name. Default: `stable`.
    pub live: Option<Name>,
    /// So long after a switch the side that became live is judged against what the other one was before, and the switch is
    /// taken back where it is worse.
    #[schemars(extend("default" = defaults::BLUE_GREEN_WATCH.to_string()))]
    pub watch: Option<HumanDuration>,
}
