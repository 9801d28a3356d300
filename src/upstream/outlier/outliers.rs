//! What outlier detection knows of an upstream as a whole: the present window, who its clients are, how its tries end.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use super::{OutlierConfig, networks::Networks};

/// Shared by all endpoints of an upstream; a reload keeps it.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Outliers {
    /// Failures in a row that are too many; 0 where nothing is judged.
    consecutive: AtomicU32,
    observes_latency: AtomicBool,
    /// The number of the present window: what was counted in another one counts no more.
    window: AtomicU32,
    /// Something was judged since the keeper last looked.
    has_traffic: AtomicBool,
    /// Good tries since the process started, of all endpoints.
    successes: AtomicU64,
    /// Failed ones, without statuses.
    failures: AtomicU64,
    /// Made for the first request: most upstreams of a large edge are idle.
    networks: OnceLock<Box<Networks>>,
}

impl Outliers {
    /// Takes the settings of the newest generation.
    pub(in crate::upstream) fn configure(&self, settings: Option<&OutlierConfig>) {
        let consecutive = settings.map_or(0, |settings| settings.consecutive_failures);
        self.consecutive.store(consecutive, Ordering::Relaxed);
        let observes_latency = settings.is_some_and(|settings| settings.latency_factor.is_some());
        self.observes_latency.store(observes_latency, Ordering::Relaxed);
    }

    /// Failures in a row that are too many; `None` where nothing is judged.
    pub(super) fn consecutive(&self) -> Option<u32> {
        Some(self.consecutive.load(Ordering::Relaxed)).filter(|count| *count > 0)
    }

    pub(super) fn observes_latency(&self) -> bool {
        self.observes_latency.load(Ordering::Relaxed)
    }

    /// The present window's tag, as counts carry it.
    pub(in crate::upstream) fn window(&self) -> u16 {
        self.window.load(Ordering::Relaxed) as u16
    }

    /// What is counted from now on belongs to a new window.
    pub(in crate::upstream) fn turn(&self) {
        self.window.fetch_add(1, Ordering::Relaxed);
        if let Some(networks) = self.networks.get() {
            networks.turn();
        }
    }

    /// Something was judged since this was asked for the last time.
    pub(in crate::upstream) fn take_traffic(&self) -> bool {
        self.has_traffic.load(Ordering::Relaxed) && self.has_traffic.swap(false, Ordering::Relaxed)
    }

    pub(super) fn see(&self, network: u64) {
        self.networks.get_or_init(Box::default).see(network);
        if !self.has_traffic.load(Ordering::Relaxed) {
            self.has_traffic.store(true, Ordering::Relaxed);
        }
    }

    /// How many client networks were seen in this window and the one before it; at least 1.
    pub(in crate::upstream) fn networks(&self) -> u32 {
        self.networks.get().map_or(1, |networks| networks.count().max(1))
    }

    pub(super) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Good and failed tries so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.successes.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}
