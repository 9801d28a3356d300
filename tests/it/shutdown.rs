//! The end: requests in flight are answered, new ones go elsewhere, nothing hangs.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Client, Edge, FailureKind, Origin, Tls},
};

const EXIT: Duration = Duration::from_secs(20);

/// A quick end: a second of lame duck, five in all.
const QUICK: &str = "[server]\ndrain = \"5s\"\nlame_duck = \"1s\"\n";

#[test]
fn a_request_in_flight_is_answered_and_the_process_ends_with_zero() {
    let origin = Origin::builder().delay(Duration::from_secs(2)).start();
    let mut edge = Edge::spawn(&[&origin], QUICK);
    let client = edge.client();
    let waiting = thread::spawn(move || client.get("/").send());
    assert_eventually!(origin.in_flight() == 1);
    edge.signal("TERM");
    let response = waiting.join().unwrap().assert_status(200);
    assert_eq!(response.header("connection"), Some("close"));
    let exit = edge.wait_exit(EXIT).expect("the process ends");
    assert_eq!(exit.code, Some(0), "{}", exit.log);
}

#[test]
fn the_lame_duck_still_serves_says_it_is_not_ready_and_then_refuses() {
    let origin = Origin::answering(200);
    let mut edge = Edge::spawn(&[&origin], "[server]\ndrain = \"6s\"\nlame_duck = \"2s\"\n");
    assert_eventually!(edge.admin().get("/ready").send().status == 200);
    let kept = edge.client();
    kept.get("/").send().assert_status(200);
    let start = Instant::now();
    edge.signal("TERM");
    assert_eventually!(edge.admin().get("/ready").send().status == 503);
    edge.admin().get("/live").send().assert_status(200);
    // New connections are served, and told to be the last; the kept one ends with its next answer.
    assert_eq!(
        edge.client().get("/").send().assert_status(200).header("connection"),
        Some("close")
    );
    assert_eq!(kept.get("/").send().assert_status(200).header("connection"), Some("close"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let refused = || edge.client().get("/").try_send().err().map(|failure| failure.kind);
    assert_eventually!(refused() == Some(FailureKind::Connect));
    assert!(start.elapsed() >= Duration::from_millis(1_800), "{:?}", start.elapsed());
    // Nobody is connected: it does not wait for the rest of the drain.
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn no_request_fails_while_clients_move_away_in_the_lame_duck() {
    let origin = Origin::answering(200);
    let mut edge = Edge::spawn(&[&origin], "[server]\ndrain = \"6s\"\nlame_duck = \"3s\"\n");
    let load = edge.client().get("/").load(8).pause(Duration::from_millis(2)).start();
    let tls = edge.tls_client(Tls::any()).host("localhost").http2();
    let load2 = tls.get("/").load(4).pause(Duration::from_millis(2)).start();
    assert_eventually!(load.completed() > 50 && load2.completed() > 20);
    edge.signal("TERM");
    // A balancer in front takes a second or two to see /ready; until then everything is served.
    thread::sleep(Duration::from_secs(2));
    load.stop().assert_all_ok();
    // A request that a client was about to send when GOAWAY came was not taken, and may be sent again (RFC 9113, section
    // 6.8): at most one for each connection.
    let second = load2.stop();
    assert!(second.failures() <= 4 && second.ok > 20, "{second:?}");
    assert!(second.failed.keys().all(|kind| *kind == FailureKind::Closed), "{second:?}");
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
}

#[test]
fn what_does_not_end_by_itself_is_ended_at_the_end_of_the_drain() {
    let events = Origin::builder().events(Duration::from_millis(100)).start();
    let mut edge = Edge::spawn(&[&events], "[server]\ndrain = \"2s\"\nlame_duck = \"0s\"\n");
    let mut stream = edge.client().get("/").events().unwrap();
    stream.next(EXIT).unwrap().expect("an event");
    let start = Instant::now();
    edge.signal("TERM");
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
    let took = start.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert!(
        std::iter::from_fn(|| stream.next(Duration::from_secs(1)).ok().flatten()).count() < 100
    );
}

#[test]
fn web_sockets_get_a_close_frame_that_tells_them_to_come_back() {
    let origin = Origin::builder().web_socket().start();
    let mut edge = Edge::spawn(&[&origin], "[server]\ndrain = \"3s\"\nlame_duck = \"0s\"\n");
    let mut sockets: Vec<_> =
        (0..4).map(|_| edge.client().web_socket("/").expect("a WebSocket")).collect();
    for socket in &mut sockets {
        assert_eq!(socket.echo("hello"), "hello");
    }
    edge.signal("TERM");
    for socket in &mut sockets {
        // RFC 6455's registry: 1012, service restart.
        assert_eq!(socket.wait_closed(EXIT).unwrap(), Some(1012));
    }
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let origin = Origin::builder().delay(Duration::from_secs(30)).start();
    let mut edge = Edge::spawn(&[&origin], "[server]\ndrain = \"25s\"\n");
    let client = edge.client().timeout(Duration::from_mins(1));
    let waiting = thread::spawn(move || client.get("/").try_send());
    assert_eventually!(origin.in_flight() == 1);
    edge.signal("TERM");
    assert_eventually!(edge.admin().get("/ready").send().status == 503);
    let start = Instant::now();
    edge.signal("TERM");
    let exit = edge.wait_exit(EXIT).expect("the process ends");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_ne!(exit.code, Some(0));
    assert!(waiting.join().unwrap().is_err());
}

#[test]
fn an_interrupt_is_an_end_like_any_other() {
    let mut edge = Edge::spawn(
        &[],
        &format!("{QUICK}[sites.a]\nhosts = [\"a.test\"]\nrespond = {{ body = \"a\" }}\n"),
    );
    edge.signal("INT");
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
}

#[test]
fn the_edge_in_a_process_of_others_drains_and_lets_go_of_its_ports() {
    let origin = Origin::builder().delay(Duration::from_secs(1)).start();
    let mut edge = Edge::start(&[&origin], "[server]\ndrain = \"5s\"\nlame_duck = \"0s\"\n");
    let (address, client) = (edge.address("http"), edge.client());
    let waiting = thread::spawn(move || client.get("/").send());
    assert_eventually!(origin.in_flight() == 1);
    edge.shut_down(true);
    waiting.join().unwrap().assert_status(200);
    let refused = Client::to(&address).get("/").try_send().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Connect);
    assert_eventually!(origin.open_connections() == 0);
    drop(std::net::TcpListener::bind(&address).expect("the port is free"));
}
