//! A mirror: copies of requests that the stable has served go to the candidate, and the answers are compared.
//!
//! Place: [`Shadow`] goes along with a request that was chosen, collects what is needed of it and of its answer while they
//! pass, and is sent when the client's request is over, in a task of its own: no client ever waits for it. What is counted is
//! a pair: the stable's first try on its side, the copy on the candidate's, where a difference is a failure too. Where the
//! stable has failed there is nothing to compare, and both are counted by their failures. Times are not compared: a copy has
//! a new connection, the live request mostly an old one.
//!
//! Bounded: requests that go along by [`MOST_BEGUN`], and what is held of them and of their answers by [`MOST_HELD`]; copies by
//! `max_in_flight`, from the sending to the end of the comparison; shown differences by [`MOST_SHOWN`]. At a bound no copy is
//! made, and that is counted.

mod compare;
mod config;
mod raw;
mod shadow;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

pub use config::{BodyComparison, Compare, Mirror, Pointer};
pub use raw::{RawBodyComparison, RawBodyWord, RawCompare, RawMirror};
use serde::{Deserialize, Serialize};
pub use shadow::Shadow;

use self::compare::Difference;
use crate::upstream::Upstream;

/// Bytes of heads and bodies that the copies of one rollout hold in memory, all together.
const MOST_HELD: usize = 16 << 20;
/// Requests of one rollout that a copy is collected from, at the same time.
const MOST_BEGUN: usize = 4_096;
/// The last differences that are shown.
const MOST_SHOWN: usize = 20;

/// Why a request that was chosen is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// Its method is not listed.
    Method,
    /// Its body is too large.
    Body,
    /// As many copies as may be are in flight.
    InFlight,
    /// As much as may be is held already: bytes, or requests.
    Memory,
    /// It is a stream, or a WebSocket.
    Stream,
    /// The client ended it, or it did not come to its end.
    Unanswered,
    /// The mirror is over.
    Over,
    /// The candidate has no endpoint.
    NoEndpoint,
    /// By a failure of the edge's own: it could not connect for want of something, or not make the request.
    Own,
}

impl Skipped {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Method,
        Self::Body,
        Self::InFlight,
        Self::Memory,
        Self::Stream,
        Self::Unanswered,
        Self::Over,
        Self::NoEndpoint,
        Self::Own,
    ];

    /// Its word in metrics and in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::InFlight => "in_flight",
            Self::Memory => "memory",
            Self::Stream => "stream",
            Self::Unanswered => "unanswered",
            Self::Over => "over",
            Self::NoEndpoint => "no_endpoint",
            Self::Own => "own",
        }
    }
}

/// What a copy's answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Status,
    Header,
    Body,
    NoAnswer,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Status, Self::Header, Self::Body, Self::NoAnswer];

    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Header => "header",
            Self::Body => "body",
            Self::NoAnswer => "no_answer",
        }
    }

    fn of(difference: &Difference) -> Self {
        match difference {
            Difference::Status { .. } => Self::Status,
            Difference::Header(_) => Self::Header,
            Difference::Body(_) => Self::Body,
        }
    }
}

/// What is known of the copies of an attempt. It outlives snapshots.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Of the generation in force. It is kept alive by that.
    candidate: Mutex<Weak<Upstream>>,
    begun: AtomicUsize,
    in_flight: AtomicUsize,
    held: AtomicUsize,
    sent: AtomicU64,
    skipped: [AtomicU64; Skipped::ALL.len()],
    differing: [AtomicU64; Kind::ALL.len()],
    shown: Mutex<VecDeque<String>>,
}

/// The copies of a mirror, as shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Copies that were sent.
    pub sent: u64,
    /// Copies in flight now.
    pub in_flight: usize,
    /// Requests that were chosen and not copied, by reason.
    pub skipped: Vec<(String, u64)>,
    /// Answers that differ from the live ones, by what.
    pub differing: Vec<(String, u64)>,
    /// The last differences, the newest last.
    pub differences: Vec<String>,
}

impl Copies {
    /// Counts a request that is not copied.
    pub(super) fn skip(&self, why: Skipped) {
        if let Some(count) = self.skipped.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn differs(&self, kind: Kind, text: String) {
        if let Some(count) = self.differing.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut shown = self.shown();
        if shown.len() == MOST_SHOWN {
            shown.pop_front();
        }
        shown.push_back(text);
    }

    /// Where copies go from now on.
    pub(super) fn send_to(&self, candidate: Option<&Arc<Upstream>>) {
        let candidate = candidate.map(Arc::downgrade).unwrap_or_default();
        *self.candidate.lock().unwrap_or_else(PoisonError::into_inner) = candidate;
    }

    fn candidate(&self) -> Option<Arc<Upstream>> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Takes a place for a request that a copy is collected from. It is given back by [`Self::end`].
    fn begin(&self) -> bool {
        let begin = |now: usize| (now < MOST_BEGUN).then_some(now + 1);
        self.begun.try_update(Ordering::Relaxed, Ordering::Relaxed, begin).is_ok()
    }

    fn end(&self) {
        self.begun.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a place for a copy that is sent. It is given back by [`Self::leave`].
    fn enter(&self, most: usize) -> bool {
        let enter = |now: usize| (now < most).then_some(now + 1);
        self.in_flight.try_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes room for so many bytes. It is given back by [`Self::release`].
    fn hold(&self, bytes: usize) -> bool {
        let hold = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= MOST_HELD);
        bytes == 0 || self.held.try_update(Ordering::Relaxed, Ordering::Relaxed, hold).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> MirrorStatus {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let words = |words: &[&str], counts: &[AtomicU64]| {
            words.iter().zip(counts).map(|(word, n)| ((*word).to_owned(), load(n))).collect()
        };
        MirrorStatus {
            sent: load(&self.sent),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            skipped: words(&Skipped::ALL.map(Skipped::word), &self.skipped),
            differing: words(&Kind::ALL.map(Kind::word), &self.differing),
            differences: self.shown().iter().cloned().collect(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_bytes_and_what_is_shown_are_bounded() {
        let copies = Copies::default();
        assert!(copies.enter(2) && copies.enter(2) && !copies.enter(2));
        copies.leave();
        assert!(copies.enter(2));
        assert!(copies.hold(MOST_HELD) && copies.hold(0) && !copies.hold(1));
        copies.release(5);
        assert!(!copies.hold(6) && copies.hold(5));
        for n in 0..30 {
            copies.differs(Kind::Body, n.to_string());
        }
        copies.skip(Skipped::Own);
        let status = copies.status();
        assert_eq!((status.differences.len(), &*status.differences[0]), (20, "10"));
        assert_eq!(status.differing[2], ("body".to_owned(), 30));
        assert_eq!(status.skipped[8], ("own".to_owned(), 1));
    }
}
