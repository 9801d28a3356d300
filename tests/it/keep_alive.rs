//! Connections that an origin closes when they are idle: no request is lost on one.

use std::time::Duration;

use crate::harness::{Edge, Origin};

/// Clients that send POST after POST, all at about the same time, with pauses around two moments: that at which the edge
/// lets an idle connection go (a second before the announced time) and that at which the origin closes it.
fn straddle(limit_millis: u64, clients: usize, requests: u64, offsets: &[i64]) {
    // It takes its time: requests that come together need a connection each.
    let origin = Origin::builder()
        .keep_alive(Duration::from_millis(limit_millis))
        .delay(Duration::from_millis(50))
        .start();
    // Nothing is tried twice: what is lost shows.
    let edge = Edge::start(
        &[&origin],
        "[upstreams.api]\nendpoints = [\"{0}\"]\nretries = { tries = 1 }\n",
    );
    let pauses: Vec<Duration> = offsets
        .iter()
        .map(|offset| Duration::from_millis(limit_millis.saturating_add_signed(*offset)))
        .collect();
    let client = edge.client().timeout(Duration::from_secs(20));
    let load = client.post("/").body("once").load(clients).pauses(&pauses);
    let report = load.requests(requests).assert_all_ok();
    println!("{report}; {} connections to the origin", origin.connections());
    assert_eq!(report.total(), requests);
    assert_eq!(origin.requests(), requests, "each once");
    // Both happened: connections were used again, and others had been let go.
    assert!(origin.connections() > clients as u64, "{} connections", origin.connections());
    assert!(origin.connections() < requests, "{} connections", origin.connections());
}

#[test]
fn no_post_is_lost_when_idle_connections_are_closed_after_two_seconds() {
    straddle(2_000, 40, 160, &[-1_010, -10, 5]);
}

#[test]
#[ignore = "slow: 10,000 requests with pauses of five seconds take three minutes"]
fn no_post_is_lost_in_ten_thousand_when_idle_connections_are_closed_after_five_seconds() {
    straddle(5_000, 300, 10_000, &[-1_020, -1_000, -980, -50, -20, -10, -5, 0, 5, 10, 20]);
}
