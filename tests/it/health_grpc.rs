//! Health checks by `grpc.health.v1`, asked of tonic's own health service.

use serde_json::Value;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    assert_eventually,
    harness::{Authority, Edge, Origin, block_on},
};

fn set(reporter: &HealthReporter, service: &str, status: ServingStatus) {
    block_on(reporter.set_service_status(service, status));
}

fn first(edge: &Edge) -> Value {
    edge.status()["upstreams"][0]["endpoints"][0].clone()
}

/// The health of the only endpoint, once it is known.
fn health(edge: &Edge) -> String {
    first(edge)["health"].as_str().expect("a word").to_owned()
}

fn last_error(edge: &Edge) -> String {
    first(edge)["last_error"].as_str().unwrap_or_default().to_owned()
}

fn checked(upstream: &str, check: &str) -> String {
    format!(
        "[upstreams.api]\nendpoints = [\"{{0}}\"]\n{upstream}\n\
         health_check = {{ {check}, interval = \"50ms\", unhealthy_after = 1, healthy_after = 1 }}\n"
    )
}

#[test]
fn only_serving_is_healthy_and_the_rest_is_told_in_words() {
    let reporter = HealthReporter::new();
    let origin = Origin::builder().http2().grpc_health(&reporter).start();
    let check = "grpc = { service = \"shop.Cart\" }";
    let edge = Edge::start(&[&origin], &checked("protocol = \"http2\"", check));
    assert_eventually!(health(&edge) == "unhealthy");
    assert!(last_error(&edge).contains("gRPC status 5 NOT_FOUND"), "{}", last_error(&edge));
    for (status, word) in
        [(ServingStatus::NotServing, "NOT_SERVING"), (ServingStatus::Unknown, "UNKNOWN")]
    {
        set(&reporter, "shop.Cart", ServingStatus::Serving);
        assert_eventually!(health(&edge) == "healthy");
        edge.client().get("/").send().assert_status(200);
        set(&reporter, "shop.Cart", status);
        assert_eventually!(health(&edge) == "unhealthy");
        assert_eq!(last_error(&edge), word);
        edge.client().get("/").send().assert_status(503);
    }
}

#[test]
fn the_whole_server_is_asked_about_over_tls() {
    let authority = Authority::new("test");
    let certificate = authority.issue(&["app.test"]);
    let reporter = HealthReporter::new();
    let origin = Origin::builder().http2().tls(&certificate).grpc_health(&reporter).start();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority.pem()).unwrap();
    let tls = format!("tls = {{ server_name = \"app.test\", ca = {:?} }}", ca.path());
    for protocol in ["http2", "auto"] {
        set(&reporter, "", ServingStatus::Serving);
        let upstream = format!("protocol = \"{protocol}\"\n{tls}");
        let edge = Edge::start(&[&origin], &checked(&upstream, "grpc = {}"));
        assert_eventually!(health(&edge) == "healthy");
        set(&reporter, "", ServingStatus::NotServing);
        assert_eventually!(health(&edge) == "unhealthy");
    }
}

#[test]
fn a_server_that_is_no_health_service_is_unhealthy_and_says_why() {
    let echo = Origin::builder().http2().grpc().start();
    let edge = Edge::start(&[&echo], &checked("protocol = \"http2\"", "grpc = {}"));
    assert_eventually!(last_error(&edge).contains("does not offer grpc.health.v1"));
    assert_eq!(health(&edge), "unhealthy");
    let plain = Origin::builder().http2().start();
    let edge = Edge::start(&[&plain], &checked("protocol = \"http2\"", "grpc = {}"));
    assert_eventually!(last_error(&edge).contains("content type is not application/grpc"));
    let failing = Origin::builder().http2().status(500).start();
    let edge = Edge::start(&[&failing], &checked("protocol = \"http2\"", "grpc = {}"));
    assert_eventually!(last_error(&edge).contains("status 500"));
    let certificate = Authority::new("test").issue(&["app.test"]);
    let old = Origin::builder().http1().tls(&certificate).start();
    let upstream = "protocol = \"auto\"\ntls = { insecure_skip_verify = true }";
    let edge = Edge::start(&[&old], &checked(upstream, "grpc = {}"));
    assert_eventually!(last_error(&edge).contains("does not speak HTTP/2"));
}

#[test]
fn a_hanging_health_service_is_a_time_out() {
    let reporter = HealthReporter::new();
    let origin = Origin::builder().http2().grpc_health(&reporter).start();
    let edge =
        Edge::start(&[&origin], &checked("protocol = \"http2\"", "grpc = {}, timeout = \"200ms\""));
    assert_eventually!(health(&edge) == "healthy");
    origin.hang();
    assert_eventually!(health(&edge) == "unhealthy");
    assert!(last_error(&edge).contains("no answer within 200ms"), "{}", last_error(&edge));
    origin.resume();
    assert_eventually!(health(&edge) == "healthy");
}

#[test]
fn an_inherited_question_gives_way_to_the_one_that_is_written() {
    let reporter = HealthReporter::new();
    let origin = Origin::builder().http2().grpc_health(&reporter).start();
    let edge = Edge::start(
        &[&origin],
        "[upstream_defaults]\nhealth_check = { path = \"/healthz\", interval = \"50ms\" }\n\
         [upstreams.api]\nendpoints = [\"{0}\"]\nprotocol = \"http2\"\nhealth_check = { grpc = {} }\n",
    );
    assert_eventually!(health(&edge) == "healthy");
    set(&reporter, "", ServingStatus::NotServing);
    // The path would still be answered with 200.
    assert_eventually!(health(&edge) == "unhealthy");
}
