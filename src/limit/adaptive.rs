//! How many an upstream should have in flight, found from how long it takes to answer.
//!
//! A gradient controller, as Envoy's adaptive concurrency filter and Netflix's concurrency-limits (Gradient2) are: while
//! the limit is reached, what answers take now is compared with what they take without a queue behind us (`base`). The
//! limit is scaled by that ratio and gets its square root on top as room for a burst and for growing. Of two ways to know
//! `base`, both are taken: where the limit is not reached, it follows the answers; where it is reached all the time, it is
//! looked at now and then at a quarter of the limit, since nothing else tells a slow origin from a full one.
//!
//! Place: `upstream` tells each answer's time and puts what comes back on its limiter. Samples go into one word; one of
//! them a window takes the lock, without waiting for it. `now` is an argument.
//!
//! What it does not do: it takes no errors into account (that is the breaker's part), and mixed fast and slow answers of
//! one upstream look like noise to it; `tolerance` is for that.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Samples that a window has at least.
const MIN_SAMPLES: u64 = 20;
/// And one in which `base` is looked at: there, time is dear.
const PROBE_SAMPLES: u64 = 10;
/// The part of what is new in `base`, where the limit is not reached.
const FOLLOW: f64 = 0.1;
/// The limit at first, within its bounds.
const START: u32 = 20;
/// The limit is divided by this while `base` is looked at.
const PROBE_PART: f64 = 4.0;
/// A gradient below this may be an accident.
const STEEPEST: f64 = 0.5;
/// Bits of the number of samples in the word; the rest is the sum of their times in microseconds.
const COUNT_BITS: u32 = 24;
/// A sample counts at most this much.
const MAX_SAMPLE: Duration = Duration::from_mins(1);

/// How a limit is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveConfig {
    /// It never goes below.
    pub least: u32,
    /// Nor above.
    pub most: u32,
    /// It is looked at so often.
    pub window: Duration,
    /// Answers may take so much longer than without a queue: 0.25 is a quarter.
    pub tolerance: f64,
    /// `base` is looked at so often, where the limit is reached all the time.
    pub probe_every: Duration,
}

/// A limit that follows latency.
#[derive(Debug)]
pub struct Adaptive {
    began: Instant,
    /// Sum and number of the window's samples.
    samples: AtomicU64,
    /// The most that were in flight in it.
    peak: AtomicU32,
    /// Not before this many samples, and not before this many nanoseconds since `began`, it ends.
    least_samples: AtomicU64,
    ends: AtomicU64,
    estimate: Mutex<Estimate>,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(config: AdaptiveConfig, now: Instant) -> Self {
        let estimate = Estimate::new(config, now);
        Self {
            began: now,
            samples: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            least_samples: AtomicU64::new(estimate.least_samples()),
            ends: AtomicU64::new(config.window.as_nanos() as u64),
            estimate: Mutex::new(estimate),
        }
    }

    /// The limit as it is now.
    pub fn limit(&self) -> u32 {
        self.lock().limit()
    }

    /// Changes bounds and times; what is known stays. Says what the limit is now.
    pub fn configure(&self, config: AdaptiveConfig) -> u32 {
        let mut estimate = self.lock();
        estimate.config = config;
        estimate.bound();
        estimate.limit()
    }

    /// Takes the time of an answer that was one of `in_flight`. At the end of a window it says what the limit is from now on.
    pub fn observe(&self, took: Duration, in_flight: u32, now: Instant) -> Option<u32> {
        let micros = took.min(MAX_SAMPLE).as_micros() as u64;
        let sample = micros << COUNT_BITS | 1;
        let count = count_of(self.samples.fetch_add(sample, Ordering::Relaxed)) + 1;
        if self.peak.load(Ordering::Relaxed) < in_flight {
            self.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
        let at = now.saturating_duration_since(self.began).as_nanos() as u64;
        if count < self.least_samples.load(Ordering::Relaxed)
            || at < self.ends.load(Ordering::Relaxed)
        {
            return None;
        }
        // Somebody else ends it where the lock is taken.
        let mut estimate = self.estimate.try_lock().ok()?;
        let word = self.samples.swap(0, Ordering::Relaxed);
        let count = count_of(word);
        if count == 0 {
            return None;
        }
        let peak = self.peak.swap(0, Ordering::Relaxed);
        let mean = (word >> COUNT_BITS) as f64 / count as f64 / 1e6;
        estimate.end_window(mean, peak, now);
        self.least_samples.store(estimate.least_samples(), Ordering::Relaxed);
        self.ends.store(at + estimate.config.window.as_nanos() as u64, Ordering::Relaxed);
        Some(estimate.limit())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

const fn count_of(word: u64) -> u64 {
    word & ((1 << COUNT_BITS) - 1)
}

/// What is known; times are in seconds.
#[derive(Debug)]
struct Estimate {
    config: AdaptiveConfig,
    /// Without the probe that may be under way.
    limit: f64,
    /// What answers take where nothing queues.
    base: Option<f64>,
    probe: Probe,
    has_probed: bool,
    next_probe: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    No,
    /// The limit is lowered; those who were in flight before are still among the answers.
    Draining,
    /// The answers are those of the lowered limit.
    Looking,
}

impl Estimate {
    fn new(config: AdaptiveConfig, now: Instant) -> Self {
        let mut estimate = Self {
            config,
            limit: f64::from(START),
            base: None,
            probe: Probe::No,
            has_probed: false,
            // The first window that reaches the limit may be overload already.
            next_probe: now,
        };
        estimate.bound();
        estimate
    }

    fn bound(&mut self) {
        let AdaptiveConfig { least, most, .. } = self.config;
        self.limit = self.limit.min(f64::from(most)).max(f64::from(least));
    }

    fn limit(&self) -> u32 {
        match self.probe {
            Probe::No => whole(self.limit),
            Probe::Draining | Probe::Looking => {
                whole(self.limit / PROBE_PART).max(self.config.least)
            }
        }
    }

    /// As many as are in flight: a window sees everybody who was there at its beginning. By time alone, a look of slow
    /// answers would see those of the full limit, or none.
    fn least_samples(&self) -> u64 {
        match self.probe {
            Probe::No => MIN_SAMPLES.max(u64::from(whole(self.limit))),
            Probe::Draining => u64::from(whole(self.limit)),
            Probe::Looking => PROBE_SAMPLES.max(u64::from(self.limit())),
        }
    }

    fn end_window(&mut self, mean: f64, peak: u32, now: Instant) {
        match self.probe {
            Probe::Draining => self.probe = Probe::Looking,
            Probe::Looking => {
                self.probe = Probe::No;
                self.has_probed = true;
                self.base = Some(mean);
                self.next_probe = now + self.config.probe_every;
            }
            Probe::No if peak < self.limit() => {
                let base = self.base.unwrap_or(mean);
                self.base = Some(base + FOLLOW * (mean - base));
                if self.has_probed {
                    self.next_probe = now + self.config.probe_every;
                }
            }
            Probe::No if now >= self.next_probe => self.probe = Probe::Draining,
            Probe::No => self.scale(mean),
        }
    }

    fn scale(&mut self, mean: f64) {
        let base = self.base.unwrap_or(mean);
        let ratio = if mean > 0.0 { (1.0 + self.config.tolerance) * base / mean } else { 1.0 };
        self.limit = self.limit * ratio.clamp(STEEPEST, 1.0) + self.limit.sqrt();
        self.bound();
    }
}

#[expect(clippy::cast_sign_loss, reason = "a limit is at least 1")]
const fn whole(limit: f64) -> u32 {
    limit as u32
}
