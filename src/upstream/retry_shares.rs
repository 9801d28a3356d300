//! What client networks take of a retry budget: none may spend what the requests of others paid for.
//!
//! Place: beside the budget of an upstream, `retry_budget.rs`. Requests whose every try fails can be had by whoever wants
//! them; without this, one client could leave the others without retries just when an endpoint dies.
//!
//! Networks share [`COUNTERS`] counters, by a hash that nobody outside can know. A counter holds a window of ten seconds and
//! half of what was before, in one word; what is lost where two threads meet the change of a window does not matter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::retry_budget::RetryBudgetConfig;
use crate::types::ClientNetwork;

const COUNTERS: usize = 16;
/// The seconds of a window.
const WINDOW: u64 = 10;
/// Failures are not spread evenly: a network may take so many times the share that its own requests give.
const TIMES_ITS_SHARE: u64 = 2;
/// Of what the floor gives in ten seconds, one network gets one part in so many.
const PART_OF_FLOOR: u64 = 2;

/// Counts of one upstream.
#[derive(Debug, Default)]
pub(super) struct RetryShares {
    counters: [AtomicU64; COUNTERS],
}

/// One counter: 24 bits of the window's number, 24 of requests, 16 of retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counter {
    window: u64,
    requests: u64,
    retries: u64,
}

impl Counter {
    const MOST_REQUESTS: u64 = (1 << 24) - 1;
    const MOST_RETRIES: u64 = (1 << 16) - 1;

    fn of(word: u64) -> Self {
        Self {
            window: word >> 40,
            requests: word >> 16 & Self::MOST_REQUESTS,
            retries: word & Self::MOST_RETRIES,
        }
    }

    fn word(self) -> u64 {
        self.window << 40
            | self.requests.min(Self::MOST_REQUESTS) << 16
            | self.retries.min(Self::MOST_RETRIES)
    }

    /// As it is in this window.
    fn at(self, window: u64) -> Self {
        match window.saturating_sub(self.window) {
            0 => self,
            1 => Self { window, requests: self.requests / 2, retries: self.retries / 2 },
            _ => Self { window, ..Self::default() },
        }
    }
}

impl RetryShares {
    /// A request of this network begins its first try.
    pub(super) fn count_request(&self, network: Option<ClientNetwork>, second: u64) {
        self.change(network, second, |counter| {
            Some(Counter { requests: counter.requests + 1, ..counter })
        });
    }

    /// Counts a retry of this network, where it has not had what is its own.
    pub(super) fn take(
        &self,
        config: RetryBudgetConfig,
        network: Option<ClientNetwork>,
        second: u64,
    ) -> bool {
        let interval = config.floor.interval();
        let floor =
            interval.map_or(0, |one| u128::from(WINDOW * 1_000_000_000) / one.as_nanos().max(1));
        // One at least: less than a whole retry can't be had.
        let floor = (u64::try_from(floor).unwrap_or(u64::MAX) / PART_OF_FLOOR).max(1);
        self.change(network, second, |counter| {
            let paid = counter.requests * u64::from(config.share.millionths()) / 1_000_000;
            let is_its_own = counter.retries < (TIMES_ITS_SHARE * paid).saturating_add(floor);
            is_its_own.then_some(Counter { retries: counter.retries + 1, ..counter })
        })
    }

    fn change(
        &self,
        network: Option<ClientNetwork>,
        second: u64,
        change: impl Fn(Counter) -> Option<Counter>,
    ) -> bool {
        let index = ClientNetwork::spread(network) % COUNTERS as u64;
        let window = second / WINDOW;
        let Some(counter) = self.counters.get(index as usize) else { return true };
        let changed = counter.fetch_update(Relaxed, Relaxed, |word| {
            change(Counter::of(word).at(window)).map(Counter::word)
        });
        changed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Percent, Rate};

    const DEFAULT: RetryBudgetConfig =
        RetryBudgetConfig { share: Percent::whole(20), floor: Rate::per_second(3) };

    fn network(last: u8) -> ClientNetwork {
        ClientNetwork::of([192, 0, 2, last].into())
    }

    fn taken(shares: &RetryShares, last: u8, second: u64) -> usize {
        (0..1_000).filter(|_| shares.take(DEFAULT, Some(network(last)), second)).count()
    }

    #[test]
    fn a_network_takes_of_its_own_share_and_half_of_the_floor() {
        let shares = RetryShares::default();
        (0..100).for_each(|_| shares.count_request(Some(network(1)), 0));
        assert_eq!(taken(&shares, 1, 0), 40 + 15);
        assert_eq!(taken(&shares, 2, 0), 15, "another one has its own");
        assert_eq!(taken(&shares, 1, 9), 0);
        // Half of what it took is forgotten, and half of its requests.
        assert_eq!(taken(&shares, 1, 10), 20 + 15 - 27);
        assert_eq!(taken(&shares, 1, 30), 15);
    }

    #[test]
    fn counters_keep_what_is_put_in_and_stop_at_their_ends() {
        let counter = Counter { window: 77, requests: 12_345, retries: 678 };
        assert_eq!(Counter::of(counter.word()), counter);
        let full = Counter { window: 1, requests: u64::MAX >> 8, retries: u64::MAX };
        let most =
            Counter { window: 1, requests: Counter::MOST_REQUESTS, retries: Counter::MOST_RETRIES };
        assert_eq!(Counter::of(full.word()), most);
    }

    #[test]
    fn networks_are_spread() {
        let shares = RetryShares::default();
        for last in 0..=255 {
            shares.count_request(Some(network(last)), 0);
        }
        let used = shares.counters.iter().filter(|counter| counter.load(Relaxed) != 0).count();
        assert_eq!(used, COUNTERS);
    }
}
