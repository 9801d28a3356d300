//! How many requests of the candidate a change costs before it is found.

use fastrand::Rng;
use tidegate::rollout::analysis::{Settings, Sides};

use super::{
    traffic::{Latency, Moment, Traffic, binomial},
    windows::FixedThreshold,
};

/// After so many requests of the candidate a search ends.
const LIMIT: u64 = 50_000;

/// A change to find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// Tolerated increase of the failure rate.
    pub(crate) tolerance: f64,
    /// Failure rate of the stable, and of the candidate before the change.
    pub(crate) base: f64,
    /// Failure rate of the candidate from the change on.
    pub(crate) candidate: f64,
    /// The candidate's share of the requests.
    pub(crate) share: f64,
    /// Requests of the candidate before the change.
    pub(crate) healthy: u64,
    /// Routes, with as many requests each.
    pub(crate) strata: usize,
    /// The one route on which the candidate is worse, if not on all.
    pub(crate) only: Option<u32>,
    /// Times to the first byte, as they are from the change on.
    pub(crate) latency: Option<Latency<'a>>,
}

/// Requests of the candidate from the change to the verdict: the middle and the 90th percentile. None: more than
/// [`LIMIT`].
pub(crate) type Found = (Option<u64>, Option<u64>);

/// By the analysis.
pub(crate) fn found(change: Change, runs: u64, seed: u64) -> Found {
    middle_and_p90((0..runs).map(|run| found_once(change, seed + run)).collect())
}

fn found_once(change: Change, seed: u64) -> Option<u64> {
    let settings = Settings::new(0.999, change.tolerance, 0.05, change.strata).unwrap();
    let mut traffic = Traffic::new(&settings, seed);
    if let Some(latency) = change.latency {
        traffic.warm_up(latency, 2_000);
    }
    let before = Moment {
        share: change.share,
        latency: change.latency.map(|latency| Latency { candidate: 1.0, ..latency }),
        ..Moment::healthy(change.base)
    };
    while traffic.candidate_requests < change.healthy {
        traffic.batch(before);
    }
    let began = traffic.candidate_requests;
    let after = Moment {
        candidate: change.candidate,
        only: change.only,
        latency: change.latency,
        ..before
    };
    while !traffic.is_bad() {
        if traffic.candidate_requests - began > LIMIT {
            return None;
        }
        traffic.batch(after);
    }
    Some(traffic.candidate_requests - began)
}

/// By a fixed threshold over windows of a minute, of which the change hits some moment.
pub(crate) fn found_by_windows(rate: f64, share: f64, runs: u64, seed: u64) -> Found {
    let once = |run| {
        let mut rng = Rng::with_seed(seed + run);
        let mut windows = FixedThreshold::within_a_window(rng.u64(..1_200));
        let mut totals = Sides::default();
        while !windows.is_bad() {
            let requests = binomial(&mut rng, 25, share);
            let failures = binomial(&mut rng, requests, rate);
            totals.candidate.failures += u64::from(failures);
            totals.candidate.successes += u64::from(requests - failures);
            if totals.candidate.requests() > LIMIT {
                return None;
            }
            windows.look(totals);
        }
        Some(totals.candidate.requests())
    };
    middle_and_p90((0..runs).map(once).collect())
}

fn middle_and_p90(mut counts: Vec<Option<u64>>) -> Found {
    counts.sort_unstable_by_key(|count| count.unwrap_or(u64::MAX));
    (counts[counts.len() / 2], counts[counts.len() * 9 / 10])
}

/// Requests of the candidate that no test can do without, in the mean, if it knew both rates:
/// `ln(1 / (1 - confidence)) / KL`, with the divergence of the candidate's rate from the largest that is allowed.
pub(crate) fn information_limit(candidate: f64, allowed: f64) -> f64 {
    let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
    1_000.0_f64.ln() / (part(candidate, allowed) + part(1.0 - candidate, 1.0 - allowed))
}
