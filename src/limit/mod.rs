//! Limits on load: how many at once, who waits and for how long, when nothing is asked any more.
//!
//! Place: below `upstream` and `policy`, which put these cores on the path of a request. Nothing here knows HTTP, an
//! endpoint or a route; time is an argument but where something waits. Each core is one file:
//!
//! - [`Limiter`]: at most so many at once, a bounded queue before them.
//! - [`Adaptive`]: what that number should be, from latency.
//! - [`Breaker`]: closed, open, half-open, by the rate of failures.
//! - [`Overload`]: what the whole edge can take, by requests and memory, and who goes first.

mod adaptive;
mod breaker;
mod limiter;
pub mod memory;
mod outcomes;
mod overload;
mod overload_config;
mod queue_config;

pub use adaptive::{Adaptive, AdaptiveConfig};
pub use breaker::{Breaker, BreakerConfig, BreakerState, Failed, Open, Pass, Probe, Spell};
pub use limiter::{Limiter, Permit, QueueConfig, QueueOrder, Refused};
pub use overload::{
    Admitted, Criticality, Overload, OverloadConfig, OverloadStatus, Overloaded, Shedding,
};
pub use overload_config::{OverloadSettings, RawOverload};
pub use queue_config::RawQueue;

#[cfg(test)]
mod tests;
