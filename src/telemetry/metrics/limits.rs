//! What limits did: by route, counted as it happens; of upstreams and the edge, at the moment of a scrape.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus::{Registry, proto::MetricFamily};

use super::{
    counters, gauges,
    names::{self, BREAKER_STATES, BUCKETS, CRITICALITIES, Limited},
    register,
    route::Durations,
    sample::UpstreamSample,
};

/// What limits did to the requests of one route. Made with the first that is refused or has to wait.
#[derive(Debug)]
pub(super) struct RouteLimits {
    pub(super) limited: [AtomicU64; Limited::COUNT],
    pub(super) shed: [AtomicU64; CRITICALITIES.len()],
    pub(super) queue: Durations,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self {
            limited: Default::default(),
            shed: Default::default(),
            queue: Durations::new(BUCKETS),
        }
    }
}

impl RouteLimits {
    pub(super) fn limited(&self, reason: Limited) {
        if let Some(count) = self.limited.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn shed(&self, criticality: usize) {
        if let Some(count) = self.shed.get(criticality) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn waited(&self, waited: Duration) {
        self.queue.observe(waited);
    }
}

/// What the edge can take, at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct EdgeSample {
    /// Requests in flight, without long streams.
    pub in_flight: u32,
    /// Resident memory in bytes, where somebody looks.
    pub memory: Option<u64>,
    /// Requests are being refused.
    pub is_shedding: bool,
}

/// The families whose series are as many as there are samples.
pub(super) fn families(upstreams: &[UpstreamSample], edge: &EdgeSample) -> Vec<MetricFamily> {
    let scrape = Registry::new();
    let gauge = |definition| register(&scrape, gauges(definition));
    let requests = gauge(&names::UPSTREAM_REQUESTS);
    let limit = gauge(&names::UPSTREAM_REQUEST_LIMIT);
    let waiting = gauge(&names::UPSTREAM_WAITING);
    let connections = gauge(&names::UPSTREAM_CONNECTIONS);
    let state = gauge(&names::BREAKER_STATE);
    let changes = register(&scrape, counters(&names::BREAKER_CHANGES));
    for sample in upstreams {
        let upstream: &str = &sample.upstream;
        connections.with_label_values(&[upstream]).set(sample.connections.into());
        if let Some((in_flight, most)) = sample.requests {
            requests.with_label_values(&[upstream]).set(in_flight.into());
            limit.with_label_values(&[upstream]).set(most.into());
            waiting.with_label_values(&[upstream]).set(sample.waiting.into());
        }
        if let Some((present, entered)) = sample.breaker {
            state.with_label_values(&[upstream]).set(present.into());
            for (word, count) in BREAKER_STATES.iter().zip(entered) {
                changes.with_label_values(&[upstream, word]).inc_by(count);
            }
        }
    }
    let none: [&str; 0] = [];
    gauge(&names::EDGE_REQUESTS).with_label_values(&none).set(edge.in_flight.into());
    gauge(&names::SHEDDING).with_label_values(&none).set(edge.is_shedding.into());
    if let Some(memory) = edge.memory {
        let memory = i64::try_from(memory).unwrap_or(i64::MAX);
        gauge(&names::EDGE_MEMORY).with_label_values(&none).set(memory);
    }
    scrape.gather()
}
