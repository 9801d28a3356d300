//! What became of tries, counted by those who serve them: lock-free, for the controller to collect.
//!
//! By stratum (a route), step, side and part (a thread or two). Four steps are counted at a time; what was sent in an older
//! one is left out. Reader and writers never wait: a try that is counted while the controller collects is in this batch or in
//! the next.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    analysis::{LatencyCounts, MOST_STRATA, Outcomes, Sides, Thresholds},
    dial::{SHARDS, Side, shard},
};

/// Steps at a time.
const STEPS: usize = 4;
const SIDES: usize = 2;

/// The stratum of a route, by its number: routes beyond [`MOST_STRATA`] count as the last.
pub(super) fn stratum_of(number: usize) -> usize {
    number.min(MOST_STRATA - 1)
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered well; its first byte came after this time.
    Success(Duration),
    /// It was answered well, and how fast does not count.
    Untimed,
    /// It failed.
    Failure,
}

#[derive(Debug, Default)]
struct Cell {
    successes: AtomicU32,
    failures: AtomicU32,
    timed: AtomicU32,
    above_p95: AtomicU32,
    above_p99: AtomicU32,
}

impl Cell {
    fn collect_into(&self, outcomes: &mut Outcomes) {
        let take = |counter: &AtomicU32| {
            if counter.load(Ordering::Relaxed) == 0 {
                return 0;
            }
            u64::from(counter.swap(0, Ordering::Relaxed))
        };
        outcomes.add(&Outcomes {
            successes: take(&self.successes),
            failures: take(&self.failures),
            timed: take(&self.timed),
            above_p95: take(&self.above_p95),
            above_p99: take(&self.above_p99),
        });
    }
}

/// A part of a stratum's counts.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    /// By step and side.
    cells: [[Cell; SIDES]; STEPS],
    /// Times to the first byte, by side; made with the first one.
    times: [OnceLock<Times>; SIDES],
}

/// The counts of a route.
#[derive(Debug)]
struct Stratum {
    parts: Box<[Part]>,
    /// The p95 and p99 that answers are compared with, in microseconds; 0 is none.
    thresholds: AtomicU64,
}

impl Stratum {
    fn new() -> Self {
        Self {
            parts: (0..SHARDS).map(|_| Part::default()).collect(),
            thresholds: AtomicU64::new(0),
        }
    }

    /// The times of a side since the last time.
    fn collect_times(&self, side: Side) -> LatencyCounts {
        let mut sum = LatencyCounts::default();
        let parts = self.parts.iter().filter_map(|part| part.times.get(side as usize)?.get());
        for times in parts {
            sum.add(&times.collect());
        }
        sum
    }
}

/// A histogram that many write.
#[derive(Debug)]
struct Times(Box<[AtomicU32]>);

impl Default for Times {
    fn default() -> Self {
        Self((0..LatencyCounts::BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Times {
    fn collect(&self) -> LatencyCounts {
        LatencyCounts::of_buckets(self.0.iter().map(|bucket| {
            if bucket.load(Ordering::Relaxed) == 0 { 0 } else { bucket.swap(0, Ordering::Relaxed) }
        }))
    }
}

/// The counts of an attempt.
#[derive(Debug)]
pub(super) struct Counters {
    /// The step that each place is for.
    steps: [AtomicU32; STEPS],
    strata: Box<[OnceLock<Stratum>]>,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            steps: std::array::from_fn(|_| AtomicU32::new(0)),
            strata: (0..MOST_STRATA).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts a try that was sent in `step`; says whether it was.
    pub(super) fn count(&self, stratum: usize, side: Side, step: u32, outcome: Outcome) -> bool {
        let place = step as usize % STEPS;
        let is_counted = self.steps.get(place).is_some_and(|of| of.load(Ordering::Relaxed) == step);
        let Some(stratum) = self.strata.get(stratum).filter(|_| is_counted) else { return false };
        let stratum = stratum.get_or_init(Stratum::new);
        let Some(part) = stratum.parts.get(shard()) else { return false };
        let cell = part.cells.get(place).and_then(|sides| sides.get(side as usize));
        let Some(cell) = cell else { return false };
        let add = |counter: &AtomicU32| counter.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::Failure => {
                add(&cell.failures);
            }
            Outcome::Untimed => {
                add(&cell.successes);
            }
            Outcome::Success(after) => {
                add(&cell.successes);
                stratum.compare(cell, after);
                let times = part.times.get(side as usize);
                let times = times.map(|times| times.get_or_init(Times::default));
                if let Some(bucket) =
                    times.and_then(|times| times.0.get(LatencyCounts::bucket_of(after)))
                {
                    add(bucket);
                }
            }
        }
        true
    }

    /// From now on tries of this step are counted, and those of the one four steps before are not.
    pub(super) fn begin_step(&self, step: u32) {
        let place = step as usize % STEPS;
        let Some(of) = self.steps.get(place) else { return };
        of.store(u32::MAX, Ordering::Relaxed);
        for stratum in 0..self.strata.len() {
            self.collect_place(stratum, place);
        }
        of.store(step, Ordering::Release);
    }

    /// What was counted since the last time, by stratum and step, without what is empty.
    pub(super) fn collect(&self) -> Vec<(usize, u32, Sides)> {
        let mut batches = Vec::new();
        // Older steps first: their requests came before.
        let mut steps: Vec<(u32, usize)> = self
            .steps
            .iter()
            .zip(0..)
            .map(|(step, place)| (step.load(Ordering::Relaxed), place))
            .collect();
        steps.sort_unstable();
        for (step, place) in steps {
            for stratum in 0..self.strata.len() {
                let sides = self.collect_place(stratum, place);
                if sides != Sides::default() {
                    batches.push((stratum, step, sides));
                }
            }
        }
        batches
    }

    fn collect_place(&self, stratum: usize, place: usize) -> Sides {
        let mut sides = Sides::default();
        let Some(stratum) = self.strata.get(stratum).and_then(OnceLock::get) else { return sides };
        for part in &stratum.parts {
            let Some([stable, candidate]) = part.cells.get(place) else { continue };
            stable.collect_into(&mut sides.stable);
            candidate.collect_into(&mut sides.candidate);
        }
        sides
    }

    /// Times to the first byte since the last time, of strata that had some: stratum, stable's, candidate's.
    pub(super) fn collect_times(&self) -> Vec<(usize, LatencyCounts, LatencyCounts)> {
        let strata = self.strata.iter().enumerate();
        strata
            .filter_map(|(place, stratum)| {
                let stratum = stratum.get()?;
                let (stable, candidate) =
                    (stratum.collect_times(Side::Stable), stratum.collect_times(Side::Candidate));
                (stable.total() + candidate.total() > 0).then_some((place, stable, candidate))
            })
            .collect()
    }

    /// What answers of a stratum are compared with.
    pub(super) fn thresholds(&self, stratum: usize) -> Option<Thresholds> {
        let word = self.strata.get(stratum)?.get()?.thresholds.load(Ordering::Relaxed);
        let of = |micros: u64| Duration::from_micros(micros);
        (word > 0).then(|| Thresholds { p95: of(word >> 32), p99: of(word & LONGEST) })
    }

    /// What answers of a stratum are compared with from now on.
    pub(super) fn set_thresholds(&self, stratum: usize, thresholds: Option<Thresholds>) {
        let Some(stratum) = self.strata.get(stratum).and_then(OnceLock::get) else { return };
        let micros =
            |time: Duration| u64::try_from(time.as_micros()).map_or(LONGEST, |n| n.min(LONGEST));
        let word = thresholds.map_or(0, |both| micros(both.p95).max(1) << 32 | micros(both.p99));
        stratum.thresholds.store(word, Ordering::Relaxed);
    }
}

/// The longest threshold, in microseconds.
const LONGEST: u64 = u32::MAX as u64;

impl Stratum {
    fn compare(&self, cell: &Cell, after: Duration) {
        let thresholds = self.thresholds.load(Ordering::Relaxed);
        if thresholds == 0 {
            return;
        }
        cell.timed.fetch_add(1, Ordering::Relaxed);
        let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        if after > thresholds >> 32 {
            cell.above_p95.fetch_add(1, Ordering::Relaxed);
        }
        if after > thresholds & LONGEST {
            cell.above_p99.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_counted_is_collected_once_under_its_step() {
        let counters = Counters::new();
        counters.begin_step(1);
        counters.count(0, Side::Stable, 1, Outcome::Success(MS));
        counters.begin_step(2);
        for (side, outcome) in [
            (Side::Stable, Outcome::Success(MS)),
            (Side::Candidate, Outcome::Failure),
            (Side::Candidate, Outcome::Success(MS)),
        ] {
            assert!(counters.count(3, side, 2, outcome));
        }
        counters.count(0, Side::Candidate, 1, Outcome::Failure);
        let batches = counters.collect();
        let of = |stratum, step| {
            let found = batches.iter().find(|(s, n, _)| (*s, *n) == (stratum, step));
            let (_, _, sides) = found.unwrap();
            [sides.stable.requests(), sides.candidate.requests(), sides.candidate.failures]
        };
        assert_eq!((of(0, 1), of(3, 2)), ([1, 1, 1], [1, 2, 1]));
        assert_eq!((batches.len(), batches[0].1), (2, 1), "older steps first");
        assert!(counters.collect().is_empty());
        assert!(counters.count(stratum_of(99), Side::Stable, 2, Outcome::Failure));
        assert_eq!(counters.collect()[0].0, MOST_STRATA - 1, "routes after the 64th count as it");
    }

    #[test]
    fn what_was_sent_too_many_steps_ago_is_left_out() {
        let counters = Counters::new();
        (1..=5).for_each(|step| counters.begin_step(step));
        assert!(!counters.count(0, Side::Stable, 1, Outcome::Failure));
        assert!(counters.count(0, Side::Stable, 2, Outcome::Failure));
        counters.begin_step(6);
        assert!(counters.collect().is_empty(), "its place was given away");
        assert!(!counters.count(0, Side::Stable, 9, Outcome::Failure), "not begun");
    }

    #[test]
    fn answers_are_compared_with_the_thresholds_of_their_route() {
        let counters = Counters::new();
        counters.begin_step(1);
        counters.count(0, Side::Stable, 1, Outcome::Success(MS));
        counters.set_thresholds(0, Some(Thresholds { p95: 10 * MS, p99: 20 * MS }));
        for millis in [10, 11, 20, 21, 5_000_000] {
            counters.count(0, Side::Candidate, 1, Outcome::Success(millis * MS));
        }
        counters.count(1, Side::Candidate, 1, Outcome::Success(MS * 99));
        let batches = counters.collect();
        let Outcomes { timed, above_p95, above_p99, .. } = batches[0].2.candidate;
        assert_eq!((timed, above_p95, above_p99), (5, 4, 2));
        assert_eq!((batches[0].2.stable.timed, batches[1].2.candidate.timed), (0, 0));
        counters.count(0, Side::Candidate, 1, Outcome::Untimed);
        let untimed = counters.collect()[0].2.candidate;
        assert_eq!((untimed.successes, untimed.timed), (1, 0));
        assert_eq!(counters.thresholds(0), Some(Thresholds { p95: 10 * MS, p99: 20 * MS }));
        let times = counters.collect_times();
        assert_eq!((times[0].1.total(), times[0].2.total()), (1, 5));
        assert!(counters.collect_times().is_empty());
        counters.set_thresholds(0, None);
        assert_eq!(counters.thresholds(0), None);
        counters.count(0, Side::Candidate, 1, Outcome::Success(MS * 99));
        assert_eq!(counters.collect()[0].2.candidate.timed, 0);
    }

    #[test]
    fn threads_lose_nothing() {
        let counters = Counters::new();
        counters.begin_step(1);
        let mut sum = 0;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..10_000 {
                            counters.count(0, Side::Candidate, 1, Outcome::Failure);
                        }
                    })
                })
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                sum += counters
                    .collect()
                    .iter()
                    .map(|(.., sides)| sides.candidate.failures)
                    .sum::<u64>();
            }
        });
        sum += counters.collect().iter().map(|(.., sides)| sides.candidate.failures).sum::<u64>();
        assert_eq!(sum, 40_000);
    }
}
