//! Counters of one listener: connections, handshakes, refused heads.

use std::{marker::PhantomData, sync::Arc};

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::names::{
    ConnectionRefused, HandshakeFailure, HeadRefused, LabelValue, LimitReached, TlsVersion,
};

/// One counter for each value of a closed list.
#[derive(Debug)]
pub(super) struct CounterBy<L> {
    counters: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: LabelValue> CounterBy<L> {
    /// Resolves them; `before` are the values of the labels that come first.
    pub(super) fn new(vector: &IntCounterVec, before: &[&str]) -> Self {
        let resolve = |value: &L| {
            let mut values = before.to_vec();
            values.push(value.label());
            vector.with_label_values(&values)
        };
        Self { counters: L::ALL.iter().map(resolve).collect(), label: PhantomData }
    }

    pub(super) fn inc(&self, value: L) {
        if let Some(counter) = self.counters.get(value.index()) {
            counter.inc();
        }
    }

    /// All of them together.
    pub(super) fn sum(&self) -> u64 {
        self.counters.iter().map(IntCounter::get).sum()
    }

    /// Removes their series.
    pub(super) fn remove(vector: &IntCounterVec, before: &[&str]) {
        for value in L::ALL {
            let mut values = before.to_vec();
            values.push(value.label());
            // The only error is that there is no such series.
            let _ = vector.remove_label_values(&values);
        }
    }
}

/// What is counted by listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(super) connections: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) refused: CounterBy<ConnectionRefused>,
    pub(super) handshakes: CounterBy<TlsVersion>,
    pub(super) handshake_failures: CounterBy<HandshakeFailure>,
    pub(super) heads_refused: CounterBy<HeadRefused>,
    pub(super) limits_reached: CounterBy<LimitReached>,
}

/// An open connection; it is counted as such until this is dropped.
#[derive(Debug)]
#[must_use = "the connection is counted as open until this is dropped"]
pub struct OpenConnection(Arc<ListenerMetrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

impl ListenerMetrics {
    /// Counts an accepted connection.
    pub fn accepted(self: &Arc<Self>) -> OpenConnection {
        self.accepted.inc();
        self.connections.inc();
        OpenConnection(Arc::clone(self))
    }

    /// Counts a connection that was closed before its first request.
    pub fn refused(&self, reason: ConnectionRefused) {
        self.refused.inc(reason);
    }

    /// Counts a TLS handshake that is done.
    pub fn handshake(&self, version: TlsVersion) {
        self.handshakes.inc(version);
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshake_failures.inc(reason);
    }

    /// Counts a request head that was refused.
    pub fn head_refused(&self, reason: HeadRefused) {
        self.heads_refused.inc(reason);
    }

    /// Counts a connection, or a stream of HTTP/2, that a limit ended.
    pub fn limit_reached(&self, reason: LimitReached) {
        self.limits_reached.inc(reason);
    }
}
