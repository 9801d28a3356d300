//! PROXY headers of clients' connections: who must send one, and what follows from it.

use std::time::Duration;

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    assert_eventually,
    harness::{Authority, Client, Edge, Origin, Raw, TcpOrigin, Tls, block_on},
};

const SOON: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 8443\r\n";
/// The same in version 2, with an authority and a no-op as extensions.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x1d\xcb\x00\x71\x09\xc6\x33\x64\x01\x12\x67\x20\xfb\x02\x00\x08a.b.test\x04\x00\x03\x00\x00\x00";
/// The balancer's own connection.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const FROM_LOOPBACK: &str = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";

fn plain(more: &str) -> String {
    format!("[listeners.http]\naddress = \"127.0.0.1:0\"\n{more}\n")
}

/// The `client` of each line of the access log.
fn clients(edge: &Edge) -> Vec<String> {
    let client = |line: &Value| line["client"].as_str().unwrap_or("none").to_owned();
    edge.access_log().iter().map(client).collect()
}

fn refused(edge: &Edge) -> f64 {
    edge.metric("tidegate_connections_refused_total", [("reason", "proxy_header")])
}

#[test]
fn the_client_of_the_header_is_the_one_that_everything_sees() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &plain(FROM_LOOPBACK));
    for header in [V1, V2] {
        let mut raw = edge.raw();
        raw.send([header, GET.as_bytes()].concat());
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        let seen = origin.last_request();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(seen.header("x-forwarded-port"), Some("8443"));
        assert!(seen.header("forwarded").unwrap().starts_with("for=203.0.113.9;"));
    }
    // The second request of a connection has no header of its own.
    let mut kept = edge.raw();
    kept.send(V2).send(GET).read_head(SOON).unwrap();
    kept.read_exactly(2, SOON).unwrap();
    kept.send(GET).read_head(SOON).unwrap();
    assert_eventually!(clients(&edge) == ["203.0.113.9"; 4]);
    assert_eq!(refused(&edge), 0.0);
}

#[test]
fn a_header_may_arrive_in_any_pieces() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &plain(FROM_LOOPBACK));
    for header in [V1, V2] {
        let mut raw = edge.raw();
        // Without Nagle's delay each is a segment of its own.
        for byte in [header, GET.as_bytes()].concat() {
            raw.send([byte]);
        }
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.last_request().header("x-forwarded-for"), Some("203.0.113.9"));
    }
}

#[test]
fn unknown_and_local_keep_the_address_of_the_socket() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &plain(FROM_LOOPBACK));
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 1.1.1.1 2.2.2.2 3 4\r\n"] {
        let mut raw = edge.raw();
        raw.send([header, GET.as_bytes()].concat()).read_head(SOON).unwrap();
        assert_eq!(origin.last_request().header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn it_works_before_tls_and_http2_on_unix_sockets_and_for_tcp() {
    let (origin, echo) = (Origin::answering(200), TcpOrigin::echoing());
    let edge = Edge::start(
        &[&origin, &echo],
        r#"
        [listeners.http]
        address = "127.0.0.1:0"
        h2c = true
        proxy_protocol = { from = ["127.0.0.0/8"] }
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        proxy_protocol = { from = ["127.0.0.0/8"] }
        [listeners.unix]
        address = "unix:{dir}/edge.sock"
        proxy_protocol = true
        [listeners.echo]
        address = "127.0.0.1:0"
        proxy_protocol = { from = ["127.0.0.0/8"] }
        tcp = { endpoints = ["{1}"] }
        [sites.test]
        hosts = ["localhost"]
        listeners = ["http", "https", "unix"]
        endpoints = ["{0}"]
        "#,
    );
    let tls = Tls::any().server_name("localhost");
    let mut raw = Raw::connect_tls_after(edge.address("https"), V2, &tls).unwrap();
    raw.send(GET).read_head(SOON).unwrap();
    assert_eq!(origin.last_request().header("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(origin.last_request().header("x-forwarded-proto"), Some("https"));

    let mut raw = Raw::connect(edge.address("unix"));
    raw.send([V1, GET.as_bytes()].concat()).read_head(SOON).unwrap();
    assert_eq!(origin.last_request().header("x-forwarded-for"), Some("203.0.113.9"));

    let status = block_on(async {
        let mut stream = TcpStream::connect(edge.address("http")).await.unwrap();
        stream.write_all(V1).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("http://localhost/h2").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let status = response.await.unwrap().status();
        connection.abort();
        status
    });
    assert_eq!(status, 200);
    assert_eq!(origin.last_request().header("x-forwarded-for"), Some("203.0.113.9"));

    let mut raw = Raw::connect(edge.address("echo"));
    raw.send([V2, b"ping"].concat());
    assert_eq!(raw.read_exactly(4, SOON).unwrap(), b"ping");
    drop(raw);
    assert_eventually!(clients(&edge) == ["203.0.113.9"; 4]);
    assert_eq!(echo.received(), [b"ping"]);
}

#[test]
fn who_is_not_listed_is_not_believed() {
    let origin = Origin::answering(200);
    let text = plain("proxy_protocol = { from = [\"192.0.2.0/24\"] }");
    let edge = Edge::start(&[&origin], &text);
    // A plain client is one as ever.
    edge.client().get("/").send().assert_status(200);
    // To everybody else a header is bytes, which are no request.
    for header in [V1, V2] {
        let mut raw = edge.raw();
        raw.send([header, GET.as_bytes()].concat());
        let answer = raw.read_to_end(SOON).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{text}");
    }
    assert_eq!(origin.requests(), 1);
    assert!(clients(&edge).iter().all(|client| client == "127.0.0.1"), "{:?}", clients(&edge));

    let edge = Edge::start(
        &[&origin],
        "[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\nproxy_protocol = { from = [\"192.0.2.0/24\"] }\n",
    );
    let tls = Tls::any().server_name("localhost");
    assert!(Raw::connect_tls_after(edge.address("https"), V1, &tls).is_err());
    let failures = || edge.metric("tidegate_tls_handshake_failures_total", [("reason", "not_tls")]);
    assert_eventually!(failures() == 1.0);
    edge.tls_client(Tls::any()).host("localhost").get("/").send().assert_status(200);
}

#[test]
fn trusted_proxies_are_listed_by_a_switch() {
    let origin = Origin::answering(200);
    let text =
        format!("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}", plain("proxy_protocol = true"));
    let edge = Edge::start(&[&origin], &text);
    let mut raw = edge.raw();
    let forged = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    raw.send([V1, forged.as_bytes()].concat()).read_head(SOON).unwrap();
    // The client of the header is no trusted proxy: what it says of others is a lie.
    assert_eq!(origin.last_request().header("x-forwarded-for"), Some("203.0.113.9"));
    // A reload that takes the proxy off the list holds for the next connection.
    edge.reload_with(&text.replace("127.0.0.1\"]", "192.0.2.1\"]")).unwrap();
    edge.client().get("/").send().assert_status(200);
}

#[test]
fn who_must_send_a_header_and_does_not_is_closed_and_counted() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        &plain(&format!("{FROM_LOOPBACK}\ntimeouts = {{ head = \"400ms\" }}")),
    );
    let starts: [&[u8]; 6] =
        [GET.as_bytes(), b"", b"PROXY TCP4 203.0.113.9", &V2[..20], b"PROXY UDP4 x\r\n", b"\x16"];
    for start in starts {
        let mut raw = edge.raw();
        raw.send(start);
        assert!(raw.is_closed_within(SOON), "{start:?}");
    }
    assert_eventually!(refused(&edge) == 6.0);
    let logged = || edge.access_log().iter().filter(|line| line["error"] == "proxy_header").count();
    assert_eventually!(logged() == 6);
    assert_eq!(origin.requests(), 0);
    assert_eventually!(edge.metric("tidegate_connections", [("listener", "http")]) == 0.0);
}

#[test]
fn a_flood_of_garbage_leaves_nothing_behind() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &plain(FROM_LOOPBACK));
    let mut random = fastrand::Rng::with_seed(7);
    let mut sent = 0;
    for round in 0..300 {
        let mut bytes = match round % 4 {
            0 => b"PROXY ".to_vec(),
            1 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
            2 => b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec(),
            _ => Vec::new(),
        };
        // Control bytes, so that no version takes it for a part of a header.
        bytes.extend((0..200).map(|_| random.u8(128..)));
        let mut raw = edge.raw();
        // It may be closed before everything is sent.
        drop(raw.try_send(&bytes));
        assert!(raw.is_closed_within(SOON), "{bytes:?}");
        sent += 1;
        if round % 50 == 0 {
            let mut good = edge.raw();
            good.send([V1, GET.as_bytes()].concat());
            assert!(good.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        }
    }
    assert_eventually!(refused(&edge) == f64::from(sent));
    assert_eventually!(edge.metric("tidegate_connections", [("listener", "http")]) == 0.0);
}

#[test]
fn limits_and_conditions_follow_the_header() {
    let edge = Edge::start(
        &[],
        &format!(
            "{}[sites.test]\nhosts = [\"localhost\"]\nlisteners = [\"http\"]\n\
             [sites.test.routes.known]\nclient_address = [\"203.0.113.0/24\"]\nfall_through = true\nrespond = {{ body = \"known\" }}\n\
             [sites.test.routes.other]\nrespond = {{ body = \"other\" }}\n",
            plain(&format!("{FROM_LOOPBACK}\nmax_connections_per_client = 2"))
        ),
    );
    let other = b"PROXY TCP4 198.51.100.9 198.51.100.1 1 2\r\n";
    let ask = |header: &[u8], body: &str| {
        let mut raw = edge.raw();
        raw.send([header, GET.as_bytes()].concat());
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(raw.read_exactly(5, SOON).unwrap(), body.as_bytes());
        raw
    };
    // Two of each client; all of them come from one balancer.
    let mut open =
        vec![ask(V1, "known"), ask(V2, "known"), ask(other, "other"), ask(other, "other")];
    for header in [V1, other] {
        let mut third = edge.raw();
        third.send(header);
        assert!(third.is_closed_within(SOON));
    }
    let over = || edge.metric("tidegate_connections_refused_total", [("reason", "client_limit")]);
    assert_eventually!(over() == 2.0);
    // The balancer's own connections are no client's.
    let _own: Vec<Raw> = (0..3).map(|_| ask(LOCAL, "other")).collect();
    open.remove(0);
    let again = || {
        let mut raw = edge.raw();
        raw.send([V1, GET.as_bytes()].concat());
        raw.read_head(SOON).is_ok()
    };
    assert_eventually!(again());
}

#[test]
fn a_certificate_of_the_site_is_served_behind_a_header() {
    let authority = Authority::new("test");
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["a.test"]).write_to(folder.path(), "a");
    let at = folder.path().display();
    let edge = Edge::start(
        &[],
        &format!(
            "[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\n{FROM_LOOPBACK}\n\
             [sites.a]\nhosts = [\"a.test\"]\ncertificate = {{ chain = \"{at}/a.pem\", key = \"{at}/a.key\" }}\nrespond = {{ body = \"a\" }}\n"
        ),
    );
    let tls = Tls::trusting(authority.pem()).server_name("a.test");
    let raw = Raw::connect_tls_after(edge.address("https"), V1, &tls).unwrap();
    assert_eq!(raw.handshake().unwrap().names(), ["a.test"]);
    // Without it there is no handshake.
    assert!(Raw::connect_tls(edge.address("https"), &tls).is_err());
    assert!(Client::to(edge.address("https")).tls(tls).get("/").try_send().is_err());
}
