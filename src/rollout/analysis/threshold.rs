//! The stable's own p95 and p99, as the thresholds that requests of both sides are compared with.
//!
//! Invariant: a threshold comes from requests of the stable that were counted before it is used, so that it is fixed
//! before any request it is applied to. Both sides meet the same one at the same moment; whether it is a good estimate of
//! p95 does not matter for the error probability.
//!
//! The counts are a histogram with buckets that grow by the logarithm: a sixteenth of an octave, from 1 µs to 38 hours,
//! 2.2 KiB. [`LatencyCounts`] is also what a worker counts in.

use std::time::Duration;

/// Bits of a time that a bucket keeps: 16 buckets an octave.
const BITS: u32 = 4;
const PER_OCTAVE: usize = 1 << BITS;
/// Longer times count as this one.
const MOST_MICROSECONDS: u64 = (1 << 37) - 1;
const BUCKETS: usize = PER_OCTAVE * (37 - BITS as usize + 1);

/// Thresholds need so many times at least.
const LEAST: u64 = 500;
/// From here on the past is halved, so that the thresholds follow the day.
const MOST: u64 = 20_000;

/// How often each time to the first byte occurred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyCounts {
    buckets: Box<[u32]>,
    total: u64,
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }
}

impl LatencyCounts {
    /// How many buckets there are.
    pub const BUCKETS: usize = BUCKETS;

    /// The bucket of a time.
    pub fn bucket_of(time: Duration) -> usize {
        bucket_of(time)
    }

    /// What was counted elsewhere, by bucket.
    pub fn of_buckets(counts: impl Iterator<Item = u32>) -> Self {
        let mut buckets: Box<[u32]> = counts.take(BUCKETS).collect();
        if buckets.len() < BUCKETS {
            buckets = buckets.into_iter().chain(std::iter::repeat(0)).take(BUCKETS).collect();
        }
        let total = buckets.iter().map(|n| u64::from(*n)).sum();
        Self { buckets, total }
    }

    /// Counts one time.
    pub fn record(&mut self, time: Duration) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(time)) {
            *bucket = bucket.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&*other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.total = self.buckets.iter().map(|n| u64::from(*n)).sum();
    }

    /// Adds what was counted elsewhere, and forgets by halves what is more than `most`.
    pub fn add_within(&mut self, other: &Self, most: u64) {
        self.add(other);
        while self.total() > most {
            self.halve();
        }
    }

    /// How many times were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The time that the part `quantile` of all is not above, to a part of a bucket. None when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let mut left = quantile.clamp(0.0, 1.0) * self.total as f64;
        let mut last = None;
        for (n, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            let (low, width) = bucket_bounds(n);
            let part = (left / count).clamp(0.0, 1.0);
            last = Some(Duration::from_micros(low) + Duration::from_micros(width).mul_f64(part));
            if left <= count + 1e-6 {
                break; // with room for the rounding of `quantile` times the total
            }
            left -= count;
        }
        last
    }

    fn halve(&mut self) {
        for bucket in &mut self.buckets {
            *bucket /= 2;
        }
        self.total = self.buckets.iter().map(|n| u64::from(*n)).sum();
    }
}

fn bucket_of(time: Duration) -> usize {
    let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(MOST_MICROSECONDS);
    let octave = time.checked_ilog2().unwrap_or(0);
    if octave < BITS {
        return time as usize;
    }
    let shift = octave - BITS;
    (shift as usize) * PER_OCTAVE + (time >> shift) as usize
}

/// The bucket's least time and its width in microseconds.
fn bucket_bounds(bucket: usize) -> (u64, u64) {
    if bucket < 2 * PER_OCTAVE {
        return (bucket as u64, 1);
    }
    let shift = bucket / PER_OCTAVE - 1;
    (((bucket % PER_OCTAVE + PER_OCTAVE) as u64) << shift, 1 << shift)
}

/// What requests are compared with: an answer is slow when its time is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// 95 % of the stable's requests were not above this.
    pub p95: Duration,
    /// 99 % of them.
    pub p99: Duration,
}

/// Learns the stable's latencies.
#[derive(Clone, Debug, Default)]
pub(super) struct Estimator {
    counts: LatencyCounts,
}

impl Estimator {
    pub(super) fn learn(&mut self, stable: &LatencyCounts) {
        self.counts.add_within(stable, MOST);
    }

    /// None before enough times are known.
    pub(super) fn thresholds(&self) -> Option<Thresholds> {
        if self.counts.total() < LEAST {
            return None;
        }
        Some(Thresholds { p95: self.counts.quantile(0.95)?, p99: self.counts.quantile(0.99)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(times: impl IntoIterator<Item = u64>) -> LatencyCounts {
        let mut counts = LatencyCounts::default();
        times.into_iter().for_each(|time| counts.record(Duration::from_micros(time)));
        counts
    }

    proptest! {
        #[test]
        fn a_time_is_inside_its_bucket(time in prop_oneof![0..100_u64, 0..=MOST_MICROSECONDS]) {
            let bucket = bucket_of(Duration::from_micros(time));
            let (low, width) = bucket_bounds(bucket);
            prop_assert!(bucket < BUCKETS && low <= time && time < low + width);
            prop_assert!(width == 1 || width * 16 <= low, "a sixteenth of the time at most");
        }

        #[test]
        fn quantiles_are_within_a_bucket_of_the_exact_ones(
            mut times in prop::collection::vec(1..10_000_000_u64, 1..300),
            percent in 1..=99_usize,
        ) {
            let part = percent as f64 / 100.0;
            let quantile = counts(times.iter().copied()).quantile(part).unwrap().as_micros() as f64;
            times.sort_unstable();
            let exact = times[(percent * times.len()).div_ceil(100) - 1] as f64;
            prop_assert!((quantile - exact).abs() <= exact / 16.0 + 1.0, "{quantile} for {exact}");
        }
    }

    #[test]
    fn the_longest_time_has_the_last_bucket() {
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(Duration::ZERO), 0);
    }

    #[test]
    fn thresholds_wait_for_enough_times() {
        let mut estimator = Estimator::default();
        estimator.learn(&counts(1..LEAST));
        assert_eq!(estimator.thresholds(), None);
        estimator.learn(&counts([LEAST]));
        let thresholds = estimator.thresholds().unwrap();
        let is_near =
            |time: Duration, right: f64| (time.as_micros() as f64 / right - 1.0).abs() < 0.06;
        assert!(is_near(thresholds.p95, 475.0) && is_near(thresholds.p99, 495.0), "{thresholds:?}");
    }

    #[test]
    fn thresholds_follow_the_day_and_stay_bounded() {
        let mut estimator = Estimator::default();
        for _ in 0..100 {
            estimator.learn(&counts(std::iter::repeat_n(1_000, 1_000)));
        }
        assert!(estimator.counts.total() <= MOST);
        for _ in 0..50 {
            estimator.learn(&counts(std::iter::repeat_n(4_000, 1_000)));
        }
        assert!(estimator.thresholds().unwrap().p95 >= Duration::from_millis(4));
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(LatencyCounts::default().quantile(0.95), None);
    }
}
