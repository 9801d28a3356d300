//! Where connections go that are sent on as they are: of a listener that speaks no HTTP, or by the server name asked for.

use std::{collections::HashMap, sync::Arc};

use super::{HostEntry, ListenerTable, Live};
use crate::{
    config::{ListenerConfig, ListenerProtocol},
    telemetry::{
        AccessLog,
        metrics::{TunnelMetrics, UpstreamMetrics},
    },
    types::Name,
    upstream::Upstream,
};

/// Where connections are sent on to, in one generation.
#[derive(Debug)]
pub struct Tunnel {
    /// The listener.
    pub listener: Name,
    /// The passthrough; `None` where the listener sends everything on.
    pub passthrough: Option<Name>,
    /// What they are sent on to.
    pub upstream: Arc<Upstream>,
    /// Their counters.
    pub metrics: Arc<TunnelMetrics>,
    /// Counts tries after the first one.
    pub retries: Arc<UpstreamMetrics>,
    /// One line a connection.
    pub access_log: Option<Arc<AccessLog>>,
}

impl Live {
    /// Adds to a listener's table what it sends on.
    pub(super) fn attach_tunnels(
        &self,
        listener: &ListenerConfig,
        upstreams: &[Arc<Upstream>],
        access_log: Option<&Arc<AccessLog>>,
        table: &mut ListenerTable,
    ) {
        if listener.protocol.is_http() && listener.protocol.passthrough().is_empty() {
            return;
        }
        let upstreams: HashMap<&Name, &Arc<Upstream>> =
            upstreams.iter().map(|upstream| (&upstream.config().name, upstream)).collect();
        let tunnel = |passthrough: Option<&Name>, to: &Name| {
            // The parser has checked that there is one.
            upstreams.get(to).map(|upstream| {
                Arc::new(Tunnel {
                    listener: listener.name.clone(),
                    passthrough: passthrough.cloned(),
                    upstream: Arc::clone(upstream),
                    metrics: self.metrics.tunnel(
                        &listener.name,
                        passthrough.map(|name| &**name),
                        to,
                    ),
                    retries: self.metrics.upstream(to),
                    access_log: access_log.cloned(),
                })
            })
        };
        if let ListenerProtocol::Tcp(to) = &listener.protocol {
            table.tunnel = tunnel(None, to);
        }
        for sent_on in listener.protocol.passthrough() {
            let Some(tunnel) = tunnel(Some(&sent_on.name), &sent_on.upstream) else { continue };
            for host in &sent_on.hosts {
                table.hosts.insert(host, HostEntry::Passthrough(tunnel.clone()));
            }
        }
    }
}
