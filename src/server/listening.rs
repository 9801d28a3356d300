//! The listeners of an edge, wired to its snapshot.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    listener::{Choosers, ListenerSet, Worker},
    snapshot::Snapshot,
    telemetry::metrics::Metrics,
};

/// Listeners that ask the present snapshot for certificates, trusted proxies and the access log.
pub(super) fn listener_set(
    workers: Vec<Worker>,
    metrics: &Arc<Metrics>,
    snapshot: &Arc<ArcSwap<Snapshot>>,
) -> ListenerSet {
    let for_tls = snapshot.clone();
    let for_tunnels = snapshot.clone();
    let for_trust = snapshot.clone();
    let for_log = snapshot.clone();
    let challenges = snapshot.load().challenges.clone();
    ListenerSet::new(
        workers,
        metrics.clone(),
        Choosers {
            tls: Arc::new(move |listener, server_name, local| {
                for_tls.load().tls_for(listener, server_name, local)
            }),
            tunnel: Arc::new(move |listener| for_tunnels.load().tunnel_of(listener)),
            trusted: Arc::new(move |address| {
                for_trust.load().trusted_proxies.iter().any(|network| network.contains(address))
            }),
            access_log: Arc::new(move || for_log.load().access_log.clone()),
            challenges,
        },
    )
}
