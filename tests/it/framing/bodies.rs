//! How bodies of requests in HTTP/1.1 are framed, and what follows them on the connection.

use super::{CONFIG, Fate, Row, SOON, assert_alone, row, run};
use crate::{
    assert_eventually,
    harness::{Edge, RecordingOrigin, origin::Reply},
};

/// Must never get anywhere.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request with these framing fields and this behind its head.
fn framed(fields: &str, behind: &str) -> String {
    format!("POST /{{n}} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{behind}")
}

/// A request in chunks.
fn chunked(body: &str) -> String {
    framed("Transfer-Encoding: chunked", body)
}

fn refused(name: &'static str, fields: &str, reason: &'static str) -> Row {
    row(name, framed(fields, &format!("0\r\n\r\n{SECOND}")), Fate::Refused(400, reason))
}

/// Refused with its first bytes, since head and body come at once.
fn bad_chunk(name: &'static str, body: &str) -> Row {
    row(name, chunked(&format!("{body}{SECOND}")), Fate::Refused(400, "chunk"))
}

fn bad_trailer(name: &'static str, body: &str) -> Row {
    row(name, chunked(&format!("{body}{SECOND}")), Fate::Refused(400, "trailer"))
}

fn forwarded(name: &'static str, sent: String, body: &'static str) -> Row {
    row(name, sent, Fate::Forwarded(body))
}

#[test]
fn lengths_and_codings() {
    run(&[
        forwarded("a length", framed("Content-Length: 5", "hello"), "hello"),
        forwarded("no body", framed("Content-Length: 0", ""), ""),
        forwarded("leading zeros", framed("Content-Length: 005", "hello"), "hello"),
        forwarded("white space around it", framed("Content-Length: \t5 ", "hello"), "hello"),
        forwarded(
            "a body with GET",
            "GET /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".into(),
            "hi",
        ),
        forwarded(
            "a body in 1.0",
            "POST /{n} HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".into(),
            "hi",
        ),
        forwarded("chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), "hello"),
        forwarded(
            "in capitals",
            framed("TRANSFER-ENCODING: CHUNKED", "2\r\nhi\r\n0\r\n\r\n"),
            "hi",
        ),
        forwarded(
            "a body that looks like a request",
            framed("Content-Length: 16", "GET /x HTTP/1.1\n"),
            "GET /x HTTP/1.1\n",
        ),
        refused("twice the same", "Content-Length: 5\r\nContent-Length: 5", "content_length"),
        refused("two that differ", "Content-Length: 5\r\nContent-Length: 6", "content_length"),
        refused(
            "two, the second in another case",
            "Content-Length: 5\r\ncontent-length: 6",
            "content_length",
        ),
        refused("a list of the same", "Content-Length: 5, 5", "content_length"),
        refused("a list", "Content-Length: 5,6", "content_length"),
        refused("empty", "Content-Length:", "content_length"),
        refused("negative", "Content-Length: -5", "content_length"),
        refused("with a plus", "Content-Length: +5", "content_length"),
        refused("hexadecimal", "Content-Length: 0x5", "content_length"),
        refused("a fraction", "Content-Length: 5.0", "content_length"),
        refused("with an exponent", "Content-Length: 5e0", "content_length"),
        refused("in two parts", "Content-Length: 5 5", "content_length"),
        refused("with a letter", "Content-Length: 5a", "content_length"),
        refused("in quotes", "Content-Length: \"5\"", "content_length"),
        refused("over 64 bits", "Content-Length: 18446744073709551616", "content_length"),
        refused("21 digits", "Content-Length: 000000000000000000005", "content_length"),
        refused("digits over ASCII", "Content-Length: \u{b2}", "content_length"),
        refused("underscore", "Content_Length: 5", "content_length"),
        row(
            "64 bits, over the route's limit",
            framed("Content-Length: 18446744073709551615", "x"),
            Fate::Answered(413, "body_too_large"),
        ),
        refused(
            "length, then coding",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "length_and_coding",
        ),
        refused(
            "coding, then length",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "length_and_coding",
        ),
        refused(
            "both in other cases",
            "tRANSFER-eNCODING: Chunked\r\ncONTENT-lENGTH: 0",
            "length_and_coding",
        ),
        refused("unknown", "Transfer-Encoding: xchunked", "transfer_encoding"),
        refused("identity", "Transfer-Encoding: identity", "transfer_encoding"),
        refused("gzip", "Transfer-Encoding: gzip", "transfer_encoding"),
        refused("gzip, chunked", "Transfer-Encoding: gzip, chunked", "transfer_encoding"),
        refused("chunked, gzip", "Transfer-Encoding: chunked, gzip", "transfer_encoding"),
        refused(
            "chunked twice in one line",
            "Transfer-Encoding: chunked, chunked",
            "transfer_encoding",
        ),
        refused(
            "chunked in two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "transfer_encoding",
        ),
        refused(
            "identity, then chunked",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            "transfer_encoding",
        ),
        refused("with a comma", "Transfer-Encoding: chunked,", "transfer_encoding"),
        refused("with a comma before it", "Transfer-Encoding: ,chunked", "transfer_encoding"),
        refused("with a parameter", "Transfer-Encoding: chunked;q=1", "transfer_encoding"),
        refused("in quotes, the coding", "Transfer-Encoding: \"chunked\"", "transfer_encoding"),
        refused("empty coding", "Transfer-Encoding:", "transfer_encoding"),
        refused("a byte before it", "Transfer-Encoding: \u{a0}chunked", "transfer_encoding"),
        refused("a control character before it", "Transfer-Encoding: \u{b}chunked", "control"),
        refused("a space before the colon", "Transfer-Encoding : chunked", "field_name"),
        refused("a space before the name", " Transfer-Encoding: chunked", "folded"),
        refused("folded", "Transfer-Encoding:\r\n chunked", "transfer_encoding"),
        refused("underscore in the coding", "Transfer_Encoding: chunked", "transfer_encoding"),
        refused("behind a bare LF", "X: y\nTransfer-Encoding: chunked", "line_end"),
        refused("behind a bare CR", "X: y\rTransfer-Encoding: chunked", "line_end"),
        row(
            "coding in 1.0",
            "POST /{n} HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Fate::Refused(400, "transfer_encoding"),
        ),
        row(
            "an upgrade with a body",
            "GET /{n} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
            Fate::Answered(400, "client_invalid"),
        ),
        row(
            "framing is not nominated",
            framed("Connection: content-length\r\nContent-Length: 2", "hi"),
            Fate::Answered(400, "client_invalid"),
        ),
        row(
            "nor the host",
            framed("Connection: close, Host\r\nContent-Length: 2", "hi"),
            Fate::Answered(400, "client_invalid"),
        ),
        forwarded(
            "another upgrade is ignored",
            framed(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2",
                "hi",
            ),
            "hi",
        ),
        forwarded(
            "fields of our hop",
            framed(
                "Connection: keep-alive, X-A\r\nX-A: 1\r\nTE: trailers\r\nTrailer: X\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nContent-Length: 2",
                "hi",
            ),
            "hi",
        ),
    ]);
}

#[test]
fn chunks() {
    run(&[
        forwarded("several", chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), "hello world"),
        forwarded("capitals", chunked("A\r\n0123456789\r\n0\r\n\r\n"), "0123456789"),
        forwarded("leading zeros", chunked("0005\r\nhello\r\n000\r\n\r\n"), "hello"),
        forwarded("an extension", chunked("5;a=b\r\nhello\r\n0;c\r\n\r\n"), "hello"),
        forwarded("a quoted extension", chunked("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), "hello"),
        forwarded("none at all", chunked("0\r\n\r\n"), ""),
        forwarded(
            "data that looks like chunks",
            chunked("7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n"),
            "0\r\n\r\n0\r",
        ),
        forwarded(
            "trailers are dropped",
            chunked("2\r\nhi\r\n0\r\nX: y\r\nHost: smuggle\r\n\r\n"),
            "hi",
        ),
        forwarded(
            "framing in trailers is dropped",
            chunked("2\r\nhi\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n"),
            "hi",
        ),
        bad_chunk("no size", "\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("no number", "x\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("plus", "+5\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("a space behind it", "5 \r\nhello\r\n0\r\n\r\n"),
        bad_chunk("a tab behind it", "5\t\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("a space before an extension", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("sixteen digits", "0000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("more than 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        bad_chunk("CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        bad_chunk("CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("NUL in an extension", "5;\0\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("data too long", "5\r\nhello!\r\n0\r\n\r\n"),
        bad_chunk("data too short", "6\r\nhello\r\n0\r\n\r\n"),
        bad_chunk("LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        bad_chunk("CR behind the data", "5\r\nhello\r0\r\n\r\n"),
        bad_chunk("nothing behind the data", "5\r\nhello0\r\n\r\n"),
        row(
            "a long extension",
            chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n{SECOND}", "x".repeat(5_000))),
            // Its head is there before so much of it is.
            Fate::Broken(400, "chunk"),
        ),
        bad_trailer("LF for the end", "0\r\n\n"),
        bad_trailer("no end", "0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
        bad_trailer("CR CR LF for the end", "0\r\n\r\r\n"),
        bad_trailer("a trailer without colon", "0\r\nX\r\n\r\n"),
        bad_trailer("a space before the colon", "0\r\nX : y\r\n\r\n"),
        bad_trailer("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
        bad_trailer("LF behind a trailer", "0\r\nX: y\n\r\n"),
        bad_trailer("NUL in a trailer", "0\r\nX: \0\r\n\r\n"),
        bad_trailer("an empty name", "0\r\n: y\r\n\r\n"),
    ]);
}

/// The head and a part of the body are on their way to the origin when the fault comes.
#[test]
fn a_fault_behind_a_good_beginning_breaks_the_message_off() {
    for (good, bad, reason) in [
        ("5\r\nhello\r\n", "zz\r\n", "chunk"),
        ("5\r\nhello\r\n", "5\nworld\r\n0\r\n\r\n", "chunk"),
        ("5\r\nhello\r\n5\r\nwor", "ld!\r\n0\r\n\r\n", "chunk"),
        ("5\r\nhello\r\n0\r\n", "X\r\n\r\n", "trailer"),
        ("5\r\nhello\r\n0\r\n\r", "\r\n", "trailer"),
    ] {
        let origin = RecordingOrigin::start();
        let edge = Edge::start(&[&origin], CONFIG);
        let case = format!("{good:?} {bad:?}");
        let mut raw = edge.raw();
        raw.send("POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").send(good);
        let body = || origin.seen_at("/slow").first().map(|seen| seen.body.clone());
        assert_eventually!(body().is_some_and(|body| body.starts_with(b"hello")));
        raw.send(bad).send(SECOND);
        let head = raw.read_head(SOON).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400 ") && head.contains("onnection: close"),
            "{case}: {head}"
        );
        assert_alone(&mut raw, &case);
        // The origin never sees an end, and its connection is not used again.
        edge.client().get("/next").host("a").send().assert_status(200);
        let seen = origin.seen();
        assert_eq!(seen.len(), 2, "{case}: {seen:?}");
        assert!(!seen[0].is_whole && seen[1].is_whole, "{case}: {seen:?}");
        assert_ne!(seen[0].connection, seen[1].connection, "{case}");
        assert_eventually!(edge.access_log().iter().any(|line| {
            line["error"] == reason && line["status"] == 400 && line["path"] == "/slow"
        }));
        assert_eq!(edge.metric("tidegate_heads_refused_total", [("reason", reason)]), 1.0);
    }
}

/// Requests that come at once wait their turn, each with its own answer.
#[test]
fn pipelined_requests_are_served_one_after_another() {
    let origin = RecordingOrigin::start();
    let edge = Edge::start(&[&origin], CONFIG);
    let mut raw = edge.raw();
    raw.send(
        "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
         POST /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n\
         \r\nGET /three HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /four HTTP/1.1\r\nHost: a\r\n",
    );
    for _ in 0..3 {
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(raw.read_exactly(2, SOON).unwrap(), b"ok");
    }
    raw.send("\r\nGET /five HTTP/1.1\r\nHost:\r\n\r\n");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(raw.read_exactly(2, SOON).unwrap(), b"ok");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 400 "));
    assert_alone(&mut raw, "five");
    let targets: Vec<_> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/one", "/two", "/three", "/four"]);
}

/// A head may come in any pieces, and so may a body.
#[test]
fn messages_that_trickle_are_read_the_same() {
    let origin = RecordingOrigin::start();
    let edge = Edge::start(&[&origin], CONFIG);
    let mut raw = edge.raw();
    for round in 0..3 {
        let message = format!(
            "POST /{round} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\n"
        );
        for byte in message.as_bytes() {
            raw.send([*byte]);
        }
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
        raw.read_exactly(2, SOON).unwrap();
    }
    assert!(origin.seen().iter().all(|seen| seen.is_whole && seen.body == b"abc"));
    assert_eq!(origin.seen().len(), 3);
}

/// Only there a request may ask for another protocol, and what else its `Connection` names stays here all the same.
#[test]
fn a_web_socket_keeps_the_fields_that_it_needs_and_its_first_bytes() {
    let origin = RecordingOrigin::answering(|_| Reply {
        bytes:
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_vec(),
        ..Reply::default()
    });
    let edge = Edge::start(&[&origin], CONFIG);
    let mut raw = edge.raw();
    raw.send(
        "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, X-A, HTTP2-Settings\r\nUpgrade: websocket\r\n\
         X-A: 1\r\nTE: trailers\r\nHTTP2-Settings: AAMAAABk\r\nKeep-Alive: timeout=5\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nAB",
    );
    let head = raw.read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let seen = &origin.seen()[0];
    assert_eq!(seen.values("upgrade"), [b"websocket"]);
    assert_eq!(seen.values("connection").concat().to_ascii_lowercase(), b"upgrade");
    for gone in ["x-a", "te", "http2-settings", "keep-alive"] {
        assert!(seen.values(gone).is_empty(), "{gone}: {seen:?}");
    }
    // What came with the request belongs to the WebSocket, and follows it.
    let is_behind = |raw: &Vec<u8>| raw.ends_with(b"AB");
    assert_eventually!(origin.raw().iter().any(is_behind));
    raw.send("C");
    assert_eventually!(origin.raw().iter().any(|raw| raw.ends_with(b"ABC")));
}
