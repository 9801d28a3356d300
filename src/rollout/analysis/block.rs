//! Blocks: counts of both sides under one split, joined until both sides have enough to be compared.
//!
//! Invariant: when a block ends is decided by numbers of requests, steps and time only, never by what became of the
//! requests. That is what lets [`super::bet`] take the numbers of requests as given.
//!
//! A try that is answered late, after its step, is compared with others of its own step: blocks of the newest step and
//! of the one before it are open at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    counts::{Batch, Outcomes, Sides},
    verdict::Criterion,
};

/// Requests of the candidate that a block has at least. Fewer make the split of a block a matter of chance, which costs
/// power; more delay the verdict.
const LEAST_CANDIDATE: u64 = 4;
/// A block that both sides are in ends after this time, with however few requests.
const LONGEST: Duration = Duration::from_secs(5);

/// Requests of one side in a block, and those with an event: a failure or a slow answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    /// Requests.
    pub trials: u64,
    /// Those with the event; at most `trials`.
    pub events: u64,
}

impl Trials {
    /// A count that says more events than trials is taken as all of them.
    pub fn new(trials: u64, events: u64) -> Self {
        Self { trials, events: events.min(trials) }
    }
}

/// What is compared: both sides at the same moment, under the same split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The candidate's part.
    pub candidate: Trials,
    /// The stable's part.
    pub stable: Trials,
}

impl Block {
    /// What a criterion counts of both sides.
    pub(super) fn of(sides: &Sides, criterion: Criterion) -> Self {
        let trials = |side: &Outcomes| match criterion {
            Criterion::Failures => Trials::new(side.requests(), side.failures),
            Criterion::AboveP95 => Trials::new(side.timed, side.above_p95),
            Criterion::AboveP99 => Trials::new(side.timed, side.above_p99),
        };
        Self { candidate: trials(&sides.candidate), stable: trials(&sides.stable) }
    }

    /// Whether both sides are there; with one alone there is nothing to compare.
    pub(super) fn has_both_sides(&self) -> bool {
        self.candidate.trials > 0 && self.stable.trials > 0
    }

    /// Requests of the candidate for one of the stable.
    pub(super) fn split(&self) -> f64 {
        self.candidate.trials as f64 / self.stable.trials.max(1) as f64
    }

    /// Events of both sides.
    pub(super) fn events(&self) -> u64 {
        self.candidate.events.saturating_add(self.stable.events)
    }
}

/// A block that is not full yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    step: u32,
    since: Duration,
    counts: Sides,
}

/// The open blocks of one stratum.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    newest: u32,
    /// Of the newest step and the one before it, by the step's lowest bit.
    open: [Option<Open>; 2],
}

impl Blocks {
    /// Leaves out what belongs to a step more than one before this.
    pub(super) fn from_step(newest: u32) -> Self {
        Self { newest, open: [None, None] }
    }

    /// Adds a batch. Gives the blocks that ended: first one of a step that is over, then the batch's own.
    pub(super) fn add(&mut self, now: Duration, batch: &Batch) -> [Option<Sides>; 2] {
        let step = batch.window.step;
        if step.saturating_add(1) < self.newest {
            return [None, None]; // Later than an answer should be: nothing of its time is left to compare it with.
        }
        self.newest = self.newest.max(step);
        let [even, odd] = &mut self.open;
        let slot = if step.is_multiple_of(2) { even } else { odd };
        let over = slot.take_if(|open| open.step != step).map(|open| open.counts);
        let open = slot.get_or_insert(Open { step, since: now, counts: Sides::default() });
        open.counts.add(&batch.sides);
        let old = now.saturating_sub(open.since) >= LONGEST;
        let full = both_have(&open.counts, LEAST_CANDIDATE) || (old && both_have(&open.counts, 1));
        let ended = if full { slot.take().map(|open| open.counts) } else { None };
        [over.filter(|counts| both_have(counts, 1)), ended]
    }
}

fn both_have(counts: &Sides, candidate: u64) -> bool {
    counts.candidate.requests() >= candidate && counts.stable.requests() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::analysis::counts::Window;

    fn batch(step: u32, candidate: u64, stable: u64) -> Batch {
        let side = |successes| Outcomes { successes, ..Outcomes::default() };
        let window = Window { step, stratum: 0, interval: 0 };
        Batch { window, sides: Sides { stable: side(stable), candidate: side(candidate) } }
    }

    /// Requests of candidate and stable in each block that ended.
    fn ended(blocks: [Option<Sides>; 2]) -> [Option<(u64, u64)>; 2] {
        blocks.map(|block| block.map(|b| (b.candidate.requests(), b.stable.requests())))
    }

    const START: Duration = Duration::ZERO;

    #[test]
    fn a_block_ends_when_both_sides_have_enough() {
        let mut blocks = Blocks::default();
        assert_eq!(ended(blocks.add(START, &batch(1, 3, 30))), [None, None]);
        assert_eq!(ended(blocks.add(START, &batch(1, 1, 5))), [None, Some((4, 35))]);
        assert_eq!(
            ended(blocks.add(START, &batch(1, 9, 0))),
            [None, None],
            "nothing to compare with"
        );
        assert_eq!(ended(blocks.add(START, &batch(1, 0, 1))), [None, Some((9, 1))]);
    }

    #[test]
    fn a_block_that_waited_long_ends_with_less() {
        let mut blocks = Blocks::default();
        assert_eq!(ended(blocks.add(START, &batch(1, 1, 9))), [None, None]);
        assert_eq!(ended(blocks.add(LONGEST, &batch(1, 0, 1))), [None, Some((1, 10))]);
        assert_eq!(ended(blocks.add(START, &batch(1, 0, 9))), [None, None]);
        assert_eq!(ended(blocks.add(LONGEST * 9, &batch(1, 0, 9))), [None, None]);
    }

    #[test]
    fn steps_are_not_mixed() {
        let mut blocks = Blocks::default();
        blocks.add(START, &batch(1, 2, 10));
        blocks.add(START, &batch(2, 3, 3));
        // A late answer finds the others of its step.
        assert_eq!(ended(blocks.add(START, &batch(1, 2, 1))), [None, Some((4, 11))]);
        blocks.add(START, &batch(1, 1, 1));
        assert_eq!(
            ended(blocks.add(START, &batch(3, 1, 0))),
            [Some((1, 1)), None],
            "step 1 is over"
        );
        // Step 2 still waits; step 1 is too long ago.
        assert_eq!(ended(blocks.add(START, &batch(1, 99, 99))), [None, None]);
        assert_eq!(ended(blocks.add(START, &batch(2, 1, 0))), [None, Some((4, 3))]);
        blocks.add(START, &batch(3, 9, 9));
        assert_eq!(
            ended(blocks.add(START, &batch(1, 99, 99))),
            [None, None],
            "even with no block open"
        );
    }

    #[test]
    fn a_new_beginning_leaves_out_what_was_before_it() {
        let mut blocks = Blocks::from_step(7);
        assert_eq!(ended(blocks.add(START, &batch(5, 9, 9))), [None, None]);
        assert_eq!(ended(blocks.add(START, &batch(7, 9, 9))), [None, Some((9, 9))]);
    }

    #[test]
    fn a_block_counts_what_the_criterion_is_about() {
        let side = Outcomes { successes: 90, failures: 10, timed: 80, above_p95: 7, above_p99: 2 };
        let sides = Sides { stable: side, candidate: Outcomes::default() };
        for (criterion, trials, events) in [
            (Criterion::Failures, 100, 10),
            (Criterion::AboveP95, 80, 7),
            (Criterion::AboveP99, 80, 2),
        ] {
            let block = Block::of(&sides, criterion);
            assert_eq!(block.stable, Trials { trials, events });
            assert!(!block.has_both_sides());
        }
        assert_eq!(Trials::new(3, 5), Trials { trials: 3, events: 3 });
    }
}
