//! Wiring: runtimes, the first configuration, background tasks, the end. No logic of its own.

mod control;
mod reload;
mod state;
mod workers;

use std::{
    fmt, io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

pub use self::reload::Refusal;
use self::{
    control::AdminControl,
    reload::Trigger,
    state::{Core, Phase},
    workers::Workers,
};
use crate::{
    admin::AdminServer,
    config::{self, Loaded, Report, Watcher},
    listener::ListenerSet,
    snapshot::{self, AttachError, Leniency, Live},
    telemetry::{logging::Logging, metrics::Metrics},
    types::Problems,
};

/// How long `/ready` waits for the first probes.
const FIRST_PROBES: Duration = Duration::from_secs(5);
/// Forgetting state that nothing holds.
const SWEEP: Duration = Duration::from_secs(60);
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
    /// The state directory.
    #[error("the state directory {} can't be used: {source}", .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: crate::tls::TlsError,
    },
    /// Certificates or the access log.
    #[error(transparent)]
    Attach(#[from] AttachError),
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

impl Edge {
    /// Starts an edge in this process; it serves when this returns.
    ///
    /// # Errors
    /// [`StartError`], with every problem of the configuration.
    pub fn start(options: Options) -> Result<EdgeHandle, StartError> {
        let loaded = first_configuration(&options)?;
        if let Some(logging) = &options.logging {
            logging.set_level(loaded.config.log_level);
        }
        for line in loaded.report.one_line_each() {
            warn!("{line}");
        }
        let control = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidegate-control")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let metrics = Metrics::new();
        let state_dir = &loaded.config.server.state_dir;
        let live = Live::new(state_dir, control.handle().clone(), metrics.clone())
            .map_err(|source| StartError::State { path: state_dir.clone(), source })?;
        let mut problems = Problems::new();
        let config = Arc::new(loaded.config.clone());
        let blueprint = snapshot::compile(&config, Leniency::DisableSites, &mut problems);
        let report = loaded.report_of(problems);
        let Some(blueprint) = blueprint else { return Err(StartError::Configuration(Box::new(report))) };
        for line in report.one_line_each() {
            warn!("{line}");
        }
        let first = live.attach(blueprint)?;
        let upstreams = first.upstreams.clone();
        let snapshot = Arc::new(ArcSwap::from_pointee(first));
        let threads = config.server.threads.map_or_else(available_threads, |threads| threads as usize);
        let workers = Workers::start(config.server.workers, threads, &snapshot, &metrics).map_err(StartError::Runtime)?;
        let listeners = ListenerSet::new(
            workers.list(),
            reload::events(&metrics),
            reload::tls_chooser(&snapshot),
            reload::trusted(&snapshot),
        );
        let core = Arc::new(Core::new(options, loaded, snapshot, live, listeners, control.handle().clone()));
        core.bind_first(&config).map_err(|report| StartError::Configuration(Box::new(report)))?;
        let admin = match &config.admin.address {
            None => None,
            Some(address) => {
                let source = |source| StartError::Admin { address: address.to_string(), source };
                let server = control.block_on(async { AdminServer::bind(address) }).map_err(source)?;
                let bound = server.bound().to_string();
                let serving = server.serve(Arc::new(AdminControl(core.clone())), config.admin.token.clone());
                control.spawn(serving);
                Some(bound)
            }
        };
        let watcher = config.reload.watch.then(|| start_watcher(&core)).flatten();
        core.set_admin(admin.clone());
        let waiting = core.clone();
        control.spawn(async move {
            let probed = futures_util::future::join_all(upstreams.iter().map(|upstream| upstream.probed()));
            // A dead upstream must not take the edge out: the wait has an end.
            drop(tokio::time::timeout(FIRST_PROBES, probed).await);
            waiting.set_phase(Phase::Ready);
            info!("ready");
        });
        let sweeping = core.clone();
        control.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweeping.live.sweep(Instant::now());
            }
        });
        Ok(EdgeHandle { core, control: Some(control), workers: Some(workers), watcher, admin })
    }
}

fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The file, or the last good configuration where the file is broken.
fn first_configuration(options: &Options) -> Result<Loaded, StartError> {
    let report = match config::load(&options.config) {
        Ok(loaded) => return Ok(loaded),
        Err(report) => report,
    };
    if options.strict_start {
        return Err(StartError::Configuration(Box::new(report)));
    }
    let Some(last_good) = config::load_last_good(&options.config) else {
        return Err(StartError::Configuration(Box::new(report)));
    };
    tracing::error!(
        file = %options.config.display(),
        "the configuration file is broken: serving the last good one from the state directory; mend the file and it is taken"
    );
    for line in report.one_line_each() {
        tracing::error!("{line}");
    }
    Ok(last_good)
}

fn start_watcher(core: &Arc<Core>) -> Option<Watcher> {
    let reloading = Arc::downgrade(core);
    let handle = core.control.clone();
    let watcher = Watcher::start(&core.options.config, move || {
        if let Some(core) = reloading.upgrade() {
            handle.spawn(async move { drop(core.reload(Trigger::Watch).await) });
        }
    });
    match watcher {
        Ok(watcher) => {
            core.follow_files(&watcher);
            Some(watcher)
        }
        Err(error) => {
            warn!(%error, "the configuration files can't be watched; reload by SIGHUP or the API");
            None
        }
    }
}

impl EdgeHandle {
    /// The listeners by name, with the addresses they are bound to.
    pub fn listeners(&self) -> Vec<(String, String)> {
        self.core.bound()
    }

    /// Listeners that speak TLS, by name.
    pub fn tls_listeners(&self) -> Vec<String> {
        let config = self.core.config();
        config.listeners.iter().filter(|listener| listener.tls).map(|listener| listener.name.to_string()).collect()
    }

    /// Exact host names of the sites on `listener`, for a hint on what to try.
    pub fn hosts(&self) -> Vec<String> {
        let config = self.core.config();
        config.sites.iter().flat_map(|site| &site.hosts).map(ToString::to_string).filter(|host| !host.starts_with('*')).collect()
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
        self.core.control.block_on(async move { core.reload(Trigger::Api).await }).map_err(|refusal| refusal.to_string())
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
    core.listeners.drain();
    tokio::time::sleep(server.lame_duck).await;
    core.listeners.stop_accepting();
    while core.listeners.connections() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(DRAIN_STEP).await;
    }
    match core.listeners.connections() {
        0 => info!("drained"),
        left => warn!(connections = left, "the drain time is over; the last connections are closed"),
    }
}
