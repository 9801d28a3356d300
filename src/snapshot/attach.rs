//! From a blueprint to a snapshot: live state is found again or made, tasks start; and how it comes into force.
//!
//! Two steps, since the generation in force uses the same live state, and the new one may be refused or has to warm up:
//! [`Live::attach`] finds and starts, and [`Live::put_in_force`] gives limits and gates their settings.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use tokio::runtime::Handle;

use super::{
    Blueprint, Fallback, Forward, HostEntry, ListenerTable, Route, Site, Snapshot, Target, Unknown,
    compile::{
        FallbackBlueprint, ForwardBlueprint, RouteBlueprint, SiteBlueprint, TargetBlueprint,
    },
    secret,
    split::RolloutRoutes,
};
use crate::{
    config::{Config, ListenerConfig, UnknownHost},
    limit::Overload,
    policy::{self, ExperimentConfig, Place},
    rollout,
    route::HostTable,
    state::EdgeSecret,
    telemetry::{AccessLog, AccessLogConfig, audit::Audit, metrics::Metrics, webhooks::Webhooks},
    tls::TlsLive,
    types::Name,
    upstream,
};

/// What outlives snapshots. One an edge.
pub struct Live {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Endpoints, their health and discovery.
    pub upstreams: Arc<upstream::Live>,
    /// Attempts to move traffic, and how far they are.
    pub rollouts: Arc<rollout::Live>,
    /// Certificates and TLS policies.
    pub tls: Arc<TlsLive>,
    /// What is in flight by policies.
    pub policies: policy::Live,
    /// What the whole edge has in flight, and can take.
    pub overload: Arc<Overload>,
    /// Who changed what.
    pub audit: Arc<Audit>,
    /// Where events are told.
    pub webhooks: Arc<Webhooks>,
    generation: AtomicU64,
    access_log: Mutex<Option<(AccessLogConfig, Arc<AccessLog>)>>,
    pub(super) state_dir: PathBuf,
    /// The secret of this edge alone, once it was needed.
    pub(super) own_secret: Mutex<Option<EdgeSecret>>,
}

/// Why a blueprint could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A site's certificate.
    #[error("site {site}: {source}")]
    Tls {
        /// The site.
        site: Name,
        /// Why.
        source: crate::tls::TlsError,
    },
    /// The access log.
    #[error("the access log can't be opened: {0}")]
    AccessLog(#[source] io::Error),
}

impl Live {
    /// State for a new edge. Tasks (probes, file watches) run on `control`.
    pub fn new(state_dir: &Path, control: Handle, metrics: Arc<Metrics>) -> Self {
        Self {
            upstreams: upstream::Live::new(control.clone(), metrics.clone()),
            rollouts: rollout::Live::new(state_dir, control.clone()),
            audit: Audit::new(metrics.audit_log_failures()),
            webhooks: Webhooks::new(metrics.clone(), secret::read_for_webhooks),
            policies: policy::Live::new(state_dir, metrics.clone()),
            metrics,
            tls: TlsLive::new(state_dir, control),
            overload: Overload::new(Instant::now()),
            generation: AtomicU64::new(0),
            access_log: Mutex::new(None),
            state_dir: state_dir.to_owned(),
            own_secret: Mutex::new(None),
        }
    }

    /// Forgets state that nothing has held for ten minutes.
    pub fn sweep(&self, now: Instant) {
        self.upstreams.sweep(now);
        self.rollouts.sweep(now);
        self.policies.sweep(now);
        self.tls.sweep(now);
        self.tls.warn_of_ends(SystemTime::now());
        self.metrics.sweep(now);
    }

    /// Gives a blueprint its live state. No limit changes by this. What does change is harmless to the generation in force: files
    /// of certificates that have new content are taken, as their watchers would; and what the warm-up needs, the settings for
    /// look-ups and the key of sticky cookies, once nothing can fail any more.
    ///
    /// # Errors
    /// A certificate of the internal authority can't be made, or the access log not be opened; nothing is in force then.
    pub fn attach(&self, blueprint: Blueprint) -> Result<Snapshot, AttachError> {
        let config = blueprint.config;
        let mut routes = RolloutRoutes::default();
        let access_log = self.access_log(&config.access_log).map_err(AttachError::AccessLog)?;
        self.key_routes(&config, blueprint.shared_secret.as_ref());
        let mut sites = Vec::with_capacity(blueprint.sites.len());
        let mut bindings = Vec::with_capacity(blueprint.sites.len());
        for site in blueprint.sites {
            bindings.push(site.listeners.clone());
            sites.push(Arc::new(self.attach_site(site, &mut routes)?));
        }
        // Nothing can fail from here on.
        self.upstreams.configure(&config.dns);
        self.key_upstreams(&config, blueprint.shared_secret);
        let upstreams: Vec<_> = blueprint
            .upstreams
            .into_iter()
            .map(|upstream| self.upstreams.attach(upstream))
            .collect();
        let listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let mut table = listener_table(&config, listener, &sites, &bindings);
                self.attach_tunnels(listener, &upstreams, access_log.as_ref(), &mut table);
                (listener.name.clone(), table)
            })
            .collect();
        Ok(Snapshot {
            generation: self.generation.fetch_add(1, Ordering::Relaxed) + 1,
            listeners,
            sites,
            rollouts: self.plans(&config, &upstreams, routes),
            upstreams,
            trusted_proxies: config.server.trusted_proxies.clone().into(),
            slashes: config.server.slashes,
            https_port: config.server.https_port,
            access_log,
            experiments: experiments(&config),
            overload: self.overload.clone(),
            challenges: self.tls.acme().challenges().clone(),
            _alive: self.metrics.snapshot(),
        })
    }

    /// A snapshot of this configuration comes into force: what outlives it takes its settings. To be called right before the
    /// swap, when nothing can refuse it any more.
    pub fn put_in_force(&self, next: &Snapshot, config: &Config) {
        for route in next.sites.iter().flat_map(|site| site.routes.routes()) {
            route.chain.put_in_force(next.generation);
        }
        self.policies.lift_others(next.generation);
        let now = Instant::now();
        for upstream in &next.upstreams {
            upstream.put_in_force(now);
        }
        self.rollouts.put_in_force(&next.rollouts, now);
        self.overload.configure(config.server.overload.resolve());
        self.tls.acme().configure(&config.acme);
        self.webhooks.configure(&config.webhooks);
        self.audit.configure(&config.audit_log);
        *self.present_log() = next.access_log.clone().map(|log| (config.access_log.clone(), log));
    }

    fn present_log(&self) -> MutexGuard<'_, Option<(AccessLogConfig, Arc<AccessLog>)>> {
        self.access_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The access log of this configuration; the present one where nothing of it changed.
    fn access_log(&self, config: &AccessLogConfig) -> io::Result<Option<Arc<AccessLog>>> {
        if !config.enabled {
            return Ok(None);
        }
        let present = self.present_log();
        if let Some((with, log)) = present.as_ref()
            && with == config
        {
            return Ok(Some(log.clone()));
        }
        let previous = present.as_ref().map(|(_, log)| &**log);
        let log = AccessLog::start(config, self.metrics.access_log(), previous)?;
        Ok(Some(Arc::new(log)))
    }

    fn attach_site(
        &self,
        site: SiteBlueprint,
        rollouts: &mut RolloutRoutes,
    ) -> Result<Site, AttachError> {
        let tls = match site.tls {
            Some(tls) => Some(
                self.tls
                    .attach(tls)
                    .map_err(|source| AttachError::Tls { site: site.name.clone(), source })?,
            ),
            None => None,
        };
        Ok(Site {
            metrics: self.metrics.route(&site.name, "", None),
            routes: site
                .routes
                .map(|route| Arc::new(self.attach_route(&site.name, route, rollouts))),
            name: site.name,
            hosts: site.hosts,
            tls,
            is_disabled: site.is_disabled,
            demands_own_policy: site.demands_own_policy,
            asks_for_certificates: site.asks_for_certificates,
            client_headers: site.client_headers,
            error_pages: site.error_pages,
            chain: site.chain,
        })
    }

    fn attach_route(
        &self,
        site: &Name,
        route: RouteBlueprint,
        rollouts: &mut RolloutRoutes,
    ) -> Route {
        let mut upstream = None;
        let target = match route.target {
            TargetBlueprint::Upstream(forward) => {
                upstream = Some(forward.upstream.clone());
                Target::Forward(self.attach_forward(forward))
            }
            TargetBlueprint::Split(split) => {
                upstream = Some(split.stable.upstream.clone());
                Target::Split(Box::new(self.attach_split(site, &route.name, *split, rollouts)))
            }
            TargetBlueprint::Respond(answer) => Target::Respond(answer),
            TargetBlueprint::Redirect { to, status } => Target::Redirect { to, status },
        };
        let fallback = route.fallback.map(|fallback| match *fallback {
            FallbackBlueprint::Upstream(forward) => Fallback::Forward(self.attach_forward(forward)),
            FallbackBlueprint::Respond(answer) => Fallback::Respond(answer),
        });
        Route {
            metrics: self.metrics.route(site, &route.name, upstream.as_deref()),
            fallback: fallback.map(Box::new),
            expression: route.expression,
            chain: route.chain.attached(&Place { site, route: &route.name }, &self.policies),
            name: route.name,
            target,
            rewrite: route.rewrite,
            max_body_bytes: route.max_body_bytes,
            criticality: route.criticality,
        }
    }

    pub(super) fn attach_forward(&self, forward: ForwardBlueprint) -> Forward {
        Forward {
            index: forward.index,
            timeouts: forward.timeouts,
            retries: forward.retries,
            host: forward.host,
            metrics: self.metrics.upstream(&forward.upstream),
        }
    }
}

/// The experiments of a configuration, by name.
fn experiments(config: &Config) -> Vec<(Name, Arc<ExperimentConfig>)> {
    let policies = config.policies.iter();
    policies.filter_map(|policy| Some((policy.name.clone(), policy.experiment.clone()?))).collect()
}

/// The listeners of a site.
type Binding = Vec<Name>;

fn listener_table(
    config: &Config,
    listener: &ListenerConfig,
    sites: &[Arc<Site>],
    bindings: &[Binding],
) -> ListenerTable {
    let mut hosts = HostTable::default();
    let tls_listeners: HashMap<&Name, bool> =
        config.listeners.iter().map(|l| (&l.name, l.protocol.is_tls())).collect();
    let is_on_tls =
        |names: &[Name]| names.iter().any(|name| tls_listeners.get(name) == Some(&true));
    let is_tls = listener.protocol.is_tls();
    let mut is_named = false;
    for (site, names) in sites.iter().zip(bindings) {
        if names.contains(&listener.name) {
            is_named = true;
            for pattern in &site.hosts {
                hosts.insert(pattern, HostEntry::Site(site.clone()));
            }
        }
    }
    if !is_tls && listener.redirect_to_https.unwrap_or(!is_named) {
        for (site, names) in sites.iter().zip(bindings) {
            if !names.contains(&listener.name) && is_on_tls(names) {
                for pattern in &site.hosts {
                    if hosts.find(&pattern.to_string()).is_none() {
                        hosts.insert(pattern, HostEntry::RedirectToHttps(site.clone()));
                    }
                }
            }
        }
    }
    let (unknown, default_tls) = match &listener.unknown_host {
        UnknownHost::Refuse => (Unknown::Refuse, None),
        UnknownHost::Site(name) => match sites.iter().find(|site| site.name == *name) {
            Some(site) => (Unknown::Site(site.clone()), site.tls.clone()),
            None => (Unknown::Refuse, None),
        },
        // The handshake must end well for a 404 to be told: the first site's certificate has to do.
        UnknownHost::NotFound => (
            Unknown::NotFound,
            sites
                .iter()
                .zip(bindings)
                .filter(|(_, names)| names.contains(&listener.name))
                .find_map(|(site, _)| site.tls.clone()),
        ),
    };
    ListenerTable {
        hosts,
        unknown,
        default_tls,
        tunnel: None,
        tls: is_tls,
        limits: listener.limits,
    }
}
