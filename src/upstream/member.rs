//! One endpoint in the set of one generation: its weight there, how to connect to it, its health under the set's check.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::types::Name;

use super::{
    endpoint::{Endpoint, Seat},
    health::{Health, Verdict},
    picked::Reach,
    task::TaskGuard,
    tls::EndpointTls,
};

/// One endpoint in a set.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    /// As configured, or as its records in DNS say.
    pub(super) weight: u32,
    /// Lower ones go first.
    pub(super) priority: u32,
    /// Where it stands.
    pub(super) zone: Option<Name>,
    /// The name its address was resolved from.
    pub(super) host: Option<Arc<str>>,
    /// The same endpoint, with how to connect to it.
    pub(super) reach: Arc<Reach>,
    /// What that was made with.
    pub(super) tls: Option<Arc<EndpointTls>>,
    /// `None` without a health check. The guard keeps the probes running.
    pub(super) health: Option<(Arc<Health>, Arc<TaskGuard>)>,
    /// `None` where it has no weight.
    pub(super) _seat: Option<Seat>,
    /// No other set gave it requests when this one began to.
    pub(super) has_joined: AtomicBool,
}

impl Member {
    /// Its probes failed, and the last one was good.
    pub(super) fn is_recovering(&self) -> bool {
        self.health.as_ref().is_some_and(|(health, _)| health.is_recovering())
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.health.as_ref().map_or(Verdict::Healthy, |(health, _)| health.verdict())
    }

    /// Whether it has joined those that get requests, or come back to them, since this was asked for the last time.
    pub(super) fn take_joining(&self) -> bool {
        self.has_joined.swap(false, Ordering::Relaxed)
    }

    /// Whether it has become healthy after it was not, since this or [`Self::take_service`] was asked for the last time.
    pub(super) fn take_recovery(&self) -> bool {
        match self.verdict() {
            Verdict::Unhealthy if self.is_recovering() => false,
            Verdict::Unhealthy => {
                self.endpoint.was_unhealthy.store(true, Ordering::Relaxed);
                false
            }
            Verdict::Healthy => self.take_service(),
            Verdict::Unknown => false,
        }
    }

    /// It gets requests, as it is. Whether it got none before because it was unhealthy.
    pub(super) fn take_service(&self) -> bool {
        self.endpoint.was_unhealthy.swap(false, Ordering::Relaxed)
    }
}

/// A member that may get requests now.
pub(super) struct Candidate {
    pub(super) member: Arc<Member>,
    /// Its share at present; never 0. Of all candidates in the same unit: whole weights, or thousandths while one starts slowly.
    pub(super) weight: u32,
}
