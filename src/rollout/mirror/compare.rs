//! Whether two answers to the same request are alike. Pure, but for where it runs.
//!
//! What is told of a difference never has a header's value or anything of a body but the place in it.

use std::{cmp::Ordering, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::config::{BodyComparison, Compare};
use crate::rollout::plan::RolloutConfig;

/// What is kept of the live answer's body while it passes.
#[derive(Debug)]
pub(super) enum Captured {
    /// Nothing: bodies are not compared.
    Nothing,
    /// All of it up to here.
    Bytes(Vec<u8>),
    /// It is longer than what is compared: half a document says nothing.
    TooLong,
    /// The hash of its beginning, how long that is, and whether there was more.
    Hash { hash: Box<Sha256>, length: usize, is_whole: bool },
}

impl Captured {
    pub(super) fn new(comparison: BodyComparison) -> Self {
        match comparison {
            BodyComparison::None => Self::Nothing,
            BodyComparison::Json => Self::Bytes(Vec::new()),
            BodyComparison::Hash => Self::Hash { hash: Box::default(), length: 0, is_whole: true },
        }
    }

    /// How many bytes are kept in memory.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Nothing | Self::TooLong | Self::Hash { .. } => 0,
        }
    }

    /// How many bytes of a piece would be kept in memory.
    pub(super) fn needs(&self, piece: &[u8], most: usize) -> usize {
        match self {
            Self::Bytes(bytes) if bytes.len() + piece.len() <= most => piece.len(),
            _ => 0,
        }
    }

    pub(super) fn piece(&mut self, piece: &[u8], most: usize) {
        match self {
            Self::Nothing | Self::TooLong => {}
            Self::Bytes(bytes) if bytes.len() + piece.len() <= most => {
                bytes.extend_from_slice(piece);
            }
            Self::Bytes(_) => *self = Self::TooLong,
            Self::Hash { hash, length, is_whole } => {
                let taken = piece.get(..most.saturating_sub(*length)).unwrap_or(piece);
                hash.update(taken);
                *length += taken.len();
                *is_whole &= taken.len() == piece.len();
            }
        }
    }
}

/// The live answer.
#[derive(Debug)]
pub(super) struct LiveAnswer {
    pub(super) status: StatusCode,
    /// Those that are compared.
    pub(super) headers: HeaderMap,
    pub(super) body: Captured,
}

/// The candidate's.
#[derive(Debug)]
pub(super) struct OtherAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) is_whole: bool,
}

/// In what two answers differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Status {
        live: StatusCode,
        other: StatusCode,
    },
    Header(String),
    /// The place in the JSON, where there is one.
    Body(Option<String>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { live, other } => {
                write!(f, "status {} instead of {}", other.as_u16(), live.as_u16())
            }
            Self::Header(name) => write!(f, "the header {name} differs"),
            Self::Body(None) => f.write_str("the body differs"),
            Self::Body(Some(place)) if place.is_empty() => {
                f.write_str("the body differs at its top")
            }
            Self::Body(Some(place)) => write!(f, "the body differs at {place}"),
        }
    }
}

/// The first difference, if there is one.
pub(super) fn compare(
    rules: &Compare,
    live: LiveAnswer,
    other: &OtherAnswer,
) -> Option<Difference> {
    if rules.status && live.status != other.status {
        return Some(Difference::Status { live: live.status, other: other.status });
    }
    let lines = |headers: &HeaderMap, name| -> Vec<Vec<u8>> {
        headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    };
    for name in &rules.headers {
        if lines(&live.headers, name) != lines(&other.headers, name) {
            return Some(Difference::Header(name.to_string()));
        }
    }
    match live.body {
        Captured::Nothing | Captured::TooLong => None,
        Captured::Hash { hash, is_whole, .. } => {
            let is_same =
                is_whole == other.is_whole && hash.finalize() == Sha256::digest(&other.body);
            (!is_same).then_some(Difference::Body(None))
        }
        Captured::Bytes(_) if !other.is_whole => Some(Difference::Body(None)),
        Captured::Bytes(bytes) if bytes == other.body => None,
        Captured::Bytes(bytes) => compare_json(rules, &bytes, &other.body),
    }
}

/// For who compares documents.
static PLACE: Semaphore = Semaphore::const_new(1);

/// Compares away from the workers that serve clients, one pair at a time in the whole process: a parsed document may take
/// 80 times its text in memory. Whoever waits keeps its place in flight, so that no more wait than may be in flight.
///
/// # Errors
/// There is no result, by a fault of our own.
pub(super) async fn compare_apart(
    config: Arc<RolloutConfig>,
    live: LiveAnswer,
    other: OtherAnswer,
) -> Result<Option<Difference>, NotCompared> {
    let place = PLACE.acquire().await.map_err(|_| NotCompared)?;
    let comparing = move || {
        // For as long as it runs, also where nobody waits for it any more.
        let _place = place;
        config.strategy.mirror().and_then(|mirror| compare(&mirror.compare, live, &other))
    };
    tokio::task::spawn_blocking(comparing).await.map_err(|_| NotCompared)
}

/// Two answers could not be compared.
#[derive(Debug)]
pub(super) struct NotCompared;

/// The first difference of two bodies whose bytes differ.
fn compare_json(rules: &Compare, live: &[u8], other: &[u8]) -> Option<Difference> {
    let Ok(mut live_value) = serde_json::from_slice::<Value>(live) else {
        // No JSON: a picture, a page, nothing at all. The bytes differ.
        return Some(Difference::Body(None));
    };
    let Ok(mut other_value) = serde_json::from_slice::<Value>(other) else {
        return Some(Difference::Body(None));
    };
    for pointer in &rules.ignore {
        remove(&mut live_value, &pointer.0);
        remove(&mut other_value, &pointer.0);
    }
    let mut place = String::new();
    first_difference(&live_value, &other_value, &mut place).then_some(Difference::Body(Some(place)))
}

/// Takes out what a pointer points to. What is gone in a list becomes `null`, so that the others keep their places.
fn remove(value: &mut Value, pointer: &[String]) {
    let Some((first, rest)) = pointer.split_first() else {
        *value = Value::Null;
        return;
    };
    match value {
        Value::Object(map) if first == "*" => {
            if rest.is_empty() {
                map.clear();
            }
            for value in map.values_mut() {
                remove(value, rest);
            }
        }
        Value::Object(map) => {
            if rest.is_empty() {
                map.remove(first);
            } else if let Some(value) = map.get_mut(first) {
                remove(value, rest);
            }
        }
        Value::Array(list) if first == "*" => {
            if rest.is_empty() {
                list.clear();
            }
            for value in list {
                remove(value, rest);
            }
        }
        Value::Array(list) => {
            let place = first.parse::<usize>().ok();
            if let Some(value) = place.and_then(|place| list.get_mut(place)) {
                remove(value, rest);
            }
        }
        _ => {}
    }
}

/// Whether two values differ; `place` is where first. `serde_json` reads no more than 128 levels.
fn first_difference(one: &Value, other: &Value, place: &mut String) -> bool {
    let length = place.len();
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            // What both have is looked at once, so that the work grows with the text, not with its depth.
            for (key, one) in one {
                push_key(place, key);
                if other.get(key).is_none_or(|other| first_difference(one, other, place)) {
                    return true;
                }
                place.truncate(length);
            }
            let more = other.keys().find(|key| !one.contains_key(*key));
            if let Some(key) = more {
                push_key(place, key);
            }
            more.is_some()
        }
        (Value::Array(one), Value::Array(other)) => {
            for (i, (one, other)) in one.iter().zip(other).enumerate() {
                place.push('/');
                place.push_str(&i.to_string());
                if first_difference(one, other, place) {
                    return true;
                }
                place.truncate(length);
            }
            one.len() != other.len()
        }
        (Value::Number(one), Value::Number(other)) => !is_same_number(one, other),
        _ => one != other,
    }
}

fn push_key(place: &mut String, key: &str) {
    place.push('/');
    place.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// Whether two numbers are of the same value, however they are written: 1, 1.0 and 1e0 are. Integers of 64 bits are exact;
/// where one is none, both are looked at as doubles.
fn is_same_number(one: &Number, other: &Number) -> bool {
    let is_integer = |number: &Number| number.is_i64() || number.is_u64();
    if is_integer(one) && is_integer(other) {
        return one == other;
    }
    let order = one.as_f64().zip(other.as_f64()).and_then(|(one, other)| one.partial_cmp(&other));
    order == Some(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::{
        rollout::{mirror::config::Pointer, raw::RawRollout},
        types::{KeyPath, Problems},
    };

    fn rules(body: BodyComparison, ignore: &[&str]) -> Compare {
        Compare {
            status: true,
            headers: vec![CONTENT_TYPE],
            body,
            ignore: ignore.iter().map(|text| Pointer::parse(text).unwrap()).collect(),
            max_body_bytes: 64,
        }
    }

    fn difference(rules: &Compare, live: (u16, &str, &str), other: (u16, &str, &str)) -> String {
        let headers = |kind: &str| -> HeaderMap {
            let mut headers = HeaderMap::new();
            if !kind.is_empty() {
                headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            }
            headers.insert("x-secret", kind.parse().unwrap());
            headers
        };
        let status = |code| StatusCode::from_u16(code).unwrap();
        let mut body = Captured::new(rules.body);
        // In pieces, as it comes.
        for piece in live.2.as_bytes().chunks(5) {
            assert!(body.needs(piece, rules.max_body_bytes) <= piece.len());
            body.piece(piece, rules.max_body_bytes);
        }
        let most = rules.max_body_bytes.min(other.2.len());
        let found = compare(
            rules,
            LiveAnswer { status: status(live.0), headers: headers(live.1), body },
            &OtherAnswer {
                status: status(other.0),
                headers: headers(other.1),
                body: Bytes::copy_from_slice(&other.2.as_bytes()[..most]),
                is_whole: other.2.len() == most,
            },
        );
        found.map(|found| found.to_string()).unwrap_or_default()
    }

    #[test]
    fn status_headers_and_hash() {
        let long = "x".repeat(64);
        let longer = "x".repeat(65);
        let other_end = format!("{longer}y");
        let hash = rules(BodyComparison::Hash, &[]);
        let none = rules(BodyComparison::None, &[]);
        for (rules, live, other, said) in [
            (&none, (200, "a", "x"), (200, "a", "y"), ""),
            (&none, (200, "a", ""), (500, "b", ""), "status 500 instead of 200"),
            (&none, (200, "a", ""), (200, "b", ""), "the header content-type differs"),
            (&none, (200, "a", ""), (200, "", ""), "the header content-type differs"),
            (&hash, (200, "a", "same bytes"), (200, "a", "same bytes"), ""),
            (&hash, (200, "a", "same bytes"), (200, "a", "same byteS"), "the body differs"),
            (&hash, (200, "a", &long), (200, "a", &longer), "the body differs"),
            (&hash, (200, "a", &longer), (200, "a", &other_end), ""),
            (&hash, (200, "a", ""), (200, "a", ""), ""),
        ] {
            assert_eq!(difference(rules, live, other), said, "{live:?} {other:?}");
        }
        let lax = Compare { status: false, headers: Vec::new(), ..none };
        assert_eq!(difference(&lax, (200, "a", "x"), (500, "b", "y")), "");
    }

    #[test]
    fn json_is_compared_but_for_what_is_ignored() {
        let long = format!("\"{}\"", "x".repeat(80));
        for (ignore, live, other, said) in [
            (&[][..], "{\"a\":1,\"b\":2}", "{ \"b\": 2, \"a\": 1 }", ""),
            (&[], "{\"a\":1}", "{\"a\":2}", "the body differs at /a"),
            (&[], "{\"a\":1}", "{}", "the body differs at /a"),
            (&[], "{}", "{\"a/b\":null}", "the body differs at /a~1b"),
            (&[], "[1,[2,3]]", "[1,[2,4]]", "the body differs at /1/1"),
            (&[], "[1]", "[1,2]", "the body differs at its top"),
            (&[], "1", "\"1\"", "the body differs at its top"),
            (&[], "[1,-0,100,1.5]", "[1.0,0,1e2,15e-1]", ""),
            (&[], "[9007199254740993]", "[9007199254740992]", "the body differs at /0"),
            (
                &[],
                "[18446744073709551615,-1]",
                "[18446744073709551615,1]",
                "the body differs at /1",
            ),
            (&["/t"], "{\"a\":1,\"t\":1}", "{\"a\":1,\"t\":2}", ""),
            (&["/t"], "{\"a\":1,\"t\":1}", "{\"a\":1}", ""),
            (&["/t"], "{\"a\":1,\"t\":1}", "{\"a\":2,\"t\":2}", "the body differs at /a"),
            (&["/l/*/id"], "{\"l\":[{\"id\":1},{\"id\":2}]}", "{\"l\":[{\"id\":3},{}]}", ""),
            (&["/l/*/id"], "{\"l\":[{\"id\":1}]}", "{\"l\":[]}", "the body differs at /l"),
            (&["/l/*"], "{\"l\":[1]}", "{\"l\":[2,3]}", ""),
            (&["/l/0"], "{\"l\":[1,2]}", "{\"l\":[9,2]}", ""),
            (&["/l/0"], "{\"l\":[1,2]}", "{\"l\":[9,3]}", "the body differs at /l/1"),
            (&["/*/t"], "{\"x\":{\"t\":1},\"y\":5}", "{\"x\":{},\"y\":5}", ""),
            (&["/a~1b/~0"], "{\"a/b\":{\"~\":1}}", "{\"a/b\":{\"~\":2}}", ""),
            (&[""], "{\"a\":1}", "[]", ""),
            (&[], "plain", "plain", ""),
            (&[], "plain", "other", "the body differs"),
            (&[], "{}", "plain", "the body differs"),
            (&[], "", "", ""),
            (&[], &long, "{}", ""),
            (&[], "{}", &long, "the body differs"),
        ] {
            let rules = rules(BodyComparison::Json, ignore);
            let found = difference(&rules, (200, "a", live), (200, "a", other));
            assert_eq!(found, said, "{ignore:?} {live} {other}");
        }
    }

    #[test]
    fn what_is_nested_deeply_is_compared_once_a_level() {
        let nested = |inside: &str| format!("{}{inside}{}", "{\"a\":".repeat(100), "}".repeat(100));
        let (said, heard) = std::sync::mpsc::channel();
        // In a thread: twice a level would be 2^100 steps.
        std::thread::spawn(move || {
            for other in ["1.0", "2"] {
                let rules = Compare { max_body_bytes: 1 << 10, ..rules(BodyComparison::Json, &[]) };
                let (live, other) = (nested("1"), nested(other));
                said.send(difference(&rules, (200, "a", &live), (200, "a", &other))).unwrap();
            }
        });
        let hear = || heard.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        assert_eq!(hear(), "");
        assert_eq!(hear(), format!("the body differs at {}", "/a".repeat(100)));
    }

    #[tokio::test]
    async fn documents_are_compared_elsewhere_one_pair_at_a_time() {
        let text = "stable = \"a\"\ncandidate = \"b\"\nmirror = { compare = { body = \"json\", max_body = \"1MiB\" } }";
        let raw: RawRollout = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let config = raw.parse(&"shop".parse().unwrap(), &KeyPath::root(), &mut problems);
        let config = Arc::new(config.unwrap());
        let pair = || {
            let mut body = Captured::new(BodyComparison::Json);
            let text = format!("[{}0]", "{\"a\":0},".repeat(100_000));
            body.piece(text.as_bytes(), 1 << 20);
            let status = StatusCode::OK;
            let live = LiveAnswer { status, headers: HeaderMap::new(), body };
            let body = Bytes::from(text.replace(",0]", ",1]"));
            (live, OtherAnswer { status, headers: HeaderMap::new(), body, is_whole: true })
        };
        let comparing = || {
            let (live, other) = pair();
            Box::pin(compare_apart(config.clone(), live, other))
        };
        let (mut first, mut second) = (comparing(), comparing());
        // This thread goes on while it runs.
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(PLACE.available_permits(), 0, "the second one waits for the first");
        for comparing in [first, second] {
            let found = comparing.await.unwrap().unwrap();
            assert_eq!(found, Difference::Body(Some("/100000".to_owned())));
        }
    }
}
