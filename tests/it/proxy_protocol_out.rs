//! PROXY headers to endpoints: whose name a connection goes out under.

use std::time::Duration;

use crate::{
    assert_eventually,
    harness::{Edge, Play, Raw, TcpOrigin},
};

const SOON: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn http() -> TcpOrigin {
    TcpOrigin::playing(Play::Http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into()))
}

fn upstream(more: &str) -> String {
    format!("[upstreams.web]\nendpoints = [\"{{0}}\"]\n{more}\n")
}

fn ask(raw: &mut Raw) {
    raw.send(GET);
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    raw.read_exactly(2, SOON).unwrap();
}

/// The port in a client's own address.
fn port(raw: &Raw) -> u16 {
    raw.local_address().rsplit(':').next().unwrap().parse().unwrap()
}

fn edge_port(edge: &Edge) -> u16 {
    edge.address("http").rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn connections_begin_with_the_client_and_carry_no_other_clients_requests() {
    let origin = http();
    let edge = Edge::start(&[&origin], &upstream("proxy_protocol = \"v1\""));
    let (mut one, mut other) = (edge.raw(), edge.raw());
    for _ in 0..5 {
        ask(&mut one);
        ask(&mut other);
    }
    let received = origin.received();
    assert_eq!(received.len(), 2, "a connection for each client, used again by that client only");
    for (bytes, client) in received.iter().zip([&one, &other]) {
        let text = String::from_utf8_lossy(bytes);
        let header =
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", port(client), edge_port(&edge));
        assert!(text.starts_with(&format!("{header}GET / HTTP/1.1\r\n")), "{text}");
        assert_eq!(text.matches("PROXY").count(), 1, "{text}");
        assert_eq!(text.matches("GET / ").count(), 5, "{text}");
    }
}

#[test]
fn version_2_is_binary_and_what_came_in_goes_out() {
    let origin = http();
    let text = format!(
        "[listeners.http]\naddress = \"127.0.0.1:0\"\nproxy_protocol = {{ from = [\"127.0.0.1\"] }}\n{}",
        upstream("proxy_protocol = \"v2\"")
    );
    let edge = Edge::start(&[&origin], &text);
    let mut raw = edge.raw();
    raw.send("PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n");
    ask(&mut raw);
    let received = origin.received().remove(0);
    let mut expected = SIGNATURE.to_vec();
    expected.extend([0x21, 0x21, 0, 36, 0x20, 0x01, 0x0d, 0xb8]);
    expected.extend([0; 11]);
    expected.extend([9, 0x20, 0x01, 0x0d, 0xb8]);
    expected.extend([0; 11]);
    expected.extend([1, 0x12, 0x67, 1, 187]);
    expected.extend(b"GET / HTTP/1.1\r\n");
    assert!(received.starts_with(&expected), "{received:?}");
    // Nobody is known: a client by LOCAL is the balancer itself, whose address stays.
    let mut local = edge.raw();
    local.send([SIGNATURE, &[0x20, 0, 0, 0]].concat());
    ask(&mut local);
    let second = origin.received().remove(1);
    assert_eq!(&second[12..20], [0x21, 0x11, 0, 12, 127, 0, 0, 1]);
}

#[test]
fn a_trusted_proxys_client_is_named_and_one_without_address_is_unknown() {
    let origin = http();
    let text = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[listeners.http]\naddress = \"127.0.0.1:0\"\n[listeners.unix]\naddress = \"unix:{{dir}}/edge.sock\"\n{}",
        upstream("proxy_protocol = \"v1\"")
    );
    let edge = Edge::start(&[&origin], &text);
    let mut raw = edge.raw();
    // Two clients of a proxy on one connection of it.
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
        raw.send(GET.replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: {client}\r\n\r\n")));
        raw.read_head(SOON).unwrap();
        raw.read_exactly(2, SOON).unwrap();
    }
    let mut unix = Raw::connect(edge.address("unix"));
    unix.send(GET).read_head(SOON).unwrap();
    let starts: Vec<String> = origin
        .received()
        .iter()
        .map(|bytes| String::from_utf8_lossy(bytes).lines().next().unwrap().to_owned())
        .collect();
    let port = edge_port(&edge);
    assert_eq!(
        starts,
        [
            format!("PROXY TCP4 192.0.2.1 127.0.0.1 0 {port}"),
            format!("PROXY TCP4 192.0.2.2 127.0.0.1 0 {port}"),
            "PROXY UNKNOWN".to_owned()
        ]
    );
}

#[test]
fn probes_say_that_they_are_nobodys() {
    for (version, start) in [
        ("v1", b"PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n".to_vec()),
        ("v2", [SIGNATURE, b"\x20\x00\x00\x00GET /healthz HTTP/1.1\r\n"].concat()),
    ] {
        let origin = http();
        let text = upstream(&format!(
            "proxy_protocol = \"{version}\"\nhealth_check = {{ path = \"/healthz\", interval = \"100ms\" }}"
        ));
        let edge = Edge::start(&[&origin], &text);
        assert_eventually!(edge.metric("tidegate_endpoint_healthy", &origin) == 1.0);
        let received = origin.received().remove(0);
        assert!(received.starts_with(&start), "{received:?}");
    }
}

#[test]
fn a_web_socket_is_announced_too_and_a_reload_turns_it_off() {
    let origin = TcpOrigin::playing(Play::Http(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            .into(),
    ));
    let edge = Edge::start(&[&origin], &upstream("proxy_protocol = \"v1\""));
    let upgrade = GET.replace(
        "\r\n\r\n",
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut raw = edge.raw();
    raw.send(&upgrade);
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 101 "));
    let text = String::from_utf8_lossy(&origin.received()[0]).into_owned();
    assert!(text.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", port(&raw))), "{text}");

    edge.reload_with(&upstream("proxy_protocol = \"off\"")).unwrap();
    let mut raw = edge.raw();
    raw.send(&upgrade).read_head(SOON).unwrap();
    assert!(origin.received()[1].starts_with(b"GET / "));
}
