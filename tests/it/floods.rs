//! Neighbours: while somebody floods the edge, the requests of others succeed and are not slower, and its memory is
//! bounded and comes back. The table of docs/threat-model.md is what the long form prints.

mod attack;

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use attack::Flood;

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Tls, client::LoadReport},
};

const MIB: f64 = 1_048_576.0;
/// What a flood may take beside what the edge has when it is idle.
const MOST_MEMORY: f64 = 80.0;
/// What the median of the neighbour's p95 may be, against that without the flood.
const MOST_SLOWER: f64 = 1.5;

/// An edge in a process of its own, with both listeners and an origin that answers at once.
fn spawn(origins: &[&dyn std::fmt::Display]) -> Edge {
    Edge::spawn(
        origins,
        r#"
        [listeners.http]
        address = "127.0.0.1:0"
        h2c = true
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http", "https"]
        certificate = { internal = true }
        endpoints = ["{0}"]
        [sites.test.routes.large]
        path = "/large"
        endpoints = ["{1}"]
        "#,
    )
}

/// A neighbour's requests for a while: kept connections and new ones, plain and TLS.
fn neighbour(edge: &Edge, time: Duration) -> Vec<LoadReport> {
    let pause = Duration::from_millis(4);
    let tls = edge.tls_client(Tls::any()).host("localhost");
    let loads = [
        edge.client().get("/").load(2).pause(pause).start(),
        edge.client().new_connections().get("/").load(1).pause(pause).start(),
        tls.clone().get("/").load(1).pause(pause).start(),
        tls.http2().get("/").load(1).pause(pause).start(),
    ];
    thread::sleep(time);
    loads.into_iter().map(|load| load.stop().assert_all_ok()).collect()
}

fn p95(reports: &[LoadReport]) -> f64 {
    let mut all = reports[0].latencies.clone();
    for report in &reports[1..] {
        all.add(&report.latencies).unwrap();
    }
    all.value_at_percentile(95.0) as f64 / 1_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a flood did.
struct Outcome {
    calm: f64,
    flooded: f64,
    idle: f64,
    most: f64,
    after: f64,
}

/// So many rounds, each with a calm and a flooded part.
fn measure(flood: Flood, is_long: bool, rounds: usize, time: Duration) -> Outcome {
    let origin = Origin::answering(200);
    let large = Origin::builder().download(64 << 20).start();
    let edge = spawn(&[&origin, &large]);
    let attackers = flood.attackers(is_long);
    let address = edge.address(flood.listener());
    // Everything has been used once: what is measured is the flood.
    neighbour(&edge, time);
    let memory = || edge.rss() as f64 / MIB;
    let idle = memory();
    let (mut calm, mut flooded, mut most) = (Vec::new(), Vec::new(), idle);
    for _ in 0..rounds {
        calm.push(p95(&neighbour(&edge, time)));
        let attack = flood.start(&address, attackers);
        let all = attackers as u64;
        assert_eventually!(attack.connected() >= all, within Duration::from_mins(1));
        let part = neighbour(&edge, time);
        most = most.max(memory());
        flooded.push(p95(&part));
        drop(attack);
        let open = || edge.metric("tidegate_connections", ());
        assert_eventually!(open() < 50.0, within Duration::from_secs(20));
        most = most.max(memory());
    }
    // The allocator gives back with a delay.
    let end = Instant::now() + Duration::from_secs(if is_long { 20 } else { 5 });
    let mut after = memory();
    while after > idle + 20.0 && Instant::now() < end {
        neighbour(&edge, Duration::from_millis(500));
        after = memory();
    }
    Outcome { calm: median(calm), flooded: median(flooded), idle, most, after }
}

#[test]
fn every_request_of_a_neighbour_succeeds_under_each_flood() {
    for flood in Flood::ALL {
        let outcome = measure(flood, false, 1, Duration::from_millis(600));
        // A loose bound: the test runs beside others.
        assert!(
            outcome.flooded < 20.0 * outcome.calm.max(10.0),
            "{flood:?}: {} ms instead of {} ms",
            outcome.flooded,
            outcome.calm
        );
        let more = outcome.most - outcome.idle;
        assert!(more < MOST_MEMORY, "{flood:?}: {more:.0} MiB");
    }
}

#[test]
#[ignore = "slow: eight floods in five rounds each, about five minutes; its figures are those of the built binary"]
fn a_thousand_attackers_slow_no_neighbour_down() {
    let mut table = String::from(
        "| flood | attackers | p95 calm | p95 flooded | ratio | memory idle | at most | after |\n",
    );
    let mut over = Vec::new();
    for flood in Flood::ALL {
        let outcome = measure(flood, true, 5, Duration::from_secs(3));
        let Outcome { calm, flooded, idle, most, after } = outcome;
        let ratio = flooded / calm;
        let _ = writeln!(
            table,
            "| {flood:?} | {} | {calm:.2} ms | {flooded:.2} ms | {ratio:.2} | {idle:.0} MiB | {:+.0} MiB | {:+.0} MiB |",
            flood.attackers(true),
            most - idle,
            after - idle,
        );
        if ratio > MOST_SLOWER || most - idle > MOST_MEMORY {
            over.push(flood);
        }
    }
    println!("{table}");
    assert!(over.is_empty(), "{over:?}\n{table}");
}

#[test]
#[ignore = "slow: ten thousand connections; its figure is that of the built binary"]
fn ten_thousand_idle_connections_take_little_memory() {
    let origin = Origin::answering(200);
    let edge = spawn(&[&origin, &origin]);
    neighbour(&edge, Duration::from_secs(1));
    let idle = edge.rss() as f64;
    let attackers = Flood::Idle.attackers(true);
    let attack = Flood::Idle.start(&edge.address("http"), attackers);
    let open = || edge.metric("tidegate_connections", ());
    assert_eventually!(open() >= attackers as f64, within Duration::from_mins(1));
    let answered = || edge.metric("tidegate_requests_total", [("status", "2xx")]);
    assert_eventually!(answered() >= attackers as f64, within Duration::from_mins(1));
    let each = (edge.rss() as f64 - idle) / attackers as f64 / 1_024.0;
    println!("{each:.1} KiB a connection");
    drop(attack);
    assert!(each < 8.0, "{each:.1} KiB a connection");
}
