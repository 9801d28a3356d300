//! Listeners that a reload moves or takes away, and addresses that two would share.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Client, Edge, Origin, Raw},
};

const SOON: Duration = Duration::from_secs(5);
const LAYOUTS: [&str; 2] = ["shared", "per-core"];
const GET: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// A port that was free a moment ago: what is tested here is a listener that keeps its port.
///
/// Below the ports that the system gives to outgoing connections: one of those, on whichever loopback address, is in the
/// way of a listener on all addresses.
fn free_port() -> u16 {
    let is_free = |port: &u16| {
        ["0.0.0.0", "[::]"]
            .iter()
            .all(|address| std::net::TcpListener::bind(format!("{address}:{port}")).is_ok())
    };
    std::iter::repeat_with(|| fastrand::u16(20_000..30_000)).find(is_free).unwrap()
}

/// An edge of two threads whose listeners are `listeners` and which answers `word`.
fn answering(layout: &str, listeners: &str, word: &str) -> String {
    format!(
        "[server]\nworkers = \"{layout}\"\nthreads = 2\ndrain = \"3s\"\nlame_duck = \"0s\"\n{listeners}\n\
         [sites.a]\nhosts = [\"127.0.0.1\"]\nrespond = {{ body = \"{word}\" }}\n"
    )
}

fn listener(name: &str, address: &str) -> String {
    format!("[listeners.{name}]\naddress = \"{address}\"\n")
}

#[test]
fn an_address_becomes_wider_and_narrower_at_a_reload() {
    for layout in LAYOUTS {
        let port = free_port();
        let text = |address: &str| {
            answering(layout, &listener("http", &format!("{address}:{port}")), address)
        };
        let edge = Edge::start(&[], &text("127.0.0.1"));
        let client = Client::to(format!("127.0.0.1:{port}")).new_connections();
        for address in ["0.0.0.0", "[::]", "127.0.0.1"] {
            edge.reload_with(&text(address)).unwrap();
            // Connections go on all the while, wherever the kernel still puts them.
            client.get("/").times(10).all_status(200);
            assert_eventually!(client.get("/").send().text() == address, within SOON);
        }
    }
}

#[test]
fn listeners_that_overlap_are_refused_at_the_start_and_at_a_reload_alike() {
    for layout in LAYOUTS {
        let port = free_port();
        let narrow = listener("narrow", &format!("127.0.0.1:{port}"));
        let both = format!("{narrow}{}", listener("wide", &format!(":{port}")));
        let refused = Edge::try_start(&[], &answering(layout, &both, "no")).err().unwrap();
        assert!(refused.contains("listeners.wide.address"), "{refused}");
        assert!(refused.contains("overlaps with") && refused.contains("narrow"), "{refused}");
        let edge = Edge::start(&[], &answering(layout, &narrow, "yes"));
        let refused = edge.reload_with(&answering(layout, &both, "no")).unwrap_err();
        assert!(refused.contains("overlaps with"), "{refused}");
        let wider = format!("{}{}", listener("other", &format!("127.0.0.2:{port}")), both);
        edge.reload_with(&answering(layout, &wider, "no")).unwrap_err();
        let client = Client::to(edge.address("narrow")).new_connections();
        assert_eq!(client.get("/").send().text(), "yes");
    }
}

#[test]
fn a_second_edge_on_the_same_port_does_not_take_half_of_the_connections() {
    for layout in LAYOUTS {
        let listeners = listener("http", &format!("127.0.0.1:{}", free_port()));
        let edge = Edge::start(&[], &answering(layout, &listeners, "first"));
        let refused = Edge::try_start(&[], &answering(layout, &listeners, "second")).err().unwrap();
        assert!(refused.contains("can't be bound"), "{refused}");
        let answers = edge.client().new_connections().get("/").times(20);
        assert!(answers.iter().all(|answer| answer.text() == "first"));
    }
}

#[test]
fn a_listener_that_is_taken_away_ends_its_connections_in_good_order() {
    let origin = Origin::builder().delay(Duration::from_millis(600)).start();
    let kept = "[server]\ndrain = \"3s\"\nlame_duck = \"0s\"\n[listeners.http]\naddress = \"127.0.0.1:0\"\n";
    let site = "[sites.a]\nhosts = [\"127.0.0.1\"]\n[sites.a.routes]\n\
                now = { path = \"/now\", respond = { body = \"now\" } }\n\
                slow = { endpoints = [\"{0}\"] }\n";
    let second = "[listeners.second]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let edge = Edge::start(&[&origin], &format!("{kept}{second}{site}"));
    let address = edge.address("second");
    let now = "GET /now HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

    let mut idle = Raw::connect(&address);
    idle.send(now).read_head(SOON).unwrap();
    idle.read_exactly(3, SOON).unwrap();
    let mut elsewhere = edge.raw();
    elsewhere.send(now).read_head(SOON).unwrap();
    elsewhere.read_exactly(3, SOON).unwrap();
    let mut busy = Raw::connect(&address);
    busy.send(GET);
    let stream = Client::to(&address).http2();
    let in_flight = thread::spawn(move || stream.get("/").send().status);
    assert_eventually!(origin.in_flight() == 2);

    let start = Instant::now();
    edge.reload_with(&format!("{kept}{site}")).unwrap();
    assert_eventually!(Raw::try_connect(&address).is_err());
    let head = busy.read_head(SOON).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 ") && head.contains("connection: close"), "{head}");
    assert!(busy.is_closed_within(SOON));
    assert_eq!(in_flight.join().unwrap(), 200);
    assert!(idle.is_closed_within(SOON));
    // Idle ones end after a third of the drain, not at once: a request may be under way to us.
    assert!((800..2_500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    elsewhere.send(now).read_head(SOON).unwrap();
}

#[test]
fn the_file_of_a_unix_socket_goes_with_its_listener_and_never_that_of_a_successor() {
    let text = answering("shared", &listener("http", "unix:{dir}/edge.sock"), "here");
    let mut edge = Edge::start(&[], &text);
    let path = edge.path("edge.sock");
    let mut held = edge.raw();
    held.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n").try_send("X-A: b\r\n").unwrap();
    let successor = thread::spawn({
        let path = path.clone();
        move || {
            assert_eventually!(!path.exists());
            UnixListener::bind(&path).unwrap()
        }
    });
    // The head that is not finished holds the drain up; meanwhile somebody else takes the path.
    edge.shut_down(true);
    let _successor = successor.join().unwrap();
    UnixStream::connect(&path).unwrap();
}
