//! A door for `benches/`: the form of an access log line without its queue. Not for other use.

pub use super::access_log::Line;
