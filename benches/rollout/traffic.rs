//! Made-up traffic: two sides at the same moment, with rates, latencies and a split that change as a scenario says.
//!
//! One batch is 50 ms of a service that gets 500 requests a second. Each request is dealt to a side by chance, as a
//! split does it, so that the number of each side's requests in a batch varies too.
//!
//! Times come from a pool of draws that all rollouts share: they are drawn from it by chance.

use std::{f64::consts::TAU, time::Duration};

use fastrand::Rng;
use tidegate::rollout::analysis::{
    Analysis, Batch, LatencyCounts, Outcomes, Settings, Sides, Thresholds, Window,
};

/// Requests of both sides in one batch.
const REQUESTS: u32 = 25;
/// Time of one batch.
pub(crate) const INTERVAL: Duration = Duration::from_millis(50);
/// Thresholds are read anew after so many batches: a second.
const THRESHOLDS_EVERY: u64 = 20;

/// What both sides do during one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    /// The candidate's share of the requests.
    pub(crate) share: f64,
    /// Number of the step, which changes with the share.
    pub(crate) step: u32,
    /// Failure rates.
    pub(crate) stable: f64,
    pub(crate) candidate: f64,
    /// The candidate is worse on this stratum only.
    pub(crate) only: Option<u32>,
    /// Times to the first byte, if they are judged; with one stratum only.
    pub(crate) latency: Option<Latency<'a>>,
}

impl Moment<'_> {
    /// A tenth for the candidate, one failure rate for both.
    pub(crate) fn healthy(rate: f64) -> Self {
        Self { share: 0.1, step: 1, stable: rate, candidate: rate, only: None, latency: None }
    }
}

/// Times to the first byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency<'a> {
    /// Times around 1, in the shape of the distribution.
    pub(crate) pool: &'a [f64],
    /// What they are multiplied by, in microseconds.
    pub(crate) median: f64,
    /// The candidate's times over the stable's.
    pub(crate) candidate: f64,
}

/// Log-normal times around 1. The part `heavy` of them is multiplied by a Pareto variable of index 1.1, which has no
/// variance.
pub(crate) fn pool(sigma: f64, heavy: f64) -> Vec<f64> {
    let mut rng = Rng::with_seed(1);
    let mut time = || {
        let (radius, angle) = ((-2.0 * (1.0 - rng.f64()).ln()).sqrt(), TAU * rng.f64());
        let tail = if rng.f64() < heavy { (1.0 - rng.f64()).powf(-1.0 / 1.1) } else { 1.0 };
        tail * (sigma * radius * angle.cos()).exp()
    };
    (0..1 << 18).map(|_| time()).collect()
}

/// One rollout.
pub(crate) struct Traffic {
    pub(crate) rng: Rng,
    pub(crate) analysis: Analysis,
    strata: u32,
    interval: u64,
    thresholds: Option<Thresholds>,
    fresh: LatencyCounts,
    /// Requests of the candidate so far.
    pub(crate) candidate_requests: u64,
}

impl Traffic {
    pub(crate) fn new(settings: &Settings, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            analysis: Analysis::new(settings),
            strata: u32::try_from(settings.strata()).unwrap(),
            interval: 0,
            thresholds: None,
            fresh: LatencyCounts::default(),
            candidate_requests: 0,
        }
    }

    /// The stable alone, before the rollout: its latencies become known.
    pub(crate) fn warm_up(&mut self, latency: Latency, requests: u32) {
        let mut counts = LatencyCounts::default();
        for _ in 0..requests {
            counts.record(self.time(latency, 1.0));
        }
        self.analysis.learn_latencies(0, &counts);
        self.thresholds = self.analysis.thresholds(0);
    }

    /// One batch.
    pub(crate) fn batch(&mut self, moment: Moment) {
        let mut left = REQUESTS;
        for stratum in 0..self.strata {
            let requests = binomial(&mut self.rng, left, 1.0 / f64::from(self.strata - stratum));
            left -= requests;
            let candidate = binomial(&mut self.rng, requests, moment.share);
            let is_worse = moment.only.is_none_or(|only| only == stratum);
            let rate = if is_worse { moment.candidate } else { moment.stable };
            let sides = Sides {
                candidate: self.side(candidate, rate, moment.latency, false),
                stable: self.side(requests - candidate, moment.stable, moment.latency, true),
            };
            self.observe(moment.step, stratum, sides);
        }
        self.tick();
    }

    /// Hands over what was counted for one stratum.
    pub(crate) fn observe(&mut self, step: u32, stratum: u32, sides: Sides) {
        let window = Window { step, stratum: stratum as usize, interval: self.interval };
        self.candidate_requests += sides.candidate.requests();
        let now = INTERVAL * u32::try_from(self.interval).unwrap();
        self.analysis.observe(now, &Batch { window, sides });
    }

    /// The interval ends.
    pub(crate) fn tick(&mut self) {
        self.interval += 1;
        if self.interval.is_multiple_of(THRESHOLDS_EVERY) && self.fresh.total() > 0 {
            self.analysis.learn_latencies(0, &std::mem::take(&mut self.fresh));
            self.thresholds = self.analysis.thresholds(0);
        }
    }

    fn side(
        &mut self,
        requests: u32,
        rate: f64,
        latency: Option<Latency>,
        is_stable: bool,
    ) -> Outcomes {
        let failures = binomial(&mut self.rng, requests, rate);
        let mut side = Outcomes {
            successes: u64::from(requests - failures),
            failures: u64::from(failures),
            ..Outcomes::default()
        };
        let Some(latency) = latency else { return side };
        for _ in failures..requests {
            let time = self.time(latency, if is_stable { 1.0 } else { latency.candidate });
            if let Some(thresholds) = self.thresholds {
                side.timed += 1;
                side.above_p95 += u64::from(time > thresholds.p95);
                side.above_p99 += u64::from(time > thresholds.p99);
            }
            if is_stable {
                self.fresh.record(time);
            }
        }
        side
    }

    #[expect(clippy::cast_sign_loss, reason = "no time is negative")]
    fn time(&mut self, latency: Latency, factor: f64) -> Duration {
        let shape = latency.pool[self.rng.usize(..latency.pool.len())];
        Duration::from_nanos((latency.median * factor * shape * 1e3).min(1e15) as u64)
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.analysis.finding().is_some()
    }
}

/// How many of `n` happen, by inversion of the distribution.
pub(crate) fn binomial(rng: &mut Rng, n: u32, p: f64) -> u32 {
    if p > 0.5 {
        return n - binomial(rng, n, 1.0 - p);
    }
    if p <= 0.0 || n == 0 {
        return 0;
    }
    let (mut left, mut k) = (rng.f64(), 0);
    let mut part = (1.0 - p).powi(i32::try_from(n).unwrap());
    while left >= part && k < n {
        left -= part;
        part *= f64::from(n - k) / f64::from(k + 1) * p / (1.0 - p);
        k += 1;
    }
    k
}
