//! What became of the requests of the last while, for the breaker: how many went well, and how many failed, of one client
//! network only so many.
//!
//! Place: the breaker tells each outcome while it is closed; one compare-and-swap each, no lock. A tick is a tenth of the
//! window, counted from the breaker's beginning.
//!
//! Invariant: of the failures that the window has counted, one network has brought at most the cap that held when they
//! came (two that fail in the same moment may both be the last). Networks share 64 places, by which a failure counts less
//! often, never more.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Parts of the window.
pub(super) const BUCKETS: u64 = 10;
/// Places that networks share.
const PLACES: usize = 64;

#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Good,
    Bad,
    /// A failure of a network that has had its part.
    Ignored,
}

/// What a window has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) good: u64,
    pub(super) bad: u64,
    pub(super) ignored: u64,
}

/// Outcomes of the last while, in buckets that are taken anew one by one.
#[derive(Debug)]
pub(super) struct Window {
    /// Each is one word of four numbers of 16 bits: its tick, and three counts. A tick comes again after 65,536 of them,
    /// and is then taken for an old one only where its bucket was not used in between.
    buckets: [AtomicU64; BUCKETS as usize],
    pub(super) places: Places,
}

impl Default for Window {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), places: Places::default() }
    }
}

impl Window {
    pub(super) fn add(&self, outcome: Outcome, tick: u64) {
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

    pub(super) fn counts(&self, tick: u64) -> Counts {
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

    pub(super) fn clear(&self) {
        for word in &self.buckets {
            word.store(0, Ordering::Relaxed);
        }
        self.places.clear();
    }
}

const fn numbers(word: u64) -> [u16; 4] {
    [(word >> 48) as u16, (word >> 32) as u16, (word >> 16) as u16, word as u16]
}

const fn word_of([a, b, c, d]: [u16; 4]) -> u64 {
    (a as u64) << 48 | (b as u64) << 32 | (c as u64) << 16 | d as u64
}

/// Failures of the networks of one place, by tick: each is one word of two numbers of 16 bits, the tick and a count.
type Place = [AtomicU32; BUCKETS as usize];

/// How many failures each network has brought, in places that networks share. They are made with the first failure.
#[derive(Debug, Default)]
pub(super) struct Places(OnceLock<Box<[Place; PLACES]>>);

impl Places {
    /// Whether another failure of this network counts: one of at most `cap` in the window.
    pub(super) fn take(&self, network: u64, tick: u64, cap: u64) -> bool {
        let make = || Box::new(array::from_fn(|_| array::from_fn(|_| AtomicU32::new(0))));
        // The upper bits of the product by the golden ratio are spread well (Knuth, TAOCP 3, section 6.4).
        let index = network.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PLACES.ilog2());
        let Some(place) = self.0.get_or_init(make).get(index as usize) else { return false };
        let Some(bucket) = place.get((tick % BUCKETS) as usize) else { return false };
        if recent(place, tick) >= cap {
            return false;
        }
        let more = |word: u32| {
            let count = if word >> 16 == u32::from(tick as u16) { word as u16 } else { 0 };
            (count < u16::MAX).then(|| u32::from(tick as u16) << 16 | u32::from(count + 1))
        };
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// How many failures of the window are over a cap that is lower now than it was when they came.
    pub(super) fn excess(&self, tick: u64, cap: u64) -> u64 {
        let Some(places) = self.0.get() else { return 0 };
        places.iter().map(|place| recent(place, tick).saturating_sub(cap)).sum()
    }

    fn clear(&self) {
        for word in self.0.get().into_iter().flat_map(|places| places.as_flattened()) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// What is in the window.
fn recent(place: &Place, tick: u64) -> u64 {
    let count = |word: &AtomicU32| {
        let word = word.load(Ordering::Relaxed);
        let age = (tick as u16).wrapping_sub((word >> 16) as u16);
        if u64::from(age) < BUCKETS { u64::from(word as u16) } else { 0 }
    };
    place.iter().map(count).sum()
}
