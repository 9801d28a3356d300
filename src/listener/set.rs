//! The listeners of an edge, and how a reload changes them.
//!
//! A reload plans first: new sockets are bound, all or none. Then listeners that are gone retire, the new snapshot comes
//! into force, and new ones start. A listener whose address stays keeps its socket and its connections, whatever else of
//! it changes.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;
use tracing::info;

use super::{
    BoundAddress, TlsChooser, Trusted, Worker,
    accept::{Gate, accept},
    socket::{BoundSocket, bind, overlap},
};
use crate::{
    config::ListenerConfig,
    proxy::Ending,
    snapshot::Snapshot,
    telemetry::metrics::Metrics,
    types::{ListenAddress, Name},
};

/// The listeners of an edge.
pub struct ListenerSet {
    workers: Vec<Worker>,
    metrics: Arc<Metrics>,
    tls: TlsChooser,
    trusted: Trusted,
    active: Mutex<Vec<Active>>,
    /// Listeners that are gone, with connections that are not.
    retired: Mutex<Vec<Active>>,
}

impl fmt::Debug for ListenerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSet").field("bound", &self.bound()).finish_non_exhaustive()
    }
}

/// A listener that accepts, or did.
struct Active {
    key: Key,
    bound: BoundAddress,
    gate: Arc<Gate>,
    /// Turns true when its end is announced.
    shutdown: watch::Sender<bool>,
    /// Turns true when idle connections end.
    late_shutdown: watch::Sender<bool>,
}

/// What makes a listener the same one: its address; with port 0 its name too.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(ListenAddress, Option<Name>);

impl Key {
    fn of(config: &ListenerConfig) -> Self {
        let is_any = matches!(&config.address, ListenAddress::Tcp(address) if address.port() == 0);
        Self(config.address.clone(), is_any.then(|| config.name.clone()))
    }
}

impl Active {
    /// Takes no more connections. Done once: what stands at its path later belongs to somebody else.
    fn stop(&self) {
        if self.gate.stopped.is_cancelled() {
            return;
        }
        self.gate.stopped.cancel();
        if let BoundAddress::Unix(path) = &self.bound {
            // Nobody has replaced it: a socket that is answered on is refused to others.
            drop(std::fs::remove_file(path));
        }
    }

    /// Whether a connection could be meant for it or for `address`.
    fn overlaps(&self, address: &ListenAddress) -> bool {
        match (&self.bound, address) {
            (BoundAddress::Tcp(bound), ListenAddress::Tcp(address)) => overlap(*bound, *address),
            _ => false,
        }
    }

    /// Tells its connections that they end after their present request.
    fn announce(&self) {
        self.gate.ending.announced.store(true, Ordering::Release);
        self.shutdown.send_replace(true);
    }

    /// Closes connections that are between two requests.
    fn end_idle(&self) {
        self.gate.ending.idle.cancel();
        self.late_shutdown.send_replace(true);
    }
}

/// Closes WebSockets. Nine tenths of the time are used, so that the last ones still see their close frame go.
fn end_streams(ending: &Ending, spread: Duration) {
    let millis = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX) / 10 * 9;
    ending.spread_millis.store(millis, Ordering::Release);
    ending.streams.cancel();
}

/// Whether a connection could be meant for both: `kept` may have a socket already, whose port the system chose.
fn overlaps(active: &[Active], kept: &ListenerConfig, new: &ListenerConfig) -> bool {
    let key = Key::of(kept);
    match active.iter().find(|listener| listener.key == key) {
        Some(listener) => listener.overlaps(&new.address),
        None => match (&kept.address, &new.address) {
            (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => overlap(*one, *other),
            _ => false,
        },
    }
}

/// Sockets that were bound for a plan, and their address.
type NewSockets = (Vec<BoundSocket>, BoundAddress);

/// A change of the listeners, with its sockets bound.
pub struct Plan {
    wanted: Vec<(ListenerConfig, Option<NewSockets>)>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("listeners", &self.wanted.len()).finish()
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // A plan that was never carried out leaves no socket file behind.
        for (_, sockets) in &self.wanted {
            if let Some((_, BoundAddress::Unix(path))) = sockets {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

impl ListenerSet {
    /// A set without listeners.
    pub fn new(
        workers: Vec<Worker>,
        metrics: Arc<Metrics>,
        tls: TlsChooser,
        trusted: Trusted,
    ) -> Self {
        Self { workers, metrics, tls, trusted, active: Mutex::default(), retired: Mutex::default() }
    }

    fn active(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Active>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds what `configs` need beyond the present sockets.
    ///
    /// # Errors
    /// Each listener that can't be bound, with the reason; then nothing has changed.
    pub fn plan(&self, configs: &[ListenerConfig]) -> Result<Plan, Vec<(Name, io::Error)>> {
        let mut failures = Vec::new();
        let mut plan = Plan { wanted: Vec::with_capacity(configs.len()) };
        let active = self.active();
        for config in configs {
            let key = Key::of(config);
            if active.iter().any(|listener| listener.key == key) {
                plan.wanted.push((config.clone(), None));
                continue;
            }
            // As it would be at a start, where no socket of ours makes room for another.
            let in_the_way = configs
                .iter()
                .find(|other| other.name != config.name && overlaps(&active, other, config));
            if let Some(other) = in_the_way {
                let text = format!("it overlaps with {}, of \"{}\"", other.address, other.name);
                failures.push((config.name.clone(), io::Error::other(text)));
                continue;
            }
            let beside_own = active.iter().any(|listener| listener.overlaps(&config.address));
            match bind(&config.address, self.workers.len(), beside_own) {
                Ok(bound) => plan.wanted.push((config.clone(), Some(bound))),
                Err(error) => failures.push((config.name.clone(), error)),
            }
        }
        if failures.is_empty() { Ok(plan) } else { Err(failures) }
    }

    /// Ends listeners that the plan does not have: they take what waits, their connections end when they can, and after
    /// `drain` in any case.
    /// Until then they serve `last`.
    pub fn retire(&self, plan: &Plan, drain: Duration, last: &Arc<Snapshot>) {
        let mut active = self.active();
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *active).into_iter().partition(|listener| {
                plan.wanted.iter().any(|(config, _)| Key::of(config) == listener.key)
            });
        *active = kept;
        drop(active);
        for listener in gone {
            info!(address = %listener.bound, "listener ends");
            listener.gate.ending.last.store(Some(last.clone()));
            listener.stop();
            listener.announce();
            let ending = listener.gate.ending.clone();
            let late_shutdown = listener.late_shutdown.clone();
            if let Some(worker) = self.workers.first() {
                worker.handle.spawn(async move {
                    let third = drain / 3;
                    tokio::time::sleep(third).await;
                    ending.idle.cancel();
                    late_shutdown.send_replace(true);
                    tokio::time::sleep(third).await;
                    end_streams(&ending, third);
                    tokio::time::sleep(third).await;
                    ending.end_all();
                });
            }
            let mut retired = self.retired();
            retired.retain(|old| old.gate.left() > 0);
            retired.push(listener);
        }
    }

    /// Carries the plan out: changed settings apply, new listeners accept.
    pub fn start(&self, mut plan: Plan) {
        let mut active = self.active();
        for (config, sockets) in std::mem::take(&mut plan.wanted) {
            let metrics = self.metrics.listener(&config.name);
            let Some((sockets, bound)) = sockets else {
                if let Some(listener) =
                    active.iter().find(|listener| listener.key == Key::of(&config))
                {
                    listener.gate.change(config, metrics);
                }
                continue;
            };
            info!(listener = %config.name, address = %bound, tls = config.tls, "listening");
            let (shutdown, watched) = watch::channel(false);
            let (late_shutdown, watched_late) = watch::channel(false);
            let key = Key::of(&config);
            let gate = Arc::new(Gate::new(
                config,
                metrics,
                self.tls.clone(),
                self.trusted.clone(),
                watched,
                watched_late,
            ));
            for (socket, worker) in sockets.into_iter().zip(&self.workers) {
                worker.handle.spawn(accept(socket, gate.clone(), worker.engine.clone()));
            }
            active.push(Active { key, bound, gate, shutdown, late_shutdown });
        }
    }

    /// Listeners by name, with their addresses.
    pub fn bound(&self) -> Vec<(Name, BoundAddress)> {
        let active = self.active();
        let mut bound: Vec<_> = active
            .iter()
            .map(|listener| (listener.gate.config.load().name.clone(), listener.bound.clone()))
            .collect();
        bound.sort_by(|a, b| a.0.cmp(&b.0));
        bound
    }

    /// Connections that are open, those of listeners that are gone too; a listener that ends counts until it has taken
    /// what waits in the kernel.
    pub fn connections(&self) -> usize {
        let count = |listeners: &[Active]| -> usize {
            listeners.iter().map(|listener| listener.gate.left()).sum()
        };
        count(&self.active()) + count(&self.retired())
    }

    /// Connections by listener.
    pub fn connections_by_listener(&self) -> Vec<(Name, usize)> {
        let active = self.active();
        active
            .iter()
            .map(|listener| {
                (
                    listener.gate.config.load().name.clone(),
                    listener.gate.open.load(Ordering::Acquire),
                )
            })
            .collect()
    }

    /// Tells every connection that it ends after its present request; new ones are still taken.
    pub fn announce_end(&self) {
        for listener in self.active().iter() {
            listener.announce();
        }
    }

    /// Closes connections that are between two requests.
    pub fn end_idle(&self) {
        for listener in self.active().iter().chain(self.retired().iter()) {
            listener.end_idle();
        }
    }

    /// Closes WebSockets, spread over `spread`.
    pub fn end_streams(&self, spread: Duration) {
        for listener in self.active().iter().chain(self.retired().iter()) {
            end_streams(&listener.gate.ending, spread);
        }
    }

    /// Takes no more connections.
    pub fn stop_accepting(&self) {
        for listener in self.active().iter() {
            listener.stop();
        }
    }

    /// Ends every connection now.
    pub fn close_all(&self) {
        for listener in self.active().iter().chain(self.retired().iter()) {
            listener.gate.ending.end_all();
        }
    }

    /// Paths of the Unix sockets that are bound.
    pub fn unix_paths(&self) -> Vec<PathBuf> {
        let active = self.active();
        active
            .iter()
            .filter_map(|listener| match &listener.bound {
                BoundAddress::Unix(path) => Some(path.clone()),
                BoundAddress::Tcp(_) => None,
            })
            .collect()
    }
}
