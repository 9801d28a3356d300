//! What the whole edge can take: who is refused first, and what is left for those who are served.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::harness::{Client, Edge, Origin, Response};

const LONG: Duration = Duration::from_secs(30);

fn ask(client: &Client, path: &str) -> JoinHandle<Response> {
    let (client, path) = (client.clone().timeout(LONG), path.to_owned());
    thread::spawn(move || client.get(&path).send())
}

const SITE: &str = r#"
    [upstreams.api]
    endpoints = ["{0}"]
    [sites.test]
    hosts = ["127.0.0.1"]
    listeners = ["http"]
    [sites.test.routes.batch]
    path = "/low"
    criticality = "low"
    upstream = "api"
    [sites.test.routes.rest]
    upstream = "api"
    [sites.test.routes.checkout]
    path = "/high"
    criticality = "high"
    upstream = "api"
    [sites.test.routes.health]
    path = "/critical"
    criticality = "critical"
    respond = { body = "alive" }
"#;

fn shed(edge: &Edge, criticality: &str) -> f64 {
    edge.metric("tidegate_requests_shed_total", [("criticality", criticality)])
}

#[test]
fn the_least_important_routes_are_refused_first() {
    let origin = Origin::answering(200);
    origin.hang();
    let server = "[server]\noverload = { max_requests = 20, max_memory = \"off\" }\n";
    let edge = Edge::spawn(&[&origin], &format!("{server}{SITE}"));
    let client = edge.client();
    let mut held = Vec::new();
    let mut fill = |to: usize, path: &str| {
        while held.len() < to {
            held.push(ask(&client, path));
        }
        crate::assert_eventually!(edge.status()["overload"]["in_flight"] == to);
    };
    let status = |path: &str| edge.client().get(path).send();
    fill(16, "/low");
    let refused = status("/low").assert_status(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    fill(18, "/");
    assert_eq!([status("/low").status, status("/").status], [503; 2]);
    fill(19, "/high");
    assert_eq!([status("/low").status, status("/").status, status("/high").status], [503; 3]);
    status("/critical").assert_status(200);
    assert_eq!([shed(&edge, "low"), shed(&edge, "normal"), shed(&edge, "high")], [3.0, 2.0, 1.0]);
    assert_eq!(shed(&edge, "critical"), 0.0);
    assert_eq!(edge.metric("tidegate_overload_shedding", ()), 1.0);
    assert_eq!(edge.status()["overload"]["shedding"], true);
    origin.resume();
    for answer in held {
        answer.join().unwrap().assert_status(200);
    }
    status("/low").assert_status(200);
    // Two lines: it begins, it ends.
    crate::assert_eventually!(edge.logs().contains("overload is over"), within LONG);
    assert_eq!(edge.logs().matches("requests are refused, the least important first").count(), 1);
    assert_eq!(edge.metric("tidegate_overload_shedding", ()), 0.0);
}

#[test]
fn want_of_memory_refuses_requests() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(
        &[&origin],
        &format!("[server]\noverload = {{ max_memory = \"1MiB\" }}\n{SITE}"),
    );
    let status = |path: &str| edge.client().get(path).send().status;
    crate::assert_eventually!(status("/low") == 503);
    assert_eq!(status("/critical"), 503, "far over it nobody is served");
    assert!(edge.metric("tidegate_resident_memory_bytes", ()) > f64::from(1 << 20));
    let plenty = format!("[server]\noverload = {{ max_memory = \"100GiB\" }}\n{SITE}");
    edge.reload_with(&plenty).unwrap();
    assert_eq!(status("/low"), 200);
}

/// Three times what the origin can do, for so long. What is over is refused by the upstream's limit.
fn three_times_the_capacity(time: Duration) {
    // Eight at once, 20 ms each.
    let capacity = 8.0 / 0.02;
    let origin = Origin::builder().places(8).delay(Duration::from_millis(20)).start();
    let edge = Edge::spawn(
        &[&origin],
        "[upstreams.api]\nendpoints = [\"{0}\"]\n\
         limits = { max_requests = 10, max_waiting = 20, queue_timeout = \"500ms\" }\n",
    );
    // What the origin does with nobody too many, on this machine.
    let alone = edge.client().get("/").load(10).requests(400).assert_all_ok();
    let most = (400.0 / alone.elapsed.as_secs_f64()).min(capacity);
    let before = edge.rss();
    // 90 clients: 30 of them are served or wait, the others come back every 50 ms, 1,200 times a second.
    let load = edge.client().get("/").load(90).pause(Duration::from_millis(50));
    let report = load.during(time);
    let goodput = report.ok as f64 / report.elapsed.as_secs_f64();
    println!("{goodput:.0}/s of {most:.0}/s: {report}; memory {before} to {}", edge.rss());
    assert_eq!(report.failures(), 0, "{report}");
    assert!(report.statuses.get(&503).copied().unwrap_or(0) > report.ok / 4, "{report}");
    assert!(goodput > 0.9 * most, "{goodput} of {most}: {report}");
    // Thirty are there at once at most: 75 ms each by Little's law.
    assert!(report.latency(95.0) < Duration::from_millis(500), "{report}");
    assert!(edge.rss() < before + (64 << 20), "{before} to {}", edge.rss());
    assert!(origin.most_in_flight() <= 10);
}

#[test]
fn at_three_times_the_capacity_goodput_stays_and_latency_is_bounded() {
    three_times_the_capacity(Duration::from_secs(3));
}

#[test]
#[ignore = "a minute of load"]
fn at_three_times_the_capacity_memory_stays_bounded_for_a_minute() {
    three_times_the_capacity(Duration::from_mins(1));
}
