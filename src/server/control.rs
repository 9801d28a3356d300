//! What the admin listener shows and does.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;

use super::{
    reload::Trigger,
    state::{Core, Phase},
};
use crate::{
    admin::{
        CertificateStatus, ConfigurationStatus, Control, ListenerStatus, Readiness, ReloadOutcome,
        ReloadStatus, RouteStatus, SiteStatus, Status, UpstreamStatus,
    },
    telemetry::{
        metrics::{CertificateSample, EndpointSample},
        rfc3339,
    },
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
            listeners: self.listeners(),
            sites: in_force
                .config
                .sites
                .iter()
                .map(|site| SiteStatus {
                    name: site.name.to_string(),
                    hosts: site.hosts.iter().map(ToString::to_string).collect(),
                    routes: site.routes.iter().map(|route| route.name.to_string()).collect(),
                })
                .collect(),
            upstreams: snapshot.upstreams.iter().map(|upstream| upstream_status(upstream)).collect(),
            certificates: self.certificates(),
            routes: core.live.metrics.routes().into_iter().filter(|route| !route.route.is_empty()).map(route_status).collect(),
        }
    }

    fn metrics(&self) -> String {
        let core = &self.0;
        let snapshot = core.snapshot.load();
        let endpoints: Vec<EndpointSample> =
            snapshot.upstreams.iter().flat_map(|upstream| upstream.samples()).collect();
        let certificates: Vec<CertificateSample> = snapshot
            .sites
            .iter()
            .filter_map(|site| {
                let certificate = site.tls.as_ref()?.certificate();
                Some(CertificateSample { site: site.name.clone(), not_after: certificate.not_after })
            })
            .collect();
        core.live.metrics.render(&endpoints, &certificates)
    }

    fn reload(&self) -> BoxFuture<'_, ReloadOutcome> {
        let core = self.0.clone();
        let reloading = self.0.control.spawn(async move { core.reload(Trigger::Api).await });
        Box::pin(async move {
            match reloading.await {
                Ok(Ok(taken)) if taken.is_new => ReloadOutcome::Taken { generation: taken.generation },
                Ok(Ok(taken)) => ReloadOutcome::Unchanged { generation: taken.generation },
                Ok(Err(refusal)) => ReloadOutcome::Refused { problems: refusal.report.to_json() },
                Err(error) => ReloadOutcome::Refused { problems: serde_json::json!([{ "message": error.to_string() }]) },
            }
        })
    }
}
