//! Server names that are sent on as they are: TLS is the origin's, and no byte is touched.

use std::time::Duration;

use crate::{
    assert_eventually,
    harness::{Authority, Client, Edge, FailureKind, Origin, Play, Raw, TcpOrigin, Tls},
};

const SOON: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nHost: db.test\r\n\r\n";

/// A TLS listener with the site `a.test`; `db.test` and `*.raw.test` go to `{0}`.
fn config(more_of_listener: &str, more: &str) -> String {
    format!(
        r#"
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        {more_of_listener}
        [listeners.https.passthrough.db]
        hosts = ["db.test", "*.raw.test"]
        upstream = "db"
        [upstreams.db]
        endpoints = ["{{0}}"]
        {more}
        [sites.a]
        hosts = ["a.test", "*.test"]
        certificate = {{ internal = true }}
        respond = {{ body = "a" }}
        "#
    )
}

/// An origin that speaks TLS with a certificate of its own.
fn tls_origin(authority: &Authority) -> Origin {
    let certificate = authority.issue(&["db.test", "x.raw.test"]);
    Origin::builder().body("from the origin").tls(&certificate).start()
}

#[test]
fn the_client_shakes_hands_with_the_origin() {
    let authority = Authority::new("of the origin");
    let origin = tls_origin(&authority);
    let edge = Edge::start(&[&origin], &config("", ""));
    for name in ["db.test", "x.raw.test", "DB.test"] {
        let tls = Tls::trusting(authority.pem()).server_name(name);
        let handshake = tls.handshake(&edge.address("https")).unwrap();
        assert_eq!(handshake.leaf, authority_leaf(&origin, name), "{name}");
    }
    let client = |name: &str| edge.tls_client(Tls::trusting(authority.pem())).host(name);
    assert_eq!(client("db.test").get("/").send().assert_status(200).text(), "from the origin");
    assert_eq!(
        client("x.raw.test").http2().get("/").send().assert_status(200).text(),
        "from the origin"
    );
    // Nobody has told the origin of a proxy: the request is the client's own.
    assert_eq!(origin.last_request().header("x-forwarded-for"), None);
    let tls12 = Tls::trusting(authority.pem()).only_tls12();
    edge.tls_client(tls12).host("db.test").get("/").send().assert_status(200);
    // Sites beside it are served here, with a wildcard that covers the name too; a star covers one label.
    let site = edge.tls_client(Tls::any());
    assert_eq!(site.clone().host("a.test").get("/").send().assert_status(200).text(), "a");
    assert_eq!(site.clone().host("other.test").get("/").send().assert_status(200).text(), "a");
    let refused = site.host("x.y.raw.test").get("/").try_send().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Tls, "{refused:?}");
}

/// The certificate that the origin shows when it is asked directly.
fn authority_leaf(origin: &Origin, name: &str) -> Vec<u8> {
    Tls::any().server_name(name).handshake(&origin.address()).unwrap().leaf
}

#[test]
fn a_request_for_the_name_on_a_sites_connection_is_misdirected() {
    let origin = TcpOrigin::echoing();
    let edge = Edge::start(&[&origin], &config("", ""));
    let client = edge.tls_client(Tls::any().server_name("a.test")).host("db.test");
    client.get("/").send().assert_status(421);
    client.http2().get("/").send().assert_status(421);
    assert_eq!(origin.connections(), 0);
}

/// The message of a `ClientHello` in records of so many bytes (RFC 8446, section 5.1).
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let message = &hello[5..];
    let records = message.chunks(size).flat_map(|piece| {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&hello[..3], &length, piece].concat()
    });
    records.collect()
}

#[test]
fn the_bytes_that_arrive_are_the_bytes_that_were_sent() {
    let origin = TcpOrigin::echoing();
    let edge = Edge::start(&[&origin], &config("", ""));
    let hello = Tls::any().server_name("db.test").client_hello();
    assert!(hello.len() > 200);
    let whole = [&hello[..], b"and more, at once"].concat();
    let mut sent = vec![hello.clone(), whole];
    sent.extend([1, 3, 100].map(|size| in_records(&hello, size)));
    for (number, bytes) in sent.iter().enumerate() {
        // In one write, and byte by byte.
        for is_split in [false, true] {
            let mut raw = Raw::connect(edge.address("https"));
            if is_split {
                for byte in bytes {
                    raw.send([*byte]);
                }
            } else {
                raw.send(bytes);
            }
            raw.send(b"\x00\xff not TLS at all");
            let expected = [&bytes[..], b"\x00\xff not TLS at all"].concat();
            let echoed = raw.read_exactly(expected.len(), SOON).unwrap();
            assert!(echoed == expected, "case {number}, split {is_split}");
            drop(raw);
            assert_eventually!(origin.open_connections() == 0);
            assert!(origin.received().last().unwrap() == &expected, "case {number}");
        }
    }
    assert_eq!(origin.connections(), sent.len() * 2);
    let bytes: usize = origin.received().iter().map(Vec::len).sum();
    let counted = |direction: &str| {
        edge.metric(&format!("tidegate_tunnel_{direction}_bytes_total"), [("passthrough", "db")])
    };
    assert_eventually!(counted("received") == bytes as f64 && counted("sent") == bytes as f64);
}

#[test]
fn first_messages_that_are_too_long_too_slow_or_no_tls_are_refused() {
    let origin = TcpOrigin::echoing();
    let edge = Edge::start(&[&origin], &config("timeouts = { handshake = \"500ms\" }", ""));
    let address = edge.address("https");
    let hello = Tls::any().server_name("db.test").client_hello();
    // A message that promises 60,000 bytes, and goes on and on.
    let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60];
    endless.resize(5 + 0x4000, 0);
    let record = [&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let mut raw = Raw::connect(&address);
    raw.send(&endless);
    drop(raw.try_send(&record));
    assert!(raw.is_closed_within(SOON));
    let failures =
        |reason| edge.metric("tidegate_tls_handshake_failures_total", [("reason", reason)]);
    assert_eventually!(failures("hello_too_long") == 1.0);
    // One that stops half-way.
    let mut raw = Raw::connect(&address);
    raw.send(&hello[..hello.len() / 2]);
    assert!(raw.is_closed_within(SOON));
    assert_eventually!(failures("timeout") == 1.0);
    let mut raw = Raw::connect(&address);
    raw.send(GET);
    assert!(raw.is_closed_within(SOON));
    assert_eventually!(failures("not_tls") == 1.0);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_line_in_the_log_and_counters_say_where_it_went() {
    let authority = Authority::new("of the origin");
    let origin = tls_origin(&authority);
    let edge = Edge::start(&[&origin], &config("", ""));
    let tls = Tls::trusting(authority.pem()).server_name("db.test");
    let mut raw = Raw::connect_tls(edge.address("https"), &tls).unwrap();
    raw.send(GET).read_head(SOON).unwrap();
    let labels = [("listener", "https"), ("passthrough", "db"), ("upstream", "db")];
    assert_eq!(edge.metric("tidegate_tunnels", labels), 1.0);
    assert_eq!(edge.metric("tidegate_endpoint_requests_in_flight", &origin), 1.0);
    drop(raw);
    assert_eventually!(edge.access_log().len() == 1);
    let line = edge.access_log().remove(0);
    for (key, value) in [
        ("kind", "passthrough"),
        ("client", "127.0.0.1"),
        ("listener", "https"),
        ("passthrough", "db"),
        ("server_name", "db.test"),
        ("upstream", "db"),
        ("endpoint", &origin.address()),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    // A client that closes without its alert may reset what is still on its way.
    assert!(line["end"] == "closed" || line["end"] == "client_reset", "{line}");
    assert!(line["bytes_in"].as_u64() > Some(200) && line["bytes_out"].as_u64() > Some(500));
    assert_eventually!(edge.metric("tidegate_tunnels", labels) == 0.0);
    assert_eventually!(edge.metric("tidegate_endpoint_requests_in_flight", &origin) == 0.0);
    assert_eq!(edge.metric("tidegate_tunnels_total", labels), 1.0);
    assert_eq!(edge.metric("tidegate_tunnel_duration_seconds_count", labels), 1.0);
}

#[test]
fn a_reload_changes_where_new_connections_go_and_leaves_open_ones() {
    let (first, second) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let edge = Edge::start(&[&first, &second], &config("", ""));
    let hello = Tls::any().server_name("db.test").client_hello();
    let open = || {
        let mut raw = Raw::connect(edge.address("https"));
        raw.send(&hello);
        assert!(raw.read_exactly(hello.len(), SOON).unwrap() == hello);
        raw
    };
    let mut old = open();
    edge.reload_with(&config("", "").replace("{0}", "{1}")).unwrap();
    let mut new = open();
    assert_eq!((first.connections(), second.connections()), (1, 1));
    for raw in [&mut old, &mut new] {
        raw.send("still here");
        assert_eq!(raw.read_exactly(10, SOON).unwrap(), b"still here");
    }
    // The name becomes the site's: its wildcard covers it.
    let without = config("", "").replace("\"db.test\", ", "");
    edge.reload_with(&without).unwrap();
    let site = edge.tls_client(Tls::any()).host("db.test");
    assert_eq!(site.get("/").send().assert_status(200).text(), "a");
    old.send("and here");
    assert_eq!(old.read_exactly(8, SOON).unwrap(), b"and here");
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
}

#[test]
fn the_client_is_announced_before_the_untouched_bytes() {
    let origin = TcpOrigin::playing(Play::Silence);
    let edge = Edge::start(
        &[&origin],
        &config("proxy_protocol = { from = [\"127.0.0.1\"] }", "proxy_protocol = \"v1\""),
    );
    let hello = Tls::any().server_name("db.test").client_hello();
    let header = "PROXY TCP4 203.0.113.9 198.51.100.1 4711 8443\r\n";
    let mut raw = Raw::connect(edge.address("https"));
    raw.send([header.as_bytes(), &hello].concat()).send("more");
    let expected = [header.as_bytes(), &hello, b"more"].concat();
    assert_eventually!(origin.received().first() == Some(&expected));
}

#[test]
fn a_listener_may_have_nothing_but_names_that_it_sends_on() {
    let authority = Authority::new("of the origin");
    let origin = tls_origin(&authority);
    let edge = Edge::start(
        &[&origin],
        "allow_empty = true\n[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\n\
         [listeners.https.passthrough.db]\nhosts = [\"db.test\"]\nendpoints = [\"{0}\"]\n",
    );
    let client = Client::to(edge.address("https")).tls(Tls::trusting(authority.pem()));
    assert_eq!(client.host("db.test").get("/").send().text(), "from the origin");
}
