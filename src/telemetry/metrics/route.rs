//! Counters of one route towards one upstream: the hot path of the metrics.
//!
//! Handles are resolved when a snapshot is compiled. Counting then is a handful of atomic additions: no allocation, no
//! lock, no look-up by label.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::names::STATUS_CLASSES;

/// What is counted by site, route and upstream.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(super) requests: [IntCounter; STATUS_CLASSES.len()],
    pub(super) duration: Histogram,
    /// `None` where the route has no upstream.
    pub(super) upstream_duration: Option<Histogram>,
    pub(super) own_duration: Histogram,
    pub(super) in_flight: IntGauge,
    pub(super) bytes_in: IntCounter,
    pub(super) bytes_out: IntCounter,
}

/// A request that is being served; it is counted as in flight until this is dropped.
#[derive(Debug)]
#[must_use = "the request is in flight until this is dropped"]
pub struct InFlight(Arc<RouteMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

impl RouteMetrics {
    /// Counts a request as in flight.
    pub fn started(self: &Arc<Self>) -> InFlight {
        self.in_flight.inc();
        InFlight(Arc::clone(self))
    }

    /// Counts a request that is over, whatever became of it.
    ///
    /// `status` is 0 where the client went away before an answer. `total` runs from the head to the end of the answer,
    /// `upstream` is the part of it in which the edge waited for an upstream (all tries), `None` where none was asked.
    pub fn finished(
        &self,
        status: u16,
        total: Duration,
        upstream: Option<Duration>,
        bytes_in: u64,
        bytes_out: u64,
    ) {
        if let Some(counter) = self.requests.get(status_class(status)) {
            counter.inc();
        }
        self.duration.observe(total.as_secs_f64());
        if let (Some(histogram), Some(upstream)) = (&self.upstream_duration, upstream) {
            histogram.observe(upstream.as_secs_f64());
        }
        let own = total.saturating_sub(upstream.unwrap_or_default());
        self.own_duration.observe(own.as_secs_f64());
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }
}

/// The place of a status in [`STATUS_CLASSES`].
pub(super) const fn status_class(status: u16) -> usize {
    match status {
        100..=599 => (status / 100 - 1) as usize,
        _ => STATUS_CLASSES.len() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_fall_into_their_class() {
        for (status, class) in [
            (101, "1xx"),
            (200, "2xx"),
            (308, "3xx"),
            (404, "4xx"),
            (599, "5xx"),
            (0, "none"),
            (99, "none"),
            (600, "none"),
            (u16::MAX, "none"),
        ] {
            assert_eq!(STATUS_CLASSES[status_class(status)], class, "{status}");
        }
    }
}
