//! What happened to a rollout, for the log, the metrics and whoever wants to be told.

use serde::Serialize;

pub use crate::telemetry::webhooks::EventKind;
use crate::types::Name;

/// Something that happened to a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The rollout.
    pub rollout: Name,
    /// Its revision.
    pub revision: Option<Name>,
    /// In a sentence, with figures.
    pub text: String,
    /// When, in seconds of Unix time.
    pub at: i64,
}
