//! The harness itself: clients and origins against each other, without an edge between them.
//! What fails here would make every other test say the wrong thing.

use std::time::Duration;

use bytes::Bytes;
use http::Version;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    assert_eventually,
    harness::{
        Authority, Client, FailureKind, Origin, Raw, RawOrigin, Tls,
        origin::{EchoMessage, Step, hex, pattern},
    },
};

const SOON: Duration = Duration::from_secs(5);

fn message(text: &str, count: u32) -> EchoMessage {
    EchoMessage { text: text.to_owned(), count, pause_millis: 0 }
}

#[test]
fn requests_are_answered_counted_and_recorded() {
    let origin = Origin::builder().name("a").status(201).body("hi").header("x-a", "1").start();
    let client = Client::to(&origin);
    let response = client
        .post("/p/%2f?q=1")
        .host("shop.example.com")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .body("abc")
        .send()
        .assert_status(201);
    assert_eq!((response.text().as_str(), response.header("x-a")), ("hi", Some("1")));
    assert_eq!((response.header("x-origin"), response.version), (Some("a"), Version::HTTP_11));
    let seen = origin.last_request();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/p/%2f?q=1"));
    assert_eq!(seen.host(), Some("shop.example.com"));
    assert_eq!(seen.header_values("x-twice"), ["1", "2"]);
    assert_eq!((seen.body_length, &*seen.body), (3, b"abc".as_slice()));
    client.get("/healthz").send().assert_status(200);
    origin.set_healthy(false);
    client.get("/healthz").send().assert_status(503);
    assert_eq!((origin.requests(), origin.probes(), origin.connections()), (1, 2, 1));
    origin.set_status(404);
    client.get("/").times(3).all_status(404);
    client.clone().new_connections().get("/").times(2).all_status(404);
    assert_eq!((origin.requests(), origin.connections()), (6, 3));
}

#[test]
fn odd_paths_reach_the_origin_as_they_were_written() {
    let origin = Origin::answering(200);
    let client = Client::to(&origin);
    for path in
        ["/a%", "/a%zz", "//admin", "/./x/../y", "/x%2f..%2fy", "/%00", "/a\"b", "/a?b=%25&c"]
    {
        client.get(path).send().assert_status(200);
        assert_eq!(origin.last_request().path, path);
    }
}

#[test]
fn both_protocols_are_spoken_plain_over_tls_and_on_a_unix_socket() {
    let authority = Authority::new("harness");
    let certificate = authority.issue(&["a.example.com", "127.0.0.1"]);
    let plain = Origin::answering(200);
    assert_eq!(Client::to(&plain).http2().get("/").send().version, Version::HTTP_2);
    assert_eq!(plain.last_request().host(), Some(plain.address().as_str()));

    let secure = Origin::builder().tls(&certificate).start();
    let trusting = Client::to(&secure).tls(Tls::trusting(authority.pem())).host("a.example.com");
    let response = trusting.get("/").host("other.example.com").send().assert_status(200);
    assert_eq!(response.version, Version::HTTP_11);
    assert_eq!(secure.last_request().host(), Some("other.example.com"));
    let handshake = response.handshake.expect("a handshake");
    assert_eq!(handshake.leaf, certificate.der.to_vec());
    assert_eq!(handshake.names(), ["a.example.com"]);
    assert_eq!(trusting.clone().http2().get("/").send().version, Version::HTTP_2);

    let wrong = Client::to(&secure).tls(Tls::trusting(authority.pem())).host("b.example.com");
    assert_eq!(wrong.get("/").try_send().unwrap_err().kind, FailureKind::Tls);
    let unknown = Authority::new("harness");
    let distrusting = Client::to(&secure).tls(Tls::trusting(unknown.pem()));
    assert_eq!(distrusting.get("/").try_send().unwrap_err().kind, FailureKind::Tls);
    let any = Tls::any().only_tls12().handshake(&secure.address()).unwrap();
    assert_eq!(any.version, rustls::ProtocolVersion::TLSv1_2);

    let directory = tempfile::tempdir().unwrap();
    let local = Origin::builder().unix(directory.path().join("o.sock")).start();
    Client::to(&local).get("/").send().assert_status(200);
}

#[test]
fn a_stopped_origin_refuses_a_hanging_one_is_silent_and_both_come_back() {
    let origin = Origin::answering(200);
    let client = Client::to(&origin).new_connections().timeout(Duration::from_millis(200));
    let kept = Client::to(&origin);
    kept.get("/").send().assert_status(200);
    assert_eq!(origin.open_connections(), 1);
    origin.stop();
    assert_eq!(client.get("/").try_send().unwrap_err().kind, FailureKind::Connect);
    assert_eq!(origin.open_connections(), 0);
    origin.restart();
    client.get("/").send().assert_status(200);
    origin.hang();
    assert_eq!(client.get("/").try_send().unwrap_err().kind, FailureKind::Timeout);
    origin.resume();
    client.get("/").send().assert_status(200);
    origin.set_delay(Duration::from_millis(30));
    assert!(client.get("/").send().elapsed >= Duration::from_millis(30));
}

#[test]
fn broken_answers_are_told_apart() {
    let resetting = Origin::builder().reset_before_head().start();
    let client = Client::to(&resetting);
    assert_eq!(client.get("/").try_send().unwrap_err().kind, FailureKind::Reset);
    resetting.set_resetting(false);
    client.get("/").send().assert_status(200);
    resetting.set_resetting(true);
    assert_eq!(client.get("/").try_send().unwrap_err().kind, FailureKind::Closed);

    let truncated = Origin::builder().truncated(1_000, 10).start();
    let failure = Client::to(&truncated).get("/").try_send().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Truncated);

    let nonsense = RawOrigin::answering("nonsense\r\n\r\n");
    let failure = Client::to(&nonsense).get("/").try_send().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Protocol, "{failure}");
}

#[test]
fn idle_connections_are_closed_when_the_origin_says_so() {
    let origin = Origin::builder().keep_alive(Duration::from_millis(100)).start();
    let mut raw = Raw::connect(&origin);
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = raw.read_head(SOON).unwrap();
        assert!(head.contains("keep-alive: timeout=1\r\n"), "{head}");
        assert_eq!(raw.read_exactly(2, SOON).unwrap(), b"ok");
    }
    assert!(raw.is_closed_within(SOON));
    assert_eventually!(origin.open_connections() == 0);
    let few = Origin::builder().requests_per_connection(2).start();
    Client::to(&few).get("/").times(4).all_status(200);
    assert_eq!(few.connections(), 2);
}

#[test]
fn bodies_of_any_size_are_streamed_and_hashed() {
    let origin = Origin::builder().echo().start();
    let client = Client::to(&origin);
    let whole = pattern(0, 300_000);
    let back = client.post("/").chunked(300_000, 10_000, Duration::ZERO).send();
    assert_eq!(back.body, whole);
    let seen = origin.last_request();
    assert_eq!((seen.header("transfer-encoding"), seen.body_length), (Some("chunked"), 300_000));
    let hash = {
        use sha2::Digest;
        hex(&sha2::Sha256::digest(&whole))
    };
    assert_eq!(seen.body_sha256, hash);
    let sink = Origin::answering(200);
    Client::to(&sink).post("/").upload(300_000).send();
    let seen = sink.last_request();
    assert_eq!((seen.header("content-length"), &seen.body_sha256), (Some("300000"), &hash));

    let paced = Origin::builder().paced(3_000, 1_000, Duration::from_millis(20)).start();
    let mut opened = Client::to(&paced).get("/").open().unwrap();
    let mut all = Vec::new();
    let length = opened.read_slowly(Duration::ZERO, SOON, |_, piece| all.extend_from_slice(piece));
    assert_eq!((length.unwrap(), Bytes::from(all)), (3_000, pattern(0, 3_000)));
    let download = Origin::builder().download(100_000).start();
    assert_eq!(Client::to(&download).get("/").send().body, pattern(0, 100_000));
}

#[test]
fn streams_are_read_as_they_come() {
    let origin = Origin::builder().some_events(Duration::from_millis(10), 3).start();
    let mut events = Client::to(&origin).get("/").events().unwrap();
    for number in ["1", "2", "3"] {
        let event = events.next(SOON).unwrap().expect("an event");
        assert_eq!((event.id.as_str(), event.data.as_str()), (number, number));
    }
    assert_eq!(events.next(SOON).unwrap(), None);
    let endless = Origin::builder().events(Duration::from_mins(1)).start();
    let mut events = Client::to(&endless).get("/").events().unwrap();
    events.next(SOON).unwrap().expect("the first comes at once");
    let silent = events.next(Duration::from_millis(50)).unwrap_err();
    assert_eq!(silent.kind, FailureKind::Timeout);
    drop(events);
    assert_eventually!(endless.open_connections() == 0);
}

#[test]
fn web_sockets_echo_and_close() {
    let authority = Authority::new("harness");
    let certificate = authority.issue(&["ws.example.com"]);
    let plain = Origin::builder().web_socket().start();
    let secure = Origin::builder().web_socket().http1().tls(&certificate).start();
    let tls = Client::to(&secure).tls(Tls::trusting(authority.pem())).host("ws.example.com");
    for client in [Client::to(&plain), tls] {
        let mut socket = client.web_socket("/chat").unwrap();
        assert_eq!(socket.echo("hello"), "hello");
        socket.send_message(Message::Ping(Bytes::from_static(b"p"))).unwrap();
        assert_eq!(socket.next(SOON).unwrap(), Some(Message::Pong(Bytes::from_static(b"p"))));
        socket.close().unwrap();
    }
    assert_eq!(plain.last_request().path, "/chat");
    Client::to(&plain).get("/").send().assert_status(426);
    let other = Origin::answering(200);
    let refused = Client::to(&other).web_socket("/").err().expect("no upgrade");
    assert_eq!(refused.kind, FailureKind::Protocol, "{refused}");
}

#[test]
fn grpc_calls_streams_and_errors() {
    let authority = Authority::new("harness");
    let certificate = authority.issue(&["grpc.example.com"]);
    let plain = Origin::builder().grpc().http2().start();
    let secure = Origin::builder().grpc().tls(&certificate).start();
    let tls = Client::to(&secure).tls(Tls::trusting(authority.pem())).host("grpc.example.com");
    for client in [Client::to(&plain), tls] {
        let mut grpc = client.grpc().unwrap();
        assert_eq!(grpc.unary("Unary", &message("hi", 7)).unwrap(), message("hi", 7));
        let failed = grpc.unary("Fail", &message("no", 0)).unwrap_err();
        assert_eq!((failed.code(), failed.message()), (tonic::Code::FailedPrecondition, "no"));
        let unknown = grpc.unary("Nothing", &message("", 0)).unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::Unimplemented);
        let mut answers = grpc.stream(&message("break", 2)).unwrap();
        assert_eq!(answers.next(SOON).unwrap(), Some(message("break", 1)));
        assert_eq!(answers.next(SOON).unwrap(), Some(message("break", 2)));
        assert_eq!(answers.next(SOON).unwrap_err().code(), tonic::Code::DataLoss);
        let chat = vec![message("a", 1), message("b", 2)];
        assert_eq!(grpc.chat(chat.clone()).unwrap(), chat);
    }
}

#[test]
fn raw_origins_play_their_steps_and_remember_every_byte() {
    let origin = RawOrigin::playing(vec![
        Step::Write(Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")),
        Step::Pause(Duration::from_millis(5)),
        Step::Write(Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")),
    ]);
    let client = Client::to(&origin);
    let response = client.get("/a").send().assert_status(200);
    assert_eq!((response.text().as_str(), &*response.informational), ("x", [103].as_slice()));
    client.get("/b").send().assert_status(200);
    let seen = origin.received_text();
    assert!(seen.starts_with("GET /a HTTP/1.1\r\n") && seen.contains("GET /b HTTP/1.1\r\n"));
    assert_eq!(origin.connections(), 1);
    let resetting = RawOrigin::playing(vec![Step::Reset]);
    let mut raw = Raw::connect(&resetting);
    raw.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(raw.read_to_end(SOON).unwrap_err().kind, FailureKind::Reset);
}

#[test]
fn a_100_continue_is_seen_and_an_early_answer_needs_no_body() {
    let origin = Origin::answering(200);
    let mut raw = Raw::connect(&origin);
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 100 "));
    raw.send("abc");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    let early = Origin::builder().status(403).early("no").start();
    let mut raw = Raw::connect(&early);
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 403 "));
}

#[test]
fn a_load_counts_answers_failures_and_latencies() {
    let origin = Origin::builder().delay(Duration::from_millis(2)).start();
    let client = Client::to(&origin);
    let report = client.get("/").load(8).requests(200).assert_all_ok();
    assert_eq!((report.total(), origin.requests(), origin.connections()), (200, 200, 8));
    assert!(report.latency(50.0) >= Duration::from_millis(2), "{report}");
    assert!(origin.most_in_flight() > 1 && origin.most_in_flight() <= 8);
    let wrong = client.get("/").load(2).check(|response| Err(response.text())).requests(4);
    assert_eq!(wrong.failed.get(&FailureKind::Check), Some(&4));
    let running = client.get("/").load(2).start();
    assert_eventually!(running.completed() > 5);
    origin.stop();
    assert_eventually!(running.completed() > 50);
    let report = running.stop();
    assert!(report.ok > 0 && report.failed.contains_key(&FailureKind::Connect), "{report}");
}
