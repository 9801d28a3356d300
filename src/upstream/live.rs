//! What outlives a snapshot of all upstreams: endpoints, verdicts, resolved names, and what belongs to all of an upstream.
//!
//! One for an edge. Each new generation is attached to it, finds what the one before it used, and starts only what is new. What a
//! change does to each: docs/architecture.md.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;

use crate::{
    state::Registry,
    telemetry::metrics::Metrics,
    types::{EndpointAddress, Name, ProxyVersion},
};

use super::{
    Blueprint, Upstream,
    config::HealthCheckConfig,
    discovery::{AddressSet, Discovery, Static},
    dns::Dns,
    dns_config::DnsConfig,
    endpoint::Endpoint,
    health::Health,
    keeper::Keeper,
    live_tls::{LiveTls, LiveTlsKey},
    live_upstream::LiveUpstream,
    raw::UpstreamProtocol,
    resolver::SharedResolver,
    set::EndpointSet,
    srv::Srv,
    sticky::StickyKey,
    tls::EndpointTls,
    tls_config::UpstreamTlsConfig,
};

/// Everything that shapes a probe. A changed key is another health, which starts from nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HealthKey {
    pub(super) upstream: Name,
    pub(super) address: EndpointAddress,
    pub(super) authority: String,
    pub(super) server_name: Option<String>,
    pub(super) check: HealthCheckConfig,
    pub(super) protocol: UpstreamProtocol,
    /// Not what its files say: the probes follow that.
    pub(super) tls: Option<UpstreamTlsConfig>,
    pub(super) proxy_protocol: Option<ProxyVersion>,
}

/// The long-lived state of all upstreams.
pub struct Live {
    handle: Handle,
    resolver: Arc<SharedResolver>,
    endpoints: Registry<(Name, EndpointAddress), Endpoint>,
    health: Registry<HealthKey, Health>,
    /// By what is written: upstreams that name the same host or service resolve it once.
    names: Registry<EndpointAddress, AddressSet>,
    upstreams: Registry<Name, LiveUpstream>,
    tls: Registry<LiveTlsKey, LiveTls>,
    /// Does what time does to all of them.
    keeper: Arc<Keeper>,
    sticky_key: ArcSwapOption<StickyKey>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("endpoints", &self.endpoint_count()).finish_non_exhaustive()
    }
}

impl Live {
    /// Nothing is alive yet. Probes and look-ups run on `handle`; names are resolved by the system's resolver, until
    /// [`Self::configure`] says otherwise.
    pub fn new(handle: Handle, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            keeper: Keeper::start(&handle),
            handle,
            resolver: Arc::new(SharedResolver::new(DnsConfig::default(), metrics)),
            endpoints: Registry::new(),
            health: Registry::new(),
            names: Registry::new(),
            upstreams: Registry::new(),
            tls: Registry::new(),
            sticky_key: ArcSwapOption::empty(),
        })
    }

    /// The resolver, for others who look names up.
    pub fn resolver(&self) -> &Arc<SharedResolver> {
        &self.resolver
    }

    /// Takes the settings for look-ups.
    pub fn configure(&self, dns: &DnsConfig) {
        self.resolver.configure(dns);
    }

    /// Takes the key of sticky cookies. Without one no upstream is sticky. Sets that are there keep the old one until they change.
    pub fn set_sticky_key(&self, key: StickyKey) {
        self.sticky_key.store(Some(Arc::new(key)));
    }

    pub(super) fn sticky_key(&self) -> Option<Arc<StickyKey>> {
        self.sticky_key.load_full()
    }

    /// Makes an upstream of a compiled configuration: finds its state, starts probes and look-ups that do not run yet.
    /// They run for as long as an upstream needs them. Its limits change with [`Upstream::put_in_force`].
    pub fn attach(self: &Arc<Self>, blueprint: Blueprint) -> Arc<Upstream> {
        let config = Arc::clone(&blueprint.config);
        let live = self.upstream(&config.name);
        Arc::new(Upstream { config, set: EndpointSet::new(self, blueprint), live })
    }

    /// Drops state that nothing has used for ten minutes. To be called every minute or so.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.sweep(now);
        self.health.sweep(now);
        self.names.sweep(now);
        self.upstreams.sweep(now);
        self.tls.sweep(now);
    }

    /// How many endpoints have state, those included that no configuration has any more.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// How many endpoints are being probed.
    #[cfg(test)]
    pub(super) fn probed_endpoints(&self) -> usize {
        self.health.used()
    }

    /// How many names are being followed.
    #[cfg(test)]
    pub(super) fn followed_names(&self) -> usize {
        self.names.used()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(super) fn endpoint(&self, upstream: &Name, address: EndpointAddress) -> Arc<Endpoint> {
        let key = (upstream.clone(), address.clone());
        self.endpoints.get_or_insert_with(key, || Endpoint::new(upstream.clone(), address))
    }

    pub(super) fn health(&self, key: HealthKey, make: impl FnOnce() -> Health) -> Arc<Health> {
        self.health.get_or_insert_with(key, make)
    }

    pub(super) fn upstream(&self, name: &Name) -> Arc<LiveUpstream> {
        self.upstreams.get_or_insert_with(name.clone(), || LiveUpstream::new(name.clone()))
    }

    /// The TLS that is in force for these settings: from now on that which was read last.
    pub(super) fn tls(&self, loaded: Arc<EndpointTls>, protocol: UpstreamProtocol) -> Arc<LiveTls> {
        let key = LiveTlsKey { settings: loaded.settings().clone(), protocol };
        let live =
            self.tls.get_or_insert_with(key.clone(), || LiveTls::new(key, Arc::clone(&loaded)));
        live.take(loaded);
        live
    }

    pub(super) fn addresses(&self, address: &EndpointAddress) -> Arc<AddressSet> {
        let resolver = || Arc::clone(&self.resolver);
        let source: Box<dyn Discovery> = match address {
            EndpointAddress::Dns(host, port) => {
                Box::new(Dns::new(resolver(), Arc::clone(host), *port))
            }
            EndpointAddress::Srv(name) => Box::new(Srv::new(resolver(), Arc::clone(name))),
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => {
                let fixed = Box::new(Static::new(vec![address.clone()]));
                return Arc::new(AddressSet::new(address.to_string(), fixed));
            }
        };
        self.names
            .get_or_insert_with(address.clone(), || AddressSet::new(address.to_string(), source))
    }
}
