//! The configuration: from files to a typed [`Config`], with all errors at once.

mod decode;
mod decode_all;
mod diagnostics;
mod environment;
mod fragments;
#[doc(hidden)]
pub mod fuzz;
mod last_good;
mod listener;
mod load;
mod merge;
mod parse;
mod raw;
pub mod reference;
mod sent_on;
mod server;
mod site;
mod source;
mod tree;
mod watch;

use std::sync::Arc;

pub use diagnostics::{Diagnostic, Related, Report};
pub use last_good::{LastGoodError, load_last_good, save as save_last_good, state_dir_of};
pub use listener::{
    Http2Limits, ListenerConfig, ListenerLimits, RawClientTimeouts, RawDefaultSite, RawListener,
    RawUnknownHost, UnknownHost, UnknownHostWord,
};
pub use load::{Loaded, load};
pub use raw::Raw;
pub use sent_on::{
    ListenerProtocol, PassthroughConfig, ProxyFrom, RawPassthrough, RawProxyFrom,
    RawProxyFromTable, RawTcp,
};
pub use server::{
    AdminConfig, RawAdmin, RawReload, RawServer, ReloadConfig, ServerConfig, WorkerLayout,
};
pub use site::{ErrorPageConfig, RawErrorPage, RawSite, SiteConfig};
pub use tree::ConfigHash;
pub use watch::Watcher;

use crate::{
    policy::PolicyConfig,
    rollout::RolloutConfig,
    telemetry::{
        AccessLogConfig, LogFormat, LogLevel, audit::AuditLogConfig, webhooks::WebhookConfig,
    },
    tls::acme::AcmeConfig,
    upstream::{DnsConfig, UpstreamConfig},
};

/// A configuration that can't be wrong in itself: names are unique and refer to things that exist, values are in range.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process.
    pub server: ServerConfig,
    /// How changed files are taken.
    pub reload: ReloadConfig,
    /// The listener for status, metrics and control.
    pub admin: AdminConfig,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// One line a request.
    pub access_log: AccessLogConfig,
    /// Who changed what on the running edge.
    pub audit_log: AuditLogConfig,
    /// Certificates by ACME.
    pub acme: AcmeConfig,
    /// How host names of endpoints are resolved.
    pub dns: DnsConfig,
    /// Listeners, sorted by name.
    pub listeners: Vec<ListenerConfig>,
    /// Sites, sorted by name.
    pub sites: Vec<SiteConfig>,
    /// Policies, sorted by name.
    pub policies: Vec<PolicyConfig>,
    /// Rollouts, sorted by name.
    pub rollouts: Vec<Arc<RolloutConfig>>,
    /// Upstreams, implicit ones too, sorted by name.
    pub upstreams: Vec<Arc<UpstreamConfig>>,
    /// Webhooks, sorted by name.
    pub webhooks: Vec<WebhookConfig>,
}
