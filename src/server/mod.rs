//! Wiring: runtimes, the first configuration, background tasks, the end. No logic of its own.

mod builder;
mod control;
mod drain;
mod experiments;
mod hand_over;
mod http2_life;
mod listening;
mod overload;
mod prepare;
mod reload;
mod rollouts;
mod state;
mod systemd;
mod workers;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicU8},
    thread,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::{self, Runtime},
    sync::Notify,
};
use tracing::{info, warn};

use self::{
    control::AdminControl,
    drain::drain_all,
    hand_over::{Estate, Takeover, answer_successors},
    prepare::{Compiled, tell},
    reload::Trigger,
    state::{Core, InForce, Phase},
    workers::Workers,
};
pub use self::{
    hand_over::{HandOverError, is_running},
    prepare::Prepared,
    reload::Refusal,
    systemd::{Systemd, activated_sockets},
};
use crate::{
    admin::{AdminServer, Token, TokenError},
    config::{Report, Watcher},
    listener::{Inherited, Role},
    snapshot::{AttachError, Live},
    telemetry::{audit::Actor, logging::Logging, metrics::Metrics},
    tls::{self, acme::Surroundings},
    types::{ListenAddress, SecretSource},
    upstream::Upstream,
};

/// How long `/ready` waits for the first probes.
const FIRST_PROBES: Duration = Duration::from_secs(5);
/// How long the end waits for events that are on their way to webhooks.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// Forgetting state that nothing holds.
const SWEEP: Duration = Duration::from_mins(1);

/// What an edge is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// A broken file ends the start, also where there is a last good configuration.
    pub strict_start: bool,
    /// The process's log, whose level a reload or the API may change.
    pub logging: Option<Logging>,
    /// The sockets of the edge that runs with the same state directory are taken over.
    pub upgrade: bool,
    /// Who is told how the process does.
    pub systemd: Systemd,
}

impl Options {
    /// The usual: the last good configuration stands in for a broken file.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self {
            config: config.into(),
            strict_start: false,
            logging: None,
            upgrade: false,
            systemd: Systemd::default(),
        }
    }
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error("{}", .0.render(false))]
    Configuration(Box<Report>),
    /// A runtime or a thread.
    #[error("the runtime can't be started: {0}")]
    Runtime(#[source] io::Error),
    /// Certificates or the access log.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The admin listener's token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The admin listener.
    #[error("the admin listener can't be bound to {address}: {source}")]
    Admin {
        /// Its address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The sockets of the edge that runs can't be taken over.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
}

/// A running edge. Dropping it ends it at once; [`EdgeHandle::shutdown`] ends it with a drain.
pub struct EdgeHandle {
    core: Arc<Core>,
    control: Option<Runtime>,
    workers: Option<Workers>,
    watcher: Option<Watcher>,
    admin: Option<String>,
}

impl fmt::Debug for EdgeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeHandle").field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// Starts edges.
#[derive(Debug)]
pub struct Edge;

impl Edge {
    /// Loads the configuration, or the last good one where the file is broken.
    ///
    /// # Errors
    /// [`StartError::Configuration`], with every problem.
    pub fn prepare(options: Options) -> Result<Prepared, StartError> {
        Prepared::find(options)
    }

    /// Starts an edge in this process; it serves when this returns.
    ///
    /// # Errors
    /// [`StartError`], with every problem of the configuration.
    pub fn start(options: Options) -> Result<EdgeHandle, StartError> {
        Self::prepare(options).and_then(Self::start_prepared)
    }

    /// Starts an edge with a configuration that is loaded already.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_prepared(prepared: Prepared) -> Result<EdgeHandle, StartError> {
        let Prepared { options, compiled, broken, builder, changed, watcher, mut inherited } =
            prepared;
        tell(&options, &compiled, broken.as_ref());
        tls::install_provider();
        let Compiled { loaded, blueprint, .. } = compiled;
        let control = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidegate-control")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let metrics = Metrics::new();
        let state_dir = &loaded.config.server.state_dir;
        let live = Arc::new(Live::new(state_dir, control.handle().clone(), metrics.clone()));
        let config = loaded.config.clone();
        let attaching = live.clone();
        let first = builder
            .run_blocking(move || attaching.attach(blueprint))
            .map_err(|panicked| StartError::Runtime(io::Error::other(panicked)))??;
        live.put_in_force(&first, &config);
        let upstreams = first.upstreams.clone();
        let snapshot = Arc::new(ArcSwap::from_pointee(first));
        let threads =
            config.server.threads.map_or_else(available_threads, |threads| threads as usize);
        let workers = Workers::start(config.server.workers, threads, &snapshot, &metrics)
            .map_err(StartError::Runtime)?;
        let listeners = listening::listener_set(workers.list(), &metrics, &snapshot);
        // From here on the edge that runs waits: everything that takes its time comes before.
        let takeover = if options.upgrade {
            control.block_on(first_probes(&upstreams));
            let (takeover, passed) = Takeover::begin(state_dir)?;
            inherited = passed.and(inherited);
            Some(takeover)
        } else {
            None
        };
        let estate = Estate::default();
        let admin = match &config.admin.address {
            None => None,
            Some(address) => {
                let token = config.admin.token.as_ref();
                Some(bind_admin(&control, address, token, &mut inherited, &estate)?)
            }
        };
        let bound_admin = admin.as_ref().map(|(server, _)| server.address().to_string());
        let hand_over = estate.listen(state_dir, &mut inherited);
        let phase = if takeover.is_some() { Phase::Ready } else { Phase::Starting };
        let core = Arc::new(Core {
            in_force: Mutex::new(InForce::first(&loaded, broken.as_ref())),
            options,
            snapshot,
            live,
            listeners,
            control: control.handle().clone(),
            builder,
            started: (Instant::now(), SystemTime::now()),
            reloading: tokio::sync::Mutex::new(()),
            phase: AtomicU8::new(phase as u8),
            estate,
        });
        core.live.metrics.config_in_sync(broken.is_none());
        core.live.metrics.generation(core.snapshot.load().generation);
        core.bind_first(&config, &loaded, &mut inherited).map_err(|report| {
            if takeover.is_none() {
                // At an upgrade it belongs to the edge that serves on.
                core.estate.close();
            }
            StartError::Configuration(Box::new(report))
        })?;
        if let Some((server, token)) = admin {
            let left = core.estate.admin_is_left.clone();
            control.spawn(server.serve(Arc::new(AdminControl(core.clone())), token, left));
        }
        let taken = inherited.close_the_rest();
        let edge = EdgeHandle {
            core: core.clone(),
            control: Some(control),
            workers: Some(workers),
            watcher,
            admin: bound_admin,
        };
        if let Some(takeover) = takeover {
            if let Err(error) = takeover.finish(&taken) {
                core.give_back();
                edge.shutdown(true);
                return Err(error.into());
            }
            // The old process may have been asked to switch one while this one started.
            core.live.policies.experiments.read_again();
        }
        rollouts::tell_of_events(&core.live);
        core.live.rollouts.start(core.options.upgrade);
        // Only the snapshot is left of it.
        drop(config);
        if broken.is_none() {
            let keeping = core.clone();
            core.control.spawn(async move { keeping.keep_as_last_good(loaded, None).await });
        }
        start_acme(&core);
        core.live.webhooks.start(&core.control);
        start_tasks(&core, upstreams, changed, hand_over);
        Ok(edge)
    }
}

fn bind_admin(
    control: &Runtime,
    address: &ListenAddress,
    token: Option<&SecretSource>,
    inherited: &mut Inherited,
    estate: &Estate,
) -> Result<(AdminServer, Option<Token>), StartError> {
    let token = token.map(Token::open).transpose()?;
    let _entered = control.enter();
    let mut bind = || -> io::Result<AdminServer> {
        let server = match inherited.claim(&Role::Admin, address)? {
            Some(set) => AdminServer::adopt(set)?,
            None => AdminServer::bind(address)?,
        };
        estate.add_admin(&server, address)?;
        Ok(server)
    };
    let server =
        bind().map_err(|source| StartError::Admin { address: address.to_string(), source })?;
    Ok((server, token))
}

/// Certificates are ordered from now on: the listeners answer the authorities.
fn start_acme(core: &Arc<Core>) {
    let asking = Arc::downgrade(core);
    core.live.tls.acme().start(Surroundings {
        dns: core.live.upstreams.resolver().clone(),
        tls_listeners: Box::new(move |host| {
            asking.upgrade().map(|core| core.own_tls_listeners(host)).unwrap_or_default()
        }),
    });
}

/// Waits for the first probes. A dead upstream must not take the edge out: the wait has an end.
async fn first_probes(upstreams: &[Arc<Upstream>]) {
    let probed = futures_util::future::join_all(upstreams.iter().map(|upstream| upstream.probed()));
    drop(tokio::time::timeout(FIRST_PROBES, probed).await);
}

/// What runs beside the requests: the first probes, reloads by the watcher, forgetting, answering the next process.
fn start_tasks(
    core: &Arc<Core>,
    upstreams: Vec<Arc<Upstream>>,
    changed: Arc<Notify>,
    hand_over: Option<std::os::unix::net::UnixListener>,
) {
    let waiting = core.clone();
    core.control.spawn(async move {
        let Options { upgrade, systemd, .. } = waiting.options;
        if !upgrade {
            first_probes(&upstreams).await;
        }
        waiting.set_phase(Phase::Ready);
        info!("ready");
        let generation = waiting.snapshot.load().generation;
        if upgrade { systemd.took_over(generation) } else { systemd.ready(generation) }
    });
    if let Some(socket) = hand_over {
        let _entered = core.control.enter();
        match tokio::net::UnixListener::from_std(socket) {
            Ok(socket) => {
                core.control.spawn(answer_successors(Arc::downgrade(core), socket));
            }
            Err(error) => warn!(%error, "there can be no upgrade"),
        }
    }
    core.control.spawn(overload::watch(Arc::downgrade(core)));
    let reloading = Arc::downgrade(core);
    core.control.spawn(async move {
        loop {
            changed.notified().await;
            let Some(core) = reloading.upgrade() else { return };
            // It is logged and counted where it happens.
            drop(core.reload(Trigger::Watch, Actor::File).await);
        }
    });
    let sweeping = Arc::downgrade(core);
    core.control.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(core) = sweeping.upgrade() else { return };
            let live = core.live.clone();
            // It may be the last to hold what a snapshot pointed to.
            drop(core.builder.run(move || live.sweep(Instant::now())).await);
        }
    });
}

fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

impl EdgeHandle {
    /// The listeners by name, with the addresses they are bound to.
    pub fn listeners(&self) -> Vec<(String, String)> {
        self.core.bound()
    }

    /// Listeners that speak TLS, by name.
    pub fn tls_listeners(&self) -> Vec<String> {
        let settings = self.core.settings();
        settings
            .listeners
            .iter()
            .filter(|listener| listener.protocol.is_tls())
            .map(|listener| listener.name.to_string())
            .collect()
    }

    /// Listeners that send TCP on, by name.
    pub fn tcp_listeners(&self) -> Vec<String> {
        let settings = self.core.settings();
        settings
            .listeners
            .iter()
            .filter(|listener| !listener.protocol.is_http())
            .map(|listener| listener.name.to_string())
            .collect()
    }

    /// Exact host names of the sites on `listener`, for a hint on what to try.
    pub fn hosts(&self) -> Vec<String> {
        let snapshot = self.core.snapshot.load();
        snapshot
            .sites
            .iter()
            .flat_map(|site| &site.hosts)
            .map(ToString::to_string)
            .filter(|host| !host.starts_with('*'))
            .collect()
    }

    /// Where the admin listener is bound.
    pub fn admin_address(&self) -> Option<String> {
        self.admin.clone()
    }

    /// Whether the edge is ready: `/ready` says 200.
    pub fn is_ready(&self) -> bool {
        self.core.phase() == Phase::Ready
    }

    /// Takes the files as they are now. Blocks until they are in force, or refused.
    ///
    /// # Errors
    /// Every problem, in words.
    pub fn reload(&self) -> Result<u64, String> {
        let core = self.core.clone();
        let reloading = async move { core.reload(Trigger::Api, Actor::Edge).await };
        match self.core.control.block_on(reloading) {
            Ok(taken) => Ok(taken.generation),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// A reload by signal: like [`Self::reload`], and it says so in the log.
    pub async fn reload_by_signal(&self) {
        // It is logged and counted where it happens.
        drop(self.core.reload(Trigger::Signal, Actor::Signal).await);
    }

    /// SIGQUIT: a new process is on its way. The log says so when it has not come after a while.
    pub fn expect_successor(&self) {
        let core = self.core.clone();
        self.core.control.spawn(async move { core.expect_successor().await });
    }

    /// Returns when a new process has taken over: this one accepts no more, and is to be ended with a drain.
    pub async fn handed_over(&self) {
        self.core.estate.handed_over().await;
    }

    /// Has the files of the access log and the audit log opened again, after they were moved. The edge does not wait for it.
    pub fn reopen_logs(&self) {
        self.core.live.audit.reopen();
        if let Some(log) = &self.core.snapshot.load().access_log {
            log.reopen();
        }
    }

    /// Ends the edge: with `drain`, requests in flight end first, for as long as the configuration says.
    pub fn shutdown(mut self, drain: bool) {
        self.end(drain);
    }

    fn end(&mut self, drain: bool) {
        self.watcher = None;
        self.core.live.tls.acme().stop();
        if !self.core.estate.is_handed_over() {
            self.core.options.systemd.stopping();
        }
        if drain && let Some(control) = &self.control {
            control.block_on(drain_all(&self.core));
            let left = control.block_on(self.core.live.webhooks.settle(LAST_EVENTS));
            if left > 0 {
                warn!(left, "webhooks were not told of the last events");
            }
        }
        // Up to here a candidate was judged.
        self.core.live.rollouts.stop();
        self.core.set_phase(Phase::Draining);
        self.core.estate.close();
        self.core.listeners.stop_accepting();
        self.core.listeners.close_all();
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
        self.core.flush_logs();
        if let Some(control) = self.control.take() {
            control.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for EdgeHandle {
    fn drop(&mut self) {
        self.end(false);
    }
}
