//! How requests find their endpoint, and what happens when it does not answer.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Edge, Origin, RawOrigin, origin::Step};

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

#[test]
fn round_robin_follows_the_weights_exactly_and_smoothly() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let edge = Edge::start(
        &[&a, &b, &c],
        r#"
        [server]
        workers = "shared"
        [upstreams.api]
        balance = "round-robin"
        endpoints = [
            { address = "{0}", weight = 5 },
            { address = "{1}", weight = 2 },
            { address = "{2}", weight = 1 },
        ]
        "#,
    );
    let responses = edge.client().get("/").times(80).all_status(200);
    let order = responses.header_values("x-origin");
    for cycle in order.chunks(8) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in cycle {
            *counts.entry(name).or_default() += 1;
        }
        assert_eq!(counts, BTreeMap::from([("a", 5), ("b", 2), ("c", 1)]), "{cycle:?}");
    }
    // Five in a row would be the weights without being smooth.
    assert!(!order.windows(4).any(|four| four.iter().all(|name| *name == "a")), "{order:?}");
}

#[test]
fn ten_thousand_concurrent_requests_keep_the_weights_within_two_percent() {
    let origins = [named("a"), named("b"), named("c")];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2]],
        r#"
        [upstreams.api]
        balance = "round-robin"
        endpoints = [
            { address = "{0}", weight = 5 },
            { address = "{1}", weight = 3 },
            { address = "{2}", weight = 2 },
        ]
        "#,
    );
    let report = edge.client().get("/").load(32).requests(10_000).assert_all_ok();
    assert_eq!(report.total(), 10_000);
    for (origin, expected) in origins.iter().zip([5_000, 3_000, 2_000]) {
        let off = origin.requests().abs_diff(expected);
        assert!(off <= 200, "{} instead of {expected}", origin.requests());
    }
}

#[test]
fn least_conn_keeps_away_from_a_slow_endpoint() {
    let fast = Duration::from_millis(2);
    let origins = [
        Origin::builder().delay(fast).start(),
        Origin::builder().delay(fast).start(),
        Origin::builder().delay(Duration::from_millis(400)).start(),
    ];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2]],
        "[upstreams.api]\nbalance = \"least-conn\"\nendpoints = [\"{0}\", \"{1}\", \"{2}\"]\n",
    );
    let report = edge.client().get("/").load(12).requests(3_000).assert_all_ok();
    assert!(report.latency(95.0) < Duration::from_millis(200), "{report}");
    assert!(origins[2].requests() < 150, "{} to the slow one", origins[2].requests());
    assert!(origins[2].requests() > 0);
}

#[test]
fn least_conn_follows_the_weights_under_load() {
    let delay = Duration::from_millis(20);
    let origins = [Origin::builder().delay(delay).start(), Origin::builder().delay(delay).start()];
    let edge = Edge::start(
        &[&origins[0], &origins[1]],
        r#"
        [upstreams.api]
        endpoints = [{ address = "{0}", weight = 3 }, { address = "{1}", weight = 1 }]
        "#,
    );
    edge.client().get("/").load(16).requests(800).assert_all_ok();
    let share = origins[0].requests() as f64 / 800.0;
    assert!((0.68..0.82).contains(&share), "{share}");
}

#[test]
fn an_endpoint_of_weight_zero_gets_nothing() {
    let (used, unused) = (Origin::answering(200), Origin::answering(200));
    for balance in ["round-robin", "least-conn"] {
        let edge = Edge::start(
            &[&used, &unused],
            &format!(
                "[upstreams.api]\nbalance = \"{balance}\"\n\
                 endpoints = [\"{{0}}\", {{ address = \"{{1}}\", weight = 0 }}]\n"
            ),
        );
        edge.client().get("/").times(20).all_status(200);
        assert_eq!(unused.requests(), 0, "{balance}");
    }
}

#[test]
fn a_refused_connection_is_tried_on_another_endpoint_whatever_the_method() {
    let (good, dead) = (Origin::answering(200), Origin::answering(200));
    dead.stop();
    let edge = Edge::start(
        &[&good, &dead],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\"]\n\
         outlier_detection = false\nretries = { budget = { share = \"100%\" } }\n",
    );
    edge.client().get("/").times(20).all_status(200);
    edge.client().post("/").body("abc").times(20).all_status(200);
    assert_eq!((good.requests(), dead.requests()), (40, 0));
    assert_eq!(good.last_request().body_length, 3);
    assert!(edge.metric("tidegate_upstream_retries_total", [("upstream", "api")]) >= 10.0);
}

#[test]
fn a_reset_before_the_head_is_tried_again_for_safe_methods_only() {
    let good = Origin::answering(200);
    let bad = RawOrigin::playing(vec![Step::Reset]);
    let text = "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\"]\noutlier_detection = false\n";
    let edge = Edge::start(&[&good, &bad], text);
    edge.client().get("/").times(10).all_status(200);
    let before = good.requests();
    let posts = edge.client().post("/").body("abc").times(10);
    let statuses = posts.statuses();
    let (taken, failed) = (statuses.get(&200), statuses.get(&502));
    assert_eq!((taken, failed), (Some(&5), Some(&5)), "{statuses:?}");
    // None was sent twice.
    assert_eq!(good.requests() - before, 5);
    let single = Edge::start(&[&good, &bad], &format!("{text}retries = {{ tries = 1 }}\n"));
    assert_eq!(single.client().get("/").times(10).statuses().get(&502), Some(&5));
}

#[test]
fn when_no_endpoint_can_be_connected_to_the_answer_is_502_at_once() {
    let (a, b) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(&[&a, &b], "");
    a.stop();
    b.stop();
    let response = edge.client().get("/").send().assert_status(502);
    assert!(response.elapsed < Duration::from_secs(1), "{:?}", response.elapsed);
    let json = edge.client().get("/").header("accept", "application/json").send();
    assert_eq!(json.assert_status(502).json()["status"], 502);
    a.restart();
    edge.client().get("/").times(4).all_status(200);
}

#[test]
fn a_silent_endpoint_ends_in_504_and_is_not_asked_again() {
    let (silent, other) = (Origin::answering(200), Origin::answering(200));
    silent.hang();
    let edge = Edge::start(
        &[&silent],
        "[upstreams.api]\nendpoints = [\"{0}\"]\ntimeouts = { first_byte = \"200ms\" }\n",
    );
    let response = edge.client().get("/").send().assert_status(504);
    assert!(response.elapsed >= Duration::from_millis(190), "{:?}", response.elapsed);
    assert!(response.elapsed < Duration::from_secs(2), "{:?}", response.elapsed);
    assert_eq!(silent.requests(), 1);
    let total = Edge::start(
        &[&other],
        "[upstreams.api]\nendpoints = [\"{0}\"]\ntimeouts = { total = \"200ms\" }\n",
    );
    total.client().get("/").send().assert_status(200);
    other.set_delay(Duration::from_secs(5));
    let response = total.client().get("/").send().assert_status(504);
    assert!(response.elapsed < Duration::from_secs(2), "{:?}", response.elapsed);
}

#[test]
fn an_answer_that_stalls_in_its_body_is_cut_and_not_passed_off_as_whole() {
    let origin = Origin::builder().paced(20_000, 10_000, Duration::from_secs(20)).start();
    let edge = Edge::start(
        &[&origin],
        "[upstreams.api]\nendpoints = [\"{0}\"]\ntimeouts = { idle = \"300ms\" }\n",
    );
    let start = Instant::now();
    assert!(edge.client().get("/").try_send().is_err());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn an_idle_connection_is_not_reused_at_the_moment_the_endpoint_closes_it() {
    let origin = Origin::builder().keep_alive(Duration::from_secs(1)).start();
    let edge = Edge::start(
        &[&origin],
        "[upstreams.api]\nendpoints = [\"{0}\"]\nretries = { tries = 1 }\n",
    );
    let client = edge.client();
    // Around the second after which the origin closes; POST, which nothing may try twice.
    for pause in [0, 950, 985, 1_000, 1_015, 1_050] {
        thread::sleep(Duration::from_millis(pause));
        client.post("/").body("abc").send().assert_status(200);
    }
}

#[test]
fn a_client_that_goes_away_frees_its_endpoint() {
    let origin = Origin::builder().delay(Duration::from_secs(30)).start();
    let edge = Edge::start(&[&origin], "[upstreams.api]\nendpoints = [\"{0}\"]\n");
    let client = edge.client().timeout(Duration::from_millis(100));
    assert!(client.get("/").try_send().is_err());
    crate::assert_eventually!(edge.metric("tidegate_endpoint_requests_in_flight", &origin) == 0.0);
}

#[test]
fn faults_of_an_endpoint_are_told_from_what_its_client_did() {
    let (refusing, hung, slow) =
        (Origin::answering(200), Origin::answering(200), Origin::answering(200));
    refusing.stop();
    hung.hang();
    let sick = Origin::answering(503);
    let resetting = RawOrigin::playing(vec![Step::Reset]);
    let rubbish = RawOrigin::answering("this is not HTTP\r\n\r\n");
    let cutting = Origin::builder().truncated(10_000, 100).start();
    let once = "retries = { tries = 1 }\ntimeouts = { first_byte = \"200ms\" }\n";
    let edge_of = |origin: &dyn std::fmt::Display| {
        Edge::start(&[origin], &format!("[upstreams.api]\nendpoints = [\"{{0}}\"]\n{once}"))
    };
    let faults = |edge: &Edge, address: &str| {
        ["connect", "reset", "timeout", "cut_answer", "server_error"].map(|fault| {
            let labels = [("upstream", "api"), ("endpoint", address), ("fault", fault)];
            edge.metric("tidegate_endpoint_faults_total", labels)
        })
    };
    for (origin, expected) in [
        (&refusing as &dyn std::fmt::Display, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (&resetting, [0.0, 1.0, 0.0, 0.0, 0.0]),
        (&rubbish, [0.0, 1.0, 0.0, 0.0, 0.0]),
        (&hung, [0.0, 0.0, 1.0, 0.0, 0.0]),
        (&cutting, [0.0, 0.0, 0.0, 1.0, 0.0]),
        (&sick, [0.0, 0.0, 0.0, 0.0, 1.0]),
    ] {
        let edge = edge_of(origin);
        // Whole or broken off: only the endpoint's part counts here.
        drop(edge.client().get("/").try_send());
        let address = origin.to_string();
        crate::assert_eventually!(faults(&edge, &address) == expected);
        let status = edge.status();
        let told = &status["upstreams"][0]["endpoints"][0]["faults"];
        assert_eq!(told.as_object().map(serde_json::Map::len), Some(1), "{told}");
    }
    // A client that leaves, and a good answer with and without a body.
    slow.set_delay(Duration::from_millis(150));
    let edge = edge_of(&slow);
    assert!(edge.client().timeout(Duration::from_millis(50)).get("/").try_send().is_err());
    edge.client().get("/").send().assert_status(200);
    edge.client().request("HEAD", "/").send().assert_status(200);
    assert_eq!(faults(&edge, &slow.to_string()), [0.0; 5]);
}
