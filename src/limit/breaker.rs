//! A circuit breaker by the rate of failures: closed, open, half-open.
//!
//! Place: `upstream` asks it before a request and tells it each try's outcome. Closed, a request costs one load, and an
//! outcome one compare-and-swap. The lock is for changes of the state and for the few requests of half-open. `now` is an
//! argument.
//!
//! A client must not be able to open it, or to keep it open, by asking again and again for what fails. So failures that
//! a request can be the cause of count by client network (`outcomes.rs`): those of one network up to a part of what opens
//! the breaker. Half-open, a network has one request under way at most, asks no more in a round in which one failed or
//! was given up, and does not decide alone.
//!
//! Invariants: half-open, at most `half_open_requests` of a round are under way; one that is never told (its client left)
//! gives its place back; places that are held for as long as `open` are given out anew, and what went well until then
//! still counts, so that slow answers only delay the end. What began in one spell of a state says nothing in another:
//! neither what failed before it opened, nor what passed before it closed again.

use std::{
    array,
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::outcomes::{BUCKETS, Counts, Outcome, Window};
use crate::types::{ClientNetwork, Percent};

/// All, in millionths.
const WHOLE: u64 = 1_000_000;

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

    const fn of(number: u64) -> Self {
        match number {
            0 => Self::Closed,
            1 => Self::HalfOpen,
            _ => Self::Open,
        }
    }
}

/// The time from one change of the state to the next: how many changes there were before, and the state in the two
/// lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell(u64);

impl Spell {
    const fn state(self) -> BreakerState {
        BreakerState::of(self.0 & 0b11)
    }

    const fn next(self, state: BreakerState) -> Self {
        Self(((self.0 >> 2) + 1) << 2 | state as u64)
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
    /// As all are; what becomes of it counts in this spell.
    Free(Spell),
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
    /// A [`Spell`].
    spell: AtomicU64,
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

/// What a spell of half-open has shown, and its present round.
#[derive(Debug)]
struct Round {
    number: u64,
    began: Instant,
    under_way: u32,
    /// In the whole spell, as is `failed`.
    went_well: u32,
    /// Who has failed, and may be the cause.
    failed: Option<u64>,
    /// The networks that may not ask: with a request of this round under way (`true`), or with one that failed in it, was
    /// given up in it, or hangs since the round before.
    taken: HashMap<u64, bool>,
}

impl Breaker {
    /// Closed. `watcher` hears of each change.
    pub fn new(config: BreakerConfig, now: Instant, watcher: Watcher) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            began: now,
            spell: AtomicU64::new(BreakerState::Closed as u64),
            open_until: AtomicU64::new(0),
            window: Window::default(),
            round: Mutex::new(Round {
                number: 0,
                began: now,
                under_way: 0,
                went_well: 0,
                failed: None,
                taken: HashMap::new(),
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
        self.spell().state()
    }

    /// The present spell: a try keeps it from its beginning, for [`Self::record`].
    pub fn spell(&self) -> Spell {
        Spell(self.spell.load(Ordering::Acquire))
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
        let spell = self.spell();
        if spell.state() == BreakerState::Closed {
            return Ok(Pass::Free(spell));
        }
        let left = self.open_until.load(Ordering::Acquire).saturating_sub(self.since_began(now));
        if spell.state() == BreakerState::Open && left > 0 {
            return Err(Open { remaining: Duration::from_nanos(left) });
        }
        let config = self.config.load();
        let mut round = self.lock();
        let spell = self.spell();
        let mut became = None;
        match spell.state() {
            BreakerState::Closed => return Ok(Pass::Free(spell)),
            BreakerState::Open => {
                round.begin(now);
                became = Some(self.enter(BreakerState::HalfOpen));
            }
            BreakerState::HalfOpen => {
                if now.saturating_duration_since(round.began) >= config.open {
                    round.renew(now);
                }
            }
        }
        let network = (!config.has_no_cap()).then(|| number(network));
        let is_taken = network.is_some_and(|network| round.taken.contains_key(&network));
        let passed = if is_taken || round.under_way >= config.places(round.went_well) {
            let ends = round.began + config.open;
            Err(Open { remaining: ends.saturating_duration_since(now) })
        } else {
            round.under_way += 1;
            if let Some(network) = network {
                round.taken.insert(network, true);
            }
            let (spell, round) = (self.spell(), round.number);
            Ok(Pass::Probe(Probe { breaker: Some(Arc::clone(self)), spell, round, network }))
        };
        drop(round);
        self.tell(became);
        passed
    }

    /// Takes the outcome of a request that passed in this spell, while it was closed. After its end it says nothing.
    pub fn record(&self, outcome: Result<(), Failed>, spell: Spell, now: Instant) {
        if spell.state() != BreakerState::Closed || spell != self.spell() {
            return;
        }
        let config = self.config.load();
        let tick = self.since_began(now) / bucket_nanos(&config);
        let Err(failed) = outcome else {
            self.window.add(Outcome::Good, tick);
            return;
        };
        let cap = config.cap(self.window.counts(tick).good);
        let outcome = match failed {
            Failed::For(network) if !config.has_no_cap() => {
                let counts = self.window.places.take(number(network), tick, cap);
                if counts { Outcome::Bad } else { Outcome::Ignored }
            }
            Failed::For(_) | Failed::ForAnybody => Outcome::Bad,
        };
        self.window.add(outcome, tick);
        let mut counts = self.window.counts(tick);
        if !config.opens(counts) {
            return;
        }
        if !config.has_no_cap() {
            // The cap was higher while more went well.
            let excess = self.window.places.excess(tick, config.cap(counts.good));
            counts.bad = counts.bad.saturating_sub(excess);
            if !config.opens(counts) {
                return;
            }
        }
        let became = {
            let _round = self.lock();
            // Another has done it in the same moment.
            (self.spell() == spell).then(|| self.open(&config, now))
        };
        self.tell(became);
    }

    fn end_probe(&self, probe: &Probe, outcome: Option<Result<(), Failed>>, now: Instant) {
        let config = self.config.load();
        let became = {
            let mut round = self.lock();
            if self.spell() != probe.spell {
                return;
            }
            round.end(probe, matches!(outcome, Some(Ok(()))));
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

    /// To be called under the lock.
    fn enter(&self, state: BreakerState) -> BreakerState {
        self.spell.store(self.spell().next(state).0, Ordering::Release);
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
    /// The first of a spell.
    fn begin(&mut self, now: Instant) {
        self.renew(now);
        self.went_well = 0;
        self.failed = None;
        self.taken.clear();
    }

    /// The next one: places are given out anew, first to others than those who hold one.
    fn renew(&mut self, now: Instant) {
        self.number += 1;
        self.began = now;
        self.under_way = 0;
        self.taken.retain(|_, is_under_way| std::mem::replace(is_under_way, false));
    }

    /// Gives the place of a probe of this spell back.
    fn end(&mut self, probe: &Probe, went_well: bool) {
        let is_of_this = probe.round == self.number;
        if is_of_this {
            self.under_way = self.under_way.saturating_sub(1);
        }
        let Some(network) = probe.network else { return };
        let Some(is_under_way) = self.taken.get_mut(&network) else { return };
        if is_of_this != *is_under_way {
            return;
        }
        if went_well {
            self.taken.remove(&network);
        } else {
            *is_under_way = false;
        }
    }
}

/// A request that passed while the breaker was half-open. Dropped without an outcome, it gives its place back.
#[derive(Debug)]
pub struct Probe {
    breaker: Option<Arc<Breaker>>,
    spell: Spell,
    round: u64,
    /// `None` where networks don't matter.
    network: Option<u64>,
}

impl Probe {
    /// Tells its outcome.
    pub fn ended(mut self, outcome: Result<(), Failed>, now: Instant) {
        if let Some(breaker) = self.breaker.take() {
            breaker.end_probe(&self, Some(outcome), now);
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take() {
            // Without an outcome no time is looked at.
            breaker.end_probe(self, None, breaker.began);
        }
    }
}

impl BreakerConfig {
    fn has_no_cap(&self) -> bool {
        self.client_share == Percent::ALL
    }

    /// So many may be under way in a round of half-open. One at least, where a reload asks for fewer than went well.
    fn places(&self, went_well: u32) -> u32 {
        self.half_open_requests.saturating_sub(went_well).max(1)
    }

    /// So many failures open it beside so many requests that went well.
    fn needed(&self, good: u64) -> u64 {
        let rate = u64::from(self.failure_rate.millionths());
        let least = (u64::from(self.min_requests) * rate).div_ceil(WHOLE).max(1);
        let by_rate = match WHOLE.saturating_sub(rate) {
            0 if good > 0 => u64::MAX,
            0 => 0,
            rest => (good * rate).div_ceil(rest),
        };
        least.max(by_rate)
    }

    /// So many of them may be one network's.
    fn cap(&self, good: u64) -> u64 {
        let share = u128::from(self.client_share.millionths());
        ((u128::from(self.needed(good)) * share / u128::from(WHOLE)) as u64).max(1)
    }

    fn opens(&self, counts: Counts) -> bool {
        let all = counts.good + counts.bad + counts.ignored;
        all >= u64::from(self.min_requests) && counts.bad >= self.needed(counts.good)
    }
}

fn bucket_nanos(config: &BreakerConfig) -> u64 {
    (config.window.as_nanos() as u64 / BUCKETS).max(1)
}

fn number(network: Option<ClientNetwork>) -> u64 {
    network.map_or(0, ClientNetwork::number)
}
