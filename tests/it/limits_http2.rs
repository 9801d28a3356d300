//! What a client of HTTP/2 may do: each flood ends its connection after its number, with a reason that is counted, and
//! what honest clients do is no flood.

use std::time::Duration;

use crate::{
    assert_eventually,
    harness::{
        Edge, FailureKind, Origin, RawHttp2,
        client::raw_http2::{INITIAL_WINDOW_SIZE, flag, frame, kind},
    },
};

const SOON: Duration = Duration::from_secs(10);
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

/// A listener for prior knowledge with these limits.
fn edge(origin: &Origin, limits: &str) -> Edge {
    Edge::start(
        &[origin],
        &format!("[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\n{limits}\n"),
    )
}

fn reached(edge: &Edge, reason: &str) -> f64 {
    edge.metric("tidegate_limits_reached_total", [("reason", reason)])
}

/// Sends `piece` until the edge has had enough: at most `most` times.
fn flood(client: &mut RawHttp2, most: usize, mut piece: impl FnMut(&mut RawHttp2) -> Vec<u8>) {
    for _ in 0..most {
        let bytes = piece(client);
        if client.try_send(bytes).is_err() {
            return;
        }
    }
}

#[test]
fn a_rapid_reset_ends_the_connection_and_no_other() {
    let origin = Origin::builder().delay(Duration::from_millis(50)).start();
    let edge = edge(&origin, "http2 = { max_resets = 20 }");
    let neighbour = edge.client().http2();
    neighbour.get("/").send().assert_status(200);
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    flood(&mut client, 100, |client| {
        let (head, stream) = (client.head("GET", "/"), client.stream());
        let mut bytes = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head);
        bytes.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        bytes
    });
    assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM));
    // The library may be first: it takes twenty resets of streams that nobody has looked at.
    assert!(reached(&edge, "resets") + reached(&edge, "calm") >= 1.0);
    // At most its number, and those that were read in one go, came through.
    assert!(origin.requests() <= 22, "{}", origin.requests());
    neighbour.get("/").send().assert_status(200);
}

#[test]
fn resets_over_time_end_the_connection_too() {
    let origin = Origin::builder().delay(Duration::from_mins(1)).start();
    let edge = edge(&origin, "http2 = { max_resets = 5 }");
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    for n in 1..=6 {
        let stream = client.get("/");
        // Accepted and on its way: not the library's own count.
        assert_eventually!(origin.requests() >= n, within SOON);
        client.send(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(reached(&edge, "resets"), 1.0);
    assert_eventually!(origin.in_flight() == 0);
}

#[test]
fn floods_of_frames_without_a_request_end_the_connection() {
    let origin = Origin::answering(200);
    let edge = edge(&origin, "http2 = { max_settings = 10, max_control_frames = 50 }");
    for (reason, bytes) in [
        ("ping", frame(kind::PING, 0, 0, &[7; 8])),
        ("settings", frame(kind::SETTINGS, 0, 0, &[])),
        ("window_update", frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("other_frames", frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 0])),
        ("other_frames", frame(0x55, 0, 0, b"unknown")),
    ] {
        let before = reached(&edge, reason);
        let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
        flood(&mut client, 200, |_| bytes.clone());
        assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM), "{reason}");
        assert_eq!(reached(&edge, reason), before + 1.0, "{reason}");
    }
    assert_eventually!(edge.metric("tidegate_connections", [("listener", "http")]) == 0.0);
    edge.client().http2().get("/").send().assert_status(200);
}

#[test]
fn a_head_in_too_many_pieces_ends_the_connection() {
    let origin = Origin::answering(200);
    let edge = edge(&origin, "");
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let (head, stream) = (client.head("GET", "/"), client.stream());
    client.send(kind::HEADERS, flag::END_STREAM, stream, &head);
    flood(&mut client, 100, |_| frame(kind::CONTINUATION, 0, stream, &[]));
    assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(reached(&edge, "continuation"), 1.0);
    assert_eq!(origin.requests(), 0);
    // In a few pieces it is a head like any other.
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let (head, stream) = (client.head("GET", "/"), client.stream());
    client.send(kind::HEADERS, flag::END_STREAM, stream, &head[..3]);
    client.send(kind::CONTINUATION, 0, stream, &head[3..5]);
    client.send(kind::CONTINUATION, flag::END_HEADERS, stream, &head[5..]);
    client.wait_for(kind::HEADERS, stream, SOON).unwrap();
}

#[test]
fn what_the_library_refuses_is_counted() {
    let origin = Origin::answering(200);
    let edge = edge(&origin, "");
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    // A frame of a stream that was never opened.
    client.send(kind::DATA, 0, 1, b"lost");
    assert_eq!(client.wait_end(SOON).unwrap(), Some(1));
    assert_eventually!(reached(&edge, "protocol") == 1.0);
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let stream = client.post("/");
    flood(&mut client, 200, |_| frame(kind::DATA, 0, stream, &[]));
    assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM));
    assert_eventually!(reached(&edge, "calm") == 1.0);
}

#[test]
fn more_streams_than_allowed_are_refused_and_a_flood_of_them_ends_the_connection() {
    let origin = Origin::builder().delay(Duration::from_mins(1)).start();
    let edge = edge(&origin, "max_streams = 3\nhttp2 = { max_resets = 8 }");
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    for _ in 0..3 {
        client.get("/");
    }
    assert_eventually!(origin.requests() == 3, within SOON);
    let fourth = client.get("/");
    let reset = client.wait_for(kind::RST_STREAM, fourth, SOON).unwrap();
    assert_eq!(reset.code(), Some(REFUSED_STREAM));
    assert_eventually!(reached(&edge, "streams") == 1.0);
    flood(&mut client, 50, |client| {
        let (head, stream) = (client.head("GET", "/"), client.stream());
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head)
    });
    assert_eq!(client.wait_end(SOON).unwrap(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(reached(&edge, "resets"), 1.0);
}

#[test]
fn streams_without_a_window_are_ended_and_then_their_connection() {
    let origin = Origin::builder().download(1 << 20).start();
    let edge = edge(
        &origin,
        "http2 = { max_stalled_streams = 3 }\ntimeouts = { write_stall = \"300ms\" }",
    );
    let address = edge.address("http");
    let mut client = RawHttp2::connect_with(address, "127.0.0.1", &[(INITIAL_WINDOW_SIZE, 0)]);
    for _ in 0..2 {
        let stream = client.get("/");
        client.wait_for(kind::RST_STREAM, stream, SOON).unwrap();
    }
    assert_eventually!(reached(&edge, "write_stall") == 2.0);
    assert_eq!(reached(&edge, "zero_window"), 0.0);
    client.get("/");
    client.wait_end(SOON).unwrap();
    assert_eq!(reached(&edge, "zero_window"), 1.0);
    assert_eventually!(origin.in_flight() == 0);
}

#[test]
fn a_client_that_dribbles_its_window_is_cut() {
    let origin = Origin::builder().paced(4 << 20, 512, Duration::from_millis(1)).start();
    let edge = edge(&origin, "min_send_rate = \"64KiB\"");
    let address = edge.address("http");
    let mut client = RawHttp2::connect_with(address, "127.0.0.1", &[(INITIAL_WINDOW_SIZE, 0)]);
    let stream = client.get("/");
    client.wait_for(kind::HEADERS, stream, SOON).unwrap();
    // About 5 KiB a second: pieces are taken whole, one after the other.
    let mut code = None;
    for _ in 0..300 {
        drop(client.try_send(frame(kind::WINDOW_UPDATE, 0, stream, &512_u32.to_be_bytes())));
        match client.next(Duration::from_millis(500)) {
            Ok(frame) if frame.kind == kind::RST_STREAM => {
                code = frame.code();
                break;
            }
            Ok(_) => std::thread::sleep(Duration::from_millis(100)),
            Err(failure) if failure.kind == FailureKind::Timeout => {}
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(code.is_some(), "it was never cut");
    assert_eq!(reached(&edge, "send_rate"), 1.0);
}

#[test]
fn honest_clients_are_no_flood() {
    let origin = Origin::builder().download(32 << 20).start();
    let edge = edge(&origin, "http2 = { max_control_frames = 50 }");
    // A download of thousands of frames, with a window update for each two of them.
    let client = edge.client().http2();
    client.get("/").send().assert_status(200);
    assert_eq!(reached(&edge, "window_update"), 0.0);
    let echo = Origin::builder().echo().start();
    let edge = Edge::start(&[&echo], "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\n");
    let body = vec![b'x'; 3 << 20];
    let client = edge.client().http2();
    let answer = client.post("/").body(body.clone()).send().assert_status(200);
    assert!(answer.body == body);
    assert_eq!(edge.metric_if_any("tidegate_limits_reached_total", ()).unwrap_or(0.0), 0.0);
}
