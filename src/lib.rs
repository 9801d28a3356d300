//! Tidegate: a Layer-7 edge proxy.
//!
//! Layers, each of which may use only those after it:
//! `cli > server > admin > listener > proxy > snapshot > config > route > rollout > upstream > policy > limit > tls > state > framing > telemetry > types`.
//! `origin`, the demo origin, stands beside them and uses `types` only.
//! `tests/it/layers.rs` reads the `use crate::` lines and fails on an arrow that points up.

pub mod admin;
pub mod cli;
pub mod config;
pub mod framing;
pub mod limit;
pub mod listener;
pub mod origin;
pub mod policy;
pub mod proxy;
pub mod rollout;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod telemetry;
pub mod tls;
pub mod types;
pub mod upstream;
