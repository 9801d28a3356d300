//! What the edge tells about itself: metrics, access log, its own log.

mod config;

pub use config::{
    AccessLogConfig, AccessLogFormat, AccessLogOutput, LogFormat, LogLevel, RawAccessLog, RawLog,
};
