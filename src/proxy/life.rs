//! What a connection has done so far, as far as its limits ask: requests, age, streams that it let wait.
//!
//! Place: requests count here; `server/workers.rs` waits for what ends an HTTP/2 connection, which no request can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::ConnectionInfo;
use crate::telemetry::metrics::LimitReached;

/// The life of one connection.
#[derive(Debug)]
pub struct Life {
    made: Instant,
    requests: AtomicU32,
    in_flight: AtomicU32,
    /// Milliseconds from `made` to the end of the last request.
    last_end: AtomicU64,
    /// Streams whose answers waited for the client for the whole write stall.
    stalled: AtomicU32,
    /// Request bodies under way, and answers.
    bodies: AtomicU32,
    answers: AtomicU32,
    spent: Notify,
    over: Notify,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            made: Instant::now(),
            requests: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            last_end: AtomicU64::new(0),
            stalled: AtomicU32::new(0),
            bodies: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            spent: Notify::new(),
            over: Notify::new(),
        }
    }
}

/// A request on its connection; it is in flight until this is dropped.
#[derive(Debug)]
pub(super) struct OnConnection(Arc<ConnectionInfo>);

/// One of several that share a connection's rate; it has its part until this is dropped.
#[derive(Debug)]
pub(super) struct Sharing {
    connection: Arc<ConnectionInfo>,
    of: fn(&Life) -> &AtomicU32,
}

impl Life {
    /// How long the connection has been there.
    pub fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// How long no request has been under way; `None` while one is.
    pub fn idle(&self) -> Option<Duration> {
        let last_end = Duration::from_millis(self.last_end.load(Ordering::Relaxed));
        (self.in_flight.load(Ordering::Acquire) == 0).then(|| self.age().saturating_sub(last_end))
    }

    /// Ready once the connection has had as many requests as it may.
    pub async fn spent(&self) {
        self.spent.notified().await;
    }

    /// Ready once the client let as many streams wait as it may.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// A stream was ended because its client took none of its answer.
    pub(super) fn stream_stalled(&self, most: u32) {
        if self.stalled.fetch_add(1, Ordering::AcqRel) + 1 == most {
            self.over.notify_one();
        }
    }
}

impl OnConnection {
    /// Counts a request.
    pub(super) fn begin(connection: &Arc<ConnectionInfo>) -> Self {
        let life = &connection.life;
        life.in_flight.fetch_add(1, Ordering::AcqRel);
        let count = life.requests.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if count == connection.limits().max_requests_per_connection {
            connection.limit_reached(LimitReached::Requests);
            life.spent.notify_one();
        }
        Self(Arc::clone(connection))
    }
}

impl Drop for OnConnection {
    fn drop(&mut self) {
        let life = &self.0.life;
        let end = u64::try_from(life.age().as_millis()).unwrap_or(u64::MAX);
        life.last_end.store(end, Ordering::Relaxed);
        life.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sharing {
    /// One more request body.
    pub(super) fn bodies(connection: &Arc<ConnectionInfo>) -> Self {
        Self::new(connection, |life| &life.bodies)
    }

    /// One more answer.
    pub(super) fn answers(connection: &Arc<ConnectionInfo>) -> Self {
        Self::new(connection, |life| &life.answers)
    }

    fn new(connection: &Arc<ConnectionInfo>, of: fn(&Life) -> &AtomicU32) -> Self {
        of(&connection.life).fetch_add(1, Ordering::AcqRel);
        Self { connection: Arc::clone(connection), of }
    }

    /// The connection that is shared.
    pub(super) fn connection(&self) -> &Arc<ConnectionInfo> {
        &self.connection
    }

    /// Its part of `rate`: at least one byte a second, and 0 of 0.
    pub(super) fn part_of(&self, rate: u64) -> u64 {
        let sharers = (self.of)(&self.connection.life).load(Ordering::Acquire).max(1);
        (rate / u64::from(sharers)).max(rate.min(1))
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        (self.of)(&self.connection.life).fetch_sub(1, Ordering::AcqRel);
    }
}
