//! Answers of endpoints in HTTP/2 to clients of both protocols.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::net::TcpListener;

use crate::harness::{Client, Edge, FailureKind, block_on, spawn};

const LIMIT: Duration = Duration::from_secs(20);

/// An answer by its fields, the parts of its body, and its trailers.
type Answer = (u16, &'static [(&'static str, &'static str)], &'static [&'static str]);

/// By path.
fn answer(path: &str) -> Answer {
    match path {
        "/length" => (200, &[("content-length", "2")], &["ok"]),
        "/two-lengths" => (200, &[("content-length", "2"), ("content-length", "2")], &["ok"]),
        "/two-that-differ" => (200, &[("content-length", "2"), ("content-length", "3")], &["ok"]),
        "/list" => (200, &[("content-length", "2, 2")], &["ok"]),
        "/connection" => (200, &[("connection", "close")], &["ok"]),
        "/coding" => (200, &[("transfer-encoding", "chunked")], &["ok"]),
        "/space" => (200, &[("x", " y")], &["ok"]),
        "/underscore" => (200, &[("content_length", "2")], &["ok"]),
        "/less" => (200, &[("content-length", "4")], &["o", "k"]),
        "/more" => (200, &[("content-length", "1")], &["o", "k"]),
        "/switch" => (101, &[], &[]),
        _ => (200, &[], &["ok"]),
    }
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    pairs.collect()
}

/// A server of HTTP/2 with prior knowledge that sends what it is told.
fn origin() -> String {
    let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (status, pairs, parts) = answer(request.uri().path());
                    let mut response = Response::new(());
                    *response.status_mut() = status.try_into().unwrap();
                    for (name, value) in pairs {
                        response.headers_mut().append(*name, HeaderValue::from_static(value));
                    }
                    let Ok(mut body) = respond.send_response(response, false) else { continue };
                    for part in parts {
                        drop(body.send_data(Bytes::from_static(part.as_bytes()), false));
                    }
                    drop(body.send_trailers(fields(&[
                        ("grpc-status", "0"),
                        ("content-length", "9"),
                        ("host", "other"),
                        ("set-cookie", "a=b"),
                        ("authorization", "x"),
                    ])));
                }
            });
        }
    });
    address
}

#[test]
fn answers_of_http2_that_could_be_read_otherwise_are_refused() {
    let origin = origin();
    let edge = Edge::start(
        &[&origin],
        "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\n\
         [upstreams.app]\nendpoints = [\"{0}\"]\nprotocol = \"http2\"\nretries = { tries = 1 }\n",
    );
    let http1 = edge.client().timeout(LIMIT);
    let http2 = Client::to(edge.address("http")).http2().timeout(LIMIT);
    for (path, status) in [
        ("/plain", 200),
        ("/length", 200),
        ("/two-lengths", 502),
        ("/two-that-differ", 502),
        ("/list", 502),
        ("/connection", 502),
        ("/coding", 502),
        ("/space", 502),
        ("/underscore", 502),
        ("/switch", 502),
    ] {
        for client in [&http1, &http2] {
            assert_eq!(client.get(path).send().status, status, "{path}");
        }
    }
    for path in ["/less", "/more"] {
        for client in [&http1, &http2] {
            // The head may be on its way already; the end is not.
            let failed = client.get(path).try_send();
            let is_refused = match &failed {
                // What is more than the length never gets to the client, who has a whole answer then.
                Ok(response) => response.status == 502 || path == "/more" && response.text() == "o",
                Err(failure) => failure.kind != FailureKind::Timeout,
            };
            assert!(is_refused, "{path}: {failed:?}");
        }
    }
    // It knows no chunks, and there is no other end.
    for (path, status) in [("/length", " 200 "), ("/plain", " 505 ")] {
        let mut raw = edge.raw();
        raw.send(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
        let head = raw.read_head(LIMIT).unwrap();
        assert!(head[8..].starts_with(status), "{path}: {head}");
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{path}: {head}");
    }
    let trailers = http2.get("/plain").send().trailers;
    assert_eq!(trailers, fields(&[("grpc-status", "0")]));
}
