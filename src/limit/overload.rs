//! What the whole edge can take: requests in flight, and memory. Over it, the least important requests go first.
//!
//! Place: asked once a request, before any work is done for it: one addition and two loads. Memory is told by a task in
//! the background, never read by a request. Each [`Criticality`] has a share of both limits: what is low is refused when
//! four fifths are used, so that there is room left for what is not.
//!
//! What it does not do: connections have limits of their own (the listener's), and a long stream counts as a connection.

use std::{
    array,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// Shedding is over when nothing was refused for so long.
const CALM: Duration = Duration::from_secs(2);
/// Memory must fall below this part of a threshold before it is not over it any more, in percent.
const LETS_GO: u64 = 95;

/// How important a route is where not all can be served.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Deserialize,
    Serialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Criticality {
    /// Refused first, from 80 % of a limit on.
    Low = 0,
    /// From 90 % on.
    #[default]
    Normal = 1,
    /// From 95 % on.
    High = 2,
    /// Only at the limit itself: health checks, paid traffic.
    Critical = 3,
}

impl Criticality {
    /// All, those first that are refused first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The share of a limit up to which it is served, in percent.
    pub const fn share(self) -> u64 {
        match self {
            Self::Low => 80,
            Self::Normal => 90,
            Self::High => 95,
            Self::Critical => 100,
        }
    }
}

/// What the edge can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverloadConfig {
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// Resident memory in bytes.
    pub max_memory: Option<u64>,
}

/// A request is not served: the edge has all it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the edge is overloaded")]
pub struct Overloaded {
    /// It is the first after a calm time.
    pub is_first: bool,
}

/// Shedding has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// So many requests were refused since it began.
    pub refused: u64,
}

/// The state as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadStatus {
    /// Requests in flight, without long streams.
    pub in_flight: u32,
    /// How many there may be.
    pub max_requests: Option<u32>,
    /// Resident memory when it was last looked at; 0 before.
    pub memory: u64,
    /// How much it may be.
    pub max_memory: Option<u64>,
    /// Requests are being refused, or were a moment ago.
    pub is_shedding: bool,
    /// So many were since the start.
    pub refused: u64,
}

/// Gates and counts of one edge.
#[derive(Debug)]
pub struct Overload {
    in_flight: AtomicU32,
    /// What each criticality may come up to.
    most: [AtomicU32; 4],
    max_requests: AtomicU64,
    max_memory: AtomicU64,
    memory: AtomicU64,
    /// So many criticalities, from the lowest, are refused for want of memory.
    short_of_memory: AtomicU8,
    refused: AtomicU64,
    is_shedding: AtomicBool,
    calm: Mutex<Calm>,
}

/// What was seen at the last look.
#[derive(Debug)]
struct Calm {
    refused: u64,
    since: Instant,
    refused_before: u64,
}

/// A request that is served; it counts until this is dropped.
#[derive(Debug)]
#[must_use = "the request counts until this is dropped"]
pub struct Admitted(Arc<Overload>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

const NONE: u64 = u64::MAX;

impl Overload {
    /// Without limits.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicU32::new(0),
            most: array::from_fn(|_| AtomicU32::new(u32::MAX)),
            max_requests: AtomicU64::new(NONE),
            max_memory: AtomicU64::new(NONE),
            memory: AtomicU64::new(0),
            short_of_memory: AtomicU8::new(0),
            refused: AtomicU64::new(0),
            is_shedding: AtomicBool::new(false),
            calm: Mutex::new(Calm { refused: 0, since: now, refused_before: 0 }),
        })
    }

    /// Takes the limits. Who is in flight stays.
    pub fn configure(&self, config: OverloadConfig) {
        for (criticality, most) in Criticality::ALL.into_iter().zip(&self.most) {
            let share = |max: u32| (u64::from(max) * criticality.share()).div_ceil(100) as u32;
            most.store(config.max_requests.map_or(u32::MAX, share), Ordering::Relaxed);
        }
        self.max_requests.store(config.max_requests.map_or(NONE, u64::from), Ordering::Relaxed);
        self.max_memory.store(config.max_memory.unwrap_or(NONE), Ordering::Relaxed);
        self.saw_memory(self.memory.load(Ordering::Relaxed));
    }

    /// Whether somebody should look at the memory.
    pub fn watches_memory(&self) -> bool {
        self.max_memory.load(Ordering::Relaxed) != NONE
    }

    /// Takes how much memory there is in use.
    pub fn saw_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
        let max = self.max_memory.load(Ordering::Relaxed);
        let before = self.short_of_memory.load(Ordering::Relaxed);
        let is_short = |criticality: &Criticality| {
            let threshold = u128::from(max) * u128::from(criticality.share()) / 100;
            let kept = (*criticality as u8) < before;
            let threshold = if kept { threshold * u128::from(LETS_GO) / 100 } else { threshold };
            max != NONE && u128::from(bytes) >= threshold
        };
        let short = Criticality::ALL.iter().take_while(|criticality| is_short(criticality)).count();
        self.short_of_memory.store(short as u8, Ordering::Relaxed);
    }

    /// Lets a request in, before anything is done for it.
    ///
    /// # Errors
    /// The edge has all that it can take of this criticality. Becomes 503 with `Retry-After`.
    pub fn admit(self: &Arc<Self>, criticality: Criticality) -> Result<Admitted, Overloaded> {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(Arc::clone(self));
        let most = self
            .most
            .get(criticality as usize)
            .map_or(u32::MAX, |most| most.load(Ordering::Relaxed));
        let is_short = (criticality as u8) < self.short_of_memory.load(Ordering::Relaxed);
        if in_flight < most && !is_short {
            return Ok(admitted);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        // Many at once would fight for the line.
        let is_first = !self.is_shedding.load(Ordering::Relaxed)
            && !self.is_shedding.swap(true, Ordering::Relaxed);
        Err(Overloaded { is_first })
    }

    /// Says when shedding has ended: nothing was refused for two seconds. To be called some times a second.
    pub fn look(&self, now: Instant) -> Option<Shedding> {
        let mut calm = self.calm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let refused = self.refused.load(Ordering::Relaxed);
        if refused != calm.refused {
            calm.refused = refused;
            calm.since = now;
            return None;
        }
        let is_over = self.is_shedding.load(Ordering::Relaxed)
            && now.saturating_duration_since(calm.since) >= CALM;
        if !is_over {
            return None;
        }
        self.is_shedding.store(false, Ordering::Relaxed);
        let ended = Shedding { refused: refused - calm.refused_before };
        calm.refused_before = refused;
        Some(ended)
    }

    /// As it is now.
    pub fn status(&self) -> OverloadStatus {
        let max =
            |limit: &AtomicU64| Some(limit.load(Ordering::Relaxed)).filter(|max| *max != NONE);
        OverloadStatus {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            max_requests: max(&self.max_requests).map(|max| max as u32),
            memory: self.memory.load(Ordering::Relaxed),
            max_memory: max(&self.max_memory),
            is_shedding: self.is_shedding.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
