//! The edge's counters, and how Prometheus reads them.
//!
//! [`Metrics`] has a registry of its own, so that several edges live in one process. Handles are resolved by name when
//! a snapshot is compiled ([`Metrics::route`], [`Metrics::listener`], [`Metrics::upstream`]) and only counted on after
//! that. What the edge has at the moment of a scrape (endpoints, certificates) is given to [`Metrics::render`], so that
//! an endpoint that is gone leaves no series.
//!
//! `names.rs` holds every name and label. What it does not do: it takes no label from a client, so the number of
//! series is bounded by the configuration.

mod experiment;
mod kept;
mod limits;
mod listener;
mod names;
mod reference;
mod rollouts;
mod route;
mod sample;
mod series;
mod tunnel;
mod webhook;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

pub use self::{
    experiment::{ExperimentSample, VariantMetrics},
    limits::EdgeSample,
    listener::{ListenerMetrics, OpenConnection},
    names::{
        ConnectionRefused, DealtBy, EjectionReason, Fault, HandshakeFailure, HeadRefused,
        InjectedFault, LimitReached, Limited, LookUpResult, ReloadResult, RequestRefused,
        TlsVersion, TunnelEnd, WebhookResult,
    },
    reference::reference,
    rollouts::{MirrorSample, RolloutSample, RolloutSideSample},
    route::{InFlight, RouteMetrics},
    sample::{CertificateSample, EndpointSample, Samples, UpstreamSample},
    tunnel::{OpenTunnel, TunnelMetrics},
    webhook::WebhookMetrics,
};
use self::{kept::Kept, listener::CounterBy, names::Definition, route::status_class};
use super::access_log::Counters as AccessLogCounters;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The version of Pingora that the edge is built on; pinned in `Cargo.toml`.
pub const PINGORA_VERSION: &str = "0.9.1";

/// What a route has counted, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStats {
    /// The site.
    pub site: String,
    /// The route.
    pub route: String,
    /// The upstream.
    pub upstream: Option<String>,
    /// Finished requests.
    pub requests: u64,
    /// Those of them that were answered with 4xx.
    pub client_errors: u64,
    /// Those of them that were answered with 5xx.
    pub server_errors: u64,
    /// Requests being served.
    pub in_flight: u64,
}

/// What a listener has counted, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStats {
    /// The listener.
    pub listener: String,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted so far.
    pub accepted: u64,
}

/// What is counted by upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    retries: IntCounter,
    retries_refused: IntCounter,
}

impl UpstreamMetrics {
    /// Counts a try after the first one.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Counts a try that there was not, for want of budget.
    pub fn refused_retry(&self) {
        self.retries_refused.inc();
    }
}

/// A compiled configuration in memory; it is counted until this is dropped.
#[derive(Debug)]
#[must_use = "the snapshot is counted until this is dropped"]
pub struct LiveSnapshot(IntGauge);

impl Drop for LiveSnapshot {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RouteKey {
    site: Arc<str>,
    route: Arc<str>,
    upstream: Option<Arc<str>>,
}

impl RouteKey {
    /// An absent upstream is the empty label value, which Prometheus treats as no label.
    fn labels(&self) -> [&str; 3] {
        [&self.site, &self.route, self.upstream.as_deref().unwrap_or("")]
    }
}

/// All counters of one edge.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    requests_refused: CounterBy<RequestRefused>,
    faults_injected: CounterBy<InjectedFault>,
    reloads: CounterBy<ReloadResult>,
    look_ups: CounterBy<LookUpResult>,
    routes: Kept<RouteKey, RouteMetrics>,
    listeners: Kept<Arc<str>, ListenerMetrics>,
    upstreams: Kept<Arc<str>, UpstreamMetrics>,
    variants: Kept<(Arc<str>, Arc<str>), VariantMetrics>,
    tunnels: tunnel::Tunnels,
    webhooks: webhook::Webhooks,
}

/// One family a name but for those of routes (`series.rs`); `names.rs` says what each of them means.
#[derive(Debug)]
struct Families {
    connections: IntGaugeVec,
    connections_total: IntCounterVec,
    connections_refused: IntCounterVec,
    tls_handshakes: IntCounterVec,
    tls_handshake_failures: IntCounterVec,
    heads_refused: IntCounterVec,
    limits_reached: IntCounterVec,
    retries: IntCounterVec,
    retries_refused: IntCounterVec,
    exposures: IntCounterVec,
    config_generation: IntGauge,
    config_in_sync: IntGauge,
    last_reload: IntGauge,
    last_reload_successful: IntGauge,
    snapshots: IntGauge,
    access_log: AccessLogCounters,
    audit_log_failures: IntCounter,
}

impl Metrics {
    /// Counters at zero, in a registry of their own.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let counters = |definition| register(&registry, counters(definition));
        let gauges = |definition| register(&registry, gauges(definition));
        // A family without labels is one series: the handle keeps it, the family gives it its name.
        let gauge = |definition| gauges(definition).with_label_values::<&str>(&[]);
        let counter = |definition| counters(definition).with_label_values::<&str>(&[]);
        let families = Families {
            connections: gauges(&names::CONNECTIONS),
            connections_total: counters(&names::CONNECTIONS_TOTAL),
            connections_refused: counters(&names::CONNECTIONS_REFUSED),
            tls_handshakes: counters(&names::TLS_HANDSHAKES),
            tls_handshake_failures: counters(&names::TLS_HANDSHAKE_FAILURES),
            heads_refused: counters(&names::HEADS_REFUSED),
            limits_reached: counters(&names::LIMITS_REACHED),
            retries: counters(&names::RETRIES),
            retries_refused: counters(&names::RETRIES_REFUSED),
            exposures: counters(&names::EXPOSURES),
            config_generation: gauge(&names::CONFIG_GENERATION),
            config_in_sync: gauge(&names::CONFIG_IN_SYNC),
            last_reload: gauge(&names::LAST_RELOAD),
            last_reload_successful: gauge(&names::LAST_RELOAD_SUCCESSFUL),
            snapshots: gauge(&names::SNAPSHOTS),
            access_log: AccessLogCounters {
                dropped: counter(&names::ACCESS_LOG_DROPPED),
                sampled_out: counter(&names::ACCESS_LOG_SAMPLED_OUT),
            },
            audit_log_failures: counter(&names::AUDIT_LOG_FAILURES),
        };
        families.config_in_sync.set(1);
        families.last_reload_successful.set(1);
        gauges(&names::BUILD_INFO)
            .with_label_values(&[env!("CARGO_PKG_VERSION"), PINGORA_VERSION])
            .set(1);
        gauge(&names::START_TIME).set(unix_seconds(SystemTime::now()));
        let requests_refused = CounterBy::new(&counters(&names::REQUESTS_REFUSED), &[]);
        let faults_injected = CounterBy::new(&counters(&names::FAULTS_INJECTED), &[]);
        let reloads = CounterBy::new(&counters(&names::RELOADS), &[]);
        let look_ups = CounterBy::new(&counters(&names::LOOK_UPS), &[]);
        Arc::new(Self {
            tunnels: tunnel::Tunnels::new(&registry),
            webhooks: webhook::Webhooks::new(&registry),
            registry,
            families,
            requests_refused,
            faults_injected,
            reloads,
            look_ups,
            routes: Kept::new(),
            listeners: Kept::new(),
            upstreams: Kept::new(),
            variants: Kept::new(),
        })
    }

    /// The counters of a route towards one upstream (`None`: the edge answers by itself). For compiling a snapshot.
    pub fn route(&self, site: &str, route: &str, upstream: Option<&str>) -> Arc<RouteMetrics> {
        let key =
            RouteKey { site: site.into(), route: route.into(), upstream: upstream.map(Arc::from) };
        self.routes.resolve(key, |_| RouteMetrics::default())
    }

    /// The counters of a listener.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let families = &self.families;
        self.listeners.resolve(name.into(), |name| {
            let labels = [&**name];
            ListenerMetrics {
                connections: families.connections.with_label_values(&labels),
                accepted: families.connections_total.with_label_values(&labels),
                refused: CounterBy::new(&families.connections_refused, &labels),
                handshakes: CounterBy::new(&families.tls_handshakes, &labels),
                handshake_failures: CounterBy::new(&families.tls_handshake_failures, &labels),
                heads_refused: CounterBy::new(&families.heads_refused, &labels),
                limits_reached: CounterBy::new(&families.limits_reached, &labels),
            }
        })
    }

    /// The counters of an upstream.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.resolve(name.into(), |name| UpstreamMetrics {
            retries: self.families.retries.with_label_values(&[&**name]),
            retries_refused: self.families.retries_refused.with_label_values(&[&**name]),
        })
    }

    /// The counters of a variant of an experiment.
    pub fn variant(&self, experiment: &str, variant: &str) -> Arc<VariantMetrics> {
        self.variants.resolve((experiment.into(), variant.into()), |(experiment, variant)| {
            VariantMetrics::new(&self.families.exposures, [experiment, variant])
        })
    }

    /// The counters of connections that a listener sends on to an upstream; `passthrough` where the server name chooses it.
    pub fn tunnel(
        &self,
        listener: &str,
        passthrough: Option<&str>,
        upstream: &str,
    ) -> Arc<TunnelMetrics> {
        self.tunnels.resolve(listener, passthrough, upstream)
    }

    /// The counters of a webhook.
    pub fn webhook(&self, name: &str) -> Arc<WebhookMetrics> {
        self.webhooks.resolve(name)
    }

    /// Counts a request that was refused before a route was found.
    pub fn refused(&self, reason: RequestRefused) {
        self.requests_refused.inc(reason);
    }

    /// Counts a fault that a policy made on purpose.
    pub fn fault_injected(&self, fault: InjectedFault) {
        self.faults_injected.inc(fault);
    }

    /// Counts a look-up by DNS.
    pub fn looked_up(&self, result: LookUpResult) {
        self.look_ups.inc(result);
    }

    /// The number of the configuration in force.
    pub fn generation(&self, generation: u64) {
        self.families.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Counts a reload that ended `at`.
    pub fn reloaded(&self, result: ReloadResult, at: SystemTime) {
        self.reloads.inc(result);
        self.families.last_reload.set(unix_seconds(at));
        self.families.last_reload_successful.set(i64::from(result != ReloadResult::Refused));
    }

    /// Whether the files on disk are the configuration in force.
    pub fn config_in_sync(&self, in_sync: bool) {
        self.families.config_in_sync.set(i64::from(in_sync));
    }

    /// Counts a compiled configuration until the result is dropped; the snapshot holds it.
    pub fn snapshot(&self) -> LiveSnapshot {
        self.families.snapshots.inc();
        LiveSnapshot(self.families.snapshots.clone())
    }

    /// What the access log counts.
    pub fn access_log(&self) -> AccessLogCounters {
        self.families.access_log.clone()
    }

    /// Counts entries of the audit log that could not be written to its file.
    pub fn audit_log_failures(&self) -> IntCounter {
        self.families.audit_log_failures.clone()
    }

    /// Removes the series of routes, listeners, webhooks, upstreams and variants that no snapshot and no request has held for ten minutes.
    /// To be called about once a minute; `now` is monotonic.
    pub fn sweep(&self, now: Instant) {
        // Removing what is not there is the only error.
        let families = &self.families;
        self.routes.sweep(now, |_| {});
        self.listeners.sweep(now, |name| {
            let labels = [&**name];
            let _ = families.connections.remove_label_values(&labels);
            let _ = families.connections_total.remove_label_values(&labels);
            CounterBy::<ConnectionRefused>::remove(&families.connections_refused, &labels);
            CounterBy::<TlsVersion>::remove(&families.tls_handshakes, &labels);
            CounterBy::<HandshakeFailure>::remove(&families.tls_handshake_failures, &labels);
            CounterBy::<HeadRefused>::remove(&families.heads_refused, &labels);
            CounterBy::<LimitReached>::remove(&families.limits_reached, &labels);
        });
        self.tunnels.sweep(now);
        self.webhooks.sweep(now);
        self.variants.sweep(now, |(experiment, variant)| {
            VariantMetrics::remove(&families.exposures, [experiment, variant]);
        });
        self.upstreams.sweep(now, |name| {
            let _ = families.retries.remove_label_values(&[&**name]);
            let _ = families.retries_refused.remove_label_values(&[&**name]);
        });
    }

    /// What every route has counted, sorted by name.
    pub fn routes(&self) -> Vec<RouteStats> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let class = |handles: &RouteMetrics, status| {
            handles.requests.get(status_class(status)).map_or(0, count)
        };
        let mut stats: Vec<_> = self
            .routes
            .held()
            .into_iter()
            .map(|(key, handles)| RouteStats {
                site: key.site.to_string(),
                route: key.route.to_string(),
                upstream: key.upstream.map(|name| name.to_string()),
                requests: handles.requests.iter().map(count).sum(),
                client_errors: class(&handles, 400),
                server_errors: class(&handles, 500),
                in_flight: count(&handles.in_flight),
            })
            .collect();
        stats.sort_by(|a, b| {
            (&a.site, &a.route, &a.upstream).cmp(&(&b.site, &b.route, &b.upstream))
        });
        stats
    }

    /// What every listener has counted, sorted by name.
    pub fn listeners(&self) -> Vec<ListenerStats> {
        let mut stats: Vec<_> = self
            .listeners
            .held()
            .into_iter()
            .map(|(name, handles)| ListenerStats {
                listener: name.to_string(),
                connections: u64::try_from(handles.connections.get()).unwrap_or(0),
                accepted: handles.accepted.get(),
            })
            .collect();
        stats.sort_by(|a, b| a.listener.cmp(&b.listener));
        stats
    }

    /// Everything in Prometheus' text format 0.0.4 ([`CONTENT_TYPE`]).
    pub fn render(&self, samples: &Samples) -> String {
        let mut families = self.registry.gather();
        families.extend(series::of_routes(self.routes.all()));
        families.extend(sample::families(samples));
        families.extend(rollouts::families(&samples.rollouts));
        families.extend(experiment::families(&samples.experiments));
        families.extend(limits::families(&samples.upstreams, &samples.edge));
        // The encoder refuses a family without series.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics can't be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[expect(
    clippy::expect_used,
    reason = "names, labels and buckets are constants; `every_metric_can_be_registered` builds all of them"
)]
fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a constant definition is well formed");
    registry.register(Box::new(collector.clone())).expect("a name is registered once");
    collector
}

fn counters(definition: &Definition) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(definition.name, definition.help), definition.labels)
}

fn gauges(definition: &Definition) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(definition.name, definition.help), definition.labels)
}

#[cfg(test)]
mod tests;
