//! The configuration as it is written: every key, with `deny_unknown_fields`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    listener::RawListener,
    server::{RawAdmin, RawReload, RawServer},
    site::RawSite,
};
use crate::{
    policy::RawPolicy,
    rollout::RawRollout,
    telemetry::{RawAccessLog, RawLog, audit::RawAuditLog, webhooks::RawWebhook},
    tls::acme::RawAcme,
    types::Name,
    upstream::{RawDns, RawUpstream},
};

/// A whole configuration, merged from its fragments.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// Other files, relative to this one; `*` and `**` are allowed. What an include matches must exist.
    pub include: Vec<String>,
    /// Takes a configuration without sites, an empty file, or an include that matches nothing.
    #[schemars(extend("default" = false))]
    pub allow_empty: Option<bool>,
    /// The process.
    pub server: RawServer,
    /// How changed files are taken.
    pub reload: RawReload,
    /// The listener for status, metrics and control.
    pub admin: RawAdmin,
    /// The edge's own messages.
    pub log: RawLog,
    /// One line a request.
    pub access_log: RawAccessLog,
    /// Who changed what on the running edge.
    pub audit_log: RawAuditLog,
    /// Certificates by ACME.
    pub acme: RawAcme,
    /// How host names of endpoints are resolved.
    pub dns: RawDns,
    /// Bound addresses by name. Without any: `http` on `[::]:80`, which redirects, and `https` on `[::]:443`.
    pub listeners: BTreeMap<Name, RawListener>,
    /// Sites by name.
    pub sites: BTreeMap<Name, RawSite>,
    /// Policies by name.
    pub policies: BTreeMap<Name, RawPolicy>,
    /// Rollouts by name: traffic moves from one upstream to another.
    pub rollouts: BTreeMap<Name, RawRollout>,
    /// What every upstream has that does not say otherwise.
    pub upstream_defaults: RawUpstream,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Name, RawUpstream>,
    /// Webhooks by name: where events of rollouts are told.
    pub webhooks: BTreeMap<Name, RawWebhook>,
}
