//! Requests of HTTP/2: what is malformed is reset or answered with 400, and nothing of it reaches an endpoint of HTTP/1.1.
//!
//! The h2 crate resets what breaks RFC 9113, sections 8.1.1, 8.2 and 8.3; Pingora resets forbidden bytes in the path and
//! lengths that differ, and answers a bare 400 where the authority is wrong or in doubt; our hooks answer the rest.

use super::{
    SOON, assert_unambiguous,
    frames::{Field, Frames, Outcome},
};
use crate::harness::{Edge, RecordingOrigin, eventually::eventually};

const CONFIG: &str = r#"
    [listeners.http]
    address = "127.0.0.1:0"
    h2c = true
    unknown_host = { site = "test" }
    [sites.test]
    hosts = ["localhost"]
    listeners = ["http"]
    endpoints = ["{0}"]
"#;

/// `PROTOCOL_ERROR`.
const RESET: Outcome = Outcome::Reset(1);
/// By Pingora.
const BARE: Outcome = Outcome::Bare400;
/// By a hook.
const BAD: Outcome = Outcome::Status(400);
/// What the h2 crate can't decode ends the connection with `PROTOCOL_ERROR`, which RFC 9113, section 5.4.1, allows.
const GONE: Outcome = Outcome::GoAway(1);
const GOOD: Outcome = Outcome::Status(200);

struct Row {
    name: &'static str,
    fields: Vec<(String, String)>,
    /// Parts of the body, and whether the last ends the stream.
    data: (&'static [&'static str], bool),
    trailers: &'static [Field<'static>],
    outcome: Outcome,
}

/// A request with these fields beside the four that it must have; one with the same name takes the place of the first.
fn row(name: &'static str, more: &[Field<'_>], outcome: Outcome) -> Row {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/{n}")];
    let mut fields: Vec<_> =
        usual.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for (name, value) in more {
        let place = fields.iter_mut().take(4).find(|(usual, _)| usual == name);
        match place {
            Some(usual) => (*value).clone_into(&mut usual.1),
            None => fields.push(((*name).to_owned(), (*value).to_owned())),
        }
    }
    Row { name, fields, data: (&[], true), trailers: &[], outcome }
}

/// A request without one of the four.
fn without(name: &'static str, absent: &str, outcome: Outcome) -> Row {
    let mut row = row(name, &[], outcome);
    row.fields.retain(|(field, _)| field != absent);
    row
}

/// Exactly these fields.
fn exactly(name: &'static str, fields: &[Field<'_>], outcome: Outcome) -> Row {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Row { fields: fields.collect(), ..row(name, &[], outcome) }
}

fn body(row: Row, data: &'static [&'static str]) -> Row {
    Row { data: (data, true), ..row }
}

fn rows() -> Vec<Row> {
    let post = |name, more: &[Field<'_>], outcome| {
        let mut fields = vec![(":method", "POST")];
        fields.extend(more);
        row(name, &fields, outcome)
    };
    vec![
        row("plain", &[], GOOD),
        row("a query", &[(":path", "/{n}?a=b")], GOOD),
        row("another method", &[(":method", "PURGE")], GOOD),
        row("https", &[(":scheme", "https")], GOOD),
        row("Host beside the authority", &[("host", "a")], GOOD),
        row("te: trailers", &[("te", "trailers")], GOOD),
        row("cookies in pieces", &[("cookie", "a=1"), ("cookie", "b=2")], GOOD),
        row("an empty value", &[("x", "")], GOOD),
        row("a port", &[(":authority", "a:80")], GOOD),
        exactly(
            "Host in place of the authority",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/{n}"), ("host", "a")],
            GOOD,
        ),
        body(post("a length", &[("content-length", "5")], GOOD), &["hel", "lo"]),
        body(post("no length", &[], GOOD), &["hello"]),
        body(post("an empty length", &[("content-length", "0")], GOOD), &[]),
        Row {
            trailers: &[("x-trailer", "1"), ("host", "smuggled")],
            ..body(post("trailers are dropped", &[], GOOD), &["hello"])
        },
        // Connection-specific fields (RFC 9113, section 8.2.2).
        row("connection", &[("connection", "close")], RESET),
        row("keep-alive", &[("keep-alive", "timeout=5")], RESET),
        row("proxy-connection", &[("proxy-connection", "close")], RESET),
        row("transfer-encoding", &[("transfer-encoding", "chunked")], RESET),
        row("upgrade", &[("upgrade", "websocket")], RESET),
        row("te: gzip", &[("te", "gzip")], RESET),
        row("te: trailers, deflate", &[("te", "trailers, deflate")], RESET),
        row("http2-settings", &[("http2-settings", "AAMAAABk")], GOOD),
        // Pseudo-header fields (section 8.3).
        without("no method", ":method", RESET),
        without("no scheme", ":scheme", RESET),
        without("no path", ":path", RESET),
        without("no authority and no host", ":authority", BARE),
        exactly(
            "a method twice",
            &[
                (":method", "GET"),
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/{n}"),
            ],
            RESET,
        ),
        exactly(
            "a path twice",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/{n}"),
                (":path", "/smuggled"),
            ],
            RESET,
        ),
        exactly(
            "an authority twice",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a"),
                (":authority", "b"),
                (":path", "/{n}"),
            ],
            RESET,
        ),
        exactly(
            "one behind a field",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                ("x", "y"),
                (":authority", "a"),
                (":path", "/{n}"),
            ],
            RESET,
        ),
        row("an unknown one", &[(":x", "y")], GONE),
        row("one of an answer", &[(":status", "200")], RESET),
        row("a protocol that was not offered", &[(":protocol", "websocket")], RESET),
        row("an empty path", &[(":path", "")], RESET),
        row("a relative path", &[(":path", "{n}")], RESET),
        row("an absolute path", &[(":path", "http://a/{n}")], RESET),
        row("a star", &[(":path", "*")], BAD),
        row("a space in the path", &[(":path", "/{n} HTTP/1.1")], RESET),
        row("a line end in the path", &[(":path", "/{n} HTTP/1.1\r\nX: smuggled")], RESET),
        row("a control character in the path", &[(":path", "/{n}\u{1}")], RESET),
        row("NUL in the path", &[(":path", "/{n}\0")], RESET),
        row("an empty method", &[(":method", "")], GONE),
        row("a space in the method", &[(":method", "GET /smuggled")], GONE),
        row("a line end in the method", &[(":method", "GET\r\n")], GONE),
        row("an unknown scheme", &[(":scheme", "ftp")], BAD),
        row("a scheme that is none", &[(":scheme", "ht tp")], RESET),
        row("CONNECT", &[(":method", "CONNECT")], RESET),
        exactly(
            "CONNECT as it should be",
            &[(":method", "CONNECT"), (":authority", "a:443")],
            Outcome::Status(405),
        ),
        // The authority (sections 8.3.1 and 8.2.1).
        row("user info", &[(":authority", "u:p@a")], BARE),
        row("an empty authority", &[(":authority", "")], RESET),
        row("a path in the authority", &[(":authority", "a/b")], RESET),
        row("a space in the authority", &[(":authority", "a b")], RESET),
        row("a port that is none", &[(":authority", "a:b")], BAD),
        row("a port over 65535", &[(":authority", "a:65536")], BAD),
        row("a list of hosts", &[(":authority", "a,b")], BAD),
        row("percent-encoded", &[(":authority", "a%2eb")], RESET),
        row("another Host", &[("host", "b")], BARE),
        row("two Hosts", &[("host", "a"), ("host", "a")], BARE),
        row("Host with user info", &[("host", "u@a")], BARE),
        // Fields (section 8.2.1).
        row("capitals", &[("X", "y")], GONE),
        row("no name", &[("", "y")], GONE),
        row("a space in a name", &[("x y", "z")], GONE),
        row("a colon in a name", &[("x:", "z")], GONE),
        row("a line end in a name", &[("x\r\ny", "z")], GONE),
        row("NUL in a name", &[("x\0", "z")], GONE),
        row("a quote in a name", &[("\"x\"", "z")], BAD),
        row("a name over ASCII", &[("x\u{e4}", "z")], GONE),
        row("a line end in a value", &[("x", "y\r\nz: smuggled")], GONE),
        row("LF in a value", &[("x", "y\nz")], GONE),
        row("CR in a value", &[("x", "y\rz")], GONE),
        row("NUL in a value", &[("x", "y\0")], GONE),
        row("a control character in a value", &[("x", "y\u{1}")], GONE),
        row("DEL in a value", &[("x", "y\u{7f}")], GONE),
        row("white space before a value", &[("x", " y")], BAD),
        row("white space behind a value", &[("x", "y\t")], BAD),
        // Lengths (section 8.1.1).
        body(
            post("two lengths", &[("content-length", "5"), ("content-length", "5")], BAD),
            &["hello"],
        ),
        body(
            post("two that differ", &[("content-length", "5"), ("content-length", "6")], RESET),
            &["hello"],
        ),
        body(post("a list", &[("content-length", "5, 5")], RESET), &["hello"]),
        body(post("a negative length", &[("content-length", "-5")], RESET), &["hello"]),
        body(post("a plus", &[("content-length", "+5")], RESET), &["hello"]),
        body(post("no number", &[("content-length", "x")], RESET), &["hello"]),
        body(
            post("over 64 bits", &[("content-length", "18446744073709551616")], RESET),
            &["hello"],
        ),
        body(post("more than it says", &[("content-length", "4")], RESET), &["hel", "lo"]),
        body(post("less than it says", &[("content-length", "6")], RESET), &["hel", "lo"]),
        body(post("a length and no body", &[("content-length", "5")], RESET), &[]),
        row("a length without body", &[("content-length", "5")], RESET),
        body(post("underscore", &[("content_length", "5")], BAD), &["hello"]),
        body(
            post("underscore in the coding", &[("transfer_encoding", "chunked")], BAD),
            &["0\r\n\r\n"],
        ),
    ]
}

#[test]
fn requests_of_http2() {
    let origin = RecordingOrigin::start();
    let edge = Edge::start(&[&origin], CONFIG);
    let mut wrong = Vec::new();
    let (mut refused, mut answered) = (0_u32, 0);
    for (number, row) in rows().iter().enumerate() {
        let case = format!("row {number}, {}", row.name);
        let place = format!("r{number}x");
        let fields: Vec<_> = row
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), value.replace("{n}", &place)))
            .collect();
        let fields: Vec<Field<'_>> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut frames = Frames::open(edge.raw());
        let (data, ends) = row.data;
        frames.head(1, &fields, data.is_empty() && row.trailers.is_empty() && ends);
        for (i, part) in data.iter().enumerate() {
            frames.data(1, part.as_bytes(), i + 1 == data.len() && row.trailers.is_empty());
        }
        if !row.trailers.is_empty() {
            frames.head(1, row.trailers, true);
        }
        let outcome = frames.outcome(1, SOON).unwrap_or_else(|failure| panic!("{case}: {failure}"));
        if outcome != row.outcome {
            wrong.push(format!("{case}: {outcome:?}, not {:?}", row.outcome));
        }
        let seen = origin.seen_at(&place);
        if outcome == GOOD {
            assert_eq!(seen.len(), 1, "{case}");
            assert!(seen[0].is_whole, "{case}");
            assert_eq!(String::from_utf8_lossy(&seen[0].body), data.concat(), "{case}");
            assert_unambiguous(&seen[0], &case);
        } else {
            // A length that the body belies comes out behind the head.
            assert!(seen.iter().all(|seen| !seen.is_whole), "{case}: {seen:?}");
        }
        match outcome {
            RESET | GONE | BARE => refused += 1,
            Outcome::Status(400..) => answered += 1,
            _ => {}
        }
        if !matches!(outcome, Outcome::GoAway(_)) {
            // Other streams of the connection are not concerned.
            let good =
                [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
            frames.head(3, &good, true);
            let next = frames.outcome(3, SOON);
            assert_eq!(next.ok(), Some(GOOD), "{case}: the next stream");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let bytes = origin.raw().concat();
    assert!(!bytes.windows(8).any(|window| window == b"smuggled"), "it went on");
    // What no hook sees is counted and logged by the listener; the rest has a line as every request.
    let labels = [("listener", "http"), ("reason", "http2")];
    let metric = || edge.metric("tidegate_heads_refused_total", labels);
    let lines = || {
        let log = edge.access_log().into_iter().filter(|line| !line["error"].is_null());
        let (listener, hook): (Vec<_>, Vec<_>) =
            log.partition(|line| line["error"] == "http2" && line.get("host").is_none());
        // A length that the body belies ends what a hook saw, too.
        (listener.len(), hook.iter().filter(|line| line["status"] != 0).count())
    };
    eventually(SOON, || (metric(), lines()) == (f64::from(refused), (refused as usize, answered)));
    assert_eq!((metric(), lines()), (f64::from(refused), (refused as usize, answered)));
}
