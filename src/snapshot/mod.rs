//! A snapshot: one immutable compiled configuration. A request takes one and sees no other.
//!
//! `compile` is pure (it reads files, and changes nothing); `attach` gives the result its live state: endpoints, certificates,
//! counters. Live values never live in a snapshot; it points to them.

mod attach;
mod compile;
mod secret;
mod site;
mod split;
mod tunnel;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use foldhash::fast::RandomState;

pub use attach::{AttachError, Live};
pub use compile::{Blueprint, Leniency, compile};
pub use site::{Fallback, Forward, Route, Site, Split, StaticAnswer, StaticBody, Target};
pub use tunnel::Tunnel;

use crate::{
    config::ListenerLimits,
    limit::Overload,
    policy::ExperimentConfig,
    rollout,
    route::{HostTable, normalise::Slashes},
    telemetry::{AccessLog, metrics::LiveSnapshot},
    tls::{SiteTls, acme::Challenges},
    types::{Cidr, Name},
    upstream::Upstream,
};

/// One generation of the configuration, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// Its number; the first is 1.
    pub generation: u64,
    /// Listeners by name.
    pub listeners: HashMap<Name, ListenerTable, RandomState>,
    /// Sites, sorted by name.
    pub sites: Vec<Arc<Site>>,
    /// Rollouts, sorted by name.
    pub rollouts: Vec<rollout::Plan>,
    /// Upstreams; routes name them by place.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Arc<[Cidr]>,
    /// What repeated slashes mean.
    pub slashes: Slashes,
    /// The port in redirects to https.
    pub https_port: u16,
    /// One line a request.
    pub access_log: Option<Arc<AccessLog>>,
    /// Feature flags and A/B tests, by name.
    pub experiments: Vec<(Name, Arc<ExperimentConfig>)>,
    /// What the edge can take.
    pub overload: Arc<Overload>,
    /// What the edge answers to authorities that validate a name.
    pub challenges: Arc<Challenges>,
    /// Counts snapshots that something still holds.
    _alive: LiveSnapshot,
}

/// What a listener serves.
#[derive(Debug)]
pub struct ListenerTable {
    /// Its hosts.
    pub hosts: HostTable<HostEntry>,
    /// What a host that is not there gets.
    pub unknown: Unknown,
    /// The site whose certificate a handshake without a known name gets, where it gets one.
    pub default_tls: Option<Arc<SiteTls>>,
    /// Where every connection goes, where the listener speaks no HTTP.
    pub tunnel: Option<Arc<Tunnel>>,
    /// It speaks TLS.
    pub tls: bool,
    /// Its limits.
    pub limits: ListenerLimits,
}

/// What a host of a listener gets.
#[derive(Clone, Debug)]
pub enum HostEntry {
    /// A site.
    Site(Arc<Site>),
    /// A redirect to https: the site is on a TLS listener.
    RedirectToHttps(Arc<Site>),
    /// Nothing here: TLS connections that ask for it are sent on as they are.
    Passthrough(Arc<Tunnel>),
}

/// What an unknown host gets.
#[derive(Clone, Debug)]
pub enum Unknown {
    /// Refused.
    Refuse,
    /// 404.
    NotFound,
    /// The default site.
    Site(Arc<Site>),
}

/// What a TLS handshake gets.
#[derive(Clone, Debug)]
pub enum TlsChoice {
    /// A site's policy and certificate.
    Use(Arc<SiteTls>),
    /// None: the connection is sent on as it is.
    Passthrough(Arc<Tunnel>),
    /// An `unrecognized_name` alert (RFC 6066, section 3).
    Refuse,
}

impl Snapshot {
    /// What a handshake on `listener` gets that asks for `server_name` (lower case), or for no name at the address `local`.
    pub fn tls_for(
        &self,
        listener: &str,
        server_name: Option<&str>,
        local: Option<IpAddr>,
    ) -> TlsChoice {
        let Some(table) = self.listeners.get(listener) else { return TlsChoice::Refuse };
        // A known site without a usable certificate is refused.
        let by_host = |host: &str| match table.hosts.find(host) {
            Some(HostEntry::Site(site)) => {
                Some(site.tls.clone().map_or(TlsChoice::Refuse, TlsChoice::Use))
            }
            Some(HostEntry::Passthrough(tunnel)) => Some(TlsChoice::Passthrough(tunnel.clone())),
            Some(HostEntry::RedirectToHttps(_)) | None => None,
        };
        let found = match server_name {
            Some(name) => by_host(name),
            // Clients that ask for an address send no name (RFC 6066, section 3).
            None => local.and_then(|address| match address.to_canonical() {
                IpAddr::V4(v4) => by_host(&v4.to_string()),
                IpAddr::V6(v6) => by_host(&format!("[{v6}]")),
            }),
        };
        // An unknown name gets the default's, where there is one.
        found.unwrap_or_else(|| table.default_tls.clone().map_or(TlsChoice::Refuse, TlsChoice::Use))
    }

    /// Whether a listener has a site of its own for `host` (lower case), with TLS.
    pub fn serves_by_tls(&self, listener: &str, host: &str) -> bool {
        let found = self.listeners.get(listener).and_then(|table| table.hosts.find(host));
        matches!(found, Some(HostEntry::Site(site)) if site.tls.is_some())
    }

    /// Where the connections of `listener` are sent on to, where it speaks no HTTP.
    pub fn tunnel_of(&self, listener: &str) -> Option<Arc<Tunnel>> {
        self.listeners.get(listener)?.tunnel.clone()
    }
}
