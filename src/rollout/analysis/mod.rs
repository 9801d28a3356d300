//! Is the candidate worse than the stable? A judgement that may be asked for at any time, with one stated error.
//!
//! Place: the controller of a rollout merges the workers' counts into a [`Batch`], hands it to [`Analysis::observe`] and
//! asks for the [`Verdict`]. Pure: no I/O, no clock (`now` is the time for which the rollout has been judged), no
//! randomness; bounded memory; a batch costs microseconds. Why it is valid, with the figures of the simulations, stands
//! in `docs/rollout-analysis.md`; the short form:
//!
//! - `block`: counts of both sides are joined into blocks, each with requests of both sides under one split.
//! - `bet`: a block becomes an e-value, at most 1 in expectation as long as the candidate fails at most `tolerance`
//!   more often than the stable, whatever the stable's rate is at that moment.
//! - `evidence`: products of e-values over blocks, mixed over several alternatives and over starts at all times
//!   (`starts`): a change is found after any healthy stretch, and the error probability stays one total.
//! - `strata`: the same over routes together and for each route alone.
//! - `judge`: failures, p95 and p99, each with its share of the error budget; the verdict of a step.
//! - `threshold`: the stable's own p95 and p99. `bounds`: confidence bounds of a rate, for showing only.
//!
//! What it does not do: it does not count, does not decide on weights and keeps no state on disk.

mod base_rate;
mod bet;
mod block;
mod bounds;
mod counts;
mod evidence;
mod judge;
mod recent;
mod saved;
mod settings;
mod starts;
mod strata;
mod threshold;
mod verdict;

pub use block::{Block, Trials};
pub use bounds::{Bounds, bounds};
pub use counts::{Batch, Mismatch, Outcomes, Sides, Window};
pub use judge::Analysis;
pub use saved::Saved;
pub(super) use settings::MOST_STRATA;
pub use settings::{Settings, SettingsError};
pub use threshold::{LatencyCounts, Thresholds};
pub use verdict::{Criterion, Finding, Goal, Scope, Verdict, Waiting};
