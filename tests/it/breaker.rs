//! The breaker of an upstream: closed, open, half-open, and what a client can't do to it.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Edge, Origin};

/// One try, so that a request is one outcome.
const BREAKER: &str = r#"
    [upstreams.api]
    endpoints = ["{0}"]
    retries = { tries = 1 }
    breaker = { min_requests = 5, open = "1s", half_open_requests = 2 }
"#;

fn state(edge: &Edge) -> String {
    let status = edge.status();
    status["upstreams"][0]["limits"]["breaker"].as_str().unwrap_or("none").to_owned()
}

fn entered(edge: &Edge, state: &str) -> f64 {
    edge.metric("tidegate_breaker_changes_total", [("upstream", "api"), ("state", state)])
}

/// Fails until it is open.
fn open(edge: &Edge) {
    edge.client().get("/").times(5);
    crate::assert_eventually!(state(edge) == "open");
}

#[test]
fn it_opens_answers_fast_lets_few_through_and_closes() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], BREAKER);
    edge.client().get("/").times(3).all_status(200);
    assert_eq!(state(&edge), "closed");
    origin.stop();
    // Failures are half of the requests.
    edge.client().get("/").times(3).all_status(502);
    crate::assert_eventually!(state(&edge) == "open");
    assert_eq!(edge.metric("tidegate_breaker_state", [("upstream", "api")]), 2.0);
    let answer = edge.client().get("/").send().assert_status(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(edge.metric("tidegate_requests_limited_total", [("reason", "breaker_open")]) >= 1.0);
    // Half-open, and still nobody there: it opens again.
    let tried = || edge.client().get("/").send().status == 502;
    crate::assert_eventually!(tried());
    crate::assert_eventually!(entered(&edge, "open") == 2.0);
    origin.restart();
    origin.hang();
    // Half-open again, with nobody answered yet: two get through, each from another network; others do not wait for them.
    let began = Instant::now();
    let probing: Vec<_> = ["127.0.0.2", "127.0.0.3"]
        .map(|source| edge.client().from(source).get("/").load(1).start())
        .into();
    crate::assert_eventually!(origin.in_flight() == 2);
    assert_eq!(state(&edge), "half-open");
    edge.client().get("/").send().assert_status(503);
    assert!(began.elapsed() < Duration::from_secs(10));
    origin.resume();
    crate::assert_eventually!(state(&edge) == "closed");
    for load in probing {
        load.stop();
    }
    assert_eq!(edge.metric("tidegate_breaker_state", [("upstream", "api")]), 0.0);
    assert_eq!(entered(&edge, "closed"), 1.0);
    assert!(entered(&edge, "half_open") >= 2.0);
    edge.client().get("/").times(10).all_status(200);
}

#[test]
fn a_client_that_leaves_its_probe_does_not_keep_it_half_open() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], BREAKER);
    origin.stop();
    open(&edge);
    origin.restart();
    origin.hang();
    let gets_through = || {
        let client = edge.client().timeout(Duration::from_millis(200));
        client.get("/").try_send().is_err()
    };
    crate::assert_eventually!(gets_through());
    for _ in 0..4 {
        crate::assert_eventually!(gets_through());
    }
    assert_eq!(state(&edge), "half-open");
    origin.resume();
    crate::assert_eventually!({
        drop(edge.client().get("/").try_send());
        state(&edge) == "closed"
    });
}

#[test]
fn one_client_with_one_bad_address_opens_nothing_and_several_do() {
    let origin = Origin::answering(500);
    let edge = Edge::start(&[&origin], BREAKER);
    edge.client().from("127.0.0.9").get("/bad").times(60).all_status(500);
    assert_eq!(state(&edge), "closed");
    let clients = (20..40).map(|n| edge.client().from(&format!("127.0.0.{n}")));
    let refused = clients.filter(|client| client.get("/").send().status == 503).count();
    assert_eq!(state(&edge), "open");
    assert!(refused > 10, "{refused}");
}

#[test]
fn requests_that_hung_before_it_opened_do_not_open_it_again() {
    let origin = Origin::answering(200);
    let text = r#"
        [upstreams.api]
        endpoints = ["{0}"]
        retries = { tries = 1 }
        timeouts = { first_byte = "4s" }
        breaker = { min_requests = 5, open = "100ms", half_open_requests = 2, client_share = "100%" }
    "#;
    let edge = Edge::start(&[&origin], text);
    origin.set_delay(Duration::from_mins(1));
    let ask = || {
        let client = edge.client().timeout(Duration::from_secs(30));
        thread::spawn(move || client.get("/").send().status)
    };
    let hanging: Vec<_> = (0..10).map(|_| ask()).collect();
    crate::assert_eventually!(origin.in_flight() == 10);
    origin.set_delay(Duration::ZERO);
    // Others fail at once, and it opens; then all is well, and it closes.
    origin.set_status(500);
    open(&edge);
    origin.set_status(200);
    crate::assert_eventually!({
        drop(edge.client().get("/").try_send());
        state(&edge) == "closed"
    });
    for answer in hanging {
        assert_eq!(answer.join().unwrap(), 504);
    }
    edge.client().get("/").send().assert_status(200);
    assert_eq!(entered(&edge, "open"), 1.0);
}

#[test]
fn a_reload_keeps_its_state_and_takes_its_settings() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &BREAKER.replace("\"1s\"", "\"1h\""));
    origin.stop();
    open(&edge);
    edge.reload_with(&BREAKER.replace("\"1s\"", "\"2h\"")).unwrap();
    assert_eq!(state(&edge), "open");
    let answer = edge.client().get("/").send().assert_status(503);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3_000..=3_600).contains(&seconds), "{seconds}");
    edge.reload_with("[upstreams.api]\nendpoints = [\"{0}\"]\nbreaker = false\n").unwrap();
    assert_eq!(state(&edge), "none");
    edge.client().get("/").send().assert_status(502);
}

#[test]
fn changes_stand_in_the_log() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], BREAKER);
    origin.stop();
    open(&edge);
    origin.restart();
    crate::assert_eventually!({
        drop(edge.client().get("/").try_send());
        thread::sleep(Duration::from_millis(20));
        state(&edge) == "closed"
    });
    for line in ["breaker opened", "breaker lets some requests through", "breaker closed"] {
        crate::assert_eventually!(edge.logs().contains(line));
    }
}
