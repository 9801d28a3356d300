//! What stands before an upstream: a limit on requests, the breaker, the count of connections. A reload keeps them, and
//! changes their settings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::config::UpstreamConfig;
use crate::{
    limit::{Adaptive, Breaker, BreakerState, Failed, Limiter, Open, Pass, Permit, Probe, Spell},
    telemetry::metrics::Fault,
    types::{ClientNetwork, Name},
};

/// The gates of an upstream, by its name.
#[derive(Debug)]
pub(super) struct Gates {
    name: Name,
    /// `None` where requests have no limit.
    limiter: ArcSwapOption<Limiter>,
    /// Finds the limiter's limit, where it does.
    adaptive: ArcSwapOption<Adaptive>,
    /// `None` without one.
    breaker: ArcSwapOption<Breaker>,
    connections: Arc<Connections>,
}

/// The upstream has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream has as many connections as it may")]
pub struct TooManyConnections;

impl TooManyConnections {
    /// It, where it is behind an error of Pingora.
    pub fn of(error: &pingora_error::Error) -> Option<Self> {
        error.root_cause().downcast_ref().copied()
    }
}

/// What an upstream's gates have to show. Read now and then, never by a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateStatus {
    /// Requests at it, and how many there may be; `None` where they have no limit.
    pub requests: Option<(u32, u32)>,
    /// Requests that wait for room.
    pub waiting: u32,
    /// The limit is found from latency.
    pub is_adaptive: bool,
    /// Connections that are counted, and how many there may be.
    pub connections: (u32, Option<u32>),
    /// The breaker, and how often it has come into each of its states: closed, half-open, open.
    pub breaker: Option<(BreakerState, [u64; 3])>,
}

impl Gates {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            limiter: ArcSwapOption::empty(),
            adaptive: ArcSwapOption::empty(),
            breaker: ArcSwapOption::empty(),
            connections: Arc::default(),
        }
    }

    /// Takes the limits of a new generation. What is in flight and what waits stays, and so does the breaker's state.
    pub(super) fn configure(&self, config: &UpstreamConfig, now: Instant) {
        let limits = &config.limits;
        let adaptive = limits.adaptive.map(|settings| match self.adaptive.load_full() {
            Some(adaptive) => {
                adaptive.configure(settings);
                adaptive
            }
            None => Arc::new(Adaptive::new(settings, now)),
        });
        let max = adaptive.as_ref().map(|adaptive| adaptive.limit()).or(limits.max_requests);
        self.adaptive.store(adaptive);
        let before = self.limiter.load_full();
        let limiter = match (before, max) {
            (Some(limiter), Some(max)) => {
                limiter.configure(limits.queue);
                limiter.set_max(max);
                Some(limiter)
            }
            (None, Some(max)) => Some(Limiter::new(max, limits.queue)),
            (Some(limiter), None) => {
                // Who waits waits for nothing any more.
                limiter.set_max(u32::MAX);
                None
            }
            (None, None) => None,
        };
        self.limiter.store(limiter);
        self.connections.max.store(limits.max_connections.unwrap_or(u32::MAX), Ordering::Relaxed);
        let breaker = config.breaker.map(|settings| match self.breaker.load_full() {
            Some(breaker) => {
                breaker.configure(settings);
                breaker
            }
            None => Breaker::new(settings, now, self.watcher()),
        });
        self.breaker.store(breaker);
    }

    /// Each change of the breaker is a line in the log.
    fn watcher(&self) -> Box<dyn Fn(BreakerState) + Send + Sync> {
        let upstream = self.name.clone();
        Box::new(move |state| match state {
            BreakerState::Open => {
                tracing::warn!(%upstream, "breaker opened: too many requests failed");
            }
            BreakerState::HalfOpen => {
                tracing::info!(%upstream, "breaker lets some requests through");
            }
            BreakerState::Closed => tracing::info!(%upstream, "breaker closed"),
        })
    }

    /// Whether the breaker lets a request through; with what must be told of it where it is a probe.
    pub(super) fn pass(
        &self,
        network: Option<ClientNetwork>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Probe>, Open> {
        let breaker = self.breaker.load();
        let Some(breaker) = &*breaker else { return Ok(None) };
        if breaker.state() == BreakerState::Closed {
            return Ok(None);
        }
        Ok(match breaker.pass(network, now())? {
            Pass::Free(_) => None,
            Pass::Probe(probe) => Some(probe),
        })
    }

    /// A permit for a request where there is room; the limiter where it has to be waited for; neither where there is no
    /// limit.
    pub(super) fn try_permit(&self) -> Result<Option<Permit>, Arc<Limiter>> {
        let limiter = self.limiter.load();
        let Some(limiter) = &*limiter else { return Ok(None) };
        limiter.try_acquire().map(Some).ok_or_else(|| Arc::clone(limiter))
    }

    /// Takes the time from the beginning of a try to the head of its answer.
    pub(super) fn answered_after(&self, after: Duration, now: Instant) {
        let adaptive = self.adaptive.load();
        let (Some(adaptive), Some(limiter)) = (&*adaptive, &*self.limiter.load()) else { return };
        if let Some(limit) = adaptive.observe(after, limiter.in_flight(), now) {
            limiter.set_max(limit);
        }
    }

    /// The breaker's present spell: a try says what became of it for that in which it began.
    pub(super) fn spell(&self) -> Option<Spell> {
        self.breaker.load().as_ref().map(|breaker| breaker.spell())
    }

    /// Takes what became of a try that began in this spell; `probe` where it was one of the breaker's.
    pub(super) fn judge(
        &self,
        outcome: Result<(), Fault>,
        network: Option<ClientNetwork>,
        probe: Option<Probe>,
        spell: Option<Spell>,
    ) {
        let breaker = self.breaker.load();
        let Some(breaker) = &*breaker else { return };
        let outcome = outcome.map_err(|fault| match fault {
            Fault::Connect => Failed::ForAnybody,
            Fault::Reset | Fault::Timeout | Fault::CutAnswer | Fault::ServerError => {
                Failed::For(network)
            }
        });
        let now = Instant::now();
        match (probe, spell) {
            (Some(probe), _) => probe.ended(outcome, now),
            (None, Some(spell)) => breaker.record(outcome, spell, now),
            // There was no breaker when it began.
            (None, None) => {}
        }
    }

    /// What counts its connections.
    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    pub(super) fn status(&self) -> GateStatus {
        let limiter = self.limiter.load();
        let breaker = self.breaker.load();
        let max = self.connections.max.load(Ordering::Relaxed);
        let entered = |breaker: &Breaker| {
            [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open]
                .map(|state| breaker.entered(state))
        };
        GateStatus {
            requests: limiter.as_ref().map(|limiter| (limiter.in_flight(), limiter.max())),
            waiting: limiter.as_ref().map_or(0, |limiter| limiter.waiting()),
            is_adaptive: self.adaptive.load().is_some(),
            connections: (
                self.connections.open.load(Ordering::Relaxed),
                (max != u32::MAX).then_some(max),
            ),
            breaker: breaker.as_ref().map(|breaker| (breaker.state(), entered(breaker))),
        }
    }
}

/// How many connections of HTTP/1.1 and TCP there are to the endpoints of an upstream.
#[derive(Debug)]
pub(super) struct Connections {
    open: AtomicU32,
    max: AtomicU32,
}

impl Default for Connections {
    fn default() -> Self {
        Self { open: AtomicU32::new(0), max: AtomicU32::new(u32::MAX) }
    }
}

impl Connections {
    /// Counts one that is about to be made.
    pub(super) fn open(self: &Arc<Self>) -> Result<OpenConnection, TooManyConnections> {
        let max = self.max.load(Ordering::Relaxed);
        let more = |open| (open < max).then(|| open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(OpenConnection(Arc::clone(self))),
            Err(_) => Err(TooManyConnections),
        }
    }
}

/// A connection to an endpoint; it counts until this is dropped.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub struct OpenConnection(Arc<Connections>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
