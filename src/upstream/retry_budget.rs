//! How many retries an upstream takes: a share of its requests of the last ten seconds, and a floor beside it.
//!
//! Place: counted with the first try of each request, asked before each retry. In an outage every try fails; without a
//! budget each request would become as many tries as it may have, just when the endpoints can bear them least.
//!
//! One for an upstream, by its name, whatever routes and generations use it. What it lets through is said with each
//! question, so that a changed setting holds at once. No client network takes more than its part (`retry_shares.rs`). Time is cut into slots of a second. Lock-free: a request adds to one
//! atomic. Where several threads ask at the same moment, each of them may pass on the last place, and a count that meets
//! the change to a new second may be lost: the budget is right on the whole, not to one.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::retry_shares::RetryShares;
use crate::types::{ClientNetwork, Percent, Rate};

/// The seconds that count.
const WINDOW: u64 = 10;
/// What the floor gives in so much time may come at once: when an endpoint of a quiet upstream dies, its requests are
/// tried again until the endpoint is known to be dead.
const FLOOR_SAVED: Duration = Duration::from_secs(WINDOW);

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudgetConfig {
    /// Of the requests of the last ten seconds.
    pub share: Percent,
    /// Beside the share.
    pub floor: Rate,
}

impl RetryBudgetConfig {
    /// Whether there is never a retry.
    pub(super) fn is_nothing(self) -> bool {
        self.share.millionths() == 0 && self.floor.interval().is_none()
    }
}

/// What was counted of an upstream.
#[derive(Debug)]
pub(super) struct RetryBudget {
    origin: Instant,
    requests: Slots,
    /// Retries that the share paid for.
    retries: Slots,
    shares: RetryShares,
    /// When the floor is whole again, in nanoseconds from the origin (GCRA, as of ITU-T I.371).
    floor_whole_at: AtomicU64,
}

impl RetryBudget {
    /// Nothing was counted yet. `now` is where its time begins.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            requests: Slots::default(),
            retries: Slots::default(),
            shares: RetryShares::default(),
            floor_whole_at: AtomicU64::new(0),
        }
    }

    /// A request begins its first try.
    pub(super) fn count_request(&self, network: Option<ClientNetwork>, now: Instant) {
        let second = self.second(now);
        self.requests.add(second);
        self.shares.count_request(network, second);
    }

    /// Takes a place for a retry of a request from `network`, where there is one.
    pub(super) fn take(
        &self,
        config: RetryBudgetConfig,
        network: Option<ClientNetwork>,
        now: Instant,
    ) -> bool {
        if config.is_nothing() || !self.shares.take(config, network, self.second(now)) {
            return false;
        }
        self.take_of_all(config, now)
    }

    fn take_of_all(&self, config: RetryBudgetConfig, now: Instant) -> bool {
        let second = self.second(now);
        let paid = self.requests.sum(second) * u64::from(config.share.millionths()) / 1_000_000;
        if self.retries.sum(second) < paid {
            self.retries.add(second);
            return true;
        }
        self.take_of_floor(config.floor, now)
    }

    fn take_of_floor(&self, floor: Rate, now: Instant) -> bool {
        let Some(interval) = floor.interval() else { return false };
        let (now, interval) =
            (nanoseconds(now.saturating_duration_since(self.origin)), nanoseconds(interval));
        let saved = nanoseconds(FLOOR_SAVED).max(interval);
        let taken = self.floor_whole_at.fetch_update(Relaxed, Relaxed, |whole_at| {
            let after = whole_at.max(now).saturating_add(interval);
            (after <= now.saturating_add(saved)).then_some(after)
        });
        taken.is_ok()
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Counts by second: the lower half of each slot; its upper half says which second (136 years fit).
#[derive(Debug, Default)]
struct Slots([AtomicU64; WINDOW as usize]);

impl Slots {
    fn add(&self, second: u64) {
        let Some(slot) = self.0.get((second % WINDOW) as usize) else { return };
        let mut present = slot.load(Relaxed);
        while present >> 32 < second {
            let Err(changed) =
                slot.compare_exchange_weak(present, second << 32 | 1, Relaxed, Relaxed)
            else {
                return;
            };
            present = changed;
        }
        slot.fetch_add(1, Relaxed);
    }

    /// Those of this second and the nine before it.
    fn sum(&self, second: u64) -> u64 {
        let slots = self.0.iter().map(|slot| slot.load(Relaxed));
        let recent = slots.filter(|slot| second.saturating_sub(slot >> 32) < WINDOW);
        recent.map(|slot| slot & u64::from(u32::MAX)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: RetryBudgetConfig =
        RetryBudgetConfig { share: Percent::whole(20), floor: Rate::per_second(3) };

    fn config(share: u8, floor: &str) -> RetryBudgetConfig {
        RetryBudgetConfig { share: Percent::whole(share), floor: floor.parse().unwrap() }
    }

    #[test]
    fn share_and_floor_are_beside_each_other() {
        let start = Instant::now();
        for (requests, config, expected) in [
            (100, DEFAULT, 50),
            (0, DEFAULT, 30),
            (100, config(20, "0/s"), 20),
            (100, config(0, "0/s"), 0),
            (100, config(100, "0/s"), 100),
            (4, config(20, "1/m"), 1),
            (4, config(20, "30/m"), 5),
        ] {
            let budget = RetryBudget::new(start);
            (0..requests).for_each(|_| budget.count_request(None, start));
            let taken = (0..1_000).filter(|_| budget.take_of_all(config, start)).count();
            assert_eq!(taken, expected, "{requests} {config:?}");
        }
    }

    #[test]
    fn the_floor_fills_again_and_saves_ten_seconds_at_most() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let count = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..100).filter(|_| budget.take_of_all(config(0, "30/m"), now)).count()
        };
        assert_eq!([0, 1, 2, 3, 4, 8].map(count), [5, 0, 1, 0, 1, 2]);
        assert_eq!(count(1_000), 5);
        let budget = RetryBudget::new(start);
        let take =
            |seconds| budget.take_of_all(config(0, "1/m"), start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 119].map(take), [true, false, false, true, false]);
    }

    #[test]
    fn what_is_older_than_ten_seconds_is_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let budget = RetryBudget::new(start);
        (0..100).for_each(|_| budget.count_request(None, at(5)));
        let take = |seconds| budget.take_of_all(config(1, "0/s"), at(seconds));
        assert!(take(14) && !take(14));
        assert!(!take(15), "the requests are gone");
        (0..100).for_each(|_| budget.count_request(None, at(20)));
        assert!(!take(20), "the retry of before still counts");
        assert!(take(24));
    }

    /// In a total outage, at any rate of requests, tries stay within the share and the floor; and a quiet upstream has its
    /// retries.
    #[test]
    fn an_outage_is_not_multiplied_and_a_quiet_upstream_is_not_starved() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let config = config(random.u8(0..=50), &format!("{}/s", random.u32(0..=5)));
            let floor =
                config.floor.interval().map_or(0.0, |interval| 1.0 / interval.as_secs_f64());
            let share = f64::from(config.share.millionths()) / 1e6;
            let start = Instant::now();
            let budget = RetryBudget::new(start);
            let (mut now, mut requests, mut retries) = (start, 0.0, 0.0);
            for _ in 0..20 {
                // A stretch of time with its own rate.
                let gap = Duration::from_micros(random.u64(200..=3_000_000));
                for _ in 0..random.usize(1..=300) {
                    now += gap.mul_f64(random.f64() * 2.0);
                    budget.count_request(None, now);
                    requests += 1.0;
                    for _ in 1..4 {
                        retries += f64::from(u8::from(budget.take_of_all(config, now)));
                    }
                    let passed = (now - start).as_secs_f64();
                    let most = share * requests + floor * (passed + 10.0);
                    assert!(retries <= most + 1e-6, "seed {seed}: {retries} of {most}");
                }
            }
            // One failure a second is always tried again, whatever was before.
            if floor >= 1.0 {
                for _ in 0..20 {
                    now += Duration::from_secs(1);
                    budget.count_request(None, now);
                    assert!(budget.take_of_all(config, now), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn threads_lose_next_to_nothing() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| budget.count_request(None, start)));
            }
        });
        assert_eq!(budget.requests.sum(0), 40_000);
        let taken = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..10_000)
                        .filter(|_| budget.take_of_all(config(20, "0/s"), start))
                        .count();
                    taken.fetch_add(mine, Relaxed);
                });
            }
        });
        let taken = taken.load(Relaxed);
        assert!((8_000..8_010).contains(&taken), "{taken}");
    }
}
