//! `[sites.<name>.routes.<name>]` as it is written; `config.rs` parses it.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fallback::RawFallback;
use crate::{
    limit::Criticality,
    policy::RawValueMatch,
    types::{ByteSize, Cidr, Name, defaults, deserialize_by_form},
    upstream::{RawEndpoint, RawRetries, RawTimeouts},
};

/// `[sites.<name>.routes.<name>]`: a condition and a target.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRoute {
    /// A prefix of whole segments: `/api` takes `/api` and `/api/x`, never `/apix`. Default: `/`, every path.
    pub path: Option<String>,
    /// One path, exactly.
    pub path_exact: Option<String>,
    /// A regular expression over the whole path, such as `"/files/(?<id>[0-9]+)"`; its groups are captures. It is asked
    /// after exact paths and prefixes, and before the prefix `/`.
    pub path_regex: Option<String>,
    /// Methods, such as `["GET", "HEAD"]`. Default: all.
    pub methods: Option<Vec<String>>,
    /// Headers that must be there: `true`, or the value that one of them must have.
    pub headers: BTreeMap<String, RawValueMatch>,
    /// Query parameters that must be there: `true`, or the value (after percent-decoding).
    pub query: BTreeMap<String, RawValueMatch>,
    /// Cookies that must be there: `true`, or the value.
    pub cookies: BTreeMap<String, RawValueMatch>,
    /// Networks that the client's address must be in.
    pub client_address: Option<Vec<Cidr>>,
    /// Goes before the most-specific-first order; higher is asked earlier.
    #[schemars(extend("default" = 0))]
    pub priority: Option<i32>,
    /// Where the path fits and another condition fails: go on to the next route instead of answering 405 or 404.
    #[schemars(extend("default" = false))]
    pub fall_through: Option<bool>,
    /// Policies of this route, by name, after the site's.
    pub policies: Vec<Name>,
    /// Policies of the site that do not apply here, by name.
    pub without: Vec<Name>,

    /// Target: an upstream, by name.
    pub upstream: Option<Name>,
    /// Target: endpoints of an upstream that only this route has.
    pub endpoints: Option<Vec<RawEndpoint>>,
    /// Target: a rollout, by name.
    pub rollout: Option<Name>,
    /// Target: a redirect.
    pub redirect: Option<RawRedirect>,
    /// Target: an answer given here.
    pub respond: Option<RawRespond>,
    /// Target: files. This version has none yet and refuses it.
    pub files: Option<PathBuf>,

    /// Changes of path and host towards the upstream.
    pub rewrite: Option<RawRewrite>,
    /// Timeouts of this route; they go before the upstream's.
    pub timeouts: Option<RawTimeouts>,
    /// When requests of this route are tried again; its keys go before the upstream's. The budget is the upstream's.
    pub retries: Option<Box<RawRetries>>,
    /// What is done where the upstream has no endpoint, or every try has failed: `{ upstream = "…" }`, or
    /// `{ respond = { status = 200, body = "…" } }`. Default: the failure is told.
    pub fallback: Option<Box<RawFallback>>,
    /// How important its requests are where the edge can't serve all (`server.overload`): `low` ones are refused first,
    /// `critical` ones last. For health checks, and for what is paid.
    #[schemars(extend("default" = "normal"))]
    pub criticality: Option<Criticality>,
    /// The largest request body: 413 over it. `"0"` means no body at all.
    #[schemars(extend("default" = defaults::BODY_SIZE.to_string()))]
    pub max_body: Option<ByteSize>,
}

/// A redirect, as written: its target, or a table.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawRedirect {
    /// `"https://www.example.com{path}{query}"`.
    To(String),
    /// With a status.
    Table(RawRedirectTable),
}

deserialize_by_form!(
    RawRedirect,
    "a target such as \"https://example.com/{1}\", or { to = \"…\", status = 308 }",
    { text => To, table => Table }
);

/// A redirect as a table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRedirectTable {
    /// Where to. `{path}`, `{query}` (with its `?`), `{host}`, `{scheme}` and the captures `{1}`, `{name}` are filled in.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default)]
    #[schemars(extend("default" = 308))]
    pub status: Option<u16>,
}

/// An answer given here, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRespond {
    /// Its status.
    #[schemars(extend("default" = 200))]
    pub status: Option<u16>,
    /// Its headers. `Content-Type` is `text/plain; charset=utf-8` unless it stands here.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Option<String>,
    /// A file with its body, at most 1 MiB, read when the configuration is loaded.
    pub file: Option<PathBuf>,
}

/// Changes towards the upstream, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRewrite {
    /// The new path, with captures: `"/v2/{1}"`. The query stays.
    pub path: Option<String>,
    /// Takes this prefix of whole segments off the path: `/api/x` becomes `/x`.
    pub strip_prefix: Option<String>,
    /// The Host header that the endpoint sees.
    pub host: Option<String>,
}
