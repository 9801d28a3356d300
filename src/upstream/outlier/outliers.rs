//! What outlier detection knows of an upstream as a whole: the present window, who its clients are, how its tries end.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use super::{
    OutlierConfig,
    networks::{Networks, SLOTS, slot_of},
    votes::Votes,
};

/// How the tries of one network, and of those that share its slot, end at all endpoints together.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) votes: Votes,
    /// Failed tries that a client can cause, without statuses, since the process started. It wraps.
    pub(super) failures: AtomicU32,
}

/// Who the clients are.
#[derive(Debug)]
struct Clients {
    networks: Networks,
    slots: [Slot; SLOTS],
}

impl Default for Clients {
    fn default() -> Self {
        Self { networks: Networks::default(), slots: std::array::from_fn(|_| Slot::default()) }
    }
}

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
    /// Connections that were refused.
    refused: AtomicU64,
    /// Made for the first request: most upstreams of a large edge are idle.
    clients: OnceLock<Box<Clients>>,
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
        if let Some(clients) = self.clients.get() {
            clients.networks.turn();
        }
    }

    /// Something was judged since this was asked for the last time.
    pub(in crate::upstream) fn take_traffic(&self) -> bool {
        self.has_traffic.load(Ordering::Relaxed) && self.has_traffic.swap(false, Ordering::Relaxed)
    }

    /// A try of a network, by its hash, has ended.
    pub(super) fn count(&self, network: u64, is_good: bool) {
        let clients = self.clients.get_or_init(Box::default);
        clients.networks.see(network);
        if let Some(slot) = clients.slots.get(slot_of(network)) {
            slot.votes.count(is_good, self.window());
        }
        if !self.has_traffic.load(Ordering::Relaxed) {
            self.has_traffic.store(true, Ordering::Relaxed);
        }
    }

    /// How many client networks were seen in this window and the one before it; at least 1.
    pub(in crate::upstream) fn networks(&self) -> u32 {
        self.clients.get().map_or(1, |clients| clients.networks.count().max(1))
    }

    pub(super) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection failed, which no client can cause.
    pub(super) fn was_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Good tries so far, and refused connections.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.successes.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// By slot of a network, as an endpoint's own are; none before the first try.
    pub(super) fn slots(&self) -> &[Slot] {
        self.clients.get().map_or(&[], |clients| &clients.slots)
    }
}
