//! Limits on how many requests there are at once: of an upstream, of a route, of a client; and the queues before them.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{Client, Edge, Origin, Response, TcpOrigin, Tls};

/// Longer than any wait of a test on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A request beside the test.
fn ask(client: &Client, path: &str) -> JoinHandle<Response> {
    let (client, path) = (client.clone().timeout(LONG), path.to_owned());
    thread::spawn(move || client.get(&path).send())
}

/// An upstream with these `limits`.
fn with_limits(limits: &str) -> String {
    format!("[upstreams.api]\nendpoints = [\"{{0}}\"]\nlimits = {{ {limits} }}\n")
}

/// The policy `few`, with these settings, on a site with these routes before an upstream without limits.
fn with_policy(concurrency: &str, routes: &str) -> String {
    format!(
        r#"
        [upstreams.api]
        endpoints = ["{{0}}"]
        [policies.few]
        concurrency = {{ {concurrency} }}
        [sites.test]
        hosts = ["127.0.0.1"]
        listeners = ["http"]
        policies = ["few"]
        {routes}
        "#
    )
}

/// An origin that hangs, and an edge before it.
fn hanging(text: &str) -> (Origin, Edge) {
    let origin = Origin::answering(200);
    origin.hang();
    let edge = Edge::start(&[&origin], text);
    (origin, edge)
}

fn limits(edge: &Edge) -> Value {
    edge.status()["upstreams"][0]["limits"].clone()
}

fn waiting(edge: &Edge) -> u64 {
    limits(edge)["waiting"].as_u64().unwrap()
}

/// Paths in the order in which the origin saw them.
fn seen(origin: &Origin) -> Vec<String> {
    origin.recorded().iter().map(|request| request.path.clone()).collect()
}

fn limited(edge: &Edge, reason: &str) -> f64 {
    edge.metric("tidegate_requests_limited_total", [("reason", reason)])
}

#[test]
fn more_than_the_limit_wait_and_more_than_the_queue_are_refused_at_once() {
    let (origin, edge) =
        hanging(&with_limits("max_requests = 2, max_waiting = 1, queue_timeout = '30s'"));
    let served = [ask(&edge.client(), "/1"), ask(&edge.client(), "/2")];
    crate::assert_eventually!(origin.in_flight() == 2);
    let queued = ask(&edge.client(), "/3");
    crate::assert_eventually!(waiting(&edge) == 1);
    let refused = edge.client().get("/4").send().assert_status(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    crate::assert_eventually!(limited(&edge, "upstream_full") == 1.0);
    assert_eq!(limits(&edge)["requests"], 2);
    assert_eq!(limits(&edge)["max_requests"], 2);
    assert_eq!(edge.metric("tidegate_upstream_requests_waiting", ()), 1.0);
    origin.resume();
    for answer in served.into_iter().chain([queued]) {
        answer.join().unwrap().assert_status(200);
    }
    assert_eq!(origin.most_in_flight(), 2);
    crate::assert_eventually!(edge.metric("tidegate_upstream_requests_in_flight", ()) == 0.0);
    assert_eq!(edge.metric("tidegate_queue_duration_seconds_count", ()), 1.0);
    let lines = || edge.access_log();
    let by_path = |path: &str| lines().into_iter().find(|line| line["path"] == path);
    crate::assert_eventually!(by_path("/3").is_some_and(|line| line["queue_ms"].is_number()));
    assert!(by_path("/1").unwrap().get("queue_ms").is_none());
    assert_eq!(by_path("/4").unwrap()["error"], "upstream_full");
}

#[test]
fn nobody_waits_longer_than_the_queue_timeout() {
    let (origin, edge) = hanging(&with_limits("max_requests = 1, queue_timeout = '200ms'"));
    let served = ask(&edge.client(), "/1");
    crate::assert_eventually!(origin.in_flight() == 1);
    let began = Instant::now();
    edge.client().get("/2").send().assert_status(503);
    assert!(began.elapsed() >= Duration::from_millis(200));
    crate::assert_eventually!(limited(&edge, "upstream_queue_timeout") == 1.0);
    origin.resume();
    served.join().unwrap().assert_status(200);
}

#[test]
fn the_queue_is_served_by_its_order() {
    for (order, expected) in
        [("fifo", ["/held", "/1", "/2", "/3"]), ("lifo", ["/held", "/3", "/2", "/1"])]
    {
        let (origin, edge) = hanging(&with_limits(&format!(
            "max_requests = 1, queue_timeout = '30s', queue_order = '{order}'"
        )));
        let mut answers = vec![ask(&edge.client(), "/held")];
        crate::assert_eventually!(origin.in_flight() == 1);
        for n in 1..=3 {
            answers.push(ask(&edge.client(), &format!("/{n}")));
            crate::assert_eventually!(waiting(&edge) == n);
        }
        origin.resume();
        for answer in answers {
            answer.join().unwrap().assert_status(200);
        }
        assert_eq!(seen(&origin), expected, "{order}");
    }
}

#[test]
fn of_a_full_lifo_queue_the_oldest_leaves() {
    let (origin, edge) = hanging(&with_limits(
        "max_requests = 1, max_waiting = 1, queue_timeout = '30s', queue_order = 'lifo'",
    ));
    let served = ask(&edge.client(), "/1");
    crate::assert_eventually!(origin.in_flight() == 1);
    let oldest = ask(&edge.client(), "/2");
    crate::assert_eventually!(waiting(&edge) == 1);
    let newest = ask(&edge.client(), "/3");
    oldest.join().unwrap().assert_status(503);
    origin.resume();
    served.join().unwrap().assert_status(200);
    newest.join().unwrap().assert_status(200);
    // It waited, as the newest did.
    let line = || edge.access_log().into_iter().find(|line| line["path"] == "/2");
    crate::assert_eventually!(line().is_some());
    let line = line().unwrap();
    assert_eq!(line["error"], "upstream_full");
    assert!(line["queue_ms"].is_number(), "{line}");
    let waits = || edge.metric("tidegate_queue_duration_seconds_count", ());
    crate::assert_eventually!(waits() == 2.0);
}

#[test]
fn of_a_full_lifo_queue_of_a_policy_the_oldest_leaves() {
    let (origin, edge) = hanging(&with_policy(
        "max = 1, max_waiting = 1, queue_timeout = '30s', queue_order = 'lifo'",
        "upstream = \"api\"",
    ));
    let served = ask(&edge.client(), "/1");
    crate::assert_eventually!(origin.in_flight() == 1);
    // Either of the two may come first; the other one is served.
    let waiting = [ask(&edge.client(), "/2"), ask(&edge.client(), "/2")];
    crate::assert_eventually!(limited(&edge, "concurrency_full") == 1.0);
    origin.resume();
    served.join().unwrap().assert_status(200);
    let mut statuses = waiting.map(|answer| answer.join().unwrap().status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    let waits = || edge.metric("tidegate_queue_duration_seconds_count", ());
    crate::assert_eventually!(waits() == 2.0);
}

#[test]
fn a_client_that_goes_away_leaves_the_queue_and_gives_its_permit_back() {
    let (origin, edge) = hanging(&with_limits("max_requests = 1, queue_timeout = '30s'"));
    let leaving_after = |client: &Client, path: &str, patience| {
        let (client, path) = (client.clone().timeout(patience), path.to_owned());
        thread::spawn(move || client.get(&path).try_send())
    };
    for client in [edge.client(), edge.tls_client(Tls::any()).http2()] {
        let held = leaving_after(&client, "/held", Duration::from_secs(4));
        crate::assert_eventually!(limits(&edge)["requests"] == 1);
        let queued = leaving_after(&client, "/queued", Duration::from_millis(500));
        assert!(queued.join().unwrap().is_err());
        crate::assert_eventually!(waiting(&edge) == 0);
        assert!(held.join().unwrap().is_err());
        crate::assert_eventually!(limits(&edge)["requests"] == 0);
    }
    // Nobody who had left was served in the end.
    assert_eq!(seen(&origin), ["/held", "/held"]);
    origin.resume();
    edge.client().get("/after").send().assert_status(200);
}

#[test]
fn a_reload_changes_the_limit_under_those_who_wait() {
    let text = |max: u32| with_limits(&format!("max_requests = {max}, queue_timeout = '30s'"));
    let (origin, edge) = hanging(&text(1));
    let mut answers: Vec<_> = (0..4).map(|n| ask(&edge.client(), &format!("/{n}"))).collect();
    crate::assert_eventually!(waiting(&edge) == 3);
    edge.reload_with(&text(3)).unwrap();
    crate::assert_eventually!(origin.in_flight() == 3);
    assert_eq!(waiting(&edge), 1);
    // Down again: who is there stays, and nobody else comes.
    edge.reload_with(&text(2)).unwrap();
    assert_eq!(limits(&edge)["requests"], 3);
    assert_eq!(waiting(&edge), 1);
    // Without a limit nobody waits.
    edge.reload_with("[upstreams.api]\nendpoints = [\"{0}\"]\n").unwrap();
    crate::assert_eventually!(origin.in_flight() == 4);
    assert!(limits(&edge)["max_requests"].is_null());
    // It comes back, and finds those who are there, also who came meanwhile.
    answers.push(ask(&edge.client(), "/free"));
    crate::assert_eventually!(origin.in_flight() == 5);
    edge.reload_with(&text(5)).unwrap();
    assert_eq!(limits(&edge)["requests"], 5);
    answers.push(ask(&edge.client(), "/late"));
    crate::assert_eventually!(waiting(&edge) == 1);
    origin.resume();
    answers.drain(..).for_each(|answer| drop(answer.join().unwrap().assert_status(200)));
}

#[test]
fn a_reload_that_is_refused_at_its_end_changes_no_limit() {
    let text = |max: u32| {
        format!(
            r#"
            [server]
            overload = {{ max_requests = {max}00, max_memory = "off" }}
            [listeners.http]
            address = "127.0.0.1:0"
            [listeners.https]
            address = "127.0.0.1:0"
            tls = true
            [upstreams.api]
            endpoints = ["{{0}}"]
            limits = {{ max_requests = {max}, queue_timeout = "30s" }}
            [policies.few]
            concurrency = {{ max = {max}, max_waiting = 0 }}
            [sites.first]
            hosts = ["127.0.0.1"]
            listeners = ["http"]
            policies = ["few"]
            upstream = "api"
            "#
        )
    };
    let last = "[sites.last]\nhosts = [\"last.test\"]\nlisteners = [\"https\"]\n\
                certificate = { internal = true }\nrespond = { status = 204 }\n";
    let (origin, edge) = hanging(&text(2));
    let held = [ask(&edge.client(), "/1"), ask(&edge.client(), "/2")];
    crate::assert_eventually!(origin.in_flight() == 2);
    // The authority of the last site can't be made: that is found out when everything else is attached.
    let authority = edge.path("state").join("internal-ca");
    std::fs::write(&authority, "not a directory").unwrap();
    let refusal = edge.reload_with(&(text(3) + last)).unwrap_err();
    assert!(format!("{refusal:?}").contains("site last"), "{refusal:?}");
    assert_eq!(limits(&edge)["max_requests"], 2);
    assert_eq!(edge.status()["overload"]["max_requests"], 200);
    edge.client().get("/3").send().assert_status(503);
    assert_eq!(limited(&edge, "concurrency_full"), 1.0);
    // Without that, the same limits hold at once.
    std::fs::remove_file(&authority).unwrap();
    edge.reload_with(&(text(3) + last)).unwrap();
    assert_eq!(limits(&edge)["max_requests"], 3);
    assert_eq!(edge.status()["overload"]["max_requests"], 300);
    let third = ask(&edge.client(), "/3");
    crate::assert_eventually!(origin.in_flight() == 3);
    origin.resume();
    for answer in held.into_iter().chain([third]) {
        answer.join().unwrap().assert_status(200);
    }
}

#[test]
fn who_waits_for_a_policy_that_a_reload_removes_goes_on() {
    let routes = "upstream = \"api\"";
    let text = with_policy("max = 1, queue_timeout = '30s'", routes);
    let (origin, edge) = hanging(&text);
    let answers = [ask(&edge.client(), "/1"), ask(&edge.client(), "/2")];
    crate::assert_eventually!(origin.in_flight() == 1);
    edge.reload_with(&text.replace("policies = [\"few\"]", "")).unwrap();
    crate::assert_eventually!(origin.in_flight() == 2);
    origin.resume();
    for answer in answers {
        answer.join().unwrap().assert_status(200);
    }
}

#[test]
fn web_sockets_hold_no_request_permits() {
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::start(
        &[&origin],
        r#"
        [server]
        overload = { max_requests = 2, max_memory = "off" }
        [upstreams.api]
        endpoints = ["{0}"]
        limits = { max_requests = 1, max_waiting = 0 }
        [policies.few]
        concurrency = { max = 1, max_waiting = 0 }
        [sites.test]
        hosts = ["127.0.0.1"]
        listeners = ["http"]
        upstream = "api"
        policies = ["few"]
        "#,
    );
    let mut sockets: Vec<_> = (0..5).map(|_| edge.client().web_socket("/").unwrap()).collect();
    for socket in &mut sockets {
        assert_eq!(socket.echo("hello"), "hello");
    }
    assert_eq!(limits(&edge)["requests"], 0);
    assert_eq!(edge.status()["overload"]["in_flight"], 0);
}

#[test]
fn a_route_has_its_own_limit() {
    let (origin, edge) = hanging(&with_policy(
        "max = 1, max_waiting = 0",
        r#"
        [sites.test.routes.one]
        path = "/one"
        upstream = "api"
        [sites.test.routes.other]
        path = "/other"
        upstream = "api"
        "#,
    ));
    let one = ask(&edge.client(), "/one");
    crate::assert_eventually!(origin.in_flight() == 1);
    let refused = edge.client().get("/one").send().assert_status(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    crate::assert_eventually!(limited(&edge, "concurrency_full") == 1.0);
    let other = ask(&edge.client(), "/other");
    crate::assert_eventually!(origin.in_flight() == 2);
    // What is in flight counts after a reload too.
    let text = std::fs::read_to_string(edge.config_path()).unwrap();
    edge.reload_with(&text.replace("max = 1", "max = 2")).unwrap();
    let second = ask(&edge.client(), "/one");
    crate::assert_eventually!(origin.in_flight() == 3);
    edge.client().get("/one").send().assert_status(503);
    origin.resume();
    for answer in [one, other, second] {
        answer.join().unwrap().assert_status(200);
    }
}

#[test]
fn each_client_has_its_own_limit() {
    let (origin, edge) = hanging(&with_policy(
        "max = 1, per = 'client', queue_timeout = '30s', max_waiting = 1",
        "upstream = \"api\"",
    ));
    let from = |source: &str| edge.client().from(source);
    let mut answers = vec![ask(&from("127.0.0.1"), "/"), ask(&from("127.0.0.2"), "/")];
    crate::assert_eventually!(origin.in_flight() == 2);
    // Of two more of the first one waits, and one is over its queue.
    let more = [ask(&from("127.0.0.1"), "/more"), ask(&from("127.0.0.1"), "/more")];
    crate::assert_eventually!(limited(&edge, "concurrency_full") == 1.0);
    answers.push(ask(&from("127.0.1.9"), "/"));
    crate::assert_eventually!(origin.in_flight() == 3);
    origin.resume();
    for answer in answers {
        answer.join().unwrap().assert_status(200);
    }
    let mut statuses = more.map(|answer| answer.join().unwrap().status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
}

#[test]
fn connections_have_a_limit_and_the_pool_counts() {
    let (origin, edge) = hanging(&with_limits("max_connections = 2"));
    let held = [ask(&edge.client(), "/1"), ask(&edge.client(), "/2")];
    crate::assert_eventually!(origin.in_flight() == 2);
    let refused = edge.client().get("/3").send().assert_status(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    crate::assert_eventually!(limited(&edge, "upstream_connections") == 1.0);
    assert_eq!(edge.metric("tidegate_upstream_connections", ()), 2.0);
    assert_eq!(edge.metric("tidegate_endpoint_faults_total", ()), 0.0, "it is no fault of it");
    origin.resume();
    for answer in held {
        answer.join().unwrap().assert_status(200);
    }
    // One that is used again is no new one.
    edge.client().get("/").times(20).all_status(200);
    assert_eq!(origin.connections(), 2);
    origin.stop();
    origin.restart();
    edge.client().get("/").send().assert_status(200);
}

#[test]
fn connections_that_are_sent_on_count_too() {
    let origin = TcpOrigin::echoing();
    let edge = Edge::start(
        &[&origin],
        r#"
        allow_empty = true
        [listeners.pg]
        address = "127.0.0.1:0"
        tcp = { upstream = "db" }
        [upstreams.db]
        endpoints = ["{0}"]
        limits = { max_connections = 1 }
        "#,
    );
    let open = || crate::harness::Raw::connect(edge.address("pg"));
    let mut first = open();
    first.send("hello");
    crate::assert_eventually!(edge.metric("tidegate_upstream_connections", ()) == 1.0);
    let _second = open();
    crate::assert_eventually!(
        edge.metric("tidegate_tunnels_total", [("end", "connection_limit")]) == 1.0
    );
    drop(first);
    crate::assert_eventually!(edge.metric("tidegate_upstream_connections", ()) == 0.0);
}

#[test]
fn the_adaptive_limit_finds_what_the_origin_can_do() {
    // Four at once, 20 ms each: 200 a second. Forty clients would have forty at once.
    let origin = Origin::builder().places(4).delay(Duration::from_millis(20)).start();
    let edge = Edge::start(
        &[&origin],
        &with_limits("adaptive = { window = '100ms' }, max_waiting = 200, queue_timeout = '20s'"),
    );
    let limit = || limits(&edge)["max_requests"].as_u64().unwrap();
    assert_eq!(limits(&edge)["adaptive"], true);
    let first = limit();
    let load = edge.client().get("/").load(40).start();
    crate::assert_eventually!(origin.requests() >= 400, within LONG);
    // Now and then it is brought down to look: half of the time says more than the lowest.
    let mut seen = Vec::new();
    while origin.requests() < 800 {
        seen.push(limit());
    }
    seen.sort_unstable();
    let usual = seen[seen.len() / 2];
    assert!((4..first).contains(&usual), "{usual} of {seen:?}, at first {first}");
    let report = load.stop();
    assert_eq!(report.ok, report.total(), "{report}");
    assert!(origin.most_in_flight() <= 30, "{}", origin.most_in_flight());
}
