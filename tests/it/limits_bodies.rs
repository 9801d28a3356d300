//! Request bodies that are silent or trickle, and answers that are taken too slowly, on both protocols.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{
        Edge, FailureKind, Origin, RawHttp2, RawOrigin,
        client::raw_http2::{flag, frame, kind},
        origin::Step,
    },
};

const SOON: Duration = Duration::from_secs(10);
const POST: &str = "POST /up HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nstart";

fn edge(origins: &[&dyn std::fmt::Display], listener: &str, more: &str) -> Edge {
    Edge::start(
        origins,
        &format!("[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\n{listener}\n{more}\n"),
    )
}

fn reached(edge: &Edge, reason: &str) -> f64 {
    edge.metric("tidegate_limits_reached_total", [("reason", reason)])
}

#[test]
fn a_silent_body_is_ended_on_both_protocols_and_logged() {
    let origin = Origin::answering(200);
    let http2 = Origin::builder().http2().start();
    for (origin, upstream) in [
        (&origin, "[upstreams.a]\nendpoints = [\"{0}\"]"),
        (&http2, "[upstreams.a]\nendpoints = [\"{0}\"]\nprotocol = \"http2\""),
    ] {
        let edge = edge(&[origin], "timeouts = { body_idle = \"700ms\" }", upstream);
        let start = Instant::now();
        let mut raw = edge.raw();
        raw.send(POST);
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 408 "));
        assert!(raw.is_closed_within(SOON));
        let took = start.elapsed();
        assert!((600..4_000).contains(&took.as_millis()), "{took:?}");

        let start = Instant::now();
        let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
        let stream = client.post("/up");
        client.send(kind::DATA, 0, stream, b"start");
        client.wait_for(kind::RST_STREAM, stream, SOON).unwrap();
        let took = start.elapsed();
        assert!((600..4_000).contains(&took.as_millis()), "{took:?}");
        // The connection and its other streams go on.
        let other = client.get("/");
        client.wait_for(kind::HEADERS, other, SOON).unwrap();

        assert_eventually!(reached(&edge, "body_idle") == 2.0);
        assert_eventually!(origin.in_flight() == 0);
        let in_flight = || edge.metric("tidegate_requests_in_flight", ());
        assert_eventually!(in_flight() == 0.0);
        let cut = || {
            let log = edge.access_log();
            log.iter().filter(|line| line["error"] == "client_timeout").count()
        };
        assert_eventually!(cut() == 2);
    }
}

#[test]
fn a_trickling_body_is_ended_on_both_protocols() {
    let origin = Origin::answering(200);
    let edge = edge(&[&origin], "min_body_rate = \"1KiB\"", "");
    let mut raw = edge.raw();
    raw.send(POST);
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let stream = client.post("/up");
    let start = Instant::now();
    while reached(&edge, "body_rate") < 2.0 && start.elapsed() < Duration::from_secs(25) {
        // Never silent for long, and never fast. Once they are ended, nobody takes it.
        drop(raw.try_send("x"));
        drop(client.try_send(frame(kind::DATA, 0, stream, b"x")));
        thread::sleep(Duration::from_millis(250));
    }
    // Five seconds of grace, and not long after.
    let took = start.elapsed();
    assert!((Duration::from_millis(4_500)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 408 "));
    let head = client.wait_for(kind::HEADERS, stream, SOON).unwrap();
    // 408, not in the static table: a literal.
    assert!(head.payload.windows(3).any(|text| text == b"408") || !head.payload.is_empty());
    assert_eventually!(origin.in_flight() == 0);
}

#[test]
fn a_slow_endpoint_is_not_the_clients_fault() {
    const LENGTH: usize = 8 << 20;
    // It takes nothing of the body for longer than a client may be silent.
    let origin = RawOrigin::playing(vec![
        Step::Pause(Duration::from_secs(3)),
        Step::ReadBody(LENGTH),
        Step::Write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into()),
    ]);
    let edge = edge(&[&origin], "timeouts = { body_idle = \"1s\" }\nmin_body_rate = \"1MiB\"", "");
    let body = vec![b'x'; LENGTH];
    for client in [edge.client(), edge.client().http2()] {
        client.post("/up").body(body.clone()).send().assert_status(200);
    }
    assert_eq!(reached(&edge, "body_idle") + reached(&edge, "body_rate"), 0.0);
}

#[test]
fn a_steady_upload_a_web_socket_and_a_grpc_stream_may_be_slow() {
    let origin = Origin::builder().echo().start();
    let socket = Origin::builder().web_socket().start();
    let grpc = Origin::builder().http2().echo().start();
    let edge = edge(
        &[&origin, &socket, &grpc],
        "timeouts = { body_idle = \"800ms\" }\nmin_body_rate = \"1KiB\"",
        r#"
        [upstreams.grpc]
        endpoints = ["{2}"]
        protocol = "http2"
        [sites.a]
        hosts = ["127.0.0.1"]
        [sites.a.routes]
        up = { path = "/up", endpoints = ["{0}"] }
        ws = { path = "/ws", endpoints = ["{1}"] }
        grpc = { path = "/grpc", upstream = "grpc" }
        "#,
    );
    let mut web_socket = edge.client().web_socket("/ws").unwrap();
    assert_eq!(web_socket.echo("before"), "before");
    let mut stream = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let mut head = stream.head("POST", "/grpc");
    // content-type, 31 in the static table.
    head.extend([0x0f, 0x10, 16]);
    head.extend(b"application/grpc");
    let number = stream.stream();
    stream.send(kind::HEADERS, flag::END_HEADERS, number, &head);
    let upload = || {
        for client in [edge.client(), edge.client().http2()] {
            // About 4 KiB a second, for two seconds.
            let pace = Duration::from_millis(250);
            client.post("/up").chunked(8 << 10, 1 << 10, pace).send().assert_status(200);
        }
    };
    upload();
    assert_eq!(web_socket.echo("after"), "after");
    stream.send(kind::DATA, flag::END_STREAM, number, b"message");
    stream.wait_for(kind::HEADERS, number, SOON).unwrap();
    assert_eq!(edge.metric_if_any("tidegate_limits_reached_total", ()).unwrap_or(0.0), 0.0);
}

#[test]
fn a_reader_that_trickles_is_cut_on_both_protocols() {
    let origin = Origin::builder().download(64 << 20).start();
    let edge = edge(&[&origin], "timeouts = { write_stall = \"2s\" }", "");
    let mut raw = edge.raw();
    raw.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").read_head(SOON).unwrap();
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let stream = client.get("/");
    let start = Instant::now();
    // A hundred bytes now and then, and a window of a hundred more.
    let mut cut = (false, false);
    while !(cut.0 && cut.1) && start.elapsed() < Duration::from_secs(30) {
        cut.0 |= raw
            .read_exactly(100, Duration::from_millis(200))
            .is_err_and(|failure| failure.kind != FailureKind::Timeout)
            || edge.metric("tidegate_connections", ()) < 2.0;
        drop(client.try_send(frame(kind::WINDOW_UPDATE, 0, stream, &100_u32.to_be_bytes())));
        cut.1 |= client
            .next(Duration::from_millis(200))
            .is_ok_and(|frame| frame.kind == kind::RST_STREAM);
    }
    assert!(cut.0 && cut.1, "{cut:?}");
    assert!(reached(&edge, "write_stall") >= 2.0);
    assert_eventually!(origin.in_flight() == 0);
}
