//! A line on the terminal that says how far a command is, once it has taken a second.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

const AFTER: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(100);

/// What is going on. The line goes away when it is dropped.
pub(super) struct Progress {
    what: &'static str,
    is_terminal: bool,
    next: Instant,
    is_shown: bool,
}

impl Progress {
    /// A command that begins now.
    pub(super) fn new(what: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { what, is_terminal, next: Instant::now() + AFTER, is_shown: false }
    }

    /// So many files are done.
    pub(super) fn at(&mut self, files: usize) {
        if self.is_terminal && Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            self.is_shown = true;
            // A terminal that is gone needs no line.
            drop(write!(std::io::stderr(), "\r\x1b[K{} {files} files", self.what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}
