//! How fast a client takes bytes, while it is waited for. A client that takes none at all is the write timer's matter.

use std::time::Instant;

use crate::types::Pace;

/// The writing side of one connection.
#[derive(Debug, Default)]
pub(super) struct SendPace {
    pace: Pace,
    /// Since when the client takes nothing.
    blocked: Option<Instant>,
    /// Bytes that were taken since that was settled last.
    taken: u64,
}

impl SendPace {
    /// A write or a flush waits for the client.
    pub(super) fn is_blocked(&mut self) {
        self.blocked.get_or_insert_with(Instant::now);
    }

    /// A write or a flush is done. Says whether `rate` bytes a second, the least, are kept. No clock is asked while
    /// nothing waits.
    #[must_use]
    pub(super) fn took(&mut self, bytes: usize, rate: u64) -> bool {
        self.taken = self.taken.saturating_add(bytes as u64);
        let Some(blocked) = self.blocked.take() else { return true };
        self.pace.moved(blocked.elapsed(), std::mem::take(&mut self.taken), rate)
    }
}
