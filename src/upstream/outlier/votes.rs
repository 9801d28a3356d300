//! How the tries of one client network ended, in this window and the one before it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::compare::Tally;

/// Good tries in the upper 24 bits, failed ones in the next 24, the window in the lower 16.
#[derive(Clone, Copy)]
struct Count(u64);

impl Count {
    const GOOD: u64 = 1 << 40;
    const FAILED: u64 = 1 << 16;

    fn window(self) -> u16 {
        self.0 as u16
    }

    fn tally(self) -> Tally {
        let failures = (self.0 >> 16) & 0xff_ffff;
        Tally { requests: (self.0 >> 40) + failures, failures }
    }
}

/// Lock-free; where two tries race at the edge of a window, one may be lost.
#[derive(Debug, Default)]
pub(super) struct Votes {
    last: AtomicU64,
    /// What the last one was before it.
    previous: AtomicU64,
}

impl Votes {
    /// Adds a vote; the first of a window begins it.
    pub(super) fn count(&self, is_good: bool, window: u16) {
        let vote = if is_good { Count::GOOD } else { Count::FAILED };
        let before = self.last.load(Ordering::Relaxed);
        if Count(before).window() == window && before != 0 {
            self.last.fetch_add(vote, Ordering::Relaxed);
            return;
        }
        self.previous.store(before, Ordering::Relaxed);
        let first = vote | u64::from(window);
        // Of two that race the other one may have begun the window.
        if self.last.compare_exchange(before, first, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            self.last.fetch_add(vote, Ordering::Relaxed);
        }
    }

    /// Those of a window, if there are any.
    pub(super) fn of(&self, window: u16) -> Option<Tally> {
        let last = Count(self.last.load(Ordering::Relaxed));
        let tally = last.tally();
        (last.window() == window && tally.requests > 0).then_some(tally)
    }

    /// Those of a window and of the one before it.
    pub(super) fn lately(&self, window: u16) -> Tally {
        let is_late = |count: &Count| [window, window.wrapping_sub(1)].contains(&count.window());
        [&self.last, &self.previous]
            .into_iter()
            .map(|count| Count(count.load(Ordering::Relaxed)))
            .filter(is_late)
            .map(Count::tally)
            .fold(Tally::default(), Tally::and)
    }

    /// What was counted before counts no more.
    pub(super) fn forget(&self) {
        self.last.store(0, Ordering::Relaxed);
        self.previous.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_and_the_one_before_it_are_told_from_older_ones() {
        let votes = Votes::default();
        let of = |requests, failures| Tally { requests, failures };
        for (window, is_good) in [(7, true), (7, false), (8, false), (8, true), (8, true)] {
            votes.count(is_good, window);
        }
        assert_eq!((votes.of(8), votes.of(7), votes.of(9)), (Some(of(3, 1)), None, None));
        let lately = |window| votes.lately(window);
        assert_eq!([lately(8), lately(9), lately(10)], [of(5, 2), of(3, 1), of(0, 0)]);
        votes.count(true, 11);
        assert_eq!(lately(11), of(1, 0), "nothing came in the window between");
        votes.forget();
        assert_eq!((votes.of(11), lately(11)), (None, of(0, 0)));
    }
}
