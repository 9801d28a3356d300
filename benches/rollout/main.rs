//! Simulations of the analysis of rollouts, with fixed seeds: the figures of `docs/rollout-analysis.md`.
//! `make bench-rollout` runs them all; `ARGS=detection`, `strict`, `tolerant`, `assumptions` or `cost` one part;
//! `ARGS=--quick` a tenth of each.
//!
//! One seed a run, from [`SEED`] on. The constants of the analysis were chosen on other seeds.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a simulation asserts by panicking and prints its figures"
)]

mod cost;
mod detection;
mod healthy;
mod tables;
mod traffic;
mod windows;

/// The first run's seed.
const SEED: u64 = 2_026_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let divisor = if arguments.iter().any(|argument| argument == "--quick") { 10 } else { 1 };
    let parts: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--quick").collect();
    let is_asked = |part: &str| parts.is_empty() || parts.contains(&part);
    if is_asked("detection") {
        tables::detection(2_001 / divisor, SEED);
    }
    if is_asked("strict") {
        tables::strict(10_000 / divisor, SEED);
    }
    if is_asked("tolerant") {
        tables::tolerant(10_000 / divisor, SEED);
    }
    if is_asked("assumptions") {
        tables::assumptions(1_000 / divisor, SEED);
    }
    if is_asked("cost") {
        cost::measure();
    }
}
