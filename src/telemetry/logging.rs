//! The edge's own log on standard error: for the binary only, since it is one for the whole process.
//!
//! Text for people (in colour only on a terminal and without `NO_COLOR`) or one JSON object a line. Records of the
//! `log` crate, which Pingora writes, come along. `RUST_LOG` goes before the configured level; a
//! change through the API goes before both (`log_level.rs`).
//!
//! Pingora says at ERROR that a client went away; that is everyday life of an edge and is counted instead, so those
//! records are dropped (pingora-proxy 0.9.1, `src/lib.rs`: "Fail to proxy: Downstream …").

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::Visit,
    layer::{Context, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use super::{
    config::{LogFormat, LogLevel},
    log_level::{Levels, LogLevelStatus, Setting},
};

/// Why the log can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` can't be read.
    #[error("RUST_LOG is not a filter such as \"info,tidegate::proxy=debug\"")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody installed one before.
    #[error("the process has a log already")]
    Installed(#[from] TryInitError),
    /// It is gone.
    #[error("the process's log can't be changed")]
    Change(#[from] reload::Error),
}

/// The installed log, whose level can be changed.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    levels: Arc<Mutex<Levels>>,
}

impl Logging {
    /// Takes the level of a reloaded configuration. What the start fixed stays in force, and so does a change through
    /// the API, unless the configuration's level is another than before.
    pub fn configure(&self, level: LogLevel) {
        let mut levels = self.lock();
        let has_ended = levels.configure(level);
        self.apply(&levels);
        drop(levels);
        if has_ended {
            tracing::warn!(level = level.word(), "log level of the configuration in force again");
        }
    }

    /// Changes the level until further notice, or until then; the caller sees to [`Self::expire`].
    pub fn change(&self, level: LogLevel, until: Option<Instant>) {
        let mut levels = self.lock();
        levels.change(level, until);
        self.apply(&levels);
        let status = levels.status(Instant::now(), SystemTime::now());
        drop(levels);
        let until = status.until.as_deref().unwrap_or("further notice");
        tracing::warn!(level = level.word(), until, "log level changed");
    }

    /// Goes back to what holds without a change.
    pub fn end_change(&self) {
        self.go_back(Levels::end_change);
    }

    /// Goes back if the time of the change is over.
    pub fn expire(&self) {
        self.go_back(|levels| levels.expire(Instant::now()));
    }

    fn go_back(&self, end: impl FnOnce(&mut Levels) -> bool) {
        let mut levels = self.lock();
        let has_ended = end(&mut levels);
        self.apply(&levels);
        let status = levels.status(Instant::now(), SystemTime::now());
        drop(levels);
        if has_ended {
            tracing::warn!(level = status.level, "log level as before the change");
        }
    }

    /// What is in force.
    pub fn status(&self) -> LogLevelStatus {
        self.lock().status(Instant::now(), SystemTime::now())
    }

    /// Under the lock of `levels`, so that the last of two racing changes holds.
    fn apply(&self, levels: &Levels) {
        match filter(&levels.in_force()).and_then(|filter| Ok(self.filter.reload(filter)?)) {
            Ok(()) => limit_log_crate(),
            Err(error) => tracing::warn!(%error, "log level can't be changed"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn filter(setting: &Setting) -> Result<EnvFilter, LoggingError> {
    Ok(match setting {
        Setting::Level(level) => EnvFilter::new(directives(*level)),
        Setting::Filter(text) => EnvFilter::try_new(text)?,
    })
}

/// The bridge from the `log` crate has a limit of its own: what no filter lets pass.
fn limit_log_crate() {
    let limit = match tracing::level_filters::LevelFilter::current().into_level() {
        None => log::LevelFilter::Off,
        Some(tracing::Level::ERROR) => log::LevelFilter::Error,
        Some(tracing::Level::WARN) => log::LevelFilter::Warn,
        Some(tracing::Level::INFO) => log::LevelFilter::Info,
        Some(tracing::Level::DEBUG) => log::LevelFilter::Debug,
        Some(tracing::Level::TRACE) => log::LevelFilter::Trace,
    };
    log::set_max_level(limit);
}

/// Installs the log of the process. `fixed` is the level that the command line asks for; `RUST_LOG` goes before it, and
/// both before `configured`.
pub fn install(
    configured: LogLevel,
    fixed: Option<LogLevel>,
    format: LogFormat,
) -> Result<Logging, LoggingError> {
    let from_environment = env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let fixed = from_environment.map(Setting::Filter).or(fixed.map(Setting::Level));
    let levels = Levels::new(configured, fixed);
    let (filter, handle) = reload::Layer::new(filter(&levels.in_force())?);
    let registry = tracing_subscriber::registry().with(filter).with(WithoutClientCloses);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(is_colourful())).try_init()?,
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()?,
    }
    Ok(Logging { filter: handle, levels: Arc::new(Mutex::new(levels)) })
}

/// See <https://no-color.org>.
fn is_colourful() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Libraries that say at `info` and `debug` what only their authors need.
const QUIET: [&str; 8] =
    ["pingora_core", "pingora_proxy", "pingora_pool", "hyper", "h2", "rustls", "hickory", "notify"];

/// The filter of a level: `info` and `debug` are about the edge, `trace` is about everything. What people did to it is
/// said at every level: entries of the audit log come here where it has no file.
fn directives(level: LogLevel) -> String {
    let mut text = level.word().to_owned();
    if matches!(level, LogLevel::Error | LogLevel::Warn) {
        text.push_str(",audit=info");
    }
    if matches!(level, LogLevel::Info | LogLevel::Debug) {
        for target in QUIET {
            let _ = write!(text, ",{target}=warn");
        }
    }
    text
}

/// Drops Pingora's records about clients that went away.
struct WithoutClientCloses;

impl<S: Subscriber> Layer<S> for WithoutClientCloses {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        // Records of the `log` crate have one target for all, and their own in a field.
        if event.metadata().target() != "log" {
            return true;
        }
        let mut record = LogRecord::default();
        event.record(&mut record);
        !(record.is_pingora && record.is_client_close)
    }
}

#[derive(Default)]
struct LogRecord {
    is_pingora: bool,
    is_client_close: bool,
}

impl Visit for LogRecord {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.is_pingora = value.starts_with("pingora");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.is_client_close = is_client_close(&format!("{value:?}"));
        }
    }
}

/// Whether a record of Pingora says only that a client closed, stalled, or reset its connection.
///
/// Only the beginning counts: further on stand parts of the request, which the client chose.
fn is_client_close(message: &str) -> bool {
    const BEGINNINGS: [&str; 6] = [
        "Downstream Error ignored during caching",
        "Downstream write error ignored during caching",
        "failed to send error response to downstream",
        "H2 handshake error",
        "HTTP server fails to read from downstream",
        "HTTP server fails to write to downstream",
    ];
    const ERRORS: [&str; 6] =
        ["ConnectionClosed", "ReadError", "WriteError", "ReadTimedout", "WriteTimedout", "H2Error"];
    if BEGINNINGS.iter().any(|beginning| message.starts_with(beginning)) {
        return true;
    }
    // "Fail to proxy: Downstream ReadError …", "Fail to filter request: Downstream …"
    message.strip_prefix("Fail to ").and_then(|rest| rest.split_once(": Downstream ")).is_some_and(
        |(action, error)| {
            action.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b' ')
                && ERRORS.iter().any(|name| error.starts_with(name))
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn libraries_are_quiet_unless_everything_is_asked_for() {
        assert_eq!(directives(LogLevel::Error), "error,audit=info");
        assert!(directives(LogLevel::Info).starts_with("info,pingora_core=warn,"));
        assert!(directives(LogLevel::Debug).contains("pingora_proxy=warn"));
        assert_eq!(directives(LogLevel::Trace), "trace");
        for level in [LogLevel::Error, LogLevel::Info, LogLevel::Trace] {
            EnvFilter::try_new(directives(level)).unwrap();
        }
    }

    #[test]
    fn clients_that_go_away_are_told_from_what_matters() {
        for (message, is_close) in [
            ("Fail to proxy: Downstream ConnectionClosed context: x, status: 0, GET /", true),
            ("Fail to proxy: Downstream ReadError cause: reset", true),
            ("Fail to filter request: Downstream ReadTimedout, status: 0", true),
            ("HTTP server fails to read from downstream: Downstream ReadError", true),
            ("Fail to proxy: Upstream ConnectRefused context: x, status: 502", false),
            ("Fail to proxy: Downstream InternalError", false),
            // The path is the client's.
            ("Fail to proxy: Upstream ReadError, GET /: Downstream ReadError", false),
            ("Fail to proxy: Upstream ReadError, GET /x: Downstream WriteError", false),
            ("failed to acquire reusable stream", false),
        ] {
            assert_eq!(is_client_close(message), is_close, "{message}");
        }
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Buffer {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn records_of_the_log_crate_pass_the_filter_by_their_own_target() {
        let buffer = Buffer::default();
        let subscriber = tracing_subscriber::registry()
            .with(EnvFilter::new(directives(LogLevel::Info)))
            .with(WithoutClientCloses)
            .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(buffer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let say = |target: &str, level, text: &str| {
                tracing_log::format_trace(
                    &log::Record::builder()
                        .target(target)
                        .level(level)
                        .args(format_args!("{text}"))
                        .build(),
                )
                .unwrap();
            };
            say("pingora_proxy", log::Level::Error, "Fail to proxy: Downstream ReadError, one");
            say("pingora_proxy", log::Level::Error, "Fail to proxy: Upstream ReadError, two");
            say("pingora_core::server", log::Level::Info, "three");
            say("somebody", log::Level::Info, "Fail to proxy: Downstream ReadError, four");
            tracing::info!("five");
            tracing::debug!("six");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let shown = ["one", "two", "three", "four", "five", "six"].map(|word| text.contains(word));
        assert_eq!(shown, [false, true, false, true, true, false], "{text}");
    }
}
