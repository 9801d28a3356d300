//! Counters of connections that are sent on as they are, by listener, passthrough and upstream.
//!
//! Bytes are counted as they pass, so that a connection that lives for days is seen while it lives.

use std::{sync::Arc, time::Duration, time::Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use super::{
    counters, gauges,
    kept::Kept,
    listener::CounterBy,
    names::{self, Definition, TUNNEL_BUCKETS, TunnelEnd},
    register,
};

/// Listener, passthrough (empty for a listener that sends everything on), upstream.
type Key = [Arc<str>; 3];

/// The families, and the handles that are held.
#[derive(Debug)]
pub(super) struct Tunnels {
    open: IntGaugeVec,
    ended: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    duration: HistogramVec,
    handles: Kept<Key, TunnelMetrics>,
}

/// What is counted by listener, passthrough and upstream.
#[derive(Debug)]
pub struct TunnelMetrics {
    open: IntGauge,
    ended: CounterBy<TunnelEnd>,
    received: IntCounter,
    sent: IntCounter,
    duration: Histogram,
}

/// A connection that is being sent on; it is counted as open until this is dropped.
#[derive(Debug)]
#[must_use = "the connection is counted as open until this is dropped"]
pub struct OpenTunnel(Arc<TunnelMetrics>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

impl TunnelMetrics {
    /// Counts a connection as open.
    pub fn opened(self: &Arc<Self>) -> OpenTunnel {
        self.open.inc();
        OpenTunnel(Arc::clone(self))
    }

    /// Counts a connection that is over.
    pub fn ended(&self, end: TunnelEnd, duration: Duration) {
        self.ended.inc(end);
        self.duration.observe(duration.as_secs_f64());
    }

    /// Counts bytes that went from the client to the endpoint.
    pub fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    /// Counts bytes that went from the endpoint to the client.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }
}

impl Tunnels {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            open: register(registry, gauges(&names::TUNNELS)),
            ended: register(registry, counters(&names::TUNNELS_TOTAL)),
            received: register(registry, counters(&names::TUNNEL_RECEIVED)),
            sent: register(registry, counters(&names::TUNNEL_SENT)),
            duration: register(registry, histograms(&names::TUNNEL_DURATION)),
            handles: Kept::new(),
        }
    }

    pub(super) fn resolve(
        &self,
        listener: &str,
        passthrough: Option<&str>,
        upstream: &str,
    ) -> Arc<TunnelMetrics> {
        let key = [listener, passthrough.unwrap_or_default(), upstream].map(Arc::from);
        self.handles.resolve(key, |key| {
            let labels = key.each_ref().map(|label| &**label);
            TunnelMetrics {
                open: self.open.with_label_values(&labels),
                ended: CounterBy::new(&self.ended, &labels),
                received: self.received.with_label_values(&labels),
                sent: self.sent.with_label_values(&labels),
                duration: self.duration.with_label_values(&labels),
            }
        })
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.handles.sweep(now, |key| {
            let labels = key.each_ref().map(|label| &**label);
            // Removing what is not there is the only error.
            let _ = self.open.remove_label_values(&labels);
            CounterBy::<TunnelEnd>::remove(&self.ended, &labels);
            let _ = self.received.remove_label_values(&labels);
            let _ = self.sent.remove_label_values(&labels);
            let _ = self.duration.remove_label_values(&labels);
        });
    }
}

fn histograms(definition: &Definition) -> prometheus::Result<HistogramVec> {
    let options =
        HistogramOpts::new(definition.name, definition.help).buckets(TUNNEL_BUCKETS.to_vec());
    HistogramVec::new(options, definition.labels)
}
