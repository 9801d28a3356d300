//! The keeper: one task for all upstreams that does what time does: steps of slow starts, ejections that end, windows to judge.
//!
//! It ends with the edge. Each tick looks at a few flags of each upstream and no further where nothing is to do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::live_upstream::LiveUpstream;
use crate::types::Name;

/// Between two looks.
const TICK: Duration = Duration::from_millis(150);

/// The upstreams that are looked after.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    upstreams: Mutex<HashMap<Name, Weak<LiveUpstream>>>,
}

impl Keeper {
    /// Starts the task; it ends when the keeper is gone.
    pub(super) fn start(handle: &Handle) -> Arc<Self> {
        let keeper = Arc::new(Self::default());
        let watched = Arc::downgrade(&keeper);
        handle.spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(keeper) = watched.upgrade() else { return };
                keeper.tick(Instant::now());
            }
        });
        keeper
    }

    /// Looks after an upstream, for as long as a set of its endpoints lives.
    pub(super) fn watch(&self, name: &Name, upstream: &Arc<LiveUpstream>) {
        self.lock().insert(name.clone(), Arc::downgrade(upstream));
    }

    fn tick(&self, now: Instant) {
        let mut sets = Vec::new();
        self.lock().retain(|_, upstream| {
            let newest = upstream.upgrade().and_then(|upstream| upstream.newest());
            let lives = newest.is_some();
            sets.extend(newest);
            lives
        });
        // Without the lock: a new generation waits for it.
        for set in sets {
            set.tick(now);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Weak<LiveUpstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
