//! Active health checks: who gets traffic, and what an edge says when nobody may.

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Edge, Origin},
};

/// Two endpoints with a quick check.
const CHECKED: &str = r#"
    [upstreams.api]
    balance = "round-robin"
    endpoints = ["{0}", "{1}"]
    health_check = { path = "/healthz", interval = "50ms", timeout = "200ms", unhealthy_after = 2, healthy_after = 2 }
"#;

fn healthy(edge: &Edge, origin: &Origin) -> f64 {
    edge.metric_if_any("tidegate_endpoint_healthy", origin).unwrap_or(f64::NAN)
}

fn endpoint<'a>(status: &'a Value, origin: &Origin) -> &'a Value {
    let endpoints = status["upstreams"][0]["endpoints"].as_array().expect("endpoints");
    endpoints.iter().find(|endpoint| endpoint["address"] == origin.address()).expect("the endpoint")
}

#[test]
fn an_unhealthy_endpoint_gets_no_traffic_until_it_is_healthy_again() {
    let (good, bad) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(&[&good, &bad], CHECKED);
    assert_eventually!(healthy(&edge, &good) == 1.0 && healthy(&edge, &bad) == 1.0);
    edge.client().get("/").times(10).all_status(200);
    assert!(good.requests() > 0 && bad.requests() > 0);
    bad.set_healthy(false);
    assert_eventually!(healthy(&edge, &bad) == 0.0);
    let status = edge.status();
    assert_eq!(endpoint(&status, &bad)["health"], "unhealthy");
    assert!(
        endpoint(&status, &bad)["last_error"].as_str().is_some_and(|text| text.contains("503"))
    );
    let before = bad.requests();
    edge.client().get("/").times(20).all_status(200);
    assert_eq!(bad.requests(), before);
    bad.set_healthy(true);
    assert_eventually!(healthy(&edge, &bad) == 1.0);
    edge.client().get("/").times(10).all_status(200);
    assert!(bad.requests() > before);
}

#[test]
fn a_dead_or_silent_endpoint_is_found_too() {
    for fault in [Origin::stop, Origin::hang] {
        let (good, bad) = (Origin::answering(200), Origin::answering(200));
        let edge = Edge::start(&[&good, &bad], CHECKED);
        assert_eventually!(healthy(&edge, &bad) == 1.0);
        fault(&bad);
        assert_eventually!(healthy(&edge, &bad) == 0.0);
        edge.client().get("/").times(10).all_status(200);
        assert_eq!((good.requests(), bad.requests()), (10, 0));
        bad.resume();
        bad.restart();
        assert_eventually!(healthy(&edge, &bad) == 1.0);
    }
}

#[test]
fn when_none_is_healthy_the_answer_is_503_with_retry_after_and_the_edge_stays_ready() {
    let (a, b) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(&[&a, &b], CHECKED);
    a.set_healthy(false);
    b.set_healthy(false);
    assert_eventually!(healthy(&edge, &a) == 0.0 && healthy(&edge, &b) == 0.0);
    let before = a.requests() + b.requests();
    let response = edge.client().get("/").send().assert_status(503);
    assert!(response.header("retry-after").is_some_and(|text| text.parse::<u32>().is_ok()));
    assert_eq!(a.requests() + b.requests(), before);
    assert_eventually!(edge.admin().get("/ready").send().status == 200);
    edge.admin().get("/live").send().assert_status(200);
    a.set_healthy(true);
    assert_eventually!(edge.client().get("/").send().status == 200);
}

#[test]
fn an_endpoint_that_was_never_healthy_gets_no_request() {
    let (good, bad) = (Origin::answering(200), Origin::answering(500));
    bad.set_healthy(false);
    let edge = Edge::start(&[&good, &bad], CHECKED);
    assert_eventually!(edge.admin().get("/ready").send().status == 200);
    edge.client().get("/").times(20).all_status(200);
    assert_eq!(bad.requests(), 0);
}

#[test]
fn a_check_looks_at_status_body_host_and_port() {
    let probed = Origin::builder().body("all fine").start();
    let serving = Origin::answering(200);
    let text = |check: &str| {
        format!(
            "[upstreams.api]\nendpoints = [\"{{0}}\"]\nhealth_check = {{ interval = \"50ms\", {check} }}\n"
        )
    };
    let port = probed.port();
    for (check, expected) in [
        (
            format!(
                "path = \"/up\", port = {port}, expect_body = \"fine\", host = \"check.example\""
            ),
            1.0,
        ),
        (format!("path = \"/up\", port = {port}, expect_body = \"broken\""), 0.0),
        (format!("path = \"/up\", port = {port}, expect_status = \"204\""), 0.0),
        (format!("path = \"/up\", port = {port}, expect_status = [204, \"200-299\"]"), 1.0),
        (format!("kind = \"tcp\", port = {port}"), 1.0),
    ] {
        let edge = Edge::start(&[&serving], &text(&check));
        assert_eventually!(healthy(&edge, &serving) == expected);
        if check.contains("check.example") {
            let seen = probed.last_request();
            assert_eq!((seen.path.as_str(), seen.host()), ("/up", Some("check.example")));
        }
    }
    assert_eq!(serving.probes(), 0);
}

#[test]
fn a_check_by_connect_alone_sees_a_dead_endpoint() {
    let (good, bad) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(
        &[&good, &bad],
        "[upstreams.api]\nendpoints = [\"{0}\", \"{1}\"]\n\
         health_check = { kind = \"tcp\", interval = \"50ms\", unhealthy_after = 1 }\n",
    );
    assert_eventually!(healthy(&edge, &bad) == 1.0);
    bad.stop();
    assert_eventually!(healthy(&edge, &bad) == 0.0);
    assert_eq!((good.requests(), good.probes()), (0, 0));
}

#[test]
fn a_reload_keeps_what_is_known_and_never_makes_a_503() {
    let (good, bad, new) = (Origin::answering(200), Origin::answering(200), Origin::answering(200));
    bad.set_healthy(false);
    let text = |weight: u32, endpoints: &str| {
        format!(
            "[upstreams.api]\nendpoints = [{{ address = \"{{0}}\", weight = {weight} }}, {endpoints}]\n\
             health_check = {{ path = \"/healthz\", interval = \"50ms\" }}\n"
        )
    };
    let edge = Edge::start(&[&good, &bad, &new], &text(1, "\"{1}\""));
    assert_eventually!(healthy(&edge, &bad) == 0.0);
    let load = edge.client().get("/").load(4).start();
    for n in 2..8 {
        let endpoints = if n % 2 == 0 { "\"{1}\", \"{2}\"" } else { "\"{1}\"" };
        edge.reload_with(&text(n, endpoints)).unwrap();
        assert!(healthy(&edge, &bad) == 0.0, "reload {n}");
    }
    let report = load.stop().assert_all_ok();
    assert!(report.total() > 20, "{report}");
    assert_eq!(bad.requests(), 0);
    assert!(new.requests() > 0);
}

#[test]
fn probes_come_at_their_interval_and_not_with_the_traffic() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        "[upstreams.api]\nendpoints = [\"{0}\"]\nhealth_check = { path = \"/healthz\", interval = \"60s\" }\n",
    );
    assert_eventually!(origin.probes() == 1);
    edge.client().get("/").times(30).all_status(200);
    edge.reload().unwrap();
    assert!(origin.probes() <= 2, "{} probes", origin.probes());
}
