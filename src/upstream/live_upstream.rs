//! What is alive of an upstream as a whole. By its name; a reload keeps it, and changes its limits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    coalesced::Coalesced, endpoint::Endpoint, gates::Gates, outlier::Outliers,
    retry_budget::RetryBudget, set::EndpointSet,
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
    /// Nobody more may be ejected, as far as was last seen: whoever fails meanwhile need not ask.
    has_no_room: AtomicBool,
    /// Some endpoint has had a run of failures since the keeper last looked.
    has_run: AtomicBool,
    /// Endpoints are being listed anew.
    listing: Coalesced,
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
            has_no_room: AtomicBool::new(false),
            has_run: AtomicBool::new(false),
            listing: Coalesced::default(),
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

    /// An ejection began or ended: every set lists its endpoints anew. Of many that end or begin at once the lists are not made
    /// for each.
    pub(super) fn changed(&self) {
        self.listing.run(|| {
            let living: Vec<_> = self.sets().iter().filter_map(Weak::upgrade).collect();
            for set in living {
                set.refresh(Instant::now());
            }
        });
    }

    /// An endpoint fails each try; whether it is alone in that is not clear.
    pub(super) fn note_run(&self) {
        if !self.has_run.load(Ordering::Relaxed) {
            self.has_run.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any did since this was asked for the last time.
    pub(super) fn take_run(&self) -> bool {
        self.has_run.swap(false, Ordering::Relaxed)
    }

    /// The traffic shows that an endpoint fails. One load where nobody more may be ejected.
    pub(super) fn suspect(&self, endpoint: &Endpoint, now: Instant) {
        self.note_run();
        if self.has_room()
            && let Some(set) = self.newest()
        {
            set.suspect(endpoint, now);
        }
    }

    /// Whether one more may be ejected, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        !self.has_no_room.load(Ordering::Relaxed)
    }

    /// Remembers it, until something changes or the keeper looks.
    pub(super) fn set_room(&self, has_room: bool) {
        self.has_no_room.store(!has_room, Ordering::Relaxed);
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
