//! `mirror = { … }` of a rollout as it is written.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    rollout::raw::RawCanary,
    types::{ByteSize, HumanDuration, Percent, defaults, deserialize_by_form},
};

/// Copies of requests, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawMirror {
    /// What share of the requests is copied to the candidate. Clients get the stable's answers, and never wait for a copy.
    #[schemars(extend("default" = "10%"))]
    pub share: Option<Percent>,
    /// The stage lasts so long at least.
    #[schemars(extend("default" = defaults::MIRROR_DURATION.to_string()))]
    pub duration: Option<HumanDuration>,
    /// It lasts until so many pairs of answers were compared.
    #[schemars(extend("default" = defaults::MIRROR_REQUESTS))]
    pub requests: Option<u64>,
    /// Methods of requests that are copied. Whatever others do is done twice.
    #[schemars(extend("default" = ["GET", "HEAD", "OPTIONS"]))]
    pub methods: Option<Vec<String>>,
    /// Requests with a larger body are not copied. At most 1 MiB.
    #[schemars(extend("default" = defaults::MIRROR_BODY.to_string()))]
    pub max_body: Option<ByteSize>,
    /// Copies that are under way at the same time, from the sending to the end of the comparison. Further ones are not made. At most 1024.
    #[schemars(extend("default" = defaults::MIRROR_IN_FLIGHT))]
    pub max_in_flight: Option<NonZeroU32>,
    /// A copy whose answer is not there to its end by then has failed.
    #[schemars(extend("default" = defaults::MIRROR_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
    /// How answers are compared.
    pub compare: Option<RawCompare>,
    /// What comes after it: growing shares of the requests. Default: nothing; a person writes the next plan.
    pub canary: Option<RawCanary>,
}

/// How answers are compared, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawCompare {
    /// Whether their statuses must be equal.
    #[schemars(extend("default" = true))]
    pub status: Option<bool>,
    /// Headers that must be equal.
    #[schemars(extend("default" = ["content-type"]))]
    pub headers: Option<Vec<String>>,
    /// How their bodies are compared: `"json"`, `"hash"`, or `false`.
    #[schemars(extend("default" = false))]
    pub body: Option<RawBodyComparison>,
    /// What is not looked at in JSON: pointers (RFC 6901), in which `*` is any key or index.
    pub ignore: Vec<String>,
    /// Of longer bodies the hash is of the beginning; as JSON they are not compared. At most 1 MiB.
    #[schemars(extend("default" = defaults::MIRROR_COMPARED_BODY.to_string()))]
    pub max_body: Option<ByteSize>,
}

/// How bodies are compared, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawBodyComparison {
    /// `false`: not at all.
    Switch(bool),
    /// `"json"` or `"hash"`.
    Word(RawBodyWord),
}

deserialize_by_form!(
    RawBodyComparison,
    "\"json\", \"hash\", or false",
    { bool => Switch, text => Word }
);

/// How bodies are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawBodyWord {
    /// As JSON.
    Json,
    /// By a hash of their bytes.
    Hash,
}
