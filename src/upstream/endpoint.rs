//! What is alive of one endpoint: how many requests it has in flight, how many it has had, how long it keeps connections.
//!
//! Keyed by upstream and address, it outlives snapshots: a reload, a changed weight and a changed health check keep it.
//! Its health is another object (`health.rs`), since a changed check resets health only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::types::{EndpointAddress, Name};

use super::{config::MAX_TRIES, keep_alive::Announced};

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
    requests: AtomicU64,
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

    /// Tries that are with it now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
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
}

impl InFlight {
    pub(super) fn start(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        endpoint.requests.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }

    /// The endpoint that is being tried.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
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
