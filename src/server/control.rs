//! What the admin listener shows and does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use serde_json::json;

use super::{
    reload::Trigger,
    rollouts,
    state::{Core, Phase, Settings},
};
use crate::{
    admin::{
        CertificateOrigin, CertificateStatus, ConfigurationStatus, Control, EjectionStatus,
        EndpointStatus, ExperimentSwitch, ExperimentsStatus, HealthStatus, LimitsStatus,
        ListenerStatus, NameStatus, OverloadStatus, Readiness, ReloadOutcome, ReloadStatus,
        RenewalOutcome, RolloutOutcome, RouteStatus, SiteStatus, Status, SwitchOutcome,
        UpstreamStatus,
    },
    limit,
    rollout::{Command, RolloutStatus},
    snapshot::{Site, Snapshot},
    telemetry::{
        audit::{Actor, AdminPeer, Entry},
        logging::Logging,
        metrics::{
            CertificateSample, EdgeSample, EndpointSample, RouteStats, Samples, UpstreamSample,
        },
        rfc3339,
        webhooks::{Event, EventKind},
    },
    tls::CertificateSource,
    upstream::{self, Balance, Verdict},
};

/// The edge as the admin listener sees it.
pub(super) struct AdminControl(pub(super) Arc<Core>);

impl Control for AdminControl {
    fn readiness(&self) -> Readiness {
        match self.0.phase() {
            Phase::Starting => Readiness::Starting,
            Phase::Ready => Readiness::Ready,
            Phase::Draining => Readiness::Draining,
        }
    }

    fn status(&self) -> Status {
        let core = &self.0;
        let snapshot = core.snapshot.load();
        let in_force = core.in_force();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.readiness(),
            started: rfc3339(core.started.1),
            uptime_seconds: core.started.0.elapsed().as_secs(),
            generation: snapshot.generation,
            configuration: ConfigurationStatus {
                file: core.options.config.display().to_string(),
                hash: in_force.hash.to_string(),
                loaded_at: rfc3339(in_force.since),
                in_sync: in_force.is_in_sync,
                last_reload: in_force.last.map(|last| ReloadStatus {
                    at: rfc3339(last.at),
                    result: last.result,
                    problems: last.problems,
                }),
            },
            listeners: listeners(core, &in_force.settings),
            sites: snapshot.sites.iter().map(|site| site_status(site)).collect(),
            upstreams: snapshot
                .upstreams
                .iter()
                .map(|upstream| upstream_status(upstream.status()))
                .collect(),
            experiments: core.experiments(),
            certificates: certificates(&snapshot),
            overload: overload_status(core.live.overload.status()),
            log: core.options.logging.as_ref().map(Logging::status),
            routes: core
                .live
                .metrics
                .routes()
                .into_iter()
                .filter(|route| !route.route.is_empty())
                .map(route_status)
                .collect(),
        }
    }

    fn metrics(&self) -> String {
        let core = &self.0;
        let snapshot = core.snapshot.load();
        let mut samples = Samples::default();
        for upstream in &snapshot.upstreams {
            let status = upstream.status();
            samples.upstreams.push(upstream_sample(&status));
            samples.endpoints.extend(endpoint_samples(status));
        }
        samples.certificates = snapshot
            .sites
            .iter()
            .filter_map(|site| {
                let facts = site.tls.as_ref()?.certificate();
                let renewal = facts.renewal.as_ref();
                Some(CertificateSample {
                    site: site.name.clone(),
                    not_after: facts.not_after,
                    issued: renewal.and_then(|renewal| renewal.issued),
                    next_renewal: renewal.and_then(|renewal| renewal.next),
                    failures: renewal.map(|renewal| renewal.failures),
                    is_standing_in: renewal.map(|_| facts.is_standing_in),
                })
            })
            .collect();
        samples.experiments = core.experiment_samples();
        let overload = core.live.overload.status();
        samples.edge = EdgeSample {
            in_flight: overload.in_flight,
            memory: overload.max_memory.map(|_| overload.memory),
            is_shedding: overload.is_shedding,
        };
        samples.rollouts = rollouts::samples(core);
        core.live.metrics.render(&samples)
    }

    fn rollouts(&self) -> Vec<RolloutStatus> {
        self.0.live.rollouts.status()
    }

    fn command_rollout(
        &self,
        name: String,
        command: Command,
        by: AdminPeer,
    ) -> BoxFuture<'_, RolloutOutcome> {
        Box::pin(async move { rollouts::command(&self.0, &name, command, by).await })
    }

    fn renew(&self, site: &str, by: AdminPeer) -> RenewalOutcome {
        let snapshot = self.0.snapshot.load();
        if !snapshot.sites.iter().any(|known| &*known.name == site && known.tls.is_some()) {
            return RenewalOutcome::NoSite;
        }
        let is_ordered = self.0.live.tls.renew(site);
        let outcome = if is_ordered { "ordered" } else { "refused" };
        self.record(Entry::new(Actor::Admin(by), "certificate_renew", site, outcome));
        if is_ordered { RenewalOutcome::Ordered } else { RenewalOutcome::NotOrdered }
    }

    fn roll_account_key(
        &self,
        authority: String,
        by: AdminPeer,
    ) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let rolled = self.0.live.tls.acme().roll_account_key(&authority).await;
            let rolled = rolled.map_err(|failure| failure.to_string());
            let (outcome, detail) = match &rolled {
                Ok(()) => ("done", json!({})),
                Err(error) => ("failed", json!({ "error": error })),
            };
            let entry = Entry::new(Actor::Admin(by), "account_key_roll", authority, outcome);
            self.record(entry.detail(detail));
            rolled
        })
    }

    fn test_webhook(&self, name: &str, by: AdminPeer) -> bool {
        let Ok(subject) = name.parse() else { return false };
        let text = "Tidegate tells this webhook what happens to rollouts. This is a test.";
        let event = Event::new(EventKind::Test, subject, text, json!({}));
        let is_told = self.0.live.webhooks.tell_one(name, event);
        if is_told {
            self.record(Entry::new(Actor::Admin(by), "webhook_test", name, "queued"));
        }
        is_told
    }

    fn record(&self, entry: Entry) {
        self.0.live.audit.record(entry);
    }

    fn experiments(&self) -> ExperimentsStatus {
        self.0.experiments()
    }

    fn switch_experiment(
        &self,
        name: String,
        to: ExperimentSwitch,
    ) -> BoxFuture<'_, SwitchOutcome> {
        let core = self.0.clone();
        let switching = self.0.control.spawn_blocking(move || core.switch_experiment(&name, to));
        Box::pin(async move { switching.await.unwrap_or(SwitchOutcome::Failed) })
    }

    fn logging(&self) -> Option<Logging> {
        self.0.options.logging.clone()
    }

    fn reload(&self, by: AdminPeer) -> BoxFuture<'_, ReloadOutcome> {
        let core = self.0.clone();
        let actor = Actor::Admin(by);
        let reloading = self.0.control.spawn(async move { core.reload(Trigger::Api, actor).await });
        Box::pin(async move {
            match reloading.await {
                Ok(Ok(taken)) if taken.is_new => {
                    ReloadOutcome::Taken { generation: taken.generation }
                }
                Ok(Ok(taken)) => ReloadOutcome::Unchanged { generation: taken.generation },
                Ok(Err(refusal)) => ReloadOutcome::Refused { problems: refusal.report.to_json() },
                Err(error) => ReloadOutcome::Refused {
                    problems: serde_json::json!([{ "message": error.to_string() }]),
                },
            }
        })
    }
}

fn site_status(site: &Site) -> SiteStatus {
    let mut routes: Vec<String> =
        site.routes.routes().map(|route| route.name.to_string()).collect();
    routes.sort();
    SiteStatus {
        name: site.name.to_string(),
        hosts: site.hosts.iter().map(ToString::to_string).collect(),
        routes,
    }
}

fn listeners(core: &Core, settings: &Settings) -> Vec<ListenerStatus> {
    let connections = core.listeners.connections_by_listener();
    core.listeners
        .bound()
        .into_iter()
        .map(|(name, address)| ListenerStatus {
            address: address.to_string(),
            tls: settings
                .listeners
                .iter()
                .any(|listener| listener.name == name && listener.protocol.is_tls()),
            connections: connections
                .iter()
                .find(|(other, _)| *other == name)
                .map_or(0, |(_, open)| *open as u64),
            name: name.to_string(),
        })
        .collect()
}

fn certificates(snapshot: &Snapshot) -> Vec<CertificateStatus> {
    snapshot
        .sites
        .iter()
        .filter_map(|site| {
            let certificate = site.tls.as_ref()?.certificate();
            let renewal = certificate.renewal.unwrap_or_default();
            Some(CertificateStatus {
                site: site.name.to_string(),
                names: certificate.names,
                issuer: certificate.issuer,
                not_after: at(certificate.not_after),
                source: match certificate.source {
                    CertificateSource::Acme(_) => CertificateOrigin::Acme,
                    CertificateSource::Internal => CertificateOrigin::Internal,
                    CertificateSource::Files { .. } => CertificateOrigin::Files,
                },
                standing_in: certificate.is_standing_in,
                authority: renewal.authority,
                issued: renewal.issued.map(at),
                next_renewal: renewal.next.map(at),
                failures: renewal.failures,
                error: certificate.last_error,
            })
        })
        .collect()
}

fn at(seconds: i64) -> String {
    rfc3339(unix_time(u64::try_from(seconds).unwrap_or(0)))
}

fn unix_time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn upstream_status(status: upstream::UpstreamStatus) -> UpstreamStatus {
    let endpoint = |endpoint: upstream::EndpointStatus| EndpointStatus {
        address: endpoint.address,
        weight: endpoint.weight,
        priority: endpoint.priority,
        zone: endpoint.zone.map(|zone| zone.to_string()),
        ejected: endpoint.ejected.map(|ejected| EjectionStatus {
            reason: ejected.reason.label().to_owned(),
            since: rfc3339(unix_time(ejected.since)),
            until: rfc3339(unix_time(ejected.until)),
        }),
        slow_start: endpoint.slow_start.map(|share| f64::from(share) / 1e3),
        health: match endpoint.health {
            Verdict::Healthy => HealthStatus::Healthy,
            Verdict::Unhealthy => HealthStatus::Unhealthy,
            Verdict::Unknown => HealthStatus::Unknown,
        },
        since: endpoint.since.map(|seconds| rfc3339(unix_time(seconds))),
        last_error: endpoint.last_error,
        in_flight: endpoint.in_flight as u64,
        streams: endpoint.streams as u64,
        requests: endpoint.requests,
        latency_ms: endpoint.latency.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
        faults: endpoint
            .faults
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(fault, count)| (fault.label().to_owned(), count))
            .collect(),
    };
    UpstreamStatus {
        name: status.name.to_string(),
        balance: match status.balance {
            Balance::RoundRobin => "round-robin".to_owned(),
            Balance::LeastConn => "least-conn".to_owned(),
            Balance::PeakEwma => "peak-ewma".to_owned(),
            Balance::RandomTwo => "random-two".to_owned(),
            Balance::ConsistentHash => "consistent-hash".to_owned(),
        },
        in_service: status.service.in_service,
        panic: status.service.is_panicking,
        below_stable_min: status.service.is_below_stable_min,
        limits: limits_status(status.gates),
        endpoints: status.endpoints.into_iter().map(endpoint).collect(),
        names: status
            .names
            .into_iter()
            .map(|name| NameStatus {
                name: name.name,
                endpoints: name.addresses,
                error: name.error,
            })
            .collect(),
    }
}

fn upstream_sample(status: &upstream::UpstreamStatus) -> UpstreamSample {
    let gates = &status.gates;
    UpstreamSample {
        upstream: status.name.clone(),
        is_panicking: status.service.is_panicking,
        is_below_stable_min: status.service.is_below_stable_min,
        requests: gates.requests,
        waiting: gates.waiting,
        connections: gates.connections.0,
        breaker: gates.breaker.map(|(state, entered)| (state as u8, entered)),
    }
}

fn limits_status(gates: upstream::GateStatus) -> LimitsStatus {
    LimitsStatus {
        requests: gates.requests.map(|(in_flight, _)| in_flight),
        max_requests: gates.requests.map(|(_, most)| most),
        adaptive: gates.is_adaptive,
        waiting: gates.waiting,
        connections: gates.connections.0,
        max_connections: gates.connections.1,
        breaker: gates.breaker.map(|(state, _)| state.word().to_owned()),
    }
}

fn overload_status(status: limit::OverloadStatus) -> OverloadStatus {
    OverloadStatus {
        in_flight: status.in_flight,
        max_requests: status.max_requests,
        memory_bytes: status.max_memory.map(|_| status.memory),
        max_memory_bytes: status.max_memory,
        shedding: status.is_shedding,
        refused: status.refused,
    }
}

fn endpoint_samples(status: upstream::UpstreamStatus) -> impl Iterator<Item = EndpointSample> {
    let upstream = status.name;
    status.endpoints.into_iter().filter_map(move |endpoint| {
        Some(EndpointSample {
            upstream: upstream.clone(),
            endpoint: endpoint.address.parse().ok()?,
            healthy: endpoint.health == Verdict::Healthy,
            in_flight: endpoint.in_flight as u64,
            requests: endpoint.requests,
            faults: endpoint.faults.iter().collect(),
            is_ejected: endpoint.ejected.is_some(),
            ejections: endpoint.ejections,
        })
    })
}

fn route_status(stats: RouteStats) -> RouteStatus {
    RouteStatus {
        site: stats.site,
        route: stats.route,
        upstream: stats.upstream,
        requests: stats.requests,
        server_errors: stats.server_errors,
        in_flight: stats.in_flight,
    }
}
