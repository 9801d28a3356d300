//! The configuration: from files to a typed [`Config`], with all errors at once.

mod listener;
mod raw;
mod server;
mod site;

use std::sync::Arc;

pub use listener::{
    ListenerConfig, ListenerLimits, RawClientTimeouts, RawDefaultSite, RawListener, RawUnknownHost,
    UnknownHost, UnknownHostWord,
};
pub use raw::Raw;
pub use server::{
    AdminConfig, RawAcme, RawAdmin, RawReload, RawServer, ReloadConfig, ServerConfig, WorkerLayout,
};
pub use site::{ErrorPageConfig, RawErrorPage, RawSite, SiteConfig};

use crate::{
    policy::PolicyConfig,
    telemetry::{AccessLogConfig, LogFormat, LogLevel},
    upstream::UpstreamConfig,
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
    /// Listeners, sorted by name.
    pub listeners: Vec<ListenerConfig>,
    /// Sites, sorted by name.
    pub sites: Vec<SiteConfig>,
    /// Policies, sorted by name.
    pub policies: Vec<PolicyConfig>,
    /// Upstreams, implicit ones too, sorted by name.
    pub upstreams: Vec<Arc<UpstreamConfig>>,
}
