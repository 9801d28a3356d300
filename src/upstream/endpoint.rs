//! What is alive of one endpoint: how many requests it has in flight, how many it has had, how long it keeps connections.
//!
//! Keyed by upstream and address, it outlives snapshots: a reload, a changed weight and a changed health check keep it.
//! Its health is another object (`health.rs`), since a changed check resets health only.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    telemetry::metrics::{EjectionReason, Fault},
    types::{ClientNetwork, EndpointAddress, Name},
};

use super::{
    config::MAX_TRIES,
    keep_alive::Announced,
    latency::{Estimate, Latency},
    live_upstream::LiveUpstream,
    outlier::{Ejection, Judgement, Observed, Out, OutlierConfig},
    ramp::Ramp,
};

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
    load: Load,
    /// Failed tries, by [`Fault`].
    faults: [AtomicU64; Fault::COUNT],
    /// What is alive of its upstream, once it is in a set.
    live_upstream: OnceLock<Arc<LiveUpstream>>,
    /// What outlier detection has seen of it.
    pub(super) observed: Observed,
    ejection: Mutex<Ejection>,
    /// What the ejection says, for requests and sets.
    is_ejected: AtomicBool,
    ejections: [AtomicU64; EjectionReason::COUNT],
    /// Since when it starts slowly.
    pub(super) ramp: Ramp,
    /// Members of living sets that may give it requests.
    seats: AtomicUsize,
    /// Its probes found it unhealthy, and since then it has had no requests. Kept here, because a changed check is another health.
    pub(super) was_unhealthy: AtomicBool,
    announced: Announced,
    /// It was offered HTTP/2 and took HTTP/1.1.
    took_http1: AtomicBool,
}

/// 16 million in flight at one endpoint: more than there can be connections and streams.
const IN_FLIGHT_BITS: u32 = 24;

/// One more in [`Load::tries`].
const A_REQUEST: u64 = 1 << IN_FLIGHT_BITS;

/// What a pick reads and counts, on a cache line of its own: among a hundred endpoints it is one look at each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Load {
    /// Tries, in one word, since a pick counts both: the lower [`IN_FLIGHT_BITS`] those in flight, the others all that were
    /// begun. After 2^40 of them that count begins anew, as a counter may.
    tries: AtomicU64,
    /// Those in flight that are long streams.
    streams: AtomicUsize,
    latency: Latency,
    /// How often it has come back from an ejection.
    lives: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(upstream: Name, address: EndpointAddress) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            upstream,
            label: address.to_string().into_boxed_str(),
            address,
            load: Load::default(),
            faults: Default::default(),
            live_upstream: OnceLock::new(),
            observed: Observed::default(),
            ejection: Mutex::default(),
            is_ejected: AtomicBool::new(false),
            ejections: Default::default(),
            ramp: Ramp::default(),
            seats: AtomicUsize::new(0),
            was_unhealthy: AtomicBool::new(false),
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
        (self.load.tries.load(Ordering::Relaxed) & (A_REQUEST - 1)) as usize
    }

    /// Those in flight that are WebSockets, event streams, gRPC streams, or connections that are sent on.
    pub fn streams(&self) -> usize {
        self.load.streams.load(Ordering::Relaxed)
    }

    /// Tries that failed so since it is known.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// What is alive of its upstream, once it is in a set.
    pub(super) fn live_upstream(&self) -> Option<&LiveUpstream> {
        self.live_upstream.get().map(|upstream| &**upstream)
    }

    /// Takes the time from the beginning of a try to the head of its answer. One that is not good makes the endpoint no
    /// quicker: whoever fails at once must not draw requests.
    pub(super) fn answered_after(
        &self,
        after: Duration,
        is_good: bool,
        network: Option<ClientNetwork>,
        life: u32,
        now: Instant,
    ) {
        let known = self.latency(now);
        if is_good || !known.is_zero() && after > known {
            self.load.latency.observe(after, now);
        }
        if self.is_of_this_life(life)
            && let Some(upstream) = self.live_upstream.get()
        {
            self.observed.answered_after(&upstream.outliers, after, network);
        }
    }

    /// How long it takes to answer, on an average of the last seconds; zero where that is not known.
    pub fn latency(&self, now: Instant) -> Duration {
        self.load.latency.estimate(now)
    }

    /// The same, so many nanoseconds after the epoch of latencies; `None` before the first answer.
    pub(super) fn estimate(&self, now: u64) -> Option<Estimate> {
        self.load.latency.read(now)
    }

    /// Takes what became of a try that began in this [life](InFlight::life).
    pub(super) fn judge(
        &self,
        outcome: Result<(), Fault>,
        network: Option<ClientNetwork>,
        life: u32,
    ) {
        if let Err(fault) = outcome
            && let Some(count) = self.faults.get(fault as usize)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let Some(upstream) = self.live_upstream.get() else { return };
        if !self.is_of_this_life(life) {
            return;
        }
        match self.observed.judge(&upstream.outliers, outcome, network) {
            Judgement::Fine => {}
            Judgement::Run => upstream.note_run(),
            Judgement::Fails => upstream.suspect(self, Instant::now()),
        }
    }

    /// Whether it is not ejected, nor was it since this life began: what began before says nothing of the endpoint that is back.
    fn is_of_this_life(&self, life: u32) -> bool {
        !self.is_ejected() && self.load.lives.load(Ordering::Relaxed) == life
    }

    /// A set has it.
    pub(super) fn join(&self, upstream: &Arc<LiveUpstream>) {
        self.live_upstream.get_or_init(|| Arc::clone(upstream));
    }

    /// Whether outlier detection keeps it out.
    pub fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }

    /// Why and for how long it is out.
    pub(super) fn out(&self) -> Option<Out> {
        self.ejection().out()
    }

    /// Ejections since it is known.
    pub fn ejections(&self, reason: EjectionReason) -> u64 {
        self.ejections.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Ejects it; says for how long at least.
    pub(super) fn eject(
        &self,
        reason: EjectionReason,
        settings: &OutlierConfig,
        now: Instant,
    ) -> Duration {
        let time = self.ejection().eject(reason, settings, now);
        self.is_ejected.store(true, Ordering::Relaxed);
        if let Some(count) = self.ejections.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        time
    }

    /// Where its time is over, or there is need, and nobody asks already: the number to answer [`Self::probed`] with.
    pub(super) fn begin_probe(&self, is_in_need: bool, now: Instant) -> Option<u64> {
        self.ejection().begin_probe(is_in_need, now)
    }

    /// A probe has ended. Whether it brought the endpoint back; else the next begins after `pause`.
    pub(super) fn probed(&self, number: u64, is_well: bool, pause: Duration, now: Instant) -> bool {
        let is_back = self.ejection().probed(number, is_well, pause, now);
        if is_back {
            self.is_back(now);
        }
        is_back
    }

    /// Takes it back without a probe. Whether it was out.
    pub(super) fn take_back(&self, now: Instant) -> bool {
        let was_out = self.ejection().take_back(now);
        if was_out {
            self.is_back(now);
        }
        was_out
    }

    /// It begins anew, and slowly.
    fn is_back(&self, now: Instant) {
        self.observed.forget();
        self.ramp.start(now);
        self.load.lives.fetch_add(1, Ordering::Relaxed);
        self.is_ejected.store(false, Ordering::Relaxed);
    }

    fn ejection(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries it has been given since it is known.
    pub fn requests(&self) -> u64 {
        self.load.tries.load(Ordering::Relaxed) >> IN_FLIGHT_BITS
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

/// That a member of a living set may give an endpoint requests.
#[derive(Debug)]
pub(super) struct Seat(Arc<Endpoint>);

impl Seat {
    /// The seat, and whether it is the endpoint's only one: it joins, or comes back.
    pub(super) fn take(endpoint: &Arc<Endpoint>) -> (Self, bool) {
        let is_only = endpoint.seats.fetch_add(1, Ordering::Relaxed) == 0;
        (Self(Arc::clone(endpoint)), is_only)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What leads to an endpoint: itself, or something that holds it.
pub trait Holds {
    /// The endpoint.
    fn endpoint(&self) -> &Arc<Endpoint>;
}

impl Holds for Arc<Endpoint> {
    fn endpoint(&self) -> &Arc<Endpoint> {
        self
    }
}

/// One try at an endpoint: counted while it lives.
#[derive(Debug)]
pub struct InFlight<H: Holds = Arc<Endpoint>> {
    holder: H,
    is_stream: bool,
    life: u32,
}

impl<H: Holds> InFlight<H> {
    pub(super) fn start(holder: H) -> Self {
        let load = &holder.endpoint().load;
        load.tries.fetch_add(A_REQUEST | 1, Ordering::Relaxed);
        let life = load.lives.load(Ordering::Relaxed);
        Self { holder, is_stream: false, life }
    }

    /// Of the endpoint's lives between ejections that in which the try began.
    pub(super) fn life(&self) -> u32 {
        self.life
    }

    /// What holds the endpoint.
    pub(super) fn holder(&self) -> &H {
        &self.holder
    }

    /// The endpoint that is being tried.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.holder.endpoint()
    }

    /// From now on it counts as a connection, not as a request that takes long.
    pub(super) fn became_stream(&mut self) {
        if !std::mem::replace(&mut self.is_stream, true) {
            self.endpoint().load.streams.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same try as a stream that holds nothing but the endpoint.
    pub(super) fn into_stream(self) -> InFlight {
        let load = &self.endpoint().load;
        load.tries.fetch_add(1, Ordering::Relaxed);
        load.streams.fetch_add(1, Ordering::Relaxed);
        InFlight { holder: Arc::clone(self.endpoint()), is_stream: true, life: self.life }
    }
}

impl<H: Holds> Drop for InFlight<H> {
    fn drop(&mut self) {
        let load = &self.endpoint().load;
        if self.is_stream {
            load.streams.fetch_sub(1, Ordering::Relaxed);
        }
        load.tries.fetch_sub(1, Ordering::Relaxed);
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
    fn a_stream_is_counted_once() {
        let endpoint = endpoint("10.0.0.1:80");
        let mut first = InFlight::start(Arc::clone(&endpoint));
        first.became_stream();
        let stream = first.into_stream();
        assert_eq!((endpoint.in_flight(), endpoint.streams(), endpoint.requests()), (1, 1, 1));
        drop(stream);
        assert_eq!((endpoint.in_flight(), endpoint.streams()), (0, 0));
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
