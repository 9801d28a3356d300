//! What is alive of an upstream as a whole. By its name; a reload keeps it, and changes its limits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use super::{
    endpoint::Endpoint, gates::Gates, outlier::Outliers, retry_budget::RetryBudget,
    set::EndpointSet, watch::Watch,
};

use crate::types::Name;

/// The live state of an upstream beside its endpoints'.
#[derive(Debug)]
pub(super) struct LiveUpstream {
    /// Picks of round-robin, over all generations.
    pub(super) turns: AtomicU64,
    /// What the traffic shows.
    pub(super) outliers: Outliers,
    /// When the window began in which endpoints are compared.
    pub(super) window_began: Mutex<Option<Instant>>,
    /// One ejection at a time, so that no two take the last endpoints.
    pub(super) ejecting: Mutex<()>,
    /// What was last said of who gets requests.
    pub(super) told: Mutex<Told>,
    /// How many retries its requests have left.
    pub(super) retry_budget: RetryBudget,
    /// What stands before it.
    pub(super) gates: Gates,
    /// The sets of living generations, the newest last.
    sets: Mutex<Vec<Weak<EndpointSet>>>,
}

/// Events that were raised and are not over.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) is_panicking: bool,
    pub(super) is_below_minimum: bool,
}

impl LiveUpstream {
    /// The state of an upstream that was not there before.
    pub(super) fn new(name: Name) -> Self {
        Self {
            turns: AtomicU64::new(0),
            outliers: Outliers::default(),
            window_began: Mutex::default(),
            ejecting: Mutex::default(),
            told: Mutex::default(),
            retry_budget: RetryBudget::new(Instant::now()),
            gates: Gates::new(name),
            sets: Mutex::default(),
        }
    }

    /// From now on this set is the newest: it judges, and those before it do not.
    pub(super) fn add_set(&self, set: &Arc<EndpointSet>) {
        let mut sets = self.sets();
        sets.retain(|known| known.strong_count() > 0);
        sets.push(Arc::downgrade(set));
    }

    /// The newest set that lives: one that never came into force leaves its place to the one before it.
    pub(super) fn newest(&self) -> Option<Arc<EndpointSet>> {
        self.sets().iter().rev().find_map(Weak::upgrade)
    }

    /// An ejection began or ended: every set lists its endpoints anew.
    pub(super) fn changed(&self) {
        let living: Vec<_> = self.sets().iter().filter_map(Weak::upgrade).collect();
        for set in living {
            set.changed();
        }
    }

    /// The traffic shows that an endpoint fails.
    pub(super) fn suspect(&self, endpoint: &Endpoint, now: Instant) {
        if let Some(set) = self.newest() {
            set.suspect(endpoint, now);
        }
    }

    /// How old the window is in which endpoints are compared; it begins with the first call.
    pub(super) fn window_age(&self, now: Instant) -> Duration {
        let mut began = self.window_began.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(*began.get_or_insert(now))
    }

    /// A new window begins.
    pub(super) fn turn(&self, now: Instant) {
        *self.window_began.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.outliers.turn();
    }

    fn sets(&self) -> MutexGuard<'_, Vec<Weak<EndpointSet>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
