//! What the parts of a running edge share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::Options;
use crate::{
    config::{Config, ConfigHash, Loaded, Watcher},
    listener::ListenerSet,
    snapshot::{Live, Snapshot},
};

/// Lines of the access log that may still be written at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Where an edge is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// First probes run.
    Starting,
    /// It serves.
    Ready,
    /// It ends.
    Draining,
}

/// A running edge without its runtimes.
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) live: Live,
    pub(super) listeners: ListenerSet,
    /// Runs everything that is not the data plane.
    pub(super) control: Handle,
    pub(super) started: (Instant, SystemTime),
    /// One reload at a time.
    pub(super) reloading: tokio::sync::Mutex<()>,
    phase: AtomicU8,
    in_force: Mutex<InForce>,
    admin: Mutex<Option<String>>,
    files: Mutex<Vec<PathBuf>>,
}

/// The configuration in force, and the last attempt to change it.
#[derive(Clone)]
pub(super) struct InForce {
    pub(super) config: Arc<Config>,
    pub(super) hash: ConfigHash,
    pub(super) since: SystemTime,
    /// The files on disk are what is in force.
    pub(super) is_in_sync: bool,
    pub(super) last: LastReload,
}

/// How the last attempt ended.
#[derive(Clone)]
pub(super) struct LastReload {
    pub(super) at: SystemTime,
    pub(super) result: &'static str,
    /// One line each.
    pub(super) problems: Vec<String>,
}

impl Core {
    pub(super) fn new(
        options: Options,
        loaded: Loaded,
        snapshot: Arc<ArcSwap<Snapshot>>,
        live: Live,
        listeners: ListenerSet,
        control: Handle,
    ) -> Self {
        let now = SystemTime::now();
        let is_in_sync = !loaded.is_last_good;
        live.metrics.config_in_sync(is_in_sync);
        live.metrics.generation(snapshot.load().generation);
        let last = LastReload { at: now, result: "started", problems: Vec::new() };
        let files = loaded.files.clone();
        let in_force =
            InForce { config: Arc::new(loaded.config), hash: loaded.hash, since: now, is_in_sync, last };
        Self {
            options,
            snapshot,
            live,
            listeners,
            control,
            started: (Instant::now(), now),
            reloading: tokio::sync::Mutex::new(()),
            phase: AtomicU8::new(Phase::Starting as u8),
            in_force: Mutex::new(in_force),
            admin: Mutex::new(None),
            files: Mutex::new(files),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Goes on in its life, never back.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    pub(super) fn in_force(&self) -> InForce {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change_in_force(&self, change: impl FnOnce(&mut InForce)) {
        change(&mut self.in_force.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.in_force().config
    }

    pub(super) fn bound(&self) -> Vec<(String, String)> {
        let bound = self.listeners.bound();
        bound.into_iter().map(|(name, address)| (name.to_string(), address.to_string())).collect()
    }

    pub(super) fn set_admin(&self, address: Option<String>) {
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Tells the watcher which files belong to the configuration.
    pub(super) fn follow_files(&self, watcher: &Watcher) {
        watcher.follow(&self.files.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn flush_access_log(&self) {
        if let Some(log) = &self.snapshot.load().access_log
            && !log.flush(FLUSH)
        {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
    }
}
