//! What the edge tells about itself: metrics, access log, audit log, its own log, webhooks.

mod access_log;
pub mod audit;
#[doc(hidden)]
pub mod bench;
mod config;
mod log_level;
pub mod logging;
pub mod metrics;
pub mod outgoing;
mod time;
pub mod webhooks;

pub use access_log::{
    AccessLog, AccessLogField, Counters as AccessLogCounters, Entry, RawSample, SampleConfig, Try,
    TunnelEntry,
};
pub use config::{
    AccessLogConfig, AccessLogFormat, AccessLogOutput, LogFormat, LogLevel, RawAccessLog, RawLog,
};
pub use log_level::LogLevelStatus;
pub use time::rfc3339;
