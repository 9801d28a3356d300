//! The analysis of rollouts on made-up traffic: the short form of `make bench-rollout`, whose figures stand in
//! `docs/rollout-analysis.md`. Fixed seeds: the same every time.

#[allow(dead_code, reason = "the bench uses more of it")]
#[path = "../../benches/rollout/detection.rs"]
mod detection;
#[allow(dead_code, reason = "the bench uses more of it")]
#[path = "../../benches/rollout/healthy.rs"]
mod healthy;
#[path = "../../benches/rollout/traffic.rs"]
mod traffic;
#[path = "../../benches/rollout/windows.rs"]
mod windows;

use detection::{Change, found, information_limit};
use healthy::{Scenario, taken_back};
use tidegate::rollout::analysis::Settings;
use traffic::{Latency, pool};

const SEED: u64 = 99;
const CHANGE: Change = Change {
    tolerance: 0.0,
    base: 0.001,
    candidate: 0.05,
    share: 0.1,
    healthy: 0,
    strata: 1,
    only: None,
    latency: None,
};

/// The middle of some runs is no more than this.
#[track_caller]
fn assert_found_within(change: Change, runs: u64, goal: u64) {
    let (median, _) = found(change, runs, SEED);
    let median = median.expect("it was not found");
    assert!(median <= goal, "{median} requests, the goal is {goal}: {change:?}");
    // Fewer than that would be luck, or a test that does not keep to its error.
    let limit = information_limit(change.candidate, change.base + change.tolerance);
    assert!(change.latency.is_some() || median as f64 > limit, "{median}: {change:?}");
}

#[test]
fn a_candidate_that_fails_from_the_start_is_found() {
    assert_found_within(CHANGE, 101, 150);
    assert_found_within(Change { candidate: 0.5, ..CHANGE }, 101, 14);
    assert_found_within(Change { candidate: 0.01, ..CHANGE }, 41, 1_400);
    assert_found_within(Change { tolerance: 0.005, ..CHANGE }, 101, 260);
}

#[test]
fn a_candidate_that_begins_to_fail_later_is_found_almost_as_soon() {
    assert_found_within(Change { healthy: 2_400, ..CHANGE }, 21, 200);
    assert_found_within(Change { healthy: 2_400, candidate: 1.0, ..CHANGE }, 21, 16);
    assert_found_within(Change { healthy: 20_000, ..CHANGE }, 21, 280);
    assert_found_within(Change { healthy: 20_000, candidate: 1.0, ..CHANGE }, 21, 22);
}

#[test]
fn a_candidate_that_fails_on_one_route_is_found() {
    // What fails on the seven others, on both sides alike, hides it from evidence on all routes together.
    let change = Change { base: 0.05, candidate: 0.6, strata: 8, only: Some(5), ..CHANGE };
    let (median, _) = found(change, 21, SEED);
    assert!(median.is_some_and(|requests| requests < 300), "{median:?} on all 8 routes");
}

#[test]
fn a_candidate_that_is_twice_as_slow_is_found() {
    for (sigma, runs, goal) in [(0.5, 41, 60), (1.0, 21, 800)] {
        let pool = pool(sigma, 0.0);
        let latency = Some(Latency { pool: &pool, median: 50_000.0, candidate: 2.0 });
        let change = Change { tolerance: 0.005, candidate: 0.001, latency, ..CHANGE };
        assert_found_within(change, runs, goal);
    }
}

#[test]
fn a_healthy_candidate_is_not_taken_back() {
    let strict = Settings::new(0.999, 0.0, 0.0, 1).unwrap();
    for scenario in [Scenario::Rate(0.02), Scenario::Outage, Scenario::Bursts, Scenario::Drift] {
        assert_eq!(taken_back(scenario, &strict, 15, SEED).0, 0, "{scenario:?}");
    }
    assert_eq!(taken_back(Scenario::Border(0.001), &Settings::default(), 15, SEED).0, 0);
}

#[test]
fn a_fixed_threshold_blames_the_candidate_for_a_common_outage() {
    let (ours, fixed) = taken_back(Scenario::Outage, &Settings::default(), 3, SEED);
    assert_eq!((ours, fixed), (0, 3));
}

#[test]
fn the_information_limit_is_the_one_that_is_known() {
    let limit = information_limit(0.05, 0.001);
    assert!((limit - 46.7).abs() < 0.1, "{limit}");
}
