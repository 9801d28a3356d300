//! Who decides on a rollout's progress: one state machine a rollout, pure, and one task that drives them all.
//!
//! [`machine`](self): what is tried, counted and commanded goes in; the dial's setting and events come out. It has no clock, no
//! disk and no network. `live.rs` beside this folder feeds it.

mod adopt;
mod baseline;
mod blue_green;
mod canary;
mod command;
mod event;
mod hold;
mod machine;
mod mirror;
mod progress;
mod sides;

#[cfg(test)]
mod tests;

pub use command::{Command, Refused};
pub use event::{Event, EventKind};
pub use hold::Hold;
pub use progress::Phase;
pub(super) use {
    machine::{Facts, Machine, PreflightResult, Setting},
    progress::Progress,
};
