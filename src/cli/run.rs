//! `tidegate run`: the edge in the foreground, until a signal ends it.

use std::{
    fmt::Write as _,
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    origin,
    server::{Edge, EdgeHandle, Options, StartError, Systemd, activated_sockets},
    telemetry::{LogFormat, LogLevel, logging},
};

/// Where the configuration is looked for.
pub const DEFAULT_CONFIG: &str = "/etc/tidegate/tidegate.toml";
/// The demo origins of `--demo`.
const DEMO: [(&str, u16); 3] = [("blue", 9001), ("green", 9002), ("red", 9003)];

const EXAMPLES: &str = "\
Examples:
  tidegate run                                       the default file
  tidegate run --config conf/tidegate.toml --demo    with three demo origins
  tidegate run --config /etc/tidegate/tidegate.toml --strict-start --log-format json
  tidegate run --config /etc/tidegate/tidegate.toml --upgrade
                                                     take over from the edge that runs

Signals: SIGHUP reloads; SIGUSR1 opens the files of the access log and the audit log again; SIGTERM and SIGINT drain and end, a second one
ends at once; SIGQUIT waits for a process that is started with --upgrade, which gets all sockets, then drains and ends. That process may
also come without SIGQUIT. Where none comes, or where it fails before it serves, the edge serves on.

Exit codes:
  0  drained after a signal, or after a hand-over
  1  refused or failed: the configuration, an address that is taken, a hand-over; or ended by a second signal
  2  the command line is wrong";

/// Run the edge in the foreground
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "TIDEGATE_CONFIG")]
    pub config: PathBuf,
    /// Exit on a broken file, also where the state directory has a last good configuration
    #[arg(long)]
    pub strict_start: bool,
    /// Take over the sockets of the edge that runs with the same state directory; it drains and ends. A broken file ends
    /// this start, and that edge serves on
    #[arg(long, conflicts_with = "demo")]
    pub upgrade: bool,
    /// Also start three demo origins on 127.0.0.1, ports 9001 to 9003
    #[arg(long)]
    pub demo: bool,
    /// Write the bound addresses to this file as JSON, once the edge serves
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// How much is logged, instead of `log.level`
    #[arg(long, value_enum)]
    pub log_level: Option<Level>,
    /// How a log line looks, instead of `log.format`
    #[arg(long, value_enum)]
    pub log_format: Option<Form>,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Act now.
    Error,
    /// Degraded.
    Warn,
    /// Life cycle.
    Info,
    /// Per request.
    Debug,
    /// Everything.
    Trace,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

impl From<Form> for LogFormat {
    fn from(form: Form) -> Self {
        match form {
            Form::Text => Self::Text,
            Form::Json => Self::Json,
        }
    }
}

/// Runs the edge until a signal ends it.
///
/// # Errors
/// The configuration is refused, an address is taken, the demo origins' ports are.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let options = Options {
        strict_start: args.strict_start,
        upgrade: args.upgrade,
        systemd: Systemd::from_environment(),
        ..Options::new(&args.config)
    };
    let mut prepared = Edge::prepare(options).map_err(told)?;
    let fixed = args.log_level.map(LogLevel::from);
    let format = args.log_format.map_or(prepared.config().log_format, LogFormat::from);
    let log = logging::install(prepared.config().log_level, fixed, format)?;
    prepared.set_logging(log);
    prepared.set_inherited(activated_sockets());
    super::open_files::raise();
    let signals = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("tidegate-signals")
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    // Before the edge serves: a signal that comes early is not lost.
    let mut asked = signals.block_on(async { Signals::new() }).context("signals can't be taken")?;
    let origins = if args.demo { Some(signals.block_on(start_demo())?) } else { None };
    let edge = Edge::start_prepared(prepared).map_err(told)?;
    greet(&edge, args);
    if let Some(file) = &args.ready_file {
        write_ready_file(file, &edge)
            .with_context(|| format!("{} can't be written", file.display()))?;
    }
    let end = signals.block_on(asked.wait_for_the_end(&edge));
    let ending = std::thread::spawn(move || edge.shutdown(true));
    signals.block_on(async {
        let ended = tokio::task::spawn_blocking(move || ending.join());
        tokio::select! {
            _ = ended => tracing::info!("ended"),
            () = asked.end_again(end) => {
                tracing::warn!("a second signal: ending at once");
                #[expect(clippy::exit, reason = "the second signal means now")]
                std::process::exit(1);
            }
        }
    });
    drop(origins);
    signals.shutdown_background();
    Ok(())
}

/// Why the edge ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// A new process has taken over.
    HandedOver,
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The signal that ends a drain at once. After a hand-over the first one is a service manager's, which means both
    /// processes: this one is draining as it asks.
    async fn end_again(&mut self, end: End) {
        if end == End::HandedOver {
            self.end().await;
            tracing::info!("draining already, after a hand-over; a second signal ends at once");
        }
        self.end().await;
    }

    /// Reloads by SIGHUP, opens logs again by SIGUSR1, until a signal or a new process ends the edge.
    async fn wait_for_the_end(&mut self, edge: &EdgeHandle) -> End {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => edge.reload_by_signal().await,
                _ = self.user1.recv() => edge.reopen_logs(),
                _ = self.quit.recv() => edge.expect_successor(),
                () = edge.handed_over() => return End::HandedOver,
                _ = self.terminate.recv() => return End::Signal,
                _ = self.interrupt.recv() => return End::Signal,
            }
        }
    }
}

async fn start_demo() -> anyhow::Result<origin::Origins> {
    let specs = DEMO
        .map(|(name, port)| origin::Spec {
            name: name.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            settings: origin::Settings::default(),
        })
        .into();
    origin::start(specs).await.context("the demo origins can't be started")
}

/// A refused configuration in the colours of the terminal; other errors as they are.
fn told(error: StartError) -> anyhow::Error {
    match error {
        StartError::Configuration(report) => {
            let color = std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            anyhow!("the configuration is refused\n\n{}", report.render(color))
        }
        error => error.into(),
    }
}

/// What listens, and what to try.
#[expect(clippy::print_stdout, reason = "the greeting of a command in the foreground")]
fn greet(edge: &EdgeHandle, args: &RunArgs) {
    if !std::io::stdout().is_terminal() && !args.demo {
        return;
    }
    let (tls, tcp) = (edge.tls_listeners(), edge.tcp_listeners());
    let mut text =
        format!("tidegate {} serves {}\n", env!("CARGO_PKG_VERSION"), args.config.display());
    let host = edge.hosts().into_iter().next().unwrap_or_else(|| "localhost".to_owned());
    let mut tries = Vec::new();
    for (name, address) in edge.listeners() {
        let is_tls = tls.contains(&name);
        let is_tcp = tcp.contains(&name);
        let kind = match (is_tls, is_tcp) {
            (true, _) => "TLS",
            (_, true) => "TCP",
            _ => "plain",
        };
        // Writing to a String never fails.
        let _ = writeln!(text, "  {name:<10} {kind:<6} {address}");
        let port = address.rsplit(':').next();
        if let Some(port) = port.filter(|_| !is_tcp && !address.starts_with("unix:")) {
            let (scheme, insecure) = if is_tls { ("https", "-k ") } else { ("http", "") };
            tries.push(format!("  curl {insecure}{scheme}://{host}:{port}/"));
        }
    }
    if let Some(admin) = edge.admin_address() {
        let _ = writeln!(text, "  {:<10} {:<6} {admin}", "admin", "");
        tries.push(format!("  curl http://{admin}/v1/status        (or: tidegate status)"));
    }
    if args.demo {
        let names: Vec<String> =
            DEMO.iter().map(|(name, port)| format!("{name} 127.0.0.1:{port}")).collect();
        let _ = writeln!(text, "  demo origins: {}", names.join(", "));
        tries.push(
            "  curl -X POST 'http://127.0.0.1:9001/-/origin?health=503'   (makes blue unhealthy)"
                .to_owned(),
        );
    }
    println!(
        "{text}\nTry:\n{}\n\nEdit {} while it runs; Ctrl-C ends it.",
        tries.join("\n"),
        args.config.display()
    );
}

/// The bound addresses for scripts and tests; whole or not there.
fn write_ready_file(path: &Path, edge: &EdgeHandle) -> anyhow::Result<()> {
    let listeners: serde_json::Map<String, serde_json::Value> =
        edge.listeners().into_iter().map(|(name, address)| (name, address.into())).collect();
    let text =
        serde_json::json!({ "listeners": listeners, "admin": edge.admin_address() }).to_string();
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
