//! Pieces of a body that were handed on, and whether they have been taken: it tells who waits for whom.
//!
//! A piece counts as under way until the last of its bytes is let go, which Pingora does once they are written. With a
//! request's body the endpoint is waited for while a piece is under way, and the client while none is; with an answer the
//! client is, while one is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

/// The pieces of one body.
#[derive(Debug)]
pub(super) struct Flow(Mutex<State>);

#[derive(Debug)]
struct State {
    under_way: usize,
    /// When that changed to or from none, or when it was settled last.
    since: Instant,
    settled: Settled,
}

/// What passed since it was settled last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Time with pieces under way.
    pub(super) busy: Duration,
    /// Time with none.
    pub(super) resting: Duration,
    /// Bytes of pieces that have been taken.
    pub(super) taken: u64,
}

impl State {
    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        *(if self.under_way > 0 { &mut self.settled.busy } else { &mut self.settled.resting }) +=
            passed;
        self.since = now;
    }
}

impl Flow {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        let settled = Settled::default();
        Arc::new(Self(Mutex::new(State { under_way: 0, since: now, settled })))
    }

    // Held for a few instructions, never over an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a piece on: what is returned is the same bytes.
    pub(super) fn hand_on(self: &Arc<Self>, bytes: Bytes, now: Instant) -> Bytes {
        let mut state = self.state();
        state.pass(now);
        state.under_way += 1;
        drop(state);
        Bytes::from_owner(Piece { bytes, flow: Arc::clone(self) })
    }

    /// What passed since the last time that this was asked.
    pub(super) fn settle(&self, now: Instant) -> Settled {
        let mut state = self.state();
        state.pass(now);
        std::mem::take(&mut state.settled)
    }

    /// How long no piece has been under way, and nothing was settled; `None` while one is.
    pub(super) fn resting(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        (state.under_way == 0).then(|| now.saturating_duration_since(state.since))
    }
}

struct Piece {
    bytes: Bytes,
    flow: Arc<Flow>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.flow.state();
        state.pass(Instant::now());
        state.under_way -= 1;
        state.settled.taken += self.bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_for_the_side_that_is_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let flow = Flow::new(start);
        assert_eq!(flow.resting(at(2)), Some(Duration::from_secs(2)));
        let piece = flow.hand_on(Bytes::from_static(b"abcd"), at(3));
        assert_eq!(&*piece, b"abcd");
        assert_eq!(flow.resting(at(4)), None);
        let seconds = Duration::from_secs;
        let settled = flow.settle(at(5));
        assert_eq!(settled, Settled { busy: seconds(2), resting: seconds(3), taken: 0 });
        // A part of it keeps the whole under way, as in Pingora's buffers.
        let part = piece.slice(1..2);
        drop(piece);
        assert_eq!(flow.resting(at(5)), None);
        drop(part);
        assert!(flow.resting(at(6)).is_some());
        assert_eq!(flow.settle(at(6)).taken, 4);
    }
}
