//! The edge's own log on standard error: for the binary only, since it is one for the whole process.
//!
//! Text for people (in colour only on a terminal and without `NO_COLOR`) or one JSON object a line. Records of the
//! `log` crate, which Pingora writes, come along. `RUST_LOG` goes before the configured level.
//!
//! Pingora says at ERROR that a client went away; that is everyday life of an edge and is counted instead, so those
//! records are dropped (pingora-proxy 0.9.1, `src/lib.rs`: "Fail to proxy: Downstream …").

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal},
};

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::Visit,
    layer::{Context, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use super::config::{LogFormat, LogLevel};

/// Why the log can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` can't be read.
    #[error("RUST_LOG is not a filter such as \"info,tidegate::proxy=debug\"")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody installed one before.
    #[error("the process has a log already")]
    Installed(#[from] TryInitError),
}

/// Changes the installed log.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    is_fixed: bool,
}

impl Logging {
    /// Takes a new level from a reloaded configuration. `RUST_LOG`, where set, stays in force.
    pub fn set_level(&self, level: LogLevel) {
        if self.is_fixed {
            return;
        }
        match self.filter.reload(EnvFilter::new(directives(level))) {
            // The bridge from the `log` crate has a limit of its own.
            Ok(()) => log::set_max_level(level.into()),
            Err(error) => tracing::warn!(%error, "log level can't be changed"),
        }
    }
}

/// Installs the log of the process.
pub fn install(level: LogLevel, format: LogFormat) -> Result<Logging, LoggingError> {
    let from_environment = env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = match &from_environment {
        Some(text) => EnvFilter::try_new(text)?,
        None => EnvFilter::new(directives(level)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter).with(WithoutClientCloses);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(is_colourful())).try_init()?,
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()?,
    }
    Ok(Logging { filter: handle, is_fixed: from_environment.is_some() })
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

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// The filter of a level: `info` and `debug` are about the edge, `trace` is about everything.
fn directives(level: LogLevel) -> String {
    let mut text = log::LevelFilter::from(level).as_str().to_ascii_lowercase();
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
        assert_eq!(directives(LogLevel::Error), "error");
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
