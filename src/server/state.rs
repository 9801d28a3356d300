//! What the parts of a running edge share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::{Options, builder::Builder, hand_over::Estate};
use crate::{
    config::{
        AdminConfig, Config, ConfigHash, ListenerConfig, Loaded, ProxyFrom, ReloadConfig, Report,
        ServerConfig,
    },
    listener::{BoundAddress, ListenerSet},
    snapshot::{Live, Snapshot},
    telemetry::metrics::ReloadResult,
    types::Name,
};

/// Lines of the access log, and of the audit log, that may still be written at the end.
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
    pub(super) live: Arc<Live>,
    pub(super) listeners: ListenerSet,
    /// Runs everything that is not the data plane.
    pub(super) control: Handle,
    /// Makes snapshots.
    pub(super) builder: Builder,
    pub(super) started: (Instant, SystemTime),
    /// One reload at a time.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) phase: AtomicU8,
    pub(super) in_force: Mutex<InForce>,
    /// What goes to the next process at an upgrade.
    pub(super) estate: Estate,
}

/// The configuration in force, and the last attempt to change it.
#[derive(Clone)]
pub(super) struct InForce {
    pub(super) settings: Arc<Settings>,
    pub(super) hash: ConfigHash,
    pub(super) since: SystemTime,
    /// The files on disk are what is in force.
    pub(super) is_in_sync: bool,
    pub(super) last: Option<LastReload>,
}

/// What a running edge asks its configuration for. The rest of it, by far the most, is in the snapshot.
pub(super) struct Settings {
    pub(super) server: ServerConfig,
    pub(super) reload: ReloadConfig,
    pub(super) admin: AdminConfig,
    pub(super) listeners: Vec<ListenerConfig>,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            server: config.server.clone(),
            reload: config.reload,
            admin: config.admin.clone(),
            listeners: config.listeners.clone(),
        })
    }
}

/// How the last attempt ended.
#[derive(Clone)]
pub(super) struct LastReload {
    pub(super) at: SystemTime,
    pub(super) result: ReloadResult,
    /// One line each.
    pub(super) problems: Vec<String>,
}

impl InForce {
    /// At the start; `broken` says why the last good configuration stands in for the file.
    pub(super) fn first(loaded: &Loaded, broken: Option<&Report>) -> Self {
        let now = SystemTime::now();
        let problems = broken
            .map(|report| report.diagnostics().map(|diagnostic| diagnostic.to_string()).collect());
        let last = problems.map(|problems| LastReload {
            at: now,
            result: ReloadResult::Refused,
            problems,
        });
        Self {
            settings: Settings::of(&loaded.config),
            hash: loaded.hash,
            since: now,
            is_in_sync: broken.is_none(),
            last,
        }
    }
}

impl Core {
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

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.in_force().settings
    }

    pub(super) fn bound(&self) -> Vec<(String, String)> {
        let bound = self.listeners.bound();
        bound.into_iter().map(|(name, address)| (name.to_string(), address.to_string())).collect()
    }

    /// Where TLS listeners are bound that serve `host` and take a handshake from this machine without a PROXY header.
    pub(super) fn own_tls_listeners(&self, host: &str) -> Vec<SocketAddr> {
        let (settings, snapshot) = (self.settings(), self.snapshot.load());
        let own = |name: &Name| {
            settings.listeners.iter().any(|listener| {
                listener.name == *name
                    && listener.protocol.is_tls()
                    && listener.proxy_from == ProxyFrom::Nobody
                    && snapshot.serves_by_tls(name, host)
            })
        };
        let bound = self.listeners.bound().into_iter();
        bound
            .filter(|(name, _)| own(name))
            .filter_map(|(_, address)| match address {
                BoundAddress::Tcp(address) => Some(address),
                BoundAddress::Unix(_) => None,
            })
            .collect()
    }

    pub(super) fn flush_logs(&self) {
        if !self.live.audit.flush(FLUSH) {
            tracing::warn!("the last lines of the audit log could not be written in time");
        }
        if let Some(log) = &self.snapshot.load().access_log
            && !log.flush(FLUSH)
        {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
    }
}
