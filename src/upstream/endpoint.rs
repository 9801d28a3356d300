//! What is alive of one endpoint: how many requests it has in flight, how many it has had, how long it keeps connections.
//!
//! Keyed by upstream and address, it outlives snapshots: a reload, a changed weight and a changed health check keep it.
//! Its health is another object (`health.rs`), since a changed check resets health only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    telemetry::metrics::Fault,
    types::{ClientNetwork, EndpointAddress, Name},
};

use super::{config::MAX_TRIES, keep_alive::Announced, latency::Latency};

/// The next endpoint's number.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The live state of one address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    /// Unlike its address in memory, never used twice.
    id: u64,
    upstream: Name,
    address: EndpointAddress,
    label: Box<str>,
    in_flight: AtomicUsize,
    /// Those in flight that are long streams.
    streams: AtomicUsize,
    requests: AtomicU64,
    /// Failed tries, by [`Fault`].
    faults: [AtomicU64; Fault::COUNT],
    latency: Latency,
    announced: Announced,
    /// It was offered HTTP/2 and took HTTP/1.1.
    took_http1: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(upstream: Name, address: EndpointAddress) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            upstream,
            label: address.to_string().into_boxed_str(),
            address,
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            faults: Default::default(),
            latency: Latency::default(),
            requests: AtomicU64::new(0),
            announced: Announced::new(),
            took_http1: AtomicBool::new(false),
        }
    }

    /// The upstream it belongs to.
    pub fn upstream(&self) -> &Name {
        &self.upstream
    }

    /// Where it is reached: an IP address or a Unix socket, never a host name.
    pub fn address(&self) -> &EndpointAddress {
        &self.address
    }

    /// Its address as text, for logs and metrics.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Tries that are with it now, long streams too.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Those in flight that are WebSockets, event streams, gRPC streams, or connections that are sent on.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Tries that failed so since it is known.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Takes the time from the beginning of a try to the head of its answer.
    pub(super) fn answered_after(&self, after: Duration, now: Instant) {
        self.latency.observe(after, now);
    }

    /// How long it takes to answer, on an average of the last seconds; zero where that is not known.
    pub fn latency(&self, now: Instant) -> Duration {
        self.latency.estimate(now)
    }

    /// Takes what became of a try.
    pub(super) fn judge(&self, outcome: Result<(), Fault>, _network: Option<ClientNetwork>) {
        let Err(fault) = outcome else { return };
        if let Some(count) = self.faults.get(fault as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tries it has been given since it is known.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes what a response said about keeping the connection: the parsed `Keep-Alive` field, or `None` without one.
    ///
    /// To be called for every response of the endpoint; cheap when nothing is new.
    pub fn learn_keep_alive(&self, announced: Option<Duration>) {
        self.announced.learn(announced);
    }

    /// It was offered HTTP/2 and took HTTP/1.1: from now on it is offered nothing else.
    pub fn learn_http1(&self) {
        self.took_http1.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::learn_http1`] was called.
    pub fn took_http1(&self) -> bool {
        self.took_http1.load(Ordering::Relaxed)
    }

    /// How long the pool may keep an unused connection to it.
    pub(super) fn idle_timeout(&self, pool_idle: Duration) -> Duration {
        self.announced.idle_timeout(pool_idle)
    }
}

/// One try at an endpoint: counted while it lives.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    is_stream: bool,
}

impl InFlight {
    pub(super) fn start(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        endpoint.requests.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, is_stream: false }
    }

    /// The endpoint that is being tried.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// From now on it counts as a connection, not as a request that takes long.
    pub(super) fn became_stream(&mut self) {
        if !std::mem::replace(&mut self.is_stream, true) {
            self.endpoint.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.is_stream {
            self.endpoint.streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints that a request has tried. No allocation; holds [`MAX_TRIES`] of them, more are not remembered.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    ids: [u64; MAX_TRIES as usize],
    len: usize,
}

impl Tried {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers an endpoint.
    pub fn add(&mut self, endpoint: &Endpoint) {
        if let Some(slot) = self.ids.get_mut(self.len) {
            *slot = endpoint.id;
            self.len += 1;
        }
    }

    /// Whether the request has tried this endpoint.
    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        self.ids.iter().take(self.len).any(|id| *id == endpoint.id)
    }

    /// How many tries are remembered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint::new("web".parse().unwrap(), address.parse().unwrap()))
    }

    #[test]
    fn a_try_counts_while_it_lives() {
        let endpoint = endpoint("10.0.0.1:80");
        let first = InFlight::start(Arc::clone(&endpoint));
        let second = InFlight::start(Arc::clone(&endpoint));
        assert_eq!((endpoint.in_flight(), endpoint.requests()), (2, 2));
        drop(first);
        assert_eq!(endpoint.in_flight(), 1);
        // Also when the request panics.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _second = second;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(result.is_err());
        assert_eq!((endpoint.in_flight(), endpoint.requests()), (0, 2));
    }

    #[test]
    fn tried_endpoints_are_remembered_up_to_the_limit() {
        let endpoints: Vec<_> = (1..=5).map(|i| endpoint(&format!("10.0.0.{i}:80"))).collect();
        let mut tried = Tried::new();
        assert!(tried.is_empty() && !tried.contains(&endpoints[0]));
        for endpoint in &endpoints {
            tried.add(endpoint);
        }
        assert_eq!(tried.len(), MAX_TRIES as usize);
        assert!(endpoints[..4].iter().all(|endpoint| tried.contains(endpoint)));
        assert!(!tried.contains(&endpoints[4]));
        assert!(!tried.contains(&endpoint("10.0.0.1:80")), "same address, another life");
    }
}
