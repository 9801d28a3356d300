//! How long an endpoint takes to answer: an average that believes bad news at once and forgets it slowly.
//!
//! An exponentially weighted moving average that jumps to a sample above it ("peak EWMA", of Finagle's load balancers), so
//! that one slow answer is enough to be avoided. Without samples it is forgotten: the endpoint is tried again.
//! Lock-free; of two racing samples one may be lost.
//!
//! Half-lives are powers of two of nanoseconds, so that a decay is a shift and a straight line between two halvings (at most
//! 6.2 % above the curve), and a pick among a hundred endpoints need not compute one exponential.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// A lower sample counts for half where the one before it is 2^32 ns = 4.3 s old: from fifty times as slow an endpoint is back in
/// half a minute.
const LEARNED_BITS: u32 = 32;

/// Half of the average is forgotten after 2^35 ns = 34.4 s without a sample.
const FORGOTTEN_BITS: u32 = 35;

/// The longest time that is remembered: 2^46 ns, 20 hours. It keeps all products below within 64 bits.
const LONGEST: u64 = 1 << 46;

/// Times are counted from here: by the exact clock, and by the coarse one.
static EPOCH: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), coarse_clock()));

/// The average time to the head of an answer.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// At the last sample; 0 before the first.
    nanoseconds: AtomicU64,
    /// When that came, in nanoseconds since the epoch.
    at: AtomicU64,
}

/// A latency in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    /// As it was at the last sample.
    pub(super) last: u64,
    /// What is left of it now.
    pub(super) now: u64,
}

impl Latency {
    /// Takes a sample.
    pub(super) fn observe(&self, sample: Duration, now: Instant) {
        self.observe_at(sample, nanoseconds(now.saturating_duration_since(EPOCH.0)));
    }

    /// Takes a sample that came so many nanoseconds after the epoch.
    pub(super) fn observe_at(&self, sample: Duration, now: u64) {
        let sample = nanoseconds(sample).clamp(1, LONGEST);
        let before = self.nanoseconds.load(Ordering::Relaxed);
        let age = now.saturating_sub(self.at.swap(now, Ordering::Relaxed));
        let average = if sample >= before {
            sample
        } else {
            sample + after(before - sample, age, LEARNED_BITS)
        };
        self.nanoseconds.store(average, Ordering::Relaxed);
    }

    /// The average, `now` nanoseconds after the epoch; `None` before the first sample.
    pub(super) fn read(&self, now: u64) -> Option<Estimate> {
        let last = self.nanoseconds.load(Ordering::Relaxed);
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        (last > 0).then(|| Estimate { last, now: after(last, age, FORGOTTEN_BITS) })
    }

    /// The average now; 0 where nothing is known, or nothing any more.
    pub(super) fn estimate(&self, now: Instant) -> Duration {
        let now = nanoseconds(now.saturating_duration_since(EPOCH.0));
        Duration::from_nanos(self.read(now).map_or(0, |estimate| estimate.now))
    }
}

/// Nanoseconds since the epoch, some milliseconds old. Costs a fifth of a reading of the exact clock.
pub(super) fn coarse_now() -> u64 {
    let (_, epoch) = *EPOCH;
    coarse_clock().saturating_sub(epoch)
}

fn coarse_clock() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    // Neither is negative, and the sum is good for 584 years.
    time.tv_sec
        .cast_unsigned()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec.cast_unsigned())
}

/// What is left of `value` after `age` nanoseconds, with a half-life of 2^`bits` ns. `value` is at most [`LONGEST`].
fn after(value: u64, age: u64, bits: u32) -> u64 {
    let halvings = (age >> bits) as u32;
    // How far towards the next halving, in parts of 2^16.
    let part = (age >> (bits - 16)) & 0xffff;
    (value - ((value * part) >> 17)).checked_shr(halvings).unwrap_or(0)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_believes_bad_news_at_once_and_forgets_slowly() {
        let start = EPOCH.0 + Duration::from_mins(1);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let latency = Latency::default();
        let millis =
            |latency: &Latency, seconds| latency.estimate(at(seconds)).as_secs_f64() * 1_000.0;
        assert_eq!(latency.estimate(start), Duration::ZERO);
        latency.observe(Duration::from_millis(1), at(0.0));
        latency.observe(Duration::from_millis(50), at(0.1));
        assert!((millis(&latency, 0.1) - 50.0).abs() < 0.01);
        // A good sample soon after changes little, one after a long time nearly all.
        latency.observe(Duration::from_millis(1), at(0.2));
        assert!((49.0..50.0).contains(&millis(&latency, 0.2)));
        latency.observe(Duration::from_millis(1), at(60.2));
        assert!((1.0..1.5).contains(&millis(&latency, 60.2)));
        // Without samples it is forgotten.
        latency.observe(Duration::from_millis(50), at(61.0));
        let half_life = (1_u64 << FORGOTTEN_BITS) as f64 / 1e9;
        assert!((millis(&latency, 61.0 + half_life) - 25.0).abs() < 0.1);
        assert!(millis(&latency, 61.0 + 15.0 * half_life) < 0.01);
    }

    #[test]
    fn an_answer_in_no_time_is_a_sample_too() {
        let latency = Latency::default();
        assert_eq!(latency.read(5), None);
        latency.observe_at(Duration::ZERO, 5);
        assert_eq!(latency.read(5), Some(Estimate { last: 1, now: 1 }));
        latency.observe_at(Duration::MAX, 6);
        assert_eq!(latency.read(6).unwrap().now, LONGEST);
    }

    #[test]
    fn the_coarse_clock_follows_the_exact_one() {
        let exact = || nanoseconds(EPOCH.0.elapsed());
        let _ = coarse_now();
        let (before, coarse, after) = (exact(), coarse_now(), exact());
        let slack = 50_000_000;
        assert!(coarse + slack >= before && coarse <= after + slack, "{before} {coarse} {after}");
    }

    proptest! {
        /// The straight lines stay within 6.2 % of the curve, and never rise.
        #[test]
        fn decay_is_a_decay(value in 0_u64..=LONGEST, age in 0_u64..1 << 41, more in 0_u64..1 << 36) {
            let left = after(value, age, LEARNED_BITS);
            let exact = value as f64 * (-(age as f64) / (1_u64 << LEARNED_BITS) as f64).exp2();
            prop_assert!(left as f64 >= exact * 0.9999 - 2.0 && left as f64 <= exact * 1.062 + 2.0);
            prop_assert!(after(value, age + more, LEARNED_BITS) <= left + 1);
        }
    }
}
