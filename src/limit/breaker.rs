//! A circuit breaker by the rate of failures: closed, open, half-open.
//!
//! Place: `upstream` asks it before a request and tells it each try's outcome. Closed, a request costs one load, and an
//! outcome one compare-and-swap. The lock is for changes of the state and for the few requests of half-open. `now` is an
//! argument.
//!
//! A client must not be able to open it, or to keep it open, by asking again and again for what fails. So failures that
//! a request can be the cause of count by client network: those of one network up to a part of what opens the breaker,
//! and in half-open a network that has failed asks no more, and does not decide alone. Networks share 64 places, by
//! which a failure counts less often, never more.
//!
//! Invariants: half-open, at most `half_open_requests` are under way; one that is never told (its client left) gives its
//! place back; a round of half-open that comes to no end within `open` begins anew.

use std::{
    array, fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::types::{ClientNetwork, Percent};

/// Parts of the window.
const BUCKETS: u64 = 10;
/// Places that networks share.
const PLACES: usize = 64;

/// When it opens, for how long, and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BreakerConfig {
    /// The part of the requests that fail, at which it opens.
    pub failure_rate: Percent,
    /// Fewer requests in the window say nothing.
    pub min_requests: u32,
    /// Outcomes count for so long.
    pub window: Duration,
    /// It is open for so long.
    pub open: Duration,
    /// Half-open, so many are let through; it closes when as many went well.
    pub half_open_requests: u32,
    /// The part of the failures that open it, which one client network can be the cause of. All of it is no cap.
    pub client_share: Percent,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// All requests pass.
    Closed = 0,
    /// A few pass.
    HalfOpen = 1,
    /// None passes.
    Open = 2,
}

impl BreakerState {
    /// The word for log and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    const fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Closed,
            1 => Self::HalfOpen,
            _ => Self::Open,
        }
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Whatever was asked: nothing was sent yet.
    ForAnybody,
    /// For a client of this network, who may be the cause. All whose network is not known are one.
    For(Option<ClientNetwork>),
}

/// A request is let through.
#[derive(Debug)]
pub enum Pass {
    /// As all are.
    Free,
    /// To see whether it may close.
    Probe(Probe),
}

/// It is open, or half-open with enough under way. Becomes 503 with `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the breaker is open")]
pub struct Open {
    /// When asking again may help.
    pub remaining: Duration,
}

/// What is called at each change of the state, outside of every lock.
type Watcher = Box<dyn Fn(BreakerState) + Send + Sync>;

/// The breaker of one upstream.
pub struct Breaker {
    config: ArcSwap<BreakerConfig>,
    began: Instant,
    state: AtomicU8,
    /// Nanoseconds since `began`.
    open_until: AtomicU64,
    window: Window,
    round: Mutex<Round>,
    /// How often each state was entered.
    entered: [AtomicU64; 3],
    watcher: Watcher,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A round of half-open.
#[derive(Debug)]
struct Round {
    number: u64,
    began: Instant,
    under_way: u32,
    went_well: u32,
    /// Who has failed, and may be the cause.
    failed: Option<u64>,
}

impl Breaker {
    /// Closed. `watcher` hears of each change.
    pub fn new(config: BreakerConfig, now: Instant, watcher: Watcher) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            began: now,
            state: AtomicU8::new(BreakerState::Closed as u8),
            open_until: AtomicU64::new(0),
            window: Window::default(),
            round: Mutex::new(Round {
                number: 0,
                began: now,
                under_way: 0,
                went_well: 0,
                failed: None,
            }),
            entered: array::from_fn(|_| AtomicU64::new(0)),
            watcher,
        })
    }

    /// Takes other settings. The state stays; outcomes so far are forgotten where the window is another.
    pub fn configure(&self, config: BreakerConfig) {
        let before = self.config.swap(Arc::new(config));
        if before.window != config.window {
            self.window.clear();
        }
    }

    /// What it does now. An open one whose time is over stays so until the next request.
    pub fn state(&self) -> BreakerState {
        BreakerState::of(self.state.load(Ordering::Acquire))
    }

    /// How often it has come into this state.
    pub fn entered(&self, state: BreakerState) -> u64 {
        self.entered.get(state as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Lets a request through, or not.
    ///
    /// # Errors
    /// It is open.
    pub fn pass(
        self: &Arc<Self>,
        network: Option<ClientNetwork>,
        now: Instant,
    ) -> Result<Pass, Open> {
        if self.state() == BreakerState::Closed {
            return Ok(Pass::Free);
        }
        let left = self.open_until.load(Ordering::Acquire).saturating_sub(self.since_began(now));
        if self.state() == BreakerState::Open && left > 0 {
            return Err(Open { remaining: Duration::from_nanos(left) });
        }
        let config = self.config.load();
        let mut round = self.lock();
        let mut became = None;
        match self.state() {
            BreakerState::Closed => return Ok(Pass::Free),
            BreakerState::Open => {
                round.begin(now);
                self.enter(BreakerState::HalfOpen);
                became = Some(BreakerState::HalfOpen);
            }
            BreakerState::HalfOpen => {
                if now.saturating_duration_since(round.began) >= config.open {
                    round.begin(now);
                }
            }
        }
        let is_barred = round.failed == Some(number(network));
        let is_full = round.under_way + round.went_well >= config.half_open_requests;
        let passed = if is_barred || is_full {
            let ends = round.began + config.open;
            Err(Open { remaining: ends.saturating_duration_since(now) })
        } else {
            round.under_way += 1;
            Ok(Pass::Probe(Probe { breaker: Some(Arc::clone(self)), round: round.number }))
        };
        drop(round);
        self.tell(became);
        passed
    }

    /// Takes the outcome of a request that passed while it was closed. One that ends later says nothing.
    pub fn record(&self, outcome: Result<(), Failed>, now: Instant) {
        if self.state() != BreakerState::Closed {
            return;
        }
        let config = self.config.load();
        let tick = self.since_began(now) / bucket_nanos(&config);
        let Err(failed) = outcome else {
            self.window.add(Outcome::Good, tick);
            return;
        };
        let counts = self.window.counts(tick);
        let outcome = match failed {
            Failed::For(network) if !config.has_no_cap() => {
                let cap = config.cap(counts.good + counts.bad + 1);
                let counts = self.window.places.take(number(network), tick / BUCKETS, cap);
                if counts { Outcome::Bad } else { Outcome::Ignored }
            }
            Failed::For(_) | Failed::ForAnybody => Outcome::Bad,
        };
        self.window.add(outcome, tick);
        if !config.opens(self.window.counts(tick)) {
            return;
        }
        let became = {
            let _round = self.lock();
            // Another has done it in the same moment.
            (self.state() == BreakerState::Closed).then(|| self.open(&config, now))
        };
        self.tell(became);
    }

    fn end_probe(&self, of_round: u64, outcome: Option<Result<(), Failed>>, now: Instant) {
        let config = self.config.load();
        let became = {
            let mut round = self.lock();
            if self.state() != BreakerState::HalfOpen || round.number != of_round {
                return;
            }
            round.under_way = round.under_way.saturating_sub(1);
            match outcome {
                None => None,
                Some(Ok(())) => {
                    round.went_well += 1;
                    (round.went_well >= config.half_open_requests).then(|| {
                        self.window.clear();
                        self.enter(BreakerState::Closed)
                    })
                }
                Some(Err(Failed::For(network))) if !config.has_no_cap() => {
                    let network = number(network);
                    let is_second = round.failed.is_some_and(|other| other != network);
                    round.failed = Some(network);
                    is_second.then(|| self.open(&config, now))
                }
                Some(Err(_)) => Some(self.open(&config, now)),
            }
        };
        self.tell(became);
    }

    /// To be called under the lock.
    fn open(&self, config: &BreakerConfig, now: Instant) -> BreakerState {
        let until = self.since_began(now).saturating_add(config.open.as_nanos() as u64);
        self.open_until.store(until, Ordering::Release);
        self.enter(BreakerState::Open)
    }

    fn enter(&self, state: BreakerState) -> BreakerState {
        self.state.store(state as u8, Ordering::Release);
        if let Some(count) = self.entered.get(state as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        state
    }

    fn tell(&self, became: Option<BreakerState>) {
        if let Some(state) = became {
            (self.watcher)(state);
        }
    }

    fn since_began(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_nanos() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn begin(&mut self, now: Instant) {
        *self =
            Self { number: self.number + 1, began: now, under_way: 0, went_well: 0, failed: None };
    }
}

/// A request that passed while the breaker was half-open. Dropped without an outcome, it gives its place back.
#[derive(Debug)]
pub struct Probe {
    breaker: Option<Arc<Breaker>>,
    round: u64,
}

impl Probe {
    /// Tells its outcome.
    pub fn ended(mut self, outcome: Result<(), Failed>, now: Instant) {
        if let Some(breaker) = self.breaker.take() {
            breaker.end_probe(self.round, Some(outcome), now);
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take() {
            // Without an outcome no time is looked at.
            breaker.end_probe(self.round, None, breaker.began);
        }
    }
}

impl BreakerConfig {
    fn has_no_cap(&self) -> bool {
        self.client_share == Percent::ALL
    }

    /// So many failures of so many requests open it.
    fn needed(&self, requests: u64) -> u64 {
        let requests = requests.max(u64::from(self.min_requests));
        (requests * u64::from(self.failure_rate.millionths())).div_ceil(1_000_000).max(1)
    }

    /// So many of them may be one network's.
    fn cap(&self, requests: u64) -> u64 {
        (self.needed(requests) * u64::from(self.client_share.millionths()) / 1_000_000).max(1)
    }

    fn opens(&self, counts: Counts) -> bool {
        let all = counts.good + counts.bad + counts.ignored;
        all >= u64::from(self.min_requests) && counts.bad >= self.needed(counts.good + counts.bad)
    }
}

fn bucket_nanos(config: &BreakerConfig) -> u64 {
    (config.window.as_nanos() as u64 / BUCKETS).max(1)
}

fn number(network: Option<ClientNetwork>) -> u64 {
    network.map_or(0, ClientNetwork::number)
}

#[derive(Clone, Copy)]
enum Outcome {
    Good,
    Bad,
    /// A failure of a network that has had its part.
    Ignored,
}

/// What a window has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    good: u64,
    bad: u64,
    ignored: u64,
}

/// Outcomes of the last while, in buckets that are taken anew one by one.
#[derive(Debug)]
struct Window {
    /// Each is one word of four numbers of 16 bits: its tick, and three counts. A tick comes again after 65,536 of them,
    /// and is then taken for an old one only where its bucket was not used in between.
    buckets: [AtomicU64; BUCKETS as usize],
    places: Places,
}

impl Default for Window {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), places: Places::default() }
    }
}

impl Window {
    fn add(&self, outcome: Outcome, tick: u64) {
        let Some(bucket) = self.buckets.get((tick % BUCKETS) as usize) else { return };
        let add = |word: u64| {
            let [at, mut counts @ ..] = numbers(word);
            if at != tick as u16 {
                counts = [0; 3];
            }
            if counts.contains(&u16::MAX) {
                // The rate stays.
                counts = counts.map(|count| count / 2);
            }
            if let Some(count) = counts.get_mut(outcome as usize) {
                *count += 1;
            }
            let [good, bad, ignored] = counts;
            Some(word_of([tick as u16, good, bad, ignored]))
        };
        let _: Result<u64, u64> = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn counts(&self, tick: u64) -> Counts {
        let mut sum = Counts::default();
        for bucket in &self.buckets {
            let [at, good, bad, ignored] = numbers(bucket.load(Ordering::Relaxed));
            if u64::from((tick as u16).wrapping_sub(at)) < BUCKETS {
                sum.good += u64::from(good);
                sum.bad += u64::from(bad);
                sum.ignored += u64::from(ignored);
            }
        }
        sum
    }

    fn clear(&self) {
        for word in self.buckets.iter().chain(&self.places.0) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

const fn numbers(word: u64) -> [u16; 4] {
    [(word >> 48) as u16, (word >> 32) as u16, (word >> 16) as u16, word as u16]
}

const fn word_of([a, b, c, d]: [u16; 4]) -> u64 {
    (a as u64) << 48 | (b as u64) << 32 | (c as u64) << 16 | d as u64
}

/// How many failures each network has brought in the present stretch of time, in places that networks share.
#[derive(Debug)]
struct Places([AtomicU64; PLACES]);

impl Default for Places {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Places {
    /// Whether another failure of this network counts.
    fn take(&self, network: u64, stretch: u64, cap: u64) -> bool {
        // The upper bits of the product by the golden ratio are spread well (Knuth, TAOCP 3, section 6.4).
        let index = network.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PLACES.ilog2());
        let Some(place) = self.0.get(index as usize) else { return false };
        let more = |word: u64| {
            let count = if word >> 32 == stretch & u64::from(u32::MAX) { word as u32 } else { 0 };
            (u64::from(count) < cap).then(|| stretch << 32 | u64::from(count + 1))
        };
        place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}
