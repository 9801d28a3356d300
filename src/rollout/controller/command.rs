//! What a person may ask of a rollout.

use std::{fmt, str::FromStr};

/// What a person may ask of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Begins the attempt.
    Start,
    /// Takes no step until it is resumed. The judgement goes on.
    Pause,
    /// Goes on.
    Resume,
    /// Gives the candidate all requests.
    Promote,
    /// Takes the candidate back.
    Abort,
    /// Blue-green: makes the other side live.
    Switch,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Start, Self::Pause, Self::Resume, Self::Promote, Self::Abort, Self::Switch];

    /// Its word on the command line and in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Switch => "switch",
        }
    }
}

impl FromStr for Command {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|command| command.word() == text).ok_or(())
    }
}

/// Why something can't be done: what is the matter, and what would work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
