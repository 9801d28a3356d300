//! When a request is tried again, on which endpoint, and what must never come of it.

use std::{
    fmt::Display,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{
        Edge, Origin, RawOrigin, RecordingOrigin,
        origin::{Reply, Step},
    },
};

/// Round-robin: the first request, and each that was tried twice, goes to the first endpoint first.
fn edge_of(first: &dyn Display, second: &dyn Display, settings: &str) -> Edge {
    Edge::start(
        &[first, second],
        &format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\"]\n{settings}\n"
        ),
    )
}

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

fn line_of(edge: &Edge, path: &str) -> Value {
    let find = || edge.access_log().into_iter().find(|line| line["path"] == path);
    assert_eventually!(find().is_some());
    find().expect("it was there")
}

fn outcomes(line: &Value) -> Vec<&str> {
    let tried = line["tried"].as_array().expect("tries");
    tried.iter().map(|one| one["outcome"].as_str().expect("an outcome")).collect()
}

fn retries(edge: &Edge) -> f64 {
    edge.metric("tidegate_upstream_retries_total", [("upstream", "api")])
}

#[test]
fn each_cause_is_tried_again_where_it_is_listed_and_only_there() {
    let (good, refusing, hung) = (named("good"), named("refusing"), named("hung"));
    refusing.stop();
    hung.hang();
    let resetting = RawOrigin::playing(vec![Step::Reset]);
    let (unavailable, bad_gateway) = (Origin::answering(503), Origin::answering(502));
    let limit = "per_try_timeout = \"200ms\"";
    for (bad, on, other, status, outcome) in [
        (&refusing as &dyn Display, "\"connect-failure\"", "\"reset\"", 502, "connect_failed"),
        (&resetting, "\"reset\"", "\"connect-failure\", 502", 502, "upstream_closed"),
        (&hung, "\"timeout\"", "\"reset\"", 504, "upstream_timeout"),
        (&unavailable, "503", "\"reset\", 502, \"504-599\"", 503, "upstream_status"),
        (&bad_gateway, "\"500-504\"", "503", 502, "upstream_status"),
    ] {
        let edge = edge_of(bad, &good, &format!("retries = {{ on = [{on}], {limit} }}"));
        let answer = edge.client().get("/").send().assert_status(200);
        assert_eq!(answer.header("x-origin"), Some("good"), "{on}");
        let line = line_of(&edge, "/");
        assert_eq!(outcomes(&line), [outcome, "ok"], "{on}");
        assert_eq!((&line["tries"], &line["error"]), (&2.into(), &Value::Null), "{on}");
        assert_eq!(retries(&edge), 1.0, "{on}");

        let edge = edge_of(bad, &good, &format!("retries = {{ on = [{other}], {limit} }}"));
        edge.client().get("/").send().assert_status(status);
        assert_eq!(retries(&edge), 0.0, "{on}");
    }
}

#[test]
fn the_last_answer_is_passed_on_and_each_is_told_to_its_endpoint() {
    for protocol in ["http1", "http2"] {
        let busy = |name: &str| {
            Origin::builder().name(name).status(503).header("retry-after", "7").body("busy").start()
        };
        let (first, second) = (busy("first"), busy("second"));
        let settings = format!("protocol = \"{protocol}\"\nretries = {{ on = [503] }}");
        let edge = edge_of(&first, &second, &settings);
        let answer = edge.client().get("/").send().assert_status(503);
        assert_eq!(answer.header("x-origin"), Some("second"));
        assert_eq!((answer.header("retry-after"), answer.text().as_str()), (Some("7"), "busy"));
        for origin in [&first, &second] {
            assert_eq!(origin.requests(), 1);
            let address = origin.address();
            let labels = [("endpoint", address.as_str()), ("fault", "server_error")];
            assert_eventually!(edge.metric("tidegate_endpoint_faults_total", labels) == 1.0);
        }
        let line = line_of(&edge, "/");
        assert_eq!(outcomes(&line), ["upstream_status", "ok"]);
        assert_eq!((&line["status"], &line["error"]), (&503.into(), &Value::Null));
    }
}

#[test]
fn what_was_sent_is_repeated_only_with_methods_that_say_so() {
    let good = named("good");
    let resetting = RawOrigin::playing(vec![Step::ReadBody(3), Step::Reset]);
    let busy = Origin::answering(503);
    for bad in [&resetting as &dyn Display, &busy] {
        let on = "on = [\"reset\", 503]";
        let edge = edge_of(bad, &good, &format!("retries = {{ {on} }}"));
        let before = good.requests();
        let status = edge.client().post("/").body("abc").send().status;
        assert!(status == 502 || status == 503, "{status}");
        assert_eq!(good.requests(), before, "it was sent twice");

        let methods = "methods = [\"GET\", \"POST\"]";
        let edge = edge_of(bad, &good, &format!("retries = {{ {on}, {methods} }}"));
        edge.client().post("/").body("abc").send().assert_status(200);
        assert_eq!(good.last_request().body, "abc");
    }
}

#[test]
fn a_routes_settings_go_before_its_upstreams() {
    let (good, busy) = (named("good"), Origin::answering(503));
    let edge = Edge::start(
        &[&busy, &good],
        r#"
        [upstreams.api]
        balance = "round-robin"
        endpoints = ["{0}", "{1}"]
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http"]
        [sites.test.routes.plain]
        path = "/plain"
        upstream = "api"
        [sites.test.routes.again]
        path = "/again"
        upstream = "api"
        retries = { on = [503] }
        "#,
    );
    edge.client().get("/plain").send().assert_status(503);
    edge.client().get("/again").send().assert_status(200);
    edge.client().get("/again").send().assert_status(200);
    assert_eq!(busy.requests(), 2);
}

#[test]
fn bodies_over_64_kib_are_not_replayed_and_smaller_ones_are_whole() {
    let good = named("good");
    for (length, status) in [(60 << 10, 200), (200 << 10, 502)] {
        let resetting = RawOrigin::playing(vec![Step::ReadBody(length), Step::Reset]);
        let edge = edge_of(&resetting, &good, "retries = { methods = [\"PUT\"] }");
        let before = good.requests();
        let body: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let sent = edge.client().request("PUT", "/").body(body.clone()).send();
        sent.assert_status(status);
        assert_eq!(good.requests() - before, u64::from(status == 200), "{length}");
        if status == 200 {
            let seen = good.last_request();
            assert_eq!((seen.body_length, &seen.body[..]), (length as u64, &body[..]));
        }
    }
}

#[test]
fn a_hung_endpoint_costs_no_more_than_the_time_of_a_try() {
    for protocol in ["http1", "http2"] {
        let (hung, good) = (named("hung"), named("good"));
        hung.hang();
        let settings =
            format!("protocol = \"{protocol}\"\nretries = {{ per_try_timeout = \"300ms\" }}");
        let edge = edge_of(&hung, &good, &settings);
        let answer = edge.client().timeout(Duration::from_secs(20)).get("/").send();
        let took = answer.elapsed;
        assert_eq!(answer.assert_status(200).header("x-origin"), Some("good"), "{protocol}");
        assert!(took >= Duration::from_millis(300), "{protocol}: {took:?}");
        assert!(took < Duration::from_secs(10), "{protocol}: {took:?}");
        let line = line_of(&edge, "/");
        assert_eq!(outcomes(&line), ["upstream_timeout", "ok"], "{protocol}");
        let address = hung.address();
        let labels = [("endpoint", address.as_str()), ("fault", "timeout")];
        assert_eventually!(edge.metric("tidegate_endpoint_faults_total", labels) == 1.0);
    }
}

#[test]
fn the_time_of_a_try_ends_with_the_head_of_its_answer() {
    let slow = Origin::builder().paced(50_000, 5_000, Duration::from_millis(80)).start();
    let text =
        "[upstreams.api]\nendpoints = [\"{0}\"]\nretries = { per_try_timeout = \"400ms\" }\n";
    let edge = Edge::start(&[&slow], text);
    let answer = edge.client().get("/").send().assert_status(200);
    assert!(answer.elapsed > Duration::from_millis(600), "{:?}", answer.elapsed);
    assert_eq!(answer.body.len(), 50_000);
}

#[test]
fn the_total_time_holds_for_all_tries_and_pauses() {
    for protocol in ["http1", "http2"] {
        let (one, other) = (named("one"), named("other"));
        one.hang();
        other.hang();
        let settings = format!(
            "protocol = \"{protocol}\"\ntimeouts = {{ total = \"1s\" }}\n\
             retries = {{ tries = 4, per_try_timeout = \"400ms\" }}"
        );
        let edge = edge_of(&one, &other, &settings);
        let start = Instant::now();
        edge.client().timeout(Duration::from_secs(30)).get("/").send().assert_status(504);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{protocol}: {took:?}");
        let line = line_of(&edge, "/");
        assert!((2..=3).contains(&line["tries"].as_u64().unwrap()), "{line}");
        assert!(line["upstream_duration_ms"].as_f64().unwrap() < 1_900.0, "{line}");
    }
    // Nobody waits for a try that could not end in time.
    let resetting = RawOrigin::playing(vec![Step::Reset]);
    let settings =
        "timeouts = { total = \"1s\" }\nretries = { backoff = \"10s\", max_backoff = \"10s\" }";
    let edge = Edge::start(
        &[&resetting],
        &format!("[upstreams.api]\nendpoints = [\"{{0}}\"]\n{settings}\n"),
    );
    for _ in 0..6 {
        let answer = edge.client().timeout(Duration::from_secs(30)).get("/").send();
        assert!(answer.elapsed < Duration::from_secs(4), "{:?}", answer.elapsed);
        assert!([502, 504].contains(&answer.status), "{}", answer.status);
    }
}

#[test]
fn retries_do_not_multiply_an_outage_and_a_reload_gives_no_new_budget() {
    let resetting = [(); 2].map(|()| RawOrigin::playing(vec![Step::Reset]));
    let text = |idle: &str| {
        format!(
            "[upstreams.api]\nendpoints = [\"{{0}}\", \"{{1}}\"]\npool_idle = \"{idle}\"\n\
             retries = {{ tries = 4, backoff = \"1ms\", max_backoff = \"1ms\" }}\n"
        )
    };
    let edge = Edge::start(&[&resetting[0], &resetting[1]], &text("20s"));
    let start = Instant::now();
    edge.client().get("/").times(100).all_status(502);
    edge.reload_with(&text("10s")).expect("a good configuration");
    edge.client().get("/").times(100).all_status(502);
    let tries = resetting.iter().map(RawOrigin::connections).sum::<usize>() as f64;
    // A fifth of the requests, and the floor: three a second, of which ten seconds are saved up.
    let floor = 3.0 * (10.0 + start.elapsed().as_secs_f64());
    assert!(tries <= 200.0 * 1.2 + floor, "{tries}, floor {floor}");
    assert!(tries >= 200.0 * 1.2 - 1.0 + 30.0, "{tries}: the budget is there to be used");
    let refused = edge.metric("tidegate_upstream_retries_refused_total", [("upstream", "api")]);
    assert!(refused >= 100.0, "{refused}");
    edge.client().get("/last").send().assert_status(502);
    let line = line_of(&edge, "/last");
    assert_eq!(line["error"], "upstream_closed", "the request's own failure");
    assert_eq!(line["detail"], "not tried again: the retry budget is spent");
}

#[test]
fn endpoints_are_told_the_number_of_the_try_and_clients_can_not_lie_about_it() {
    for protocol in ["http1", "http2"] {
        let (first, second) = (named("first"), named("second"));
        first.set_status(503);
        let edge = Edge::start(
            &[&first, &second],
            &format!(
                "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[upstreams.api]\n\
                 balance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\"]\n\
                 protocol = \"{protocol}\"\nretries = {{ on = [503] }}\n"
            ),
        );
        let client = edge.client();
        let request = client.get("/").header("x-attempt-count", "7").header("x_attempt_count", "7");
        request.send().assert_status(200);
        let told = |origin: &Origin, name| origin.last_request().header_values(name).join(",");
        assert_eq!(told(&first, "x-attempt-count"), "", "{protocol}");
        assert_eq!(told(&second, "x-attempt-count"), "2", "{protocol}");
        assert_eq!(told(&first, "x_attempt_count") + &told(&second, "x_attempt_count"), "");
    }
}

#[test]
fn nothing_of_a_refused_answer_is_read_as_the_next_one() {
    // Every other answer is refused while most of its body is still to come, and looks like an answer itself.
    let turn = AtomicUsize::new(0);
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged".repeat(2_000);
    let mixed = RecordingOrigin::answering(move |seen| {
        let head = |status: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
        };
        let bytes = if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            head("503 Busy", forged.len()) + &forged
        } else {
            head("200 OK", seen.target.len()) + &seen.target
        };
        Reply { bytes: bytes.into_bytes(), ..Reply::default() }
    });
    let echoing = RecordingOrigin::answering(|seen| {
        let target = &seen.target;
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
        Reply { bytes: bytes.into_bytes(), ..Reply::default() }
    });
    let settings = "retries = { on = [503], budget = { share = \"100%\" } }";
    let edge = edge_of(&mixed, &echoing, settings);
    for n in 0..200 {
        let target = format!("/{n}");
        let answer = edge.client().get(&target).send().assert_status(200);
        assert_eq!(answer.text(), target);
    }
    assert!(retries(&edge) >= 20.0);
}

#[test]
fn nothing_of_a_refused_stream_is_read_as_the_next_one() {
    let busy = Origin::builder().http2().name("busy").status(503).download(200_000).start();
    let good = Origin::builder().http2().name("good").body("good").start();
    let settings = "protocol = \"http2\"\nretries = { on = [503], budget = { share = \"100%\" } }";
    let edge = edge_of(&busy, &good, settings);
    for _ in 0..100 {
        assert_eq!(edge.client().get("/").send().assert_status(200).text(), "good");
    }
    let refused = busy.requests();
    assert!(refused >= 50, "{refused}");
    busy.set_status(200);
    for answer in edge.client().get("/").times(40).all_status(200).iter() {
        let length = if answer.header("x-origin") == Some("busy") { 200_000 } else { 4 };
        assert_eq!(answer.body.len(), length);
    }
    assert!(busy.requests() > refused);
    assert!(busy.connections() < 10, "a stream ends, not its connection: {}", busy.connections());
}

#[test]
fn with_default_settings_nothing_is_tried_again_on_a_status_or_a_silence() {
    let (busy, good) = (Origin::answering(500), named("good"));
    let edge = edge_of(&busy, &good, "timeouts = { first_byte = \"300ms\" }");
    edge.client().get("/").send().assert_status(500);
    edge.client().get("/").send().assert_status(200);
    busy.hang();
    edge.client().get("/").send().assert_status(504);
    assert_eq!(retries(&edge), 0.0);
}
