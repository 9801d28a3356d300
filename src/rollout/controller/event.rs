//! What happened to a rollout, for the log, the metrics and whoever wants to be told.

use serde::{Deserialize, Serialize};

use crate::types::Name;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An attempt began.
    Started,
    /// The candidate's share has changed.
    Step,
    /// It does not go on, and says why.
    Held,
    /// A person has paused it.
    Paused,
    /// A person has let it go on.
    Resumed,
    /// All steps are done.
    Ready,
    /// The candidate has all requests.
    Promoted,
    /// A verdict has taken the candidate back.
    RolledBack,
    /// A person has.
    Aborted,
    /// Blue-green: the other side has all requests.
    Switched,
    /// One side has no endpoint, and the other serves its requests.
    SideDown,
    /// It has some again.
    SideUp,
    /// The judgement began anew: the configuration has changed what it is about.
    NewWindow,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Started,
        Self::Step,
        Self::Held,
        Self::Paused,
        Self::Resumed,
        Self::Ready,
        Self::Promoted,
        Self::RolledBack,
        Self::Aborted,
        Self::Switched,
        Self::SideDown,
        Self::SideUp,
        Self::NewWindow,
    ];

    /// Its word in metrics, in the log and in webhooks.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Step => "step",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Ready => "ready",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Switched => "switched",
            Self::SideDown => "side_down",
            Self::SideUp => "side_up",
            Self::NewWindow => "new_window",
        }
    }

    /// Whether somebody should look.
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::RolledBack | Self::SideDown)
    }
}

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
