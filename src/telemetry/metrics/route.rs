//! Counters of one route towards one upstream: the hot path of the metrics.
//!
//! Handles are resolved when a snapshot is compiled. Counting then is a handful of atomic additions: no allocation, no
//! lock, no look-up by label; only the first request of a route makes its histograms.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    limits::RouteLimits,
    names::{BUCKETS, Limited, OWN_BUCKETS, STATUS_CLASSES},
};

/// What is counted by site, route and upstream.
///
/// Most routes of a large edge are quiet: what takes memory is made with the first request.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    pub(super) requests: [AtomicU64; STATUS_CLASSES.len()],
    pub(super) in_flight: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) fallbacks: AtomicU64,
    times: OnceLock<Box<Times>>,
    limits: OnceLock<Box<RouteLimits>>,
}

/// The histograms of a route.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) total: Durations,
    pub(super) upstream: Durations,
    pub(super) own: Durations,
}

/// Durations, counted by size. Lock-free; a reader that comes between two additions sees one of them.
#[derive(Debug)]
pub(super) struct Durations {
    /// Upper bounds in seconds, each inclusive.
    pub(super) bounds: &'static [f64],
    /// By the first bound that is not below; the last is for what is above all of them.
    counts: Box<[AtomicU64]>,
    /// 584 years fit.
    nanoseconds: AtomicU64,
}

impl Durations {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.nanoseconds.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How many there are up to each bound, and in all as the last.
    pub(super) fn cumulative(&self) -> Vec<u64> {
        let counts = self.counts.iter();
        let sums = counts.scan(0, |sum, count| {
            *sum += count.load(Ordering::Relaxed);
            Some(*sum)
        });
        sums.collect()
    }

    /// Their sum in seconds.
    pub(super) fn sum(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// A request that is being served; it is counted as in flight until this is dropped.
#[derive(Debug)]
#[must_use = "the request is in flight until this is dropped"]
pub struct InFlight(Arc<RouteMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RouteMetrics {
    /// Counts a request as in flight.
    pub fn started(self: &Arc<Self>) -> InFlight {
        self.made_times();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Counts a request that the route's fallback takes over.
    pub fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
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
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let times = self.made_times();
        times.total.observe(total);
        if let Some(upstream) = upstream {
            times.upstream.observe(upstream);
        }
        times.own.observe(total.saturating_sub(upstream.unwrap_or_default()));
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// Counts a request that a limit refused.
    pub fn limited(&self, reason: Limited) {
        self.limits.get_or_init(Box::default).limited(reason);
    }

    /// Counts a request that the edge refused for want of room, by the place of its criticality, the least important first.
    pub fn shed(&self, criticality: usize) {
        self.limits.get_or_init(Box::default).shed(criticality);
    }

    /// Counts the time that a request has waited for room.
    pub fn waited(&self, waited: Duration) {
        self.limits.get_or_init(Box::default).waited(waited);
    }

    /// What limits did to it; `None` before the first request that was refused or had to wait.
    pub(super) fn limits(&self) -> Option<&RouteLimits> {
        self.limits.get().map(Box::as_ref)
    }

    /// Its histograms; `None` before the first request.
    pub(super) fn times(&self) -> Option<&Times> {
        self.times.get().map(Box::as_ref)
    }

    fn made_times(&self) -> &Times {
        self.times.get_or_init(|| {
            Box::new(Times {
                total: Durations::new(BUCKETS),
                upstream: Durations::new(BUCKETS),
                own: Durations::new(OWN_BUCKETS),
            })
        })
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
    #[test]
    fn durations_are_counted_by_the_first_bound_that_is_not_below() {
        let durations = Durations::new(&[0.001, 0.01]);
        for micros in [0, 1_000, 1_001, 10_000, 10_001, 5_000_000] {
            durations.observe(Duration::from_micros(micros));
        }
        assert_eq!(durations.cumulative(), [2, 4, 6]);
        assert!((durations.sum() - 5.022_002).abs() < 1e-9, "{}", durations.sum());
    }
}
