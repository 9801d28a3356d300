//! The listeners of an edge, and how a reload changes them.
//!
//! A reload plans first: new sockets are bound, all or none. Then listeners that are gone retire, the new snapshot comes
//! into force, and new ones start. A listener whose address stays keeps its socket and its connections, whatever else of
//! it changes.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;
use tracing::info;

use super::{
    BoundAddress, Choosers, Worker,
    accept::{Gate, accept},
    inherited::{Inherited, Label, PassedSockets, Role},
    socket::{BoundSocket, SocketSet, bind, overlap},
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
    choosers: Choosers,
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
    /// Its sockets, beside those of the accept loops: what an upgrade hands over. Let go when it stops.
    held: Mutex<Vec<BoundSocket>>,
    /// Whether a Unix socket's file is removed when it stops.
    owns_file: bool,
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
        self.let_go();
        if let (BoundAddress::Unix(path), true) = (&self.bound, self.owns_file) {
            // Nobody has replaced it: a socket that is answered on is refused to others.
            drop(std::fs::remove_file(path));
        }
    }

    /// Takes no more connections, because another process has the sockets: what waits in the kernel is left to it, and
    /// so is the file of a Unix socket.
    fn leave(&self) {
        self.gate.is_left.store(true, Ordering::Release);
        self.let_go();
    }

    fn let_go(&self) {
        self.gate.stopped.cancel();
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, Vec<BoundSocket>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn label(&self) -> Label {
        Label {
            role: Role::Listener(self.gate.config.load().name.clone()),
            address: self.key.0.clone(),
            owns_file: self.owns_file,
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

/// The sockets of a listener that is new, and a handle for each of its accept loops.
struct NewSockets {
    set: SocketSet,
    handles: Vec<BoundSocket>,
}

impl NewSockets {
    /// Each socket of a set must be accepted on, and each worker must accept: with more sockets than workers, workers
    /// have several loops; with fewer, several workers share a socket.
    fn new(set: SocketSet, workers: usize) -> io::Result<Self> {
        let loops = set.sockets.len().max(workers);
        let handles = set
            .sockets
            .iter()
            .cycle()
            .take(loops)
            .map(BoundSocket::try_clone)
            .collect::<Result<_, _>>()?;
        Ok(Self { set, handles })
    }
}

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
            if let Some(NewSockets { set, .. }) = sockets
                && let (BoundAddress::Unix(path), false) = (&set.address, set.is_inherited)
            {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

impl ListenerSet {
    /// A set without listeners.
    pub fn new(workers: Vec<Worker>, metrics: Arc<Metrics>, choosers: Choosers) -> Self {
        Self { workers, metrics, choosers, active: Mutex::default(), retired: Mutex::default() }
    }

    fn active(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Active>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds what `configs` need beyond the present sockets and those that were inherited.
    ///
    /// # Errors
    /// Each listener that can't be bound, with the reason; then nothing has changed.
    pub fn plan(
        &self,
        configs: &[ListenerConfig],
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<(Name, io::Error)>> {
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
            let set = inherited
                .claim(&Role::Listener(config.name.clone()), &config.address)
                .and_then(|claimed| {
                    claimed.map_or_else(
                        || {
                            let beside_own = inherited.overlaps(&config.address)
                                || active.iter().any(|own| own.overlaps(&config.address));
                            bind(&config.address, self.workers.len(), beside_own)
                        },
                        Ok,
                    )
                })
                .and_then(|set| NewSockets::new(set, self.workers.len()));
            match set {
                Ok(sockets) => plan.wanted.push((config.clone(), Some(sockets))),
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
            let Some(NewSockets { set, handles }) = sockets else {
                if let Some(listener) =
                    active.iter().find(|listener| listener.key == Key::of(&config))
                {
                    listener.gate.change(config, metrics);
                }
                continue;
            };
            let SocketSet { sockets: held, address: bound, is_inherited, owns_file } = set;
            info!(
                listener = %config.name, address = %bound, tls = config.protocol.is_tls(), inherited = is_inherited,
                "listening"
            );
            let (shutdown, watched) = watch::channel(false);
            let (late_shutdown, watched_late) = watch::channel(false);
            let key = Key::of(&config);
            let gate =
                Arc::new(Gate::new(config, metrics, self.choosers.clone(), watched, watched_late));
            for (socket, worker) in handles.into_iter().zip(self.workers.iter().cycle()) {
                worker.handle.spawn(accept(socket, gate.clone(), worker.engine.clone()));
            }
            let held = Mutex::new(held);
            active.push(Active { key, bound, held, owns_file, gate, shutdown, late_shutdown });
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

    /// Further handles of all sockets, for another process.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub fn pass_on(&self) -> io::Result<Vec<PassedSockets>> {
        let active = self.active();
        active
            .iter()
            .map(|listener| PassedSockets::of(listener.label(), &listener.held()))
            .collect()
    }

    /// Takes no more connections: those that are taken are accepted on by another process now; the other listeners take
    /// what waits. Connections are told, as by [`Self::announce_end`].
    pub fn leave(&self, is_taken: impl Fn(&Label) -> bool) {
        for listener in self.active().iter() {
            listener.announce();
            if is_taken(&listener.label()) {
                listener.leave();
            } else {
                listener.stop();
            }
        }
    }
}
