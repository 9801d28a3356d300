//! Requests at the edge of what HTTP allows, by chance: what goes on to the origin is what hyper and the h2 crate read of
//! the bytes that the client sent, and hyper reads the origin's bytes as exactly the requests that were routed.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    CONFIG, SOON, assert_unambiguous, bytes,
    frames::{Frames, Outcome, connection_with},
};
use crate::harness::{Edge, RecordingOrigin, block_on};

/// A request as a parser of somebody else read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    method: String,
    target: String,
    /// `None` where it is malformed, or had no end.
    body: Option<Vec<u8>>,
}

/// What hyper reads of a connection's bytes.
fn read_by_hyper(bytes: &[u8]) -> Vec<Read> {
    let reads: Arc<Mutex<Vec<Read>>> = Arc::default();
    let (mut near, far) = tokio::io::duplex(1 << 20);
    block_on(async {
        near.write_all(bytes).await.unwrap();
        let (mut answers, mut requests) = tokio::io::split(near);
        requests.shutdown().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| {
            let reads = reads.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
                let (method, target) = (head.method.to_string(), head.uri.to_string());
                reads.lock().unwrap().push(Read { method, target, body });
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let serving =
            http1::Builder::new().half_close(true).serve_connection(TokioIo::new(far), service);
        let mut answered = Vec::new();
        // Bytes that are no request end it with an error.
        let (_, _) = tokio::join!(serving, answers.read_to_end(&mut answered));
    });
    Arc::into_inner(reads).unwrap().into_inner().unwrap()
}

/// What the h2 crate reads of a connection's bytes with one request.
fn read_by_h2(bytes: &[u8]) -> Option<Read> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    block_on(async {
        near.write_all(bytes).await.unwrap();
        let serving = async {
            let mut connection = h2::server::handshake(far).await.ok()?;
            let (request, _respond) = connection.accept().await?.ok()?;
            let (head, mut body) = request.into_parts();
            let body = async move {
                let mut whole = Vec::new();
                while let Some(part) = body.data().await {
                    whole.extend(part.ok()?);
                }
                Some(whole)
            };
            // The connection is driven by asking it for more.
            let body = tokio::select! {
                body = body => body,
                _ = connection.accept() => None,
            };
            let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            Some(Read { method: head.method.to_string(), target, body })
        };
        let mut answered = Vec::new();
        let (read, _) = tokio::join!(serving, near.read_to_end(&mut answered));
        read
    })
}

/// Mostly what is right, now and then something near to it.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    right: Vec<T>,
    near: Vec<T>,
) -> impl Strategy<Value = T> {
    prop_oneof![8 => prop::sample::select(right), 1 => prop::sample::select(near)]
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Is a request where the first is one, and must get nowhere where that is refused.
const SECOND: &str = "GET /second{n} HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request whose target has `{n}` in it, with more behind it.
fn request() -> impl Strategy<Value = String> {
    let method =
        mostly(strings(&["GET", "POST", "PUT", "X-Y"]), strings(&["", "G T", "post", "CONNECT"]));
    let target = mostly(
        strings(&["/{n}", "/{n}?a=b&c=%20", "http://a/{n}", "/a/b/{n}", "/%C3%A4/{n}"]),
        strings(&["{n}", "/{n} x", "/{n}#f", "http://b/{n}", "/\u{e4}/{n}", "/{n}\t"]),
    );
    let version = mostly(
        strings(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
        strings(&["HTTP/2.0", "HTTP/1.1 ", ""]),
    );
    let host = mostly(
        strings(&["Host: a\r\n", "hOST:a\r\n"]),
        strings(&["", "Host: a\r\nHost: a\r\n", "Host: b c\r\n", "Host : a\r\n"]),
    );
    let field = mostly(
        strings(&[
            "X: y\r\n",
            "Accept: */*\r\n",
            "Connection: keep-alive\r\n",
            "X:\t\u{e4} \r\n",
            "TE: trailers\r\n",
        ]),
        strings(&[
            "X: y\n",
            "X : y\r\n",
            " X: y\r\n",
            "X\r\n",
            "X: \0\r\n",
            "X: y\rZ: w\r\n",
            "Transfer-Encoding: identity\r\n",
            "Connection: close, X\r\n",
        ]),
    );
    let fields = prop::collection::vec(field, 0..3).prop_map(|fields| fields.concat());
    let framing = mostly(
        strings(&["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"]),
        strings(&[
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: Chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length: 05\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Content-Length: 5 \r\nX-A: b\r\n",
            "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
        ]),
    );
    let chunked = mostly(
        strings(&[
            "5\r\nhello\r\n0\r\n\r\n",
            "0\r\n\r\n",
            "2;x=y\r\nhi\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
        ]),
        strings(&[
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nX\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5;\nx\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n00\r\n\r\n",
        ]),
    );
    (method, target, version, host, fields, framing, chunked).prop_map(
        |(method, target, version, host, fields, framing, chunked)| {
            let body = match framing.to_ascii_lowercase() {
                framing if framing.contains("transfer") => chunked,
                framing if framing.contains("length") => "hello".to_owned(),
                _ => String::new(),
            };
            format!("{method} {target} {version}\r\n{host}{fields}{framing}\r\n{body}{SECOND}")
        },
    )
}

#[test]
fn what_goes_on_is_what_hyper_reads() {
    let origin = RecordingOrigin::start();
    let edge = Edge::start(&[&origin], CONFIG);
    let number = std::cell::Cell::new(0);
    let forwarded = std::cell::Cell::new(0);
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&request(), |text| {
            number.set(number.get() + 1);
            let place = format!("r{}x", number.get());
            let text = text.replace("{n}", &place);
            let sent = bytes(&text);
            let mut raw = edge.raw();
            raw.send(&sent);
            let head =
                raw.read_head(SOON).map_err(|failure| TestCaseError::fail(failure.detail))?;
            let seen = origin.seen_at(&format!("/{place}"));
            if head[9..12] == *"200" {
                forwarded.set(forwarded.get() + 1);
                let read = read_by_hyper(&sent);
                prop_assert_eq!(seen.len(), 1);
                let expected = Read {
                    method: seen[0].method.clone(),
                    // The origin gets its own form of an absolute target.
                    target: ["http://a", "http://b"]
                        .iter()
                        .fold(read[0].target.as_str(), |target, start| {
                            target.trim_start_matches(start)
                        })
                        .to_owned(),
                    body: Some(seen[0].body.clone()),
                };
                prop_assert_eq!(&seen[0].target, &expected.target);
                prop_assert_eq!(
                    Read { target: expected.target.clone(), ..read[0].clone() },
                    expected
                );
                prop_assert!(seen[0].is_whole);
                assert_unambiguous(&seen[0], &text);
            } else {
                prop_assert!(seen.iter().all(|seen| !seen.is_whole), "{:?}", seen);
                drop(raw.read_to_end(SOON));
                let second = origin.seen_at(&format!("/second{place}"));
                prop_assert!(second.is_empty(), "{:?}", second);
            }
            Ok(())
        })
        .unwrap();
    assert!(forwarded.get() > 50, "only {} of {} went on", forwarded.get(), number.get());
    // The origin's bytes, read by somebody else.
    let seen = origin.seen();
    for (connection, raw) in origin.raw().iter().enumerate() {
        let routed: Vec<_> = seen
            .iter()
            .filter(|seen| seen.connection == connection)
            .map(|seen| Read {
                method: seen.method.clone(),
                target: seen.target.clone(),
                body: seen.is_whole.then(|| seen.body.clone()),
            })
            .collect();
        assert_eq!(read_by_hyper(raw), routed, "connection {connection}");
    }
}

/// Fields of a request of HTTP/2, and its body.
fn request_of_http2() -> impl Strategy<Value = (Vec<(String, String)>, Option<&'static str>)> {
    let method =
        mostly(strings(&["GET", "POST", "PUT"]), strings(&["", "G T", "CONNECT", "G\r\nX"]));
    let scheme = mostly(strings(&["http", "https"]), strings(&["ftp", "", "ht tp"]));
    let authority =
        mostly(strings(&["a", "a:80"]), strings(&["", "a b", "u@a", "a/b", "a,b", "a\r\nX: y"]));
    let path = mostly(
        strings(&["/{n}", "/{n}?a=b", "/%20/{n}"]),
        strings(&["{n}", "", "*", "/{n} x", "/{n}\r\nX: y", "/{n}\0", "http://a/{n}", "/{n}#f"]),
    );
    let field = mostly(
        vec![("x", "y"), ("accept", "*/*"), ("te", "trailers"), ("cookie", "a=b"), ("x", "\u{e4}")],
        vec![
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("host", "b"),
            ("X", "y"),
            ("x y", "z"),
            ("", "y"),
            ("x", " y"),
            ("x", "y\r\nz: w"),
            ("x", "\0"),
            (":x", "y"),
            ("content_length", "5"),
            ("\"x\"", "y"),
            ("content-length", "4"),
            ("content-length", "5, 5"),
        ],
    );
    let fields = prop::collection::vec(field, 0..3);
    let body = prop::sample::select(vec![None, None, Some("hello")]);
    (method, scheme, authority, path, fields, body, any::<bool>()).prop_map(
        |(method, scheme, authority, path, fields, body, has_length)| {
            let mut all = vec![
                (":method".to_owned(), method),
                (":scheme".to_owned(), scheme),
                (":authority".to_owned(), authority),
                (":path".to_owned(), path),
            ];
            all.extend(
                fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            );
            if has_length && body.is_some() {
                all.push(("content-length".to_owned(), "5".to_owned()));
            }
            (all, body)
        },
    )
}

#[test]
fn what_goes_on_of_http2_is_what_h2_reads() {
    let origin = RecordingOrigin::start();
    let config = CONFIG.replace("max_uri", "h2c = true\n    max_uri");
    let edge = Edge::start(&[&origin], &config);
    let number = std::cell::Cell::new(0);
    let forwarded = std::cell::Cell::new(0);
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&request_of_http2(), |(fields, body)| {
            number.set(number.get() + 1);
            let place = format!("r{}x", number.get());
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.clone(), value.replace("{n}", &place)))
                .collect();
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let body = body.map(str::as_bytes);
            let mut frames = Frames::open(edge.raw());
            frames.head(1, &fields, body.is_none());
            if let Some(body) = body {
                frames.data(1, body, true);
            }
            let outcome =
                frames.outcome(1, SOON).map_err(|failure| TestCaseError::fail(failure.detail))?;
            let seen = origin.seen_at(&place);
            if outcome == Outcome::Status(200) {
                forwarded.set(forwarded.get() + 1);
                let read = read_by_h2(&connection_with(&fields, body));
                prop_assert_eq!(seen.len(), 1);
                prop_assert!(seen[0].is_whole);
                let routed = Read {
                    method: seen[0].method.clone(),
                    target: seen[0].target.clone(),
                    body: Some(seen[0].body.clone()),
                };
                prop_assert_eq!(read, Some(routed));
                assert_unambiguous(&seen[0], &place);
            } else {
                prop_assert!(seen.iter().all(|seen| !seen.is_whole), "{:?}: {:?}", outcome, seen);
            }
            Ok(())
        })
        .unwrap();
    assert!(forwarded.get() > 50, "only {} of {} went on", forwarded.get(), number.get());
    let seen = origin.seen();
    for (connection, raw) in origin.raw().iter().enumerate() {
        let routed = seen.iter().filter(|seen| seen.connection == connection).count();
        assert_eq!(read_by_hyper(raw).len(), routed, "connection {connection}");
    }
}
