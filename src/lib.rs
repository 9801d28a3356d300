//! Tidegate: a Layer-7 edge proxy.
//!
//! Layers, each of which may use only those after it:
//! `cli > server > admin > listener > proxy > snapshot > config > route > rollout > upstream > policy > tls > state > telemetry > types`.
//! `origin`, the demo server, stands beside them: `cli` and `server` may use it, and it uses only `types`.
//! `tests/it/layers.rs` reads the `use crate::` lines and fails on an arrow that points up.

pub mod cli;
pub mod config;
pub mod origin;
pub mod policy;
pub mod route;
pub mod telemetry;
pub mod tls;
pub mod types;
pub mod upstream;
