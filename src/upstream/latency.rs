//! How long an endpoint takes to answer: an average that believes bad news at once and forgets it slowly.
//!
//! An exponentially weighted moving average that jumps to a sample above it ("peak EWMA", of Finagle's load balancers), so
//! that one slow answer is enough to be avoided. Without samples it falls towards 0: the endpoint is tried again.
//! Lock-free; of two racing samples one may be lost.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// In this time what is remembered falls to 37 % of its weight.
const DECAY: Duration = Duration::from_secs(10);

/// Times are counted from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The average time to the head of an answer.
#[derive(Debug, Default)]
pub(super) struct Latency {
    nanoseconds: AtomicU64,
    /// When the last sample came, in nanoseconds since the epoch.
    at: AtomicU64,
}

impl Latency {
    /// Takes a sample.
    pub(super) fn observe(&self, sample: Duration, now: Instant) {
        let before = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        let now = since_epoch(now);
        let age = now.saturating_sub(self.at.swap(now, Ordering::Relaxed));
        let average = if sample >= before {
            sample
        } else {
            let kept = kept_after(age);
            before.mul_f64(kept) + sample.mul_f64(1.0 - kept)
        };
        self.nanoseconds.store(nanoseconds(average), Ordering::Relaxed);
    }

    /// The average now; 0 where nothing is known, or nothing any more.
    pub(super) fn estimate(&self, now: Instant) -> Duration {
        let age = since_epoch(now).saturating_sub(self.at.load(Ordering::Relaxed));
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).mul_f64(kept_after(age))
    }
}

/// The share of what was known that is left after `age` nanoseconds.
fn kept_after(age: u64) -> f64 {
    (-(age as f64) / DECAY.as_nanos() as f64).exp()
}

fn since_epoch(now: Instant) -> u64 {
    nanoseconds(now.saturating_duration_since(*EPOCH))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_believes_bad_news_at_once_and_forgets_slowly() {
        let start = *EPOCH + Duration::from_mins(1);
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
        assert!((millis(&latency, 71.0) - 50.0 / std::f64::consts::E).abs() < 0.1);
        assert!(millis(&latency, 161.0) < 0.01);
    }
}
