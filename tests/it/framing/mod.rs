//! Framing that can't be smuggled: tables of requests and answers at the edge of what HTTP allows, a row a case.
//!
//! Each row says the bytes that are sent, what the client gets, and what the origin saw of it, by the bytes that reached
//! it. All rows of a table run on one edge, so that what one leaves behind would show in the next.

mod bodies;
mod frames;
mod generated;
mod http2;
mod requests;
mod responses;
mod responses_http2;

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{Edge, Raw, RecordingOrigin, eventually::eventually, origin::Seen};

const SOON: Duration = Duration::from_secs(20);

/// An edge whose listener sends every host to the origin.
const CONFIG: &str = r#"
    [listeners.http]
    address = "127.0.0.1:0"
    unknown_host = { site = "test" }
    max_head = "4KiB"
    max_fields = 20
    max_uri = "1KiB"
    [sites.test]
    hosts = ["localhost"]
    listeners = ["http"]
    [sites.test.routes.rest]
    endpoints = ["{0}"]
"#;

/// What becomes of a request.
#[derive(Clone, Debug)]
enum Fate {
    /// The listener answers, and closes; the origin sees nothing of it.
    Refused(u16, &'static str),
    /// A hook answers, and the origin sees nothing of it. The connection may stay.
    Answered(u16, &'static str),
    /// It reaches the origin whole, with this body, and is answered 200.
    Forwarded(&'static str),
    /// Its head reaches the origin, its end does not; the client gets this status, and its connection is closed.
    Broken(u16, &'static str),
}

/// A request.
struct Row {
    name: &'static str,
    /// `{n}` stands for the row's number, which the target must have, so that the origin's records can be told apart.
    /// Characters up to U+00FF stand for bytes.
    sent: String,
    fate: Fate,
}

fn row(name: &'static str, sent: impl Into<String>, fate: Fate) -> Row {
    Row { name, sent: sent.into(), fate }
}

/// Each character as one byte.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a character that is a byte")).collect()
}

/// Sends each row on a connection of its own and compares.
fn run(rows: &[Row]) {
    let origin = RecordingOrigin::start();
    let edge = Edge::start(&[&origin], CONFIG);
    let mut counts = BTreeMap::<&str, Counts>::new();
    for (number, row) in rows.iter().enumerate() {
        let case = format!("row {number}, {}", row.name);
        let place = format!("r{number}x");
        let mut raw = edge.raw();
        raw.send(bytes(&row.sent.replace("{n}", &place)));
        let head = raw.read_head(SOON).unwrap_or_else(|failure| panic!("{case}: {failure}"));
        let status: u16 = head[9..12].parse().unwrap();
        let seen = || origin.seen_at(&place);
        match row.fate {
            Fate::Refused(expected, reason) => {
                assert_eq!(status, expected, "{case}: {head}");
                assert_alone(&mut raw, &case);
                assert!(seen().is_empty(), "{case}: {:?}", seen());
                let counts = counts.entry(reason).or_default();
                counts.metric += 1.0;
                counts.lines.0 += 1;
            }
            Fate::Answered(expected, reason) => {
                assert_eq!(status, expected, "{case}: {head}");
                assert!(seen().is_empty(), "{case}: {:?}", seen());
                counts.entry(reason).or_default().lines.1 += 1;
            }
            Fate::Forwarded(body) => {
                assert_eq!(status, 200, "{case}: {head}");
                assert_eq!(raw.read_exactly(2, SOON).unwrap(), b"ok", "{case}");
                let seen = seen();
                assert_eq!(seen.len(), 1, "{case}: {seen:?}");
                assert!(seen[0].is_whole, "{case}: {seen:?}");
                assert_eq!(String::from_utf8_lossy(&seen[0].body), body, "{case}");
                assert_unambiguous(&seen[0], &case);
            }
            Fate::Broken(expected, reason) => {
                assert_eq!(status, expected, "{case}: {head}");
                assert_alone(&mut raw, &case);
                let seen = seen();
                assert!(
                    seen.len() <= 1 && seen.iter().all(|seen| !seen.is_whole),
                    "{case}: {seen:?}"
                );
                let counts = counts.entry(reason).or_default();
                counts.metric += 1.0;
                counts.lines.1 += 1;
            }
        }
    }
    let smuggled = origin.raw().concat();
    assert!(!smuggled.windows(8).any(|window| window == b"smuggled"), "a second request went on");
    for (reason, expected) in counts {
        let labels = [("listener", "http"), ("reason", reason)];
        let lines = || {
            let lines = edge.access_log().into_iter().filter(|line| line["error"] == reason);
            // What a hook has seen has a host, if an empty one.
            let by_listener = |line: &serde_json::Value| {
                assert_eq!(
                    (&line["listener"], &line["client"]),
                    (&"http".into(), &"127.0.0.1".into())
                );
                line.get("host").is_none()
            };
            let (listener, hook): (Vec<_>, Vec<_>) = lines.partition(by_listener);
            (listener.len(), hook.len())
        };
        let counted = || Counts {
            metric: edge.metric("tidegate_heads_refused_total", labels),
            lines: lines(),
        };
        eventually(SOON, || counted() == expected);
        assert_eq!(counted(), expected, "{reason}");
    }
}

/// Refusals of one reason.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    metric: f64,
    /// Of the listener, and of hooks.
    lines: (usize, usize),
}

/// Nothing comes behind an answer but its body and the end of the connection.
fn assert_alone(raw: &mut Raw, case: &str) {
    let rest = raw.read_to_end(SOON).unwrap_or_else(|failure| panic!("{case}: {failure}"));
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(!rest.contains("HTTP/1."), "{case}: a second answer: {rest}");
}

/// What every parser reads in one way: one Host, one framing, plain lines, and nothing that belongs to our hop.
fn assert_unambiguous(seen: &Seen, case: &str) {
    let (lengths, codings) = (seen.values("content-length"), seen.values("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "{case}: {seen:?}");
    assert!(codings.iter().all(|coding| *coding == b"chunked"), "{case}: {seen:?}");
    assert!(seen.values("host").len() <= 1, "{case}: {seen:?}");
    let lines = seen.head.split(|byte| *byte == b'\n').collect::<Vec<_>>();
    let (end, lines) = lines.split_last().unwrap();
    assert!(end.is_empty(), "{case}: {seen:?}");
    for line in lines {
        let content = line.strip_suffix(b"\r").unwrap_or_else(|| panic!("{case}: {seen:?}"));
        let is_plain = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\t';
        assert!(content.iter().all(is_plain), "{case}: {seen:?}");
    }
    for own in ["te", "trailer", "proxy-connection", "keep-alive", "http2-settings", "upgrade"] {
        assert!(seen.values(own).is_empty(), "{case}: {own}: {seen:?}");
    }
    assert!(seen.values("connection").is_empty(), "{case}: {seen:?}");
}
