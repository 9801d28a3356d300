//! Wiring: runtimes, the first configuration, background tasks, the end. No logic of its own.

mod control;
mod http2_life;
mod listening;
mod memory;
mod reload;
mod state;
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
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tracing::{error, info, warn};

pub use self::reload::Refusal;
use self::{
    control::AdminControl,
    reload::Trigger,
    state::{Core, InForce, Phase},
    workers::Workers,
};
use crate::{
    admin::{AdminServer, Token, TokenError},
    config::{self, Config, Loaded, Report, Watcher},
    snapshot::{self, AttachError, Leniency, Live},
    telemetry::{logging::Logging, metrics::Metrics},
    types::{ListenAddress, Problems, SecretSource},
    upstream::Upstream,
};

/// How long `/ready` waits for the first probes.
const FIRST_PROBES: Duration = Duration::from_secs(5);
/// Forgetting state that nothing holds.
const SWEEP: Duration = Duration::from_mins(1);
/// Looking again whether the last connections have ended.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// What an edge is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// A broken file ends the start, also where there is a last good configuration.
    pub strict_start: bool,
    /// The process's log, whose level a reload may change.
    pub logging: Option<Logging>,
}

impl Options {
    /// The usual: the last good configuration stands in for a broken file.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self { config: config.into(), strict_start: false, logging: None }
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

/// A configuration that is ready to be started with.
#[derive(Debug)]
pub struct Prepared {
    options: Options,
    loaded: Loaded,
    /// Why the last good configuration stands in for the file.
    broken: Option<Report>,
    changed: Arc<Notify>,
    watcher: Option<Watcher>,
}

impl Prepared {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The process's log, whose level a reload may change.
    pub fn set_logging(&mut self, logging: Logging) {
        self.options.logging = Some(logging);
    }
}

impl Edge {
    /// Loads the configuration, or the last good one where the file is broken.
    ///
    /// # Errors
    /// [`StartError::Configuration`], with every problem.
    pub fn prepare(options: Options) -> Result<Prepared, StartError> {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        // It is started first: what changes while the files are read is seen.
        let watcher = Watcher::start(&options.config, move || notify.notify_one())
            .inspect_err(|error| warn!(%error, "the configuration files can't be watched; reload by SIGHUP or the API"))
            .ok();
        let report = match config::load(&options.config) {
            Ok(loaded) => {
                let watcher = watcher.filter(|_| loaded.config.reload.watch);
                return Ok(Prepared { options, loaded, broken: None, changed, watcher });
            }
            Err(report) => report,
        };
        let last_good = if options.strict_start {
            Ok(None)
        } else {
            config::load_last_good(&config::state_dir_of(&options.config))
        };
        match last_good {
            Ok(Some(loaded)) => {
                Ok(Prepared { options, loaded, broken: Some(report), changed, watcher })
            }
            Ok(None) => Err(StartError::Configuration(Box::new(report))),
            Err(error) => {
                warn!(%error, "there is no last good configuration to serve instead");
                Err(StartError::Configuration(Box::new(report)))
            }
        }
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
        let Prepared { options, loaded, broken, changed, watcher } = prepared;
        tell(&options, &loaded, broken.as_ref());
        let control = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidegate-control")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let metrics = Metrics::new();
        let state_dir = &loaded.config.server.state_dir;
        let live = Live::new(state_dir, control.handle().clone(), metrics.clone());
        let mut problems = Problems::new();
        let config = loaded.config.clone();
        let blueprint = snapshot::compile(&config, Leniency::DisableSites, &mut problems);
        let report = loaded.report_of(problems);
        let Some(blueprint) = blueprint else {
            return Err(StartError::Configuration(Box::new(report)));
        };
        for diagnostic in report.diagnostics() {
            warn!("{diagnostic}");
        }
        let first = live.attach(blueprint)?;
        let upstreams = first.upstreams.clone();
        let snapshot = Arc::new(ArcSwap::from_pointee(first));
        let threads =
            config.server.threads.map_or_else(available_threads, |threads| threads as usize);
        let workers = Workers::start(config.server.workers, threads, &snapshot, &metrics)
            .map_err(StartError::Runtime)?;
        let listeners = listening::listener_set(workers.list(), &metrics, &snapshot);
        let admin = match &config.admin.address {
            None => None,
            Some(address) => Some(bind_admin(&control, address, config.admin.token.as_ref())?),
        };
        let bound_admin = admin.as_ref().map(|(server, _)| server.address().to_string());
        let core = Arc::new(Core {
            in_force: Mutex::new(InForce::first(&loaded, config.clone(), broken.as_ref())),
            options,
            snapshot,
            live,
            listeners,
            control: control.handle().clone(),
            started: (Instant::now(), SystemTime::now()),
            reloading: tokio::sync::Mutex::new(()),
            phase: AtomicU8::new(Phase::Starting as u8),
        });
        core.live.metrics.config_in_sync(broken.is_none());
        core.live.metrics.generation(core.snapshot.load().generation);
        core.bind_first(&config, &loaded)
            .map_err(|report| StartError::Configuration(Box::new(report)))?;
        if let Some((server, token)) = admin {
            control.spawn(server.serve(Arc::new(AdminControl(core.clone())), token));
        }
        if broken.is_none() {
            core.keep_as_last_good(loaded);
        }
        start_tasks(&core, upstreams, changed);
        memory::give_back();
        Ok(EdgeHandle {
            core,
            control: Some(control),
            workers: Some(workers),
            watcher,
            admin: bound_admin,
        })
    }
}

/// What a start has to say of its configuration.
fn tell(options: &Options, loaded: &Loaded, broken: Option<&Report>) {
    if let Some(report) = broken {
        error!(
            file = %options.config.display(),
            "the configuration file is broken: serving the last good one from the state directory; mend the file and it is taken"
        );
        for diagnostic in report.diagnostics() {
            error!("{diagnostic}");
        }
    }
    for diagnostic in loaded.report.diagnostics() {
        warn!("{diagnostic}");
    }
}

fn bind_admin(
    control: &Runtime,
    address: &ListenAddress,
    token: Option<&SecretSource>,
) -> Result<(AdminServer, Option<Token>), StartError> {
    let token = token.map(Token::open).transpose()?;
    let _entered = control.enter();
    let server = AdminServer::bind(address)
        .map_err(|source| StartError::Admin { address: address.to_string(), source })?;
    Ok((server, token))
}

/// What runs beside the requests: the first probes, reloads by the watcher, forgetting.
fn start_tasks(core: &Arc<Core>, upstreams: Vec<Arc<Upstream>>, changed: Arc<Notify>) {
    let waiting = core.clone();
    core.control.spawn(async move {
        let probed =
            futures_util::future::join_all(upstreams.iter().map(|upstream| upstream.probed()));
        // A dead upstream must not take the edge out: the wait has an end.
        drop(tokio::time::timeout(FIRST_PROBES, probed).await);
        waiting.set_phase(Phase::Ready);
        info!("ready");
    });
    let reloading = Arc::downgrade(core);
    core.control.spawn(async move {
        loop {
            changed.notified().await;
            let Some(core) = reloading.upgrade() else { return };
            // It is logged and counted where it happens.
            drop(core.reload(Trigger::Watch).await);
        }
    });
    let sweeping = Arc::downgrade(core);
    core.control.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(core) = sweeping.upgrade() else { return };
            core.live.sweep(Instant::now());
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
        let config = self.core.config();
        config
            .listeners
            .iter()
            .filter(|listener| listener.tls)
            .map(|listener| listener.name.to_string())
            .collect()
    }

    /// Exact host names of the sites on `listener`, for a hint on what to try.
    pub fn hosts(&self) -> Vec<String> {
        let config = self.core.config();
        config
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
        let reloading = async move { core.reload(Trigger::Api).await };
        match self.core.control.block_on(reloading) {
            Ok(taken) => Ok(taken.generation),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// A reload by signal: like [`Self::reload`], and it says so in the log.
    pub async fn reload_by_signal(&self) {
        // It is logged and counted where it happens.
        drop(self.core.reload(Trigger::Signal).await);
    }

    /// Ends the edge: with `drain`, requests in flight end first, for as long as the configuration says.
    pub fn shutdown(mut self, drain: bool) {
        self.end(drain);
    }

    fn end(&mut self, drain: bool) {
        self.watcher = None;
        if drain && let Some(control) = &self.control {
            control.block_on(drain_all(&self.core));
        }
        self.core.set_phase(Phase::Draining);
        self.core.listeners.stop_accepting();
        self.core.listeners.close_all();
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
        self.core.flush_access_log();
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

/// Lame duck, then no new connections, then the end of those that are left.
async fn drain_all(core: &Core) {
    let server = core.config().server.clone();
    let deadline = tokio::time::Instant::now() + server.drain;
    core.set_phase(Phase::Draining);
    info!(connections = core.listeners.connections(), "draining");
    core.listeners.announce_end();
    tokio::time::sleep(server.lame_duck).await;
    core.listeners.stop_accepting();
    core.listeners.end_idle();
    let spread = server.drain / 3;
    let streams_end = deadline - spread;
    let mut streams_are_ending = false;
    while core.listeners.connections() > 0 && tokio::time::Instant::now() < deadline {
        if !streams_are_ending && tokio::time::Instant::now() >= streams_end {
            core.listeners.end_streams(spread);
            streams_are_ending = true;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    match core.listeners.connections() {
        0 => info!("drained"),
        left => {
            warn!(connections = left, "the drain time is over; the last connections are closed");
        }
    }
}
