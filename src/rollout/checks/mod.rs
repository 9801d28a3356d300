//! Checks: gates of a rollout beside the edge's own analysis, which ask other systems: Prometheus, or any URL.
//!
//! Off the path of requests. `config.rs` is what stands in a file and what it is parsed to, `outcome.rs` what one run
//! came to (`prometheus.rs` and `http.rs` judge an answer, pure), `standing.rs` what the latest results of all checks
//! mean (pure), `runner.rs` runs them. It knows nothing of a rollout's plan or state.
//!
//! Invariants: a check that has no answer is never taken for one that passes, unless `on_error` says so; its token is
//! read for each run and never shown.

mod config;
mod http;
mod outcome;
mod prometheus;
mod runner;
mod standing;

pub use self::{
    config::{CheckConfig, CheckKind, OnError, RawCheck, RawHttpCheck, RawPrometheusCheck},
    outcome::Outcome,
    runner::{CheckStatus, Checks},
    standing::Standing,
};
