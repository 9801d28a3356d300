//! Answers: whole, several, or read piece by piece.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use hyper::body::Incoming;

use super::{
    connection::{Connection, next_data},
    failure::{Failure, FailureKind},
    tls::Handshake,
};
use crate::harness::block_on;

/// An answer that came whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its protocol version.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
    /// Statuses of the 1xx answers before it.
    pub informational: Vec<u16>,
    /// The TLS handshake of its connection.
    pub handshake: Option<Arc<Handshake>>,
    /// From the request to the end of the body.
    pub elapsed: Duration,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Asserts its status.
    #[track_caller]
    pub fn assert_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }
}

/// Answers to one request sent several times, one after the other.
#[derive(Debug)]
pub struct Responses(pub(super) Vec<Result<Response, Failure>>);

impl Responses {
    /// Asserts that every request was answered with this status.
    #[track_caller]
    pub fn all_status(self, status: u16) -> Self {
        for (i, response) in self.0.iter().enumerate() {
            match response {
                Ok(response) => {
                    assert_eq!(response.status, status, "answer {}: {}", i + 1, response.text());
                }
                Err(failure) => panic!("answer {}: {failure}", i + 1),
            }
        }
        self
    }

    /// How many answers had each status; failures are not among them.
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for response in self.0.iter().flatten() {
            *statuses.entry(response.status).or_default() += 1;
        }
        statuses
    }

    /// Requests without an answer.
    pub fn failures(&self) -> Vec<&Failure> {
        self.0.iter().filter_map(|response| response.as_ref().err()).collect()
    }

    /// The answers.
    pub fn iter(&self) -> impl Iterator<Item = &Response> {
        self.0.iter().flatten()
    }

    /// The values of a header, in order of the answers; `""` where it is missing.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.iter().map(|response| response.header(name).unwrap_or_default()).collect()
    }
}

/// An answer whose head has come and whose body is read piece by piece. Dropped, its connection is closed.
pub struct Opened {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// From the request to its head.
    pub elapsed: Duration,
    pub(super) body: Incoming,
    pub(super) trailers: HeaderMap,
    /// Held, since hyper closes a connection without a sender.
    pub(super) _connection: Connection,
}

impl Opened {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// Nothing within `limit`, or a body that broke off.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, Failure> {
        block_on(async {
            match tokio::time::timeout(limit, next_data(&mut self.body, &mut self.trailers)).await {
                Ok(next) => next.transpose(),
                Err(_) => Err(Failure::new(FailureKind::Timeout, "no piece of the body")),
            }
        })
    }

    /// Reads to the end and returns the number of bytes, with a pause after each piece (a slow reader), calling `each`.
    ///
    /// # Errors
    /// Not at its end within `limit`, or a body that broke off.
    pub fn read_slowly(
        &mut self,
        pause: Duration,
        limit: Duration,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<u64, Failure> {
        let end = Instant::now() + limit;
        let mut length = 0;
        while let Some(piece) = self.next(end.saturating_duration_since(Instant::now()))? {
            each(length, &piece);
            length += piece.len() as u64;
            std::thread::sleep(pause);
        }
        Ok(length)
    }

    /// The trailers, once the body has ended.
    pub fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }
}
