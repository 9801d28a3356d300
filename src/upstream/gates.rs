//! What stands before an upstream: a limit on requests, the breaker, the count of connections. A reload keeps them, and
//! changes their settings.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
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
    /// Made with the first limit, and kept: without one, those in flight are counted for a limit that comes back.
    limiter: OnceLock<Arc<Limiter>>,
    /// Finds the limiter's limit, where it does.
    adaptive: ArcSwapOption<Adaptive>,
    /// `None` without one.
    breaker: ArcSwapOption<Breaker>,
    connections: Arc<Connections>,
    /// Held while the limiter's limit changes, so that what was found from latency is never put on a limiter that has
    /// another limit since.
    changing: Mutex<()>,
}

/// What a limiter without a limit has as its limit.
const UNLIMITED: u32 = u32::MAX;

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
            limiter: OnceLock::new(),
            adaptive: ArcSwapOption::empty(),
            breaker: ArcSwapOption::empty(),
            connections: Arc::default(),
            changing: Mutex::default(),
        }
    }

    /// Takes the limits of a new generation. What is in flight and what waits stays, and so does the breaker's state.
    pub(super) fn configure(&self, config: &UpstreamConfig, now: Instant) {
        let limits = &config.limits;
        let _changing = self.change();
        let adaptive = limits.adaptive.map(|settings| match self.adaptive.load_full() {
            Some(adaptive) => {
                adaptive.configure(settings);
                adaptive
            }
            None => Arc::new(Adaptive::new(settings, now)),
        });
        let max = adaptive.as_ref().map(|adaptive| adaptive.limit()).or(limits.max_requests);
        self.adaptive.store(adaptive);
        match (self.limiter.get(), max) {
            (Some(limiter), max) => {
                limiter.configure(limits.queue);
                // Without a limit, who waits waits for nothing any more.
                limiter.set_max(max.unwrap_or(UNLIMITED));
            }
            (None, Some(max)) => drop(self.limiter.set(Limiter::new(max, limits.queue))),
            (None, None) => {}
        }
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
        let Some(limiter) = self.limiter.get() else { return Ok(None) };
        limiter.try_acquire().map(Some).ok_or_else(|| Arc::clone(limiter))
    }

    /// Takes the time from the beginning of a try to the head of its answer.
    pub(super) fn answered_after(&self, after: Duration, now: Instant) {
        let adaptive = self.adaptive.load();
        let (Some(found_by), Some(limiter)) = (&*adaptive, self.limiter.get()) else { return };
        if found_by.observe(after, limiter.in_flight(), now).is_none() {
            return;
        }
        let _changing = self.change();
        // A reload may have changed its bounds in this moment, or switched it off.
        if self.adaptive.load().as_ref().is_some_and(|present| Arc::ptr_eq(present, found_by)) {
            limiter.set_max(found_by.limit());
        }
    }

    /// Once a window of the adaptive limit, and once a reload.
    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
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
        let limiter = self.limiter.get();
        let breaker = self.breaker.load();
        let max = self.connections.max.load(Ordering::Relaxed);
        let entered = |breaker: &Breaker| {
            [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open]
                .map(|state| breaker.entered(state))
        };
        GateStatus {
            requests: limiter
                .map(|limiter| (limiter.in_flight(), limiter.max()))
                .filter(|(_, max)| *max != UNLIMITED),
            waiting: limiter.map_or(0, |limiter| limiter.waiting()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        types::{KeyPath, Problems},
        upstream::RawUpstream,
    };

    fn config(text: &str) -> UpstreamConfig {
        let raw: RawUpstream = toml::from_str(text).unwrap();
        raw.parse(&"api".parse().unwrap(), &KeyPath::root(), &mut Problems::new())
    }

    #[test]
    fn a_limit_that_comes_back_finds_who_is_in_flight() {
        let gates = Gates::new("api".parse().unwrap());
        let (limited, free) = (config("limits = { max_requests = 2 }"), config(""));
        gates.configure(&limited, Instant::now());
        let before = gates.try_permit().unwrap().unwrap();
        gates.configure(&free, Instant::now());
        assert_eq!(gates.status().requests, None);
        let meanwhile = gates.try_permit().unwrap().unwrap();
        gates.configure(&limited, Instant::now());
        assert_eq!(gates.status().requests, Some((2, 2)));
        assert!(gates.try_permit().is_err());
        drop((before, meanwhile));
        assert!(gates.try_permit().unwrap().is_some());
    }

    #[test]
    fn what_was_found_from_latency_is_not_put_on_a_limit_that_is_fixed_since() {
        let gates = Gates::new("api".parse().unwrap());
        let adaptive =
            config("limits = { adaptive = { window = '10ms', min = 7 }, max_requests = 9 }");
        let fixed = config("limits = { max_requests = 500 }");
        let start = Instant::now();
        gates.configure(&adaptive, start);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut now = start;
                while !is_over.load(Ordering::Relaxed) {
                    now += Duration::from_millis(1);
                    gates.answered_after(Duration::from_millis(5), now);
                }
            });
            for _ in 0..20_000 {
                gates.configure(&adaptive, start);
                std::thread::yield_now();
                gates.configure(&fixed, start);
                std::thread::yield_now();
                let (_, max) = gates.status().requests.unwrap();
                if max != 500 {
                    is_over.store(true, Ordering::Relaxed);
                }
                assert_eq!(max, 500);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
