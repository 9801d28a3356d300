//! Integration tests: one binary.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test asserts by panicking, its data has a known shape, and its output is for people"
)]

mod config;
mod docs;
mod layers;
mod reference;
mod reference_metrics;
