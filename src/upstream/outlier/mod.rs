//! Outlier detection: which endpoint is worse than the others of its upstream, learned from the traffic itself.
//!
//! A pure core: nothing here does I/O or reads a clock. The request path adds to atomics ([`Observed::judge`]); whoever sees a run
//! of failures, and the keeper once an interval, ask [`Observed::is_failing`] and [`worse`]; `Ejection` says how long
//! an endpoint stays out. `set/ejecting.rs` acts on it, `endpoint.rs` keeps it.
//!
//! A client must not be able to eject endpoints. What a client can cause (all but a refused connection) therefore counts only
//! against the endpoint's siblings, and never by the word of one client network alone where there are several.

mod chance;
mod compare;
mod config;
mod ejection;
mod networks;
mod observed;
mod outliers;
mod votes;

#[cfg(test)]
mod simulation;

pub use config::{OutlierConfig, RawOutlierDetection, RawOutlierTable};

pub(super) use compare::{Seen, worse};
pub(super) use ejection::{Ejection, Out, has_room};
pub(super) use observed::{Judgement, Observed};
pub(super) use outliers::Outliers;
