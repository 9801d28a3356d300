//! How much one client network can say in a minute: so that one broken client can't take a release back, nor hide a bad one.
//!
//! A network whose failures have reached the limit says nothing more in that minute: neither its failures nor its successes
//! count, on either side. So the rates stay what they are, and whichever side its first failures fell on is left to how its
//! requests were dealt. The same with answers above the p95 and how fast it was answered: it has a limit of its own.
//!
//! Bounded: [`SLOTS`] networks a minute that fail or wait. Of more, some share a slot and count as one. What is left out only makes
//! the analysis slower; how much it is, is counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::types::ClientNetwork;

const SLOTS: usize = 4_096;
/// Places in which a network is looked for.
const LOOKS: usize = 4;
const MINUTE: Duration = Duration::from_mins(1);
/// The largest limit of failures: the bits that a slot has for them, the lowest. A larger one is none.
const MOST_FAILURES: u64 = 0x3ff;
/// The same of slow answers, whose bits follow.
const MOST_SLOW: u64 = 0x3f;
const SLOW_AT: u32 = 10;

/// How many of a network count in a minute, on both sides together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Failures.
    pub(super) failures: u32,
    /// Answers above the p95.
    pub(super) slow: u32,
}

/// What is asked of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It failed.
    Failure,
    /// It was answered well, above the p95.
    Slow,
    /// It was answered well.
    Good,
}

/// What of a try counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// All.
    All,
    /// That it was answered, and not how fast.
    Untimed,
    /// Nothing.
    Nothing,
}

/// Client networks in the present minute. A slot: 32 bits that tell networks apart, 16 of the minute, 6 of the slow answers and 10 of
/// the failures.
#[derive(Debug)]
pub(super) struct ClientLimits {
    began: Instant,
    slots: Box<[AtomicU64]>,
    /// The last minute, from 1 on, in which some network reached a limit.
    reached: AtomicU64,
    left_out: AtomicU64,
}

impl ClientLimits {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            reached: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Tries of which nothing counted.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// What counts of a try of this network.
    pub(super) fn take(
        &self,
        network: Option<ClientNetwork>,
        kind: Kind,
        limits: Limits,
        now: Instant,
    ) -> Counts {
        let minutes = now.saturating_duration_since(self.began).as_secs() / MINUTE.as_secs() + 1;
        if kind == Kind::Good && self.reached.load(Ordering::Relaxed) != minutes {
            return Counts::All;
        }
        let counts = self.take_of(network, kind, limits, minutes);
        if counts == Counts::Nothing {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }

    fn take_of(
        &self,
        network: Option<ClientNetwork>,
        kind: Kind,
        limits: Limits,
        minutes: u64,
    ) -> Counts {
        // 0 is a slot that nobody has had.
        let minute = minutes % 0xffff + 1;
        let hash = ClientNetwork::spread(network);
        let tag = (hash & !0xffff_ffff) | minute << 16;
        let is_mine = |slot: u64| slot & !0xffff == tag;
        let is_old = |slot: u64| (slot >> 16) & 0xffff != minute;
        let places = (0..LOOKS).map(|look| (hash as usize).wrapping_add(look) % SLOTS);
        let mut slots = places.filter_map(|place| self.slots.get(place));
        let Some(first) = slots.next() else { return Counts::Nothing };
        let found = std::iter::once(first).chain(slots).find(|slot| {
            let word = slot.load(Ordering::Relaxed);
            is_mine(word) || is_old(word)
        });
        let is_full = |word: u64| {
            let (failures, slow) = (word & MOST_FAILURES, (word >> SLOW_AT) & MOST_SLOW);
            (failures >= u64::from(limits.failures), slow >= u64::from(limits.slow).min(MOST_SLOW))
        };
        let judge = |word: u64| match is_full(word) {
            (true, _) => Counts::Nothing,
            (_, true) if kind != Kind::Failure => Counts::Untimed,
            _ => Counts::All,
        };
        let mut counts = Counts::All;
        let mut reaches = false;
        let step = |word: u64| {
            let word = if is_old(word) { tag } else { word };
            counts = judge(word);
            let next = match kind {
                Kind::Failure if u64::from(limits.failures) > MOST_FAILURES => return None,
                Kind::Failure => word + 1,
                Kind::Slow => word + (1 << SLOW_AT),
                Kind::Good => return None,
            };
            let (is_failing, is_slow) = is_full(next);
            reaches = is_failing || is_slow;
            (counts == Counts::All).then_some(next)
        };
        let is_changed =
            found.unwrap_or(first).fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok();
        if is_changed && reaches {
            self.reached.fetch_max(minutes, Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { failures: 3, slow: 5 };

    fn network(number: u32) -> ClientNetwork {
        ClientNetwork::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    struct Bench(ClientLimits, Instant);

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self(ClientLimits::new(now), now)
        }

        fn take(&self, n: u32, kind: Kind) -> Counts {
            self.0.take(Some(network(n)), kind, LIMITS, self.1)
        }

        fn failures(&self, n: u32) -> usize {
            (0..10).filter(|_| self.take(n, Kind::Failure) == Counts::All).count()
        }
    }

    #[test]
    fn each_network_has_its_own_few_a_minute() {
        let mut bench = Bench::new();
        assert_eq!([bench.failures(1), bench.failures(1), bench.failures(2)], [3, 0, 3]);
        assert_eq!(bench.0.left_out(), 7 + 10 + 7);
        let began = bench.1;
        bench.1 = began + MINUTE;
        assert_eq!(
            (bench.take(1, Kind::Good), bench.failures(1)),
            (Counts::All, 3),
            "a new minute"
        );
        let none = |_: &u32| bench.0.take(None, Kind::Failure, LIMITS, bench.1) == Counts::All;
        assert_eq!((0..10).filter(none).count(), 3);
        // After 45 days the numbers of minutes begin again.
        bench.1 = began + MINUTE * 0xffff * 2;
        assert_eq!(bench.failures(1), 3);
    }

    #[test]
    fn who_has_failed_too_often_says_nothing_more_good_or_bad() {
        let mut bench = Bench::new();
        assert_eq!(bench.take(1, Kind::Good), Counts::All);
        bench.failures(1);
        for kind in [Kind::Good, Kind::Slow, Kind::Failure] {
            assert_eq!(bench.take(1, kind), Counts::Nothing, "{kind:?}");
            assert_eq!(bench.take(2, kind), Counts::All, "{kind:?}: another one");
        }
        bench.1 += MINUTE;
        assert_eq!(bench.take(1, Kind::Good), Counts::All);
    }

    #[test]
    fn who_waits_too_often_is_not_timed_and_its_failures_count() {
        let bench = Bench::new();
        let slow: Vec<Counts> = (0..7).map(|_| bench.take(1, Kind::Slow)).collect();
        assert_eq!(slow[..5], [Counts::All; 5]);
        assert_eq!(slow[5..], [Counts::Untimed; 2]);
        assert_eq!(bench.take(1, Kind::Good), Counts::Untimed);
        assert_eq!((bench.failures(1), bench.take(1, Kind::Slow)), (3, Counts::Nothing));
    }

    #[test]
    fn many_networks_are_told_apart_and_more_count_as_fewer() {
        let bench = Bench::new();
        let limits = Limits { failures: 1, slow: 1 };
        let taken = |range: std::ops::Range<u32>| {
            let take = |n: &u32| bench.0.take(Some(network(*n)), Kind::Failure, limits, bench.1);
            range.filter(|n| take(n) == Counts::All).count()
        };
        assert!(taken(0..1_000) > 950);
        let rest = taken(1_000..100_000);
        assert!(rest <= SLOTS && rest > SLOTS / 2, "{rest}");
        // Who shares a slot is left out whole: no rate is bent by it.
        let good = (1_000..100_000).filter(|n| {
            bench.0.take(Some(network(*n)), Kind::Good, limits, bench.1) == Counts::All
        });
        assert_eq!(good.count(), 0);
    }

    #[test]
    fn a_limit_is_as_large_as_its_bits_at_most_or_none() {
        let bench = Bench::new();
        let count = |kind, limits| {
            let take =
                |_: &u32| bench.0.take(Some(network(1)), kind, limits, bench.1) == Counts::All;
            (0..2_000).filter(take).count()
        };
        let none = Limits { failures: u32::MAX, slow: u32::MAX };
        assert_eq!((count(Kind::Failure, none), count(Kind::Slow, none)), (2_000, 63));
        assert_eq!(count(Kind::Failure, Limits { failures: 1_023, ..none }), 1_023);
    }
}
