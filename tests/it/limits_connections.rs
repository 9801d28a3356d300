//! The life of a connection, handshakes that are under way, and what a full system leaves of the edge.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    assert_eventually,
    harness::{Edge, FailureKind, Origin, RawHttp2, Tls, client::raw_http2::kind},
};

const SOON: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const HERE: &str =
    "[sites.test]\nhosts = [\"localhost\", \"127.0.0.1\"]\nrespond = { body = \"here\" }\n";

fn reached(edge: &Edge, reason: &str) -> f64 {
    edge.metric("tidegate_limits_reached_total", [("reason", reason)])
}

/// A connection from an address of the loopback network.
fn connect_from(from: &str, to: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Whether the server closes or resets this within `limit`.
fn is_closed(stream: &TcpStream, limit: Duration) -> bool {
    use std::io::Read;
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut stream = stream;
    match stream.read(&mut [0; 16]) {
        Ok(0) => true,
        Ok(_) => panic!("bytes came"),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_connection_has_so_many_requests_on_both_protocols() {
    let listener = "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\nmax_requests_per_connection = 3\n";
    let edge = Edge::start(&[], &format!("{listener}{HERE}listeners = [\"http\"]\n"));
    let mut raw = edge.raw();
    for n in 1..=3 {
        let head = raw.send(GET).read_head(SOON).unwrap().to_lowercase();
        raw.read_exactly(4, SOON).unwrap();
        assert_eq!(head.contains("connection: close"), n == 3, "{head}");
    }
    assert!(raw.is_closed_within(SOON));
    assert_eq!(reached(&edge, "requests"), 1.0);

    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    for _ in 0..2 {
        let stream = client.get("/");
        client.wait_for(kind::DATA, stream, SOON).unwrap();
    }
    let last = client.get("/");
    let (mut is_answered, mut goaway) = (false, None);
    while !is_answered || goaway.is_none() {
        let frame = client.next(SOON).unwrap();
        is_answered |= frame.kind == kind::DATA && frame.stream == last;
        goaway = goaway.or(frame.code());
    }
    assert_eq!(goaway, Some(0), "an end in peace");
    assert_eq!(reached(&edge, "requests"), 2.0);
    // A client that stays is closed.
    client.wait_end(Duration::from_secs(15)).unwrap();
}

#[test]
fn a_connection_has_its_age_on_both_protocols_and_its_streams_are_served() {
    let origin = Origin::builder().delay(Duration::from_secs(2)).start();
    let edge = Edge::start(
        &[&origin],
        "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\ntimeouts = { connection_age = \"1s\" }\n",
    );
    let mut raw = edge.raw();
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let stream = client.get("/");
    let first = raw.send(GET).read_head(SOON).unwrap().to_lowercase();
    assert!(!first.contains("connection: close"), "{first}");
    raw.read_exactly(2, SOON).unwrap();
    // It is older than that now.
    let second = raw.send(GET).read_head(SOON).unwrap().to_lowercase();
    assert!(second.contains("connection: close"), "{second}");
    let goaway = client.wait_for(kind::GOAWAY, 0, SOON).unwrap();
    assert_eq!(goaway.code(), Some(0));
    // The answer came after GOAWAY.
    client.wait_for(kind::DATA, stream, SOON).unwrap();
    assert_eventually!(reached(&edge, "age") == 2.0);
    client.wait_end(Duration::from_secs(15)).unwrap();
}

#[test]
fn idle_ends_are_counted_on_both_protocols() {
    let edge = Edge::start(
        &[],
        &format!(
            "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\ntimeouts = {{ keep_alive = \"400ms\" }}\n{HERE}listeners = [\"http\"]\n"
        ),
    );
    let mut raw = edge.raw();
    raw.send(GET).read_head(SOON).unwrap();
    let mut client = RawHttp2::connect(edge.address("http"), "127.0.0.1");
    let stream = client.get("/");
    client.wait_for(kind::DATA, stream, SOON).unwrap();
    assert!(raw.is_closed_within(SOON));
    client.wait_end(SOON).unwrap();
    assert_eventually!(reached(&edge, "keep_alive") == 2.0);
}

#[test]
fn handshakes_that_never_end_keep_nobody_else_out() {
    let edge = Edge::start(
        &[],
        &format!(
            "[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\nmax_handshakes = 8\nmax_handshakes_per_client = 4\ntimeouts = {{ handshake = \"2s\" }}\n{HERE}certificate = {{ internal = true }}\n"
        ),
    );
    let address = edge.address("https");
    let refused =
        || edge.metric("tidegate_connections_refused_total", [("reason", "handshake_limit")]);
    let timed_out =
        || edge.metric("tidegate_tls_handshake_failures_total", [("reason", "timeout")]);
    let flood: Vec<_> = (0..10).map(|_| connect_from("127.0.0.9", &address)).collect();
    assert_eventually!(refused() == 6.0);
    // The flood's own network has no place; others have.
    let client = || edge.tls_client(Tls::any()).host("localhost").new_connections();
    client().get("/").send().assert_status(200);
    assert_eq!(timed_out(), 0.0, "the flood was still there");
    assert_eq!(
        flood.iter().filter(|stream| is_closed(stream, Duration::from_millis(20))).count(),
        6
    );
    // The listener is full: who comes now waits for the first to end.
    let _more: Vec<_> = (0..4).map(|_| connect_from("127.0.0.8", &address)).collect();
    assert_eventually!(edge.metric("tidegate_connections", ()) == 8.0);
    client().get("/").send().assert_status(200);
    assert!(timed_out() >= 1.0);
    assert_eventually!(timed_out() == 8.0);
    assert_eq!(refused(), 6.0);
}

#[test]
fn a_network_counts_as_one_client() {
    let edge = Edge::start(
        &[],
        &format!(
            "[listeners.http]\naddress = \"127.0.0.1:0\"\nmax_connections_per_client = 2\nclient_network = {{ ipv4 = 24 }}\n{HERE}listeners = [\"http\"]\n"
        ),
    );
    let address = edge.address("http");
    let _first = connect_from("127.0.7.1", &address);
    let _second = connect_from("127.0.7.2", &address);
    assert_eventually!(edge.metric("tidegate_connections", ()) == 2.0);
    assert!(is_closed(&connect_from("127.0.7.3", &address), SOON));
    let refused = edge.client().get("/").try_send().map_err(|failure| failure.kind);
    assert!(!matches!(refused, Err(FailureKind::Closed | FailureKind::Reset)), "another network");
}
