//! One endpoint in the set of one generation: its weight there, how to connect to it, its health under the set's check.

use std::sync::Arc;

use super::{
    endpoint::Endpoint,
    health::{Health, Verdict},
    peer::PeerTemplate,
    task::TaskGuard,
    tls::EndpointTls,
};

/// One endpoint in a set.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    /// As configured, or as its records in DNS say.
    pub(super) weight: u32,
    /// The name its address was resolved from.
    pub(super) host: Option<Arc<str>>,
    pub(super) template: Arc<PeerTemplate>,
    /// What the template was made with.
    pub(super) tls: Option<Arc<EndpointTls>>,
    /// `None` without a health check. The guard keeps the probes running.
    pub(super) health: Option<(Arc<Health>, Arc<TaskGuard>)>,
}

impl Member {
    pub(super) fn verdict(&self) -> Verdict {
        self.health.as_ref().map_or(Verdict::Healthy, |(health, _)| health.verdict())
    }
}

/// A member that may get requests now.
pub(super) struct Candidate {
    pub(super) member: Arc<Member>,
    /// Its share at present; never 0.
    pub(super) weight: u32,
}
