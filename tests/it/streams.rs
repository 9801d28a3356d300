//! Long-lived exchanges: web sockets, server-sent events, gRPC.

use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::Message;

use crate::{
    assert_eventually,
    harness::{
        Client, Edge, Origin, RawOrigin, Tls,
        origin::{EchoMessage, Step},
    },
};

const SOON: Duration = Duration::from_secs(5);
/// A site whose paths `/begun` and `/bare` have an endpoint each.
const TWO: &str = r#"
    [listeners.http]
    address = "127.0.0.1:0"
    [listeners.https]
    address = "127.0.0.1:0"
    tls = true
    [sites.test]
    hosts = ["localhost", "127.0.0.1"]
    listeners = ["http", "https"]
    certificate = { internal = true }
    [sites.test.routes.begun]
    path = "/begun"
    endpoints = ["{0}"]
    [sites.test.routes.bare]
    path = "/bare"
    endpoints = ["{1}"]
    "#;

fn message(text: &str, count: u32, pause_millis: u32) -> EchoMessage {
    EchoMessage { text: text.to_owned(), count, pause_millis }
}

/// Clients of the plain and of the TLS listener.
fn both(edge: &Edge) -> [Client; 2] {
    [edge.client().host("localhost"), edge.tls_client(Tls::any()).host("localhost")]
}

#[test]
fn web_sockets_pass_both_ways_plain_and_over_tls() {
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::start(&[&origin], "");
    for client in both(&edge) {
        let mut socket = client.web_socket("/chat?room=1").unwrap();
        assert_eq!(socket.echo("hello"), "hello");
        let long = "x".repeat(200_000);
        assert_eq!(socket.echo(&long), long);
        socket.send_message(Message::binary(vec![0, 1, 2])).unwrap();
        assert_eq!(socket.next(SOON).unwrap(), Some(Message::binary(vec![0, 1, 2])));
        assert!(origin.last_request().header("x-request-id").is_some());
        assert_eq!(origin.last_request().path, "/chat?room=1");
        socket.close().unwrap();
    }
    assert_eventually!(origin.open_connections() == 0);
}

#[test]
fn when_one_side_of_a_web_socket_goes_the_other_is_told() {
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::start(&[&origin], "");
    let mut socket = edge.client().web_socket("/").unwrap();
    assert_eq!(socket.echo("hello"), "hello");
    drop(socket);
    assert_eventually!(origin.open_connections() == 0);
    let mut socket = edge.client().web_socket("/").unwrap();
    assert_eq!(socket.echo("hello"), "hello");
    origin.stop();
    assert!(socket.wait_closed(SOON).is_ok());
}

#[test]
fn what_is_no_web_socket_upgrade_is_answered_as_a_plain_request() {
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::start(&[&origin], "");
    edge.client().get("/").send().assert_status(426);
    let plain = Origin::answering(200);
    let edge = Edge::start(&[&plain], "");
    assert!(edge.client().web_socket("/").is_err());
    edge.client().get("/").send().assert_status(200);
}

#[test]
fn a_silent_stream_outlives_the_idle_timeout_of_answers() {
    let origin = Origin::builder().web_socket().start();
    let events = Origin::builder().events(Duration::from_millis(700)).start();
    let edge = Edge::start(
        &[&origin, &events],
        r#"
        [upstream_defaults]
        timeouts = { first_byte = "300ms", idle = "300ms" }
        [sites.a]
        hosts = ["127.0.0.1"]
        [sites.a.routes]
        ws = { path = "/ws", endpoints = ["{0}"] }
        events = { path = "/events", endpoints = ["{1}"] }
        "#,
    );
    let client = edge.client();
    let mut socket = client.web_socket("/ws").unwrap();
    assert_eq!(socket.echo("before"), "before");
    let mut stream = client.get("/events").events().unwrap();
    for number in ["1", "2", "3"] {
        assert_eq!(stream.next(SOON).unwrap().expect("an event").data, number);
    }
    // Two intervals of the events have passed, more than twice the idle timeout.
    assert_eq!(socket.echo("after"), "after");
}

#[test]
fn a_stream_that_is_silent_for_its_own_limit_is_ended() {
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::start(
        &[&origin],
        r#"
        [upstreams.ws]
        endpoints = ["{0}"]
        timeouts = { stream_idle = "300ms" }
        "#,
    );
    let mut socket = edge.client().web_socket("/").unwrap();
    assert_eq!(socket.echo("hello"), "hello");
    let start = Instant::now();
    socket.wait_closed(SOON).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eventually!(origin.open_connections() == 0);
}

#[test]
fn events_are_passed_on_as_they_come_in_both_protocols() {
    let origin = Origin::builder().events(Duration::from_mins(1)).start();
    let edge = Edge::start(&[&origin], "");
    let tls = edge.tls_client(Tls::any()).host("localhost");
    for client in [edge.client(), tls.clone(), tls.http2()] {
        // The next event comes in a minute: what is there within seconds was not held back.
        let mut stream = client.get("/").events().unwrap();
        assert_eq!(stream.next(SOON).unwrap().expect("an event").data, "1");
    }
    assert_eventually!(origin.in_flight() == 0 && origin.open_connections() == 0);
    let brief = Origin::builder().some_events(Duration::from_millis(5), 40).start();
    let edge = Edge::start(&[&brief], "");
    let mut stream = edge.client().get("/").events().unwrap();
    for number in 1..=40 {
        assert_eq!(stream.next(SOON).unwrap().expect("an event").data, number.to_string());
    }
    assert_eq!(stream.next(SOON).unwrap(), None);
}

#[test]
fn a_client_that_leaves_an_event_stream_frees_the_endpoint() {
    let origin = Origin::builder().events(Duration::from_millis(20)).start();
    let edge = Edge::start(&[&origin], "[upstreams.api]\nendpoints = [\"{0}\"]\n");
    let in_flight = |edge: &Edge| edge.metric("tidegate_endpoint_requests_in_flight", &origin);
    let mut stream = edge.client().get("/").events().unwrap();
    stream.next(SOON).unwrap().expect("an event");
    assert!(in_flight(&edge) == 1.0);
    drop(stream);
    assert_eventually!(in_flight(&edge) == 0.0);
    assert_eventually!(origin.open_connections() == 0);
}

#[test]
fn paced_downloads_are_not_held_back_until_they_are_whole() {
    let origin = Origin::builder().paced(30_000, 10_000, Duration::from_secs(1)).start();
    let edge = Edge::start(&[&origin], "");
    let start = Instant::now();
    let mut opened = edge.client().get("/").open().unwrap();
    let first = opened.next(SOON).unwrap().expect("a piece");
    assert!(
        !first.is_empty() && start.elapsed() < Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
}

const GRPC: &str = r#"
    [listeners.http]
    address = "127.0.0.1:0"
    h2c = true
    [listeners.https]
    address = "127.0.0.1:0"
    tls = true
    [upstreams.echo]
    endpoints = ["{0}"]
    protocol = "http2"
"#;

#[test]
fn the_beginning_of_an_answer_does_not_wait_for_its_end() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let late = || Step::Pause(Duration::from_mins(1));
    let begun = RawOrigin::playing(vec![Step::Write(format!("{head}begin").into()), late()]);
    let bare = RawOrigin::playing(vec![Step::Write(head.into()), late()]);
    let edge = Edge::start(&[&begun.address(), &bare.address()], TWO);
    for client in both(&edge).map(|client| client.timeout(SOON)) {
        let mut opened = client.get("/begun").open().unwrap();
        assert_eq!(opened.next(SOON).unwrap().unwrap(), "begin");
        assert_eq!(client.get("/bare").open().unwrap().status, 200);
    }
    // Nor where another request waits behind it.
    let mut raw = edge.raw();
    raw.send("GET /bare HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2));
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn grpc_calls_streams_and_trailers_pass_over_tls_and_h2c() {
    let origin = Origin::builder().grpc().http2().start();
    let edge = Edge::start(&[&origin], GRPC);
    for client in both(&edge) {
        let mut grpc = client.grpc().unwrap();
        assert_eq!(grpc.unary("Unary", &message("hi", 7, 0)).unwrap(), message("hi", 7, 0));
        assert_eq!(origin.last_request().header("te"), Some("trailers"));
        // Trailers-only: the status stands in the head.
        let failed = grpc.unary("Fail", &message("no", 0, 0)).unwrap_err();
        assert_eq!((failed.code(), failed.message()), (tonic::Code::FailedPrecondition, "no"));
        let mut answers = grpc.stream(&message("break", 3, 0)).unwrap();
        for count in 1..=3 {
            assert_eq!(answers.next(SOON).unwrap(), Some(message("break", count, 0)));
        }
        assert_eq!(answers.next(SOON).unwrap_err().code(), tonic::Code::DataLoss);
        let mut answers = grpc.stream(&message("fine", 2, 0)).unwrap();
        assert!(answers.next(SOON).unwrap().is_some() && answers.next(SOON).unwrap().is_some());
        assert_eq!(answers.next(SOON).unwrap(), None);
        let chat: Vec<_> = (0..20).map(|count| message("chat", count, 0)).collect();
        assert_eq!(grpc.chat(chat.clone()).unwrap(), chat);
    }
}

#[test]
fn grpc_answers_of_a_stream_come_one_by_one() {
    let origin = Origin::builder().grpc().http2().start();
    let edge = Edge::start(&[&origin], GRPC);
    let mut grpc = edge.tls_client(Tls::any()).host("localhost").grpc().unwrap();
    let mut answers = grpc.stream(&message("slow", 2, 60_000)).unwrap();
    assert_eq!(answers.next(SOON).unwrap(), Some(message("slow", 1, 0)));
    drop(answers);
    assert_eventually!(origin.in_flight() == 0);
}

#[test]
fn a_web_socket_does_not_keep_old_configurations_alive() {
    let origin = Origin::builder().web_socket().start();
    let text = "[upstreams.ws]\nendpoints = [\"{0}\"]\n";
    let edge = Edge::start(&[&origin], text);
    let mut socket = edge.client().web_socket("/").unwrap();
    assert_eq!(socket.echo("before"), "before");
    for n in 1..=3 {
        edge.reload_with(&format!("{text}pool_idle = \"{n}s\"\n")).unwrap();
    }
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
    assert_eq!(socket.echo("after"), "after");
    socket.close().unwrap();
}
