//! Listeners: what they take, what they refuse, how long they wait.

use std::time::{Duration, Instant};

use crate::{
    assert_eventually,
    harness::{Authority, Edge, FailureKind, Origin, Raw, Tls},
};

const SOON: Duration = Duration::from_secs(5);

/// A site that answers here, and whatever stands before it.
fn answering(listeners: &str) -> String {
    format!(
        "{listeners}\n[sites.test]\nhosts = [\"localhost\", \"127.0.0.1\"]\nlisteners = [\"http\"]\nrespond = {{ body = \"here\" }}\n"
    )
}

fn plain(more: &str) -> String {
    answering(&format!("[listeners.http]\naddress = \"127.0.0.1:0\"\n{more}"))
}

#[test]
fn a_head_that_trickles_is_answered_408_at_its_deadline() {
    let edge = Edge::start(&[], &plain("timeouts = { head = \"400ms\" }"));
    let mut raw = edge.raw();
    let start = Instant::now();
    raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        // A line now and then does not buy more time.
        drop(raw.try_send("X-Slow: 1\r\n"));
    }
    let head = raw.read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.1 408 ") && head.contains("connection: close"), "{head}");
    assert!(raw.is_closed_within(SOON));
    assert!((350..2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let refused = || edge.metric("tidegate_heads_refused_total", [("reason", "timeout")]);
    assert_eventually!(refused() == 1.0);
}

#[test]
fn a_silent_connection_is_closed_and_so_is_an_idle_one() {
    let edge = Edge::start(&[], &plain("timeouts = { head = \"300ms\", keep_alive = \"600ms\" }"));
    let mut silent = edge.raw();
    assert!(silent.is_closed_within(SOON));
    let mut idle = edge.raw();
    for _ in 0..2 {
        idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(idle.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        idle.read_exactly(4, SOON).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    let start = Instant::now();
    assert!(idle.is_closed_within(SOON));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn heads_after_the_first_are_counted_anew_also_behind_a_body() {
    let origin = Origin::builder().body("four").start();
    let edge = Edge::start(
        &[&origin],
        "[listeners.http]\naddress = \"127.0.0.1:0\"\nmax_head = \"1KiB\"\n",
    );
    let mut raw = edge.raw();
    for round in 0..5 {
        // A body that would be a broken head, and larger than one.
        let body = "x\r\n\r\n".repeat(400);
        raw.send(format!(
            "POST /{round} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "), "round {round}");
        raw.read_exactly(4, SOON).unwrap();
    }
    // The edge answers without the body's help; what is left of it is not taken for a head.
    let refusing = Edge::start(&[], &plain("max_head = \"1KiB\""));
    let mut raw = refusing.raw();
    for round in 0..3 {
        let body = "y".repeat(5_000);
        raw.send(format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "), "round {round}");
        raw.read_exactly(4, SOON).unwrap();
    }
}

#[test]
fn prior_knowledge_of_http2_is_seen_and_a_short_request_is_not_held_back() {
    let edge = Edge::start(&[], &plain("h2c = true\ntimeouts = { head = \"500ms\" }"));
    assert_eq!(edge.client().http2().get("/").send().assert_status(200).text(), "here");
    let mut short = edge.raw();
    short.send("GET / HTTP/1.0\r\n\r\n");
    // No host: no site. It is answered at once, which is what this is about.
    assert!(short.read_head(Duration::from_secs(1)).unwrap().starts_with("HTTP/1."));
    for start in ["", "PRI * HT"] {
        let mut silent = edge.raw();
        silent.send(start);
        assert!(silent.is_closed_within(SOON), "{start:?}");
    }
    let without = Edge::start(&[], &plain(""));
    assert!(without.client().http2().get("/").try_send().is_err());
}

#[test]
fn a_client_has_so_many_connections_and_the_listener_too() {
    let edge = Edge::start(&[], &plain("max_connections_per_client = 3"));
    let mut open: Vec<Raw> = (0..3).map(|_| edge.raw()).collect();
    for raw in &mut open {
        raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    }
    assert!(edge.raw().is_closed_within(SOON));
    assert_eventually!(
        edge.metric("tidegate_connections_refused_total", [("reason", "client_limit")]) >= 1.0
    );
    drop(open.pop());
    assert_eventually!(edge.client().new_connections().get("/").try_send().is_ok());

    let edge = Edge::start(&[], &plain("max_connections = 2"));
    let mut open: Vec<Raw> = (0..2).map(|_| edge.raw()).collect();
    assert_eventually!(edge.metric("tidegate_connections", [("listener", "http")]) == 2.0);
    // More wait in the queue, and are served when there is room.
    let mut waiting = edge.raw();
    waiting.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(waiting.read_head(Duration::from_millis(300)).is_err());
    open.clear();
    assert!(waiting.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn unix_sockets_and_ipv6_are_listened_on() {
    let edge = Edge::start(
        &[],
        "[listeners.http]\naddress = \"unix:{dir}/edge.sock\"\n[listeners.six]\naddress = \"[::1]:0\"\n[sites.test]\nhosts = [\"localhost\", \"[::1]\"]\nrespond = { body = \"here\" }\n",
    );
    assert_eq!(edge.client().host("localhost").get("/").send().text(), "here");
    let six = crate::harness::Client::to(edge.address("six"));
    assert_eq!(six.get("/").send().assert_status(200).text(), "here");
}

#[test]
fn one_runtime_for_each_core_serves_as_well() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[server]\nworkers = \"per-core\"\nthreads = 2\n");
    edge.client().new_connections().get("/").load(8).requests(400).assert_all_ok();
    edge.tls_client(Tls::any())
        .host("localhost")
        .http2()
        .get("/")
        .load(2)
        .requests(50)
        .assert_all_ok();
    assert_eq!(origin.requests(), 450);
}

/// Two sites with certificates of their own, a wildcard among them.
fn two_certificates(more: &str) -> (Authority, String, tempfile::TempDir) {
    let authority = Authority::new("test");
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["a.test"]).write_to(folder.path(), "a");
    authority.issue(&["*.b.test"]).write_to(folder.path(), "b");
    let at = folder.path().display();
    let text = format!(
        r#"
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        {more}
        [sites.a]
        hosts = ["a.test"]
        certificate = {{ chain = "{at}/a.pem", key = "{at}/a.key" }}
        respond = {{ body = "a" }}
        [sites.b]
        hosts = ["*.b.test"]
        certificate = {{ chain = "{at}/b.pem", key = "{at}/b.key" }}
        respond = {{ body = "b" }}
        "#
    );
    (authority, text, folder)
}

#[test]
fn the_name_asked_for_chooses_the_certificate() {
    let (authority, text, _folder) = two_certificates("");
    let edge = Edge::start(&[], &text);
    let trusting = || Tls::trusting(authority.pem());
    for (host, body) in [("a.test", "a"), ("x.b.test", "b")] {
        assert_eq!(
            edge.tls_client(trusting()).host(host).get("/").send().assert_status(200).text(),
            body
        );
    }
    let refused = edge.tls_client(trusting()).host("c.test").get("/").try_send().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Tls, "{refused:?}");
    let failures =
        || edge.metric("tidegate_tls_handshake_failures_total", [("reason", "unknown_host")]);
    assert_eventually!(failures() == 1.0);
    let (authority, text, _folder) = two_certificates("unknown_host = { site = \"a\" }");
    let edge = Edge::start(&[], &text);
    let tls = Tls::trusting(authority.pem()).server_name("a.test");
    assert_eq!(edge.tls_client(tls).host("c.test").get("/").send().assert_status(200).text(), "a");
}

#[test]
fn a_changed_certificate_is_served_and_a_broken_one_is_not() {
    let (authority, text, folder) = two_certificates("");
    let edge = Edge::start(&[], &text);
    let client = edge.tls_client(Tls::any()).host("a.test");
    client.get("/").send().assert_status(200);
    let served =
        || Tls::any().server_name("a.test").handshake(&edge.address("https")).unwrap().leaf;
    let first = served();
    let next = authority.issue(&["a.test"]);
    next.write_to(folder.path(), "a");
    // No reload is asked for: the files are watched.
    assert_eventually!(served() == next.der.to_vec(), within Duration::from_secs(10));
    assert_ne!(served(), first);
    std::fs::write(folder.path().join("a.pem"), "no certificate").unwrap();
    let told = || edge.status()["certificates"].to_string();
    assert_eventually!(told().contains("a.test"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(served(), next.der.to_vec(), "the old one stays");
    // The connection that was open all along never noticed.
    client.get("/").send().assert_status(200);
}

#[test]
fn a_broken_certificate_at_the_start_disables_its_site_alone() {
    let (authority, text, folder) = two_certificates("");
    std::fs::write(folder.path().join("b.key"), "no key").unwrap();
    let edge = Edge::start(&[], &text);
    let trusting = || Tls::trusting(authority.pem());
    edge.tls_client(trusting()).host("a.test").get("/").send().assert_status(200);
    assert!(edge.tls_client(trusting()).host("x.b.test").get("/").try_send().is_err());
    // At a reload it is refused.
    assert!(edge.reload().is_err());
}

#[test]
fn a_site_of_the_modern_preset_is_reached_by_its_own_connections_only() {
    let (authority, text, _folder) = two_certificates("");
    let edge =
        Edge::start(&[], &text.replace("[sites.b]", "[sites.b]\ntls = { preset = \"modern\" }"));
    let trusting = || Tls::trusting(authority.pem());
    edge.tls_client(trusting()).host("x.b.test").get("/").send().assert_status(200);
    assert!(edge.tls_client(trusting().only_tls12()).host("x.b.test").get("/").try_send().is_err());
    // A connection made for another site, then asked for this one (RFC 9110, section 15.5.20).
    let other = edge.tls_client(trusting().server_name("a.test")).host("x.b.test");
    other.get("/").send().assert_status(421);
    other.http2().get("/").send().assert_status(421);
    // A different certificate alone is no reason.
    let other = edge.tls_client(trusting().server_name("x.b.test")).host("a.test");
    assert_eq!(other.get("/").send().assert_status(200).text(), "a");
}
