//! How fast a bad candidate loses its requests, with default settings: 500 requests a second, a tenth of them to the candidate.
//!
//! What runs always is short; the long form has two healthy minutes before, and 20 runs. `TIDEGATE_BINARY` names a release build.

use std::time::{Duration, SystemTime};

use super::{CANARY, HEAD, named, phase, post, status};
use crate::{assert_eventually, harness::Edge};

/// As the first words of docs/guides/canary.md have it: nothing but what must be said.
const PROBED: &str = "[upstream_defaults]\nhealth_check = { path = \"/healthz\" }\n";

const CLIENTS: u32 = 25;
const PER_SECOND: u32 = 500;
/// Runs at the same time.
const AT_ONCE: usize = 4;

/// What came of a candidate that became bad.
#[derive(Debug)]
struct Found {
    /// From the first moment at which it was bad to the verdict.
    verdict: Duration,
    /// From the verdict to the last request that it got; zero where that came before.
    last: Duration,
    /// Its tries that failed.
    failed: u64,
    /// Requests whose clients got no good answer.
    hurt: u64,
}

/// Serves well for so long, then fails one of so many of the candidate's requests.
fn run(healthy: Duration, one_of: u64) -> Found {
    let (v1, v2) = (named("v1"), named("v2"));
    let edge = Edge::spawn(&[&v1, &v2], &format!("{HEAD}{PROBED}{CANARY}"));
    post(&edge, "start").assert_status(200);
    assert_eventually!(phase(&edge) == "step", within Duration::from_secs(30));
    let load = edge.client().get("/").load(CLIENTS as usize);
    let load = load.every(Duration::from_secs(1) * CLIENTS / PER_SECOND).start();
    let served = healthy.as_secs() * u64::from(PER_SECOND);
    assert_eventually!(load.completed() >= served, within healthy * 3);
    assert_eq!(phase(&edge), "step", "a healthy candidate stays: {}", status(&edge));
    let since = SystemTime::now();
    v2.set_failing(one_of);
    assert_eventually!(phase(&edge) == "rolled_back", within Duration::from_mins(5));
    // What was on its way may still come.
    let seen = load.completed();
    assert_eventually!(load.completed() > seen + u64::from(PER_SECOND));
    let report = load.stop();
    let verdict = verdict(&edge.logs());
    let after = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
    Found {
        verdict: after(since, verdict),
        last: after(verdict, v2.last_request().at),
        failed: v2.failed(),
        hurt: report.total() - report.ok,
    }
}

/// When the edge says that it has gone back.
fn verdict(logs: &str) -> SystemTime {
    let line = logs.lines().find(|line| line.contains("rolled_back")).expect("a line of it");
    let time = line.split_whitespace().next().expect("a time");
    time.parse::<jiff::Timestamp>().expect("RFC 3339").into()
}

/// So many runs, some at the same time; sorted by their time to the verdict.
fn runs(count: usize, healthy: Duration, one_of: u64) -> Vec<Found> {
    let mut found = Vec::new();
    while found.len() < count {
        let now = AT_ONCE.min(count - found.len());
        found.extend(std::thread::scope(|scope| {
            let running: Vec<_> = (0..now).map(|_| scope.spawn(|| run(healthy, one_of))).collect();
            running.into_iter().map(|run| run.join().expect("a run")).collect::<Vec<_>>()
        }));
    }
    found.sort_by_key(|found| found.verdict);
    for found in &found {
        println!("{found:?}");
    }
    found
}

#[test]
fn a_candidate_that_becomes_worse_is_taken_back_in_seconds() {
    let found = runs(1, Duration::from_secs(3), 20);
    assert!(found[0].verdict < Duration::from_mins(1), "{found:?}");
    assert!(found[0].last < Duration::from_secs(1), "{found:?}");
}

#[test]
#[ignore = "slow: five times two healthy minutes with four edges at once"]
fn after_two_healthy_minutes_five_percent_are_found_within_15_seconds() {
    let found = runs(20, Duration::from_mins(2), 20);
    assert!(found[18].verdict < Duration::from_secs(15), "19 of 20");
    assert!(found.iter().all(|found| found.last < Duration::from_millis(100)));
    assert!(found.iter().all(|found| found.hurt == 0));
}

#[test]
#[ignore = "slow: five times two healthy minutes with four edges at once"]
fn after_two_healthy_minutes_a_candidate_that_fails_all_is_gone_within_a_second() {
    let found = runs(20, Duration::from_mins(2), 1);
    assert!(found.iter().all(|found| found.verdict < Duration::from_secs(1)));
    assert!(found.iter().all(|found| found.last < Duration::from_millis(100)));
    assert!(found.iter().all(|found| found.failed <= 20 && found.hurt <= 2));
}
