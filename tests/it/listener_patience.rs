//! How long a listener waits for a client that is slow, and for one that is silent.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Edge, FailureKind, Origin, Raw, Tls};

const SOON: Duration = Duration::from_secs(5);
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Both kinds of listener with these timeouts, and a site.
fn listeners(timeouts: &str, site: &str) -> String {
    format!(
        "[listeners.http]\naddress = \"127.0.0.1:0\"\ntimeouts = {{ {timeouts} }}\n\
         [listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\ntimeouts = {{ {timeouts} }}\n\
         [sites.a]\nhosts = [\"a.test\"]\nlisteners = [\"http\", \"https\"]\n\
         certificate = {{ internal = true }}\n{site}\n"
    )
}

/// A connection that has had its first answer, of four bytes.
fn reused(edge: &Edge) -> Raw {
    let mut raw = edge.raw();
    raw.send(GET).read_head(SOON).unwrap();
    raw.read_exactly(4, SOON).unwrap();
    raw
}

/// A connection to the plain listener and then, when it is asked for, one to the other.
fn plain_and_tls(edge: &Edge) -> impl Iterator<Item = Raw> {
    let tls = Tls::any().server_name("a.test").alpn(&["http/1.1"]);
    [false, true].into_iter().map(move |is_tls| {
        if is_tls { Raw::connect_tls(edge.address("https"), &tls).unwrap() } else { edge.raw() }
    })
}

#[test]
fn a_head_on_a_reused_connection_has_its_whole_deadline_and_408_after_it() {
    // The wait between two requests is shorter than a head may take.
    let text =
        listeners("head = \"1500ms\", keep_alive = \"300ms\"", "respond = { body = \"here\" }");
    let edge = Edge::start(&[], &text);
    let mut raw = reused(&edge);
    let start = Instant::now();
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n");
    let head = raw.read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!((1_400..2_500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn an_idle_connection_is_kept_for_its_time_to_the_fraction_of_a_second() {
    let text = listeners("keep_alive = \"1700ms\"", "respond = { body = \"here\" }");
    let edge = Edge::start(&[], &text);
    let mut raw = reused(&edge);
    let start = Instant::now();
    assert!(raw.is_closed_within(SOON));
    assert!((1_600..2_400).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_stalled() {
    const LENGTH: u64 = 24 << 20;
    let origin = Origin::builder().download(LENGTH).start();
    let edge = Edge::start(&[&origin], &listeners("write_stall = \"1s\"", "endpoints = [\"{0}\"]"));
    for mut raw in plain_and_tls(&edge) {
        raw.send(GET).read_head(SOON).unwrap();
        // 800 KiB/s, so that the kernel's buffers have been full for long when it ends.
        for round in 0..160 {
            raw.read_exactly(40 << 10, SOON).unwrap_or_else(|failure| panic!("{round}: {failure}"));
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_client_that_takes_nothing_is_let_go() {
    const LENGTH: u64 = 24 << 20;
    let origin = Origin::builder().download(LENGTH).start();
    let edge =
        Edge::start(&[&origin], &listeners("write_stall = \"500ms\"", "endpoints = [\"{0}\"]"));
    for mut raw in plain_and_tls(&edge) {
        raw.send(GET).read_head(SOON).unwrap();
        crate::assert_eventually!(edge.metric("tidegate_connections", ()) == 0.0, within SOON);
        let cut = raw.read_exactly(usize::try_from(LENGTH).unwrap(), SOON).unwrap_err();
        assert!(matches!(cut.kind, FailureKind::Closed | FailureKind::Reset), "{cut:?}");
    }
}
