//! What is said when it changes who of an upstream gets requests: a panic, too few endpoints.

use std::sync::PoisonError;

use super::EndpointSet;
use crate::upstream::{eligible::Eligible, status::ServiceStatus};

impl EndpointSet {
    /// How the upstream as a whole stands.
    pub(in crate::upstream) fn service_status(&self) -> ServiceStatus {
        self.service_of(&self.eligible.load())
    }

    fn service_of(&self, eligible: &Eligible) -> ServiceStatus {
        let rules = &self.blueprint.config.eligibility;
        let in_service = eligible.in_service;
        ServiceStatus {
            in_service,
            is_panicking: rules.panic_threshold.map(|_| eligible.is_panicking),
            is_below_stable_min: rules.stable_min.map(|least| in_service < least as usize),
        }
    }

    /// Logs what has changed since it was last told. Only the newest set speaks, and not before its names are known.
    pub(super) fn tell(&self, eligible: &Eligible) {
        if !self.is_newest() || !self.sources.iter().all(|source| source.addresses.is_answered()) {
            return;
        }
        let service = self.service_of(eligible);
        let upstream = &self.blueprint.config.name;
        let endpoints = service.in_service;
        let mut told = self.upstream.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_panicking = service.is_panicking.unwrap_or_default();
        if std::mem::replace(&mut told.is_panicking, is_panicking) != is_panicking {
            if is_panicking {
                tracing::warn!(%upstream, endpoints, "too few healthy endpoints, all are used");
            } else {
                tracing::info!(%upstream, endpoints, "enough healthy endpoints again, only they are used");
            }
        }
        let is_below = service.is_below_stable_min.unwrap_or_default();
        if std::mem::replace(&mut told.is_below_minimum, is_below) != is_below {
            if is_below {
                tracing::warn!(%upstream, endpoints, "fewer endpoints than stable_min");
            } else {
                tracing::info!(%upstream, endpoints, "stable_min endpoints again");
            }
        }
    }
}
