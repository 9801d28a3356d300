//! What an endpoint sees of a request, and a client of its answer: forwarding headers, ids, hop-by-hop fields, bodies.

use std::{thread, time::Duration};

use bytes::Bytes;
use http::Version;

use crate::harness::{
    Authority, Client, Edge, Origin, Raw, RawOrigin, Tls,
    origin::{Step, hex, pattern},
};

const SOON: Duration = Duration::from_secs(5);

/// The port at the end of an address.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

#[test]
fn the_endpoint_sees_who_asked_by_which_scheme_host_and_port() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let plain = edge.address("http");
    edge.client().get("/").send().assert_status(200);
    let seen = origin.last_request();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some(plain.as_str()));
    assert_eq!(seen.header("x-forwarded-port"), Some(port(&plain)));
    let forwarded = format!("for=127.0.0.1;proto=http;host=\"{plain}\"");
    assert_eq!(seen.header("forwarded"), Some(forwarded.as_str()));

    let secure = edge.tls_client(Tls::any()).host("localhost");
    secure.get("/").send().assert_status(200);
    let seen = origin.last_request();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(seen.header("x-forwarded-port"), Some(port(&edge.address("https"))));
    secure.http2().get("/").send().assert_status(200);
    let seen = origin.last_request();
    assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;proto=https;host=\"localhost\""));
    assert_eq!((seen.version, seen.host()), (Version::HTTP_11, Some("localhost")));
}

#[test]
fn forwarding_headers_of_an_untrusted_client_are_replaced() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let client = edge.client();
    let mut request = client.get("/").host("localhost");
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"] {
        request = request.header(name, "lie").header(name, "another");
    }
    for name in ["forwarded", "x-real-ip", "true-client-ip", "x-client-ip", "x-forwarded-scheme"] {
        request = request.header(name, "lie");
    }
    request.send().assert_status(200);
    let seen = origin.last_request();
    assert_eq!(seen.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header_values("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header_values("x-forwarded-host"), ["localhost"]);
    let lies: Vec<_> = seen.headers.iter().filter(|(_, value)| *value == "lie").collect();
    assert!(lies.is_empty(), "{lies:?}");
}

#[test]
fn behind_a_trusted_proxy_headers_go_on_and_the_client_is_the_first_untrusted_from_the_right() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [server]
        trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]

        [sites.shop]
        hosts = ["localhost"]
        [sites.shop.routes.known]
        client_address = ["192.0.2.0/24", "2001:db8::/32"]
        fall_through = true
        endpoints = ["{0}"]
        [sites.shop.routes.other]
        priority = -1
        respond = { status = 403 }
        "#,
    );
    let client = edge.client().host("localhost");
    for (header, value, status) in [
        ("x-forwarded-for", "192.0.2.7", 200),
        ("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.9", 200),
        ("x-forwarded-for", "192.0.2.7, 6.6.6.6, 10.0.0.9", 403),
        ("x-forwarded-for", "192.0.2.7, rubbish", 403),
        ("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:4711\";proto=https", 200),
        ("forwarded", "for=192.0.2.7, for=unknown", 403),
    ] {
        let answered = client.get("/").header(header, value).send().status;
        assert_eq!(answered, status, "{header}: {value}");
    }
    let ask = |forwarded: &str| {
        client
            .get("/")
            .header("x-forwarded-for", "6.6.6.6, 192.0.2.7")
            .header("x-forwarded-for", "10.0.0.9")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "public.example.com")
            .header("forwarded", forwarded)
            .send()
            .assert_status(200);
        let seen = origin.last_request();
        assert_eq!(
            seen.header_values("x-forwarded-for"),
            ["6.6.6.6, 192.0.2.7, 10.0.0.9, 127.0.0.1"]
        );
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-host"), Some("public.example.com"));
        seen.header("forwarded").unwrap().to_owned()
    };
    let both = "for=6.6.6.6, for=192.0.2.7;proto=https, for=10.0.0.9";
    let forwarded = ask(both);
    assert!(forwarded.starts_with(&format!("{both}, for=127.0.0.1;")), "{forwarded}");
    // The client's own list, passed on by a proxy that writes only the other one.
    let forwarded = ask("for=203.0.113.66");
    assert!(forwarded.starts_with("for=192.0.2.7, for=127.0.0.1;"), "{forwarded}");
}

#[test]
fn a_request_id_is_made_or_passed_on_and_told_to_both_sides() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let client = edge.client();
    let made = client.get("/").send();
    let id = made.header("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(origin.last_request().header_values("x-request-id"), [id]);
    assert_ne!(client.get("/").send().header("x-request-id"), Some(id));
    let given = client.get("/").header("x-request-id", "order-17.a").send();
    assert_eq!(given.header_values("x-request-id"), ["order-17.a"]);
    assert_eq!(origin.last_request().header("x-request-id"), Some("order-17.a"));
    let rubbish = client.get("/").header("x-request-id", "a b\"<script>").send();
    assert_ne!(rubbish.header("x-request-id"), Some("a b\"<script>"));
    let own = client.get("/%00").send().assert_status(400);
    assert!(own.header("x-request-id").is_some() && own.text().contains("request id"));
}

#[test]
fn a_trace_context_goes_on_unchanged() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request =
        edge.client().get("/").header("traceparent", parent).header("tracestate", "a=1").send();
    request.assert_status(200);
    let seen = origin.last_request();
    assert_eq!(
        (seen.header("traceparent"), seen.header("tracestate")),
        (Some(parent), Some("a=1"))
    );
    crate::assert_eventually!(edge.access_log().iter().any(|line| {
        line["trace_id"] == "0af7651916cd43dd8448eb211c80319c" && line["client"] == "127.0.0.1"
    }));
}

#[test]
fn hop_by_hop_fields_and_what_connection_names_stay_on_their_hop() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Inner\r\nX-Inner: 1\r\n\
         Keep-Alive: timeout=30\r\nProxy-Authenticate: Basic\r\nX-Outer: 1\r\n\r\nok",
    );
    let edge = Edge::start(&[&origin], "");
    let mut raw = edge.raw();
    raw.send(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nX-Kept: 1\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    );
    let head = raw.read_head(SOON).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 ") && head.contains("x-outer: 1\r\n"), "{head}");
    for gone in ["x-inner", "keep-alive: timeout", "upgrade"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    let seen = origin.received_text().to_ascii_lowercase();
    assert!(seen.contains("x-kept: 1\r\n"), "{seen}");
    for gone in [
        "x-secret",
        "keep-alive: timeout",
        "proxy-connection",
        "\r\nte:",
        "upgrade",
        "http2-settings",
    ] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
}

#[test]
fn the_host_is_kept_replaced_by_the_upstream_or_by_the_route() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [upstreams.kept]
        endpoints = ["{0}"]
        [upstreams.replaced]
        endpoints = ["{0}"]
        host = "inner.example"
        [sites.a]
        hosts = ["a.example.com"]
        [sites.a.routes.kept]
        upstream = "kept"
        [sites.a.routes.replaced]
        path = "/replaced"
        upstream = "replaced"
        [sites.a.routes.rewritten]
        path = "/rewritten"
        upstream = "replaced"
        rewrite = { host = "route.example:8080" }
        "#,
    );
    for (path, host) in [
        ("/", "a.example.com:81"),
        ("/replaced", "inner.example"),
        ("/rewritten", "route.example:8080"),
    ] {
        edge.client().get(path).host("a.example.com:81").send().assert_status(200);
        let seen = origin.last_request();
        assert_eq!(seen.header_values("host"), [host], "{path}");
        assert_eq!(seen.header("x-forwarded-host"), Some("a.example.com:81"), "{path}");
    }
}

#[test]
fn informational_answers_pass_and_are_not_edited() {
    let origin = RawOrigin::playing(vec![
        Step::Write(Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")),
        Step::Pause(Duration::from_millis(20)),
        Step::Write(Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    ]);
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.a]
        hosts = ["localhost"]
        endpoints = ["{0}"]
        policies = ["marked"]
        [policies.marked.headers]
        response = { set = { X-Marked = "1" } }
        "#,
    );
    let mut raw = edge.raw();
    raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let early = raw.read_head(SOON).unwrap().to_ascii_lowercase();
    assert!(early.starts_with("http/1.1 103 ") && early.contains("link: </a.css>"), "{early}");
    assert!(!early.contains("x-marked") && !early.contains("x-request-id"), "{early}");
    let last = raw.read_head(SOON).unwrap().to_ascii_lowercase();
    assert!(last.starts_with("http/1.1 200 ") && last.contains("x-marked: 1"), "{last}");
}

#[test]
fn an_expected_100_continue_comes_from_the_endpoint() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let mut raw = edge.raw();
    raw.send(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    );
    let head = raw.read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    raw.send("abc");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(&*origin.last_request().body, b"abc");
    let refusing = Origin::builder().status(403).early("no").start();
    let edge = Edge::start(&[&refusing], "");
    let mut raw = edge.raw();
    raw.send(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    );
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 403 "));
}

#[test]
fn large_bodies_pass_whole_in_constant_memory() {
    const LENGTH: u64 = 96 << 20;
    const ALLOWED: u64 = 24 << 20;
    let (sink, source) = (Origin::answering(200), Origin::builder().download(LENGTH).start());
    let edge = Edge::spawn(
        &[&sink, &source],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        max_body = "1GiB"
        [sites.a.routes.up]
        path = "/up"
        endpoints = ["{0}"]
        [sites.a.routes.down]
        path = "/down"
        endpoints = ["{1}"]
        "#,
    );
    let client = edge.client().timeout(Duration::from_mins(2));
    client.get("/up").send().assert_status(200);
    let before = edge.rss();
    client.post("/up").upload(LENGTH).send().assert_status(200);
    let seen = sink.last_request();
    assert_eq!((seen.body_length, seen.body_sha256), (LENGTH, hash_of(LENGTH)));
    client.post("/up").chunked(LENGTH / 4, 100_000, Duration::ZERO).send().assert_status(200);
    assert_eq!(sink.last_request().body_length, LENGTH / 4);

    // A reader that stops: what it does not take stays at the origin, not in the edge.
    let mut slow = client.get("/down").open().unwrap();
    let first = slow.next(SOON).unwrap().expect("a first piece").len() as u64;
    thread::sleep(Duration::from_millis(500));
    let held = edge.rss();
    assert!(held < before + ALLOWED, "{before} before, {held} with a reader that stopped");
    let mut is_right = true;
    let length = slow.read_slowly(Duration::ZERO, Duration::from_mins(2), |offset, piece| {
        is_right &= *piece == *pattern(first + offset, piece.len());
    });
    assert_eq!((first + length.unwrap(), is_right), (LENGTH, true));
    let after = edge.rss();
    assert!(after < before + ALLOWED, "{before} before, {after} after");
}

/// SHA-256 of the first bytes of the pattern that clients and origins send.
fn hash_of(length: u64) -> String {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    // A whole number of periods, so that each block is the same.
    let block = pattern(0, 251 * 4_096);
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        hash.update(&block[..now]);
        left -= now as u64;
    }
    hex(&hash.finalize())
}

#[test]
fn answers_without_a_body_end_at_once() {
    for (status, method) in [(204, "GET"), (304, "GET"), (200, "HEAD")] {
        let origin = Origin::builder().status(status).start();
        let edge = Edge::start(&[&origin], "");
        let client = edge.client().timeout(Duration::from_secs(2));
        let responses = client.request(method, "/").times(2).all_status(status);
        assert!(responses.iter().all(|response| response.body.is_empty()), "{status} {method}");
    }
}

#[test]
fn a_broken_answer_is_never_passed_off_as_whole() {
    let truncated = Origin::builder().truncated(100_000, 50_000).start();
    let edge = Edge::start(&[&truncated], "");
    assert!(edge.client().get("/").try_send().is_err());
    let chunked = RawOrigin::playing(vec![
        Step::Write(Bytes::from_static(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )),
        Step::Pause(Duration::from_millis(20)),
        Step::Close,
    ]);
    let edge = Edge::start(&[&chunked], "");
    assert!(edge.client().get("/").try_send().is_err());
    assert!(edge.tls_client(Tls::any()).host("localhost").http2().get("/").try_send().is_err());
    let nonsense =
        RawOrigin::playing(vec![Step::Write(Bytes::from_static(b"nonsense\r\n\r\n")), Step::Close]);
    let edge = Edge::start(&[&nonsense], "");
    edge.client().get("/").send().assert_status(502);
}

#[test]
fn the_absolute_form_and_cookie_crumbs_become_what_endpoints_know() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    let mut raw = edge.raw();
    raw.send("GET http://localhost/x?y=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    let seen = origin.last_request();
    assert_eq!((seen.path.as_str(), seen.host()), ("/x?y=1", Some("localhost")));
    // RFC 9113, section 8.2.3: one field line towards HTTP/1.1.
    let client = edge.tls_client(Tls::any()).host("localhost").http2();
    client.get("/").header("cookie", "a=1").header("cookie", "b=2").send().assert_status(200);
    assert_eq!(origin.last_request().header_values("cookie"), ["a=1; b=2"]);
}

#[test]
fn endpoints_are_spoken_to_in_http2_over_tls_and_unix_sockets() {
    let authority = Authority::new("inner");
    let certificate = authority.issue(&["inner.example"]);
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let h2c = Origin::builder().http2().start();
    let h2 = Origin::builder().http2().tls(&certificate).start();
    let h1 = Origin::builder().http1().tls(&certificate).start();
    let unix = Origin::builder().unix(directory.path().join("o.sock")).start();
    let text = r#"
        [upstreams.h2c]
        endpoints = ["{0}"]
        protocol = "http2"
        [upstreams.h2]
        endpoints = ["{1}"]
        protocol = "http2"
        tls = { server_name = "inner.example", ca = "CA" }
        [upstreams.h1]
        endpoints = ["{2}"]
        protocol = "auto"
        tls = { server_name = "inner.example", ca = "CA" }
        [upstreams.unix]
        endpoints = ["{3}"]
        [upstreams.wrong-name]
        endpoints = ["{2}"]
        tls = { server_name = "other.example", ca = "CA" }
        [upstreams.unknown-authority]
        endpoints = ["{2}"]
        tls = { server_name = "inner.example" }
        [upstreams.unverified]
        endpoints = ["{2}"]
        tls = { insecure_skip_verify = true }
        [sites.a]
        hosts = ["localhost"]
        [sites.a.routes]
        h2c = { path = "/h2c", upstream = "h2c" }
        h2 = { path = "/h2", upstream = "h2" }
        h1 = { path = "/h1", upstream = "h1" }
        unix = { path = "/unix", upstream = "unix" }
        wrong-name = { path = "/wrong-name", upstream = "wrong-name" }
        unknown-authority = { path = "/unknown-authority", upstream = "unknown-authority" }
        unverified = { path = "/unverified", upstream = "unverified" }
        "#
    .replace("CA", &ca.display().to_string());
    let edge = Edge::start(&[&h2c, &h2, &h1, &unix], &text);
    for (path, status) in [
        ("/h2c", 200),
        ("/h2", 200),
        ("/h1", 200),
        ("/unix", 200),
        ("/wrong-name", 502),
        ("/unknown-authority", 502),
        ("/unverified", 200),
    ] {
        assert_eq!(edge.client().get(path).host("localhost").send().status, status, "{path}");
    }
    assert_eq!(h2c.last_request().version, Version::HTTP_2);
    assert_eq!(h2.last_request().version, Version::HTTP_2);
    assert_eq!(h1.last_request().version, Version::HTTP_11);
}

#[test]
fn what_could_smuggle_a_second_request_is_refused_and_the_connection_closed() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let edge = Edge::start(&[&origin], "");
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for head in [
        "Host: localhost\r\nContent-Length: 49\r\nTransfer-Encoding: chunked\r\n",
        "Host: localhost\r\nContent-Length: 4\r\nContent-Length: 49\r\n",
        "Host: localhost\r\nTransfer-Encoding: xchunked\r\n",
        "Host: localhost\r\nTransfer-Encoding : chunked\r\n",
        "Host: localhost\r\nTransfer-Encoding: chunked, identity\r\n",
        "Host: localhost\r\nHost: other\r\n",
        "Content-Length: 0\r\n",
        "Host: a b\r\n",
    ] {
        let mut raw = Raw::connect(edge.address("http"));
        raw.send(format!("POST / HTTP/1.1\r\n{head}\r\n{smuggled}"));
        let answer =
            String::from_utf8_lossy(&raw.read_to_end(SOON).unwrap_or_default()).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count().max(1), 1, "{head:?}: {answer}");
    }
    let seen = origin.received_text();
    assert!(!seen.contains("/smuggled"), "{seen}");
}

#[test]
fn many_requests_share_connections_on_both_sides() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    edge.client().get("/").times(50).all_status(200);
    assert_eq!(origin.requests(), 50);
    assert!(origin.connections() <= 2, "{} connections", origin.connections());
    let client: Client = edge.client().new_connections();
    client.get("/").times(20).all_status(200);
    assert!(origin.connections() <= 3, "{} connections", origin.connections());
}
