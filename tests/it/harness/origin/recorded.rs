//! What an origin remembers of the requests it saw.

use std::{collections::VecDeque, sync::Mutex, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Version, request::Parts};
use sha2::{Digest, Sha256};

use super::lock;

/// Requests that are remembered.
const MOST: usize = 1_000;
/// Bytes of a body that are remembered.
const MOST_BODY: usize = 64 << 10;

/// A request as the origin saw it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When its head had come.
    pub at: SystemTime,
    /// Which it was, from 1.
    pub number: u64,
    /// Which connection it came on, from 1.
    pub connection: u64,
    /// Its method.
    pub method: Method,
    /// Its target as it stood on the wire: path and query, or the absolute form.
    pub path: String,
    /// Its protocol version.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body up to 64 KiB.
    pub body: Bytes,
    /// Bytes of its whole body, as far as it came.
    pub body_length: u64,
    /// SHA-256 of the whole body in lower-case hexadecimal; empty until it ended.
    pub body_sha256: String,
    /// Its trailers.
    pub trailers: HeaderMap,
}

impl Recorded {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The `Host` header, or what HTTP/2 has in its place.
    pub fn host(&self) -> Option<&str> {
        self.header("host")
    }
}

/// The last requests.
#[derive(Default)]
pub(super) struct Records(Mutex<VecDeque<Recorded>>);

impl Records {
    /// Adds the head of a request.
    pub(super) fn begin(&self, number: u64, connection: u64, head: &Parts) {
        let mut headers = head.headers.clone();
        // HTTP/2 carries the host as `:authority`, which hyper puts into the target.
        if let (false, Some(authority)) = (headers.contains_key("host"), head.uri.authority()) {
            headers.insert("host", authority.as_str().parse().expect("an authority is a value"));
        }
        let path = match head.version {
            Version::HTTP_2 => {
                head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
            }
            _ => head.uri.to_string(),
        };
        let mut records = lock(&self.0);
        if records.len() == MOST {
            records.pop_front();
        }
        records.push_back(Recorded {
            at: SystemTime::now(),
            number,
            connection,
            method: head.method.clone(),
            path,
            version: head.version,
            headers,
            body: Bytes::new(),
            body_length: 0,
            body_sha256: String::new(),
            trailers: HeaderMap::new(),
        });
    }

    /// Fills in the body of a request that still is remembered.
    pub(super) fn end(&self, number: u64, body: BodyRecord) {
        let mut records = lock(&self.0);
        if let Some(record) = records.iter_mut().rev().find(|record| record.number == number) {
            record.body_sha256 =
                if body.is_whole { hex(&body.hash.finalize()) } else { String::new() };
            record.body = body.first.into();
            record.body_length = body.length;
            record.trailers = body.trailers;
        }
    }

    pub(super) fn last(&self) -> Option<Recorded> {
        lock(&self.0).back().cloned()
    }

    pub(super) fn all(&self) -> Vec<Recorded> {
        lock(&self.0).iter().cloned().collect()
    }
}

/// A body while it comes in: counted and hashed, not kept.
#[derive(Default)]
pub(super) struct BodyRecord {
    first: Vec<u8>,
    length: u64,
    hash: Sha256,
    pub(super) trailers: HeaderMap,
    pub(super) is_whole: bool,
}

impl BodyRecord {
    pub(super) fn add(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        self.hash.update(data);
        let room = MOST_BODY - self.first.len();
        self.first.extend_from_slice(&data[..data.len().min(room)]);
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
