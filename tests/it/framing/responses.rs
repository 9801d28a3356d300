//! Answers of endpoints in HTTP/1.1: faults become 502, or break off what the client has of the answer.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Notify;

use super::{CONFIG, SOON, bytes};
use crate::{
    assert_eventually,
    harness::{Authority, Edge, FailureKind, RecordingOrigin, origin::Reply},
};

/// What becomes of an answer.
enum Fate {
    /// The client gets 502, and the connection to the endpoint is not used again.
    BadGateway,
    /// The client gets an answer with this status and this body.
    Passed(u16, &'static str),
    /// The same, and the connection is not used again.
    PassedOnce(u16, &'static str),
    /// The client has the head when this comes; it sees that its answer has no end.
    BrokenOff(&'static str),
}

struct Row {
    name: &'static str,
    method: &'static str,
    answer: String,
    closes: bool,
    fate: Fate,
}

fn row(name: &'static str, answer: impl Into<String>, fate: Fate) -> Row {
    Row { name, method: "GET", answer: answer.into(), closes: false, fate }
}

fn bad(name: &'static str, answer: impl Into<String>) -> Row {
    row(name, answer, Fate::BadGateway)
}

/// 200 with these fields and nothing behind them.
fn with(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")
}

/// 200 in chunks.
fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

/// 200 with a field more and a body of two bytes.
fn field(line: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{line}\r\n\r\nok")
}

/// 200 in chunks, of which the first is good; this comes behind it.
fn later(name: &'static str, behind: &'static str) -> Row {
    row(name, chunked("5\r\nhello\r\n"), Fate::BrokenOff(behind))
}

/// The body of an answer by its framing, and whether it has its end.
fn body_of(head: &str, mut rest: &[u8]) -> (Vec<u8>, bool) {
    let head = head.to_ascii_lowercase();
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        return (rest.to_vec(), rest.len() == length);
    }
    if !head.contains("transfer-encoding: chunked") {
        return (rest.to_vec(), true);
    }
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest) {
        rest = &rest[line..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        let data = rest.len().min(size as usize);
        body.extend_from_slice(&rest[..data]);
        rest = rest.get(data + 2..).unwrap_or_default();
    }
    (body, false)
}

fn run(rows: &[Row]) {
    let asked: Vec<Arc<Notify>> = rows.iter().map(|_| Arc::default()).collect();
    let replies: HashMap<String, Reply> = rows
        .iter()
        .enumerate()
        .map(|(number, row)| {
            let later = match row.fate {
                Fate::BrokenOff(behind) => Some((asked[number].clone(), bytes(behind))),
                _ => None,
            };
            let reply = Reply { bytes: bytes(&row.answer), later, closes: row.closes };
            (format!("/r{number}"), reply)
        })
        .collect();
    let origin = RecordingOrigin::answering(move |seen| replies[&seen.target].clone());
    let edge = Edge::start(&[&origin], CONFIG);
    let mut faults = 0;
    let mut is_fresh_due = false;
    for (number, row) in rows.iter().enumerate() {
        let case = format!("row {number}, {}", row.name);
        let mut raw = edge.raw();
        raw.send(format!(
            "{} /r{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            row.method
        ));
        let mut head = raw.read_head(SOON).unwrap_or_else(|failure| panic!("{case}: {failure}"));
        while head.starts_with("HTTP/1.1 1") && !head.starts_with("HTTP/1.1 101") {
            assert!(!head.to_ascii_lowercase().contains("connection:"), "{case}: {head}");
            head = raw.read_head(SOON).unwrap();
        }
        asked[number].notify_one();
        let rest = raw.read_to_end(SOON).unwrap_or_else(|failure| panic!("{case}: {failure}"));
        let status: u16 = head[9..12].parse().unwrap();
        let (body, is_whole) = body_of(&head, &rest);
        let body = String::from_utf8_lossy(&body).into_owned();
        // One try each: what is malformed is not asked for again.
        let seen = origin.seen_at(&format!("/r{number}"));
        let seen: Vec<_> =
            seen.iter().filter(|seen| seen.target == format!("/r{number}")).collect();
        assert_eq!(seen.len(), 1, "{case}");
        if is_fresh_due {
            let before = &origin.seen()[number - 1];
            assert_ne!(before.connection, seen[0].connection, "{case}: its connection was broken");
        }
        match row.fate {
            Fate::BadGateway => {
                assert_eq!(status, 502, "{case}: {head}");
                assert!(is_whole, "{case}: {body}");
                faults += 1;
            }
            Fate::Passed(expected, text) | Fate::PassedOnce(expected, text) => {
                assert_eq!((status, body.as_str()), (expected, text), "{case}: {head}");
                let framed = row.method != "HEAD" && !matches!(status, 204 | 304);
                assert!(is_whole || !framed, "{case}: {head}{body}");
            }
            Fate::BrokenOff(_) => {
                assert!(status == 200 && body.starts_with("hello"), "{case}: {head}{body}");
                assert!(!is_whole, "{case}: {head}");
                faults += 1;
            }
        }
        is_fresh_due = !matches!(row.fate, Fate::Passed(..));
    }
    let lines = || {
        let log = edge.access_log();
        log.iter().filter(|line| line["error"] == "upstream_invalid").count()
    };
    assert_eventually!(lines() == faults, within SOON);
}

#[test]
fn heads_of_answers() {
    run(&[
        row("a length", field("X: y"), Fate::Passed(200, "ok")),
        row("no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Fate::Passed(200, "ok")),
        row(
            "an empty reason",
            "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
            Fate::Passed(200, "ok"),
        ),
        row("bytes over ASCII", field("X: \u{e4}"), Fate::Passed(200, "ok")),
        row(
            "an unknown status",
            "HTTP/1.1 799 x\r\nContent-Length: 2\r\n\r\nok",
            Fate::Passed(799, "ok"),
        ),
        row("204", "HTTP/1.1 204 No Content\r\n\r\n", Fate::Passed(204, "")),
        row(
            "204 with an empty length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            Fate::Passed(204, ""),
        ),
        row(
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            Fate::Passed(304, ""),
        ),
        row(
            "103 before it",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n{}",
                field("X: y")
            ),
            Fate::Passed(200, "ok"),
        ),
        row(
            "100 before it",
            format!("HTTP/1.1 100 Continue\r\n\r\n{}", field("X: y")),
            Fate::Passed(200, "ok"),
        ),
        Row {
            method: "HEAD",
            ..row("HEAD with a length", with("Content-Length: 9"), Fate::Passed(200, ""))
        },
        Row {
            method: "HEAD",
            ..row("HEAD in chunks", with("Transfer-Encoding: chunked"), Fate::Passed(200, ""))
        },
        Row {
            closes: true,
            ..row("until it closes", "HTTP/1.1 200 OK\r\n\r\nok", Fate::PassedOnce(200, "ok"))
        },
        Row {
            closes: true,
            ..row("1.0 until it closes", "HTTP/1.0 200 OK\r\n\r\nok", Fate::PassedOnce(200, "ok"))
        },
        row(
            "1.0 with a length",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Fate::PassedOnce(200, "ok"),
        ),
        row(
            "more than its length",
            field("X: y") + "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
            Fate::PassedOnce(200, "ok"),
        ),
        row("a body behind 204", "HTTP/1.1 204 No\r\n\r\nsmuggled", Fate::PassedOnce(204, "")),
        row("a body behind 304", "HTTP/1.1 304 Not\r\n\r\nsmuggled", Fate::PassedOnce(304, "")),
        Row { method: "HEAD", ..row("a body for HEAD", field("X: y"), Fate::PassedOnce(200, "")) },
        bad("no status line", "Content-Length: 2\r\n\r\nok"),
        bad("0.9", "ok\r\n\r\n"),
        bad("2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("1.2", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("another protocol", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("lower case", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("letters", "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("under 100", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("an empty line before it", format!("\r\n{}", field("X: y"))),
        bad("NUL in the reason", "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok"),
        bad("CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok"),
        bad("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        bad("bare LF in a field", field("X: y\nZ: w")),
        bad("bare CR in a field", field("X: y\rZ: w")),
        bad("NUL in a field", field("X: y\0")),
        bad("a control character", field("X: y\u{8}")),
        bad("a space before the colon", field("X : y")),
        bad("a space in a name", field("X Y: y")),
        bad("no name", field(": y")),
        bad("no colon", field("X")),
        bad("folded", field("X: y\r\n z")),
        bad("folded first", "HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 2\r\n\r\nok"),
        bad("too many fields", field(&vec!["X: y"; 300].join("\r\n"))),
        bad("too large", field(&format!("X: {}", "y".repeat(300 << 10)))),
        bad("100 with a length", "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok"),
        bad(
            "103 in chunks",
            format!(
                "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n{}",
                field("X: y")
            ),
        ),
        bad("103 without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40) + &field("X: y")),
        bad(
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsmuggled",
        ),
        bad("204 in chunks", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad("204 with a length", "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok"),
    ]);
}

#[test]
fn framing_of_answers() {
    run(&[
        row("chunks", chunked("2\r\nok\r\n0\r\n\r\n"), Fate::Passed(200, "ok")),
        row("an extension", chunked("2;a\r\nok\r\n0\r\n\r\n"), Fate::Passed(200, "ok")),
        row(
            "a trailer is dropped",
            chunked("2\r\nok\r\n0\r\nX: y\r\n\r\n"),
            Fate::Passed(200, "ok"),
        ),
        row(
            "more than its chunks",
            chunked("2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            Fate::PassedOnce(200, "ok"),
        ),
        bad(
            "both",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        bad(
            "both, the other way round",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        bad("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        bad(
            "the same length twice",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        ),
        bad("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
        bad("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        bad("a length with a plus", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        bad("a length of letters", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok"),
        bad("an empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok"),
        bad(
            "a length over 64 bits",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nok",
        ),
        bad(
            "gzip, chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        bad("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        bad("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok"),
        bad(
            "chunked twice",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        bad("chunks in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad(
            "a space before the colon",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        bad("a bad first chunk", chunked("x\r\nok\r\n0\r\n\r\n")),
        bad("a padded size", chunked("2 \r\nok\r\n0\r\n\r\n")),
        bad("0x", chunked("0x2\r\nok\r\n0\r\n\r\n")),
        bad("LF behind the size", chunked("2\nok\r\n0\r\n\r\n")),
        bad("data too long", chunked("2\r\nokay\r\n0\r\n\r\n")),
        bad("a size over 64 bits", chunked("10000000000000002\r\nok\r\n0\r\n\r\n")),
        later("a bad second chunk", "x\r\nok\r\n0\r\n\r\n"),
        later("a second chunk that is too long", "2\r\nokay\r\n0\r\n\r\n"),
        later("LF behind the last size", "0\n\r\n"),
        later("LF for the end", "0\r\n\n"),
        later("a bad trailer", "0\r\nX : y\r\n\r\n"),
        later("another answer in place of the end", "0\r\nHTTP/1.1 200 OK\r\n\r\n"),
        row("the last", chunked("2\r\nok\r\n0\r\n\r\n"), Fate::Passed(200, "ok")),
    ]);
}

/// The judge stands above TLS, also where HTTP/2 was offered and HTTP/1.1 taken; connections are kept as ever.
#[test]
fn answers_over_tls_are_judged_too() {
    let authority = Authority::new("inner");
    let config = authority.issue(&["inner.example"]).server_config(&["http/1.1"]);
    for protocol in ["http1", "auto"] {
        let origin = RecordingOrigin::answering_tls(config.clone(), |seen| Reply {
            bytes: match seen.target.as_str() {
                "/both" => {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
                        .to_vec()
                }
                _ => field("X: y").into_bytes(),
            },
            ..Reply::default()
        });
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let edge = Edge::start(
            &[&origin],
            &format!(
                "[upstreams.inner]\nendpoints = [\"{{0}}\"]\nprotocol = \"{protocol}\"\n\
                 tls = {{ server_name = \"inner.example\", ca = \"{}\" }}\n",
                ca.display()
            ),
        );
        let client = edge.client();
        client.get("/a").send().assert_status(200);
        client.post("/b").body("hello").send().assert_status(200);
        client.get("/both").send().assert_status(502);
        client.get("/c").send().assert_status(200);
        let seen = origin.seen();
        let targets: Vec<_> = seen.iter().map(|seen| seen.target.as_str()).collect();
        assert_eq!(targets, ["/a", "/b", "/both", "/c"], "{protocol}");
        assert_eq!(seen[0].connection, seen[2].connection, "{protocol}: kept");
        assert_ne!(seen[2].connection, seen[3].connection, "{protocol}: broken");
        assert_eq!(edge.metric("tidegate_upstream_retries_total", ()), 0.0, "{protocol}");
    }
}

/// What a client of HTTP/1.0 would take for the answer is kept from it, and a broken end is no end.
#[test]
fn a_client_of_http10_gets_no_1xx_and_sees_a_broken_end() {
    let asked = Arc::<Notify>::default();
    let later = asked.clone();
    let origin = RecordingOrigin::answering(move |seen| match seen.target.as_str() {
        "/early" => Reply {
            bytes: format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", field("X: y"))
                .into(),
            ..Reply::default()
        },
        _ => Reply {
            bytes: chunked("5\r\nhello\r\n").into(),
            later: Some((later.clone(), b"zz\r\n".to_vec())),
            closes: false,
        },
    });
    let edge = Edge::start(&[&origin], CONFIG);
    let mut raw = edge.raw();
    raw.send("GET /early HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = raw.read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.") && head[8..].starts_with(" 200 "), "{head}");
    let mut raw = edge.raw();
    raw.send("GET /broken HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = raw.read_head(SOON).unwrap().to_ascii_lowercase();
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(raw.read_exactly(5, SOON).unwrap(), b"hello");
    asked.notify_one();
    let end = raw.read_to_end(SOON);
    assert_eq!(end.map_err(|failure| failure.kind), Err(FailureKind::Reset));
}
