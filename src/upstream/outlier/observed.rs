//! What was seen of one endpoint: its run of failures, and for each client network how its tries ended in this window.
//!
//! Bounded: [`SLOTS`] networks are told apart, others share a slot and so count as one, which only makes the detection
//! slower. Lock-free; where two tries race at the edge of a window or a run, one may be lost.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Outliers, compare::Tally, networks};
use crate::{telemetry::metrics::Fault, types::ClientNetwork};

/// Networks that are told apart at one endpoint.
pub(super) const SLOTS: usize = 64;

/// A run of failures speaks against the endpoint when it would come by chance, at the siblings' present rate of failures,
/// with at most this probability.
const CHANCE: f64 = 0.02;

/// One network's tries in a window: good ones in the upper 24 bits, failed ones in the next 24, the window in the lower 16.
#[derive(Clone, Copy)]
struct Votes(u64);

impl Votes {
    const GOOD: u64 = 1 << 40;
    const FAILED: u64 = 1 << 16;

    fn window(self) -> u16 {
        self.0 as u16
    }

    fn good(self) -> u64 {
        self.0 >> 40
    }

    fn failed(self) -> u64 {
        (self.0 >> 16) & 0xff_ffff
    }
}

/// What a client network saw of the endpoint.
#[derive(Debug, Default)]
struct Slot {
    votes: AtomicU64,
    /// Failures in the present run, in the lower 8 bits, and the run's number.
    run: AtomicU32,
    /// A running median of the times to an answer, in microseconds.
    median: AtomicU32,
}

/// What was seen of one endpoint.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Observed {
    /// Made for the first try.
    slots: OnceLock<Box<[Slot; SLOTS]>>,
    /// Failures since the last good try.
    run_length: AtomicU32,
    /// Those of them that no client can cause.
    run_refused: AtomicU32,
    run_number: AtomicU32,
    /// Good and failed tries of the whole upstream when the run began.
    successes_before: AtomicU64,
    failures_before: AtomicU64,
}

impl Observed {
    /// Takes what became of a try, and says whether the endpoint now [fails](Self::is_failing).
    pub(in crate::upstream) fn judge(
        &self,
        upstream: &Outliers,
        outcome: Result<(), Fault>,
        network: Option<ClientNetwork>,
    ) -> bool {
        let Some(limit) = upstream.consecutive() else { return false };
        let hash = networks::hash(network);
        upstream.see(hash);
        let Some(slot) = self.slot(hash) else { return false };
        let vote = if outcome.is_ok() { Votes::GOOD } else { Votes::FAILED };
        count(&slot.votes, vote, upstream.window());
        match outcome {
            Ok(()) => {
                upstream.succeeded();
                if self.run_length.load(Ordering::Relaxed) > 0 {
                    self.end_run();
                }
                false
            }
            // It answers: whether it does so worse than its siblings is seen over the window.
            Err(Fault::ServerError) => false,
            Err(fault) => {
                self.add_to_run(slot, upstream, fault);
                self.is_failing(upstream, limit)
            }
        }
    }

    /// Takes the time to the head of an answer.
    pub(in crate::upstream) fn answered_after(
        &self,
        upstream: &Outliers,
        after: Duration,
        network: Option<ClientNetwork>,
    ) {
        if !upstream.observes_latency() {
            return;
        }
        let Some(slot) = self.slot(networks::hash(network)) else { return };
        let sample = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        // A step towards each sample, whatever its distance, ends where as many are above as below (Ma, Muthukrishnan,
        // Sandler, "Frugal Streaming for Estimating Quantiles", 2013); steps of a sixteenth follow any scale.
        let median = slot.median.load(Ordering::Relaxed);
        let step = (median / 16).max(1);
        let next = match median {
            0 => sample,
            median if sample > median => median.saturating_add(step).min(sample),
            median => median.saturating_sub(step).max(sample),
        };
        slot.median.store(next, Ordering::Relaxed);
    }

    /// Whether the endpoint fails each try, while its siblings do not.
    ///
    /// `limit` refused connections are enough. Of what a client can cause, one of `n` networks counts at most `limit / n`,
    /// rounded up, and the siblings' tries since the run began must make it unlikely that the run is chance: where
    /// nobody else had a good answer meanwhile, nothing speaks against this endpoint.
    pub(in crate::upstream) fn is_failing(&self, upstream: &Outliers, limit: u32) -> bool {
        let length = self.run_length.load(Ordering::Relaxed);
        let refused = self.run_refused.load(Ordering::Relaxed);
        if length < limit {
            return false;
        }
        if refused >= limit {
            return true;
        }
        let networks = upstream.networks();
        let most = limit.div_ceil(networks);
        let number = self.run_number.load(Ordering::Relaxed) << 8;
        let counted: u32 = self
            .slots()
            .map(|slot| slot.run.load(Ordering::Relaxed))
            .filter(|run| run & !0xff == number)
            .map(|run| (run & 0xff).min(most))
            .sum();
        let counted = counted + refused;
        if counted < limit {
            return false;
        }
        let (successes, failures) = upstream.totals();
        let good = successes.saturating_sub(self.successes_before.load(Ordering::Relaxed));
        if good == 0 {
            return false;
        }
        // Of several networks one may do nothing but fail everywhere: its failures are no measure of the siblings.
        let failed = if networks > 1 {
            0
        } else {
            let all = failures.saturating_sub(self.failures_before.load(Ordering::Relaxed));
            all.saturating_sub(u64::from(length))
        };
        // Laplace's rule of succession: a little good news is not yet certainty.
        let rate = (failed + 1) as f64 / (good + failed + 2) as f64;
        rate.powi(i32::try_from(counted).unwrap_or(i32::MAX)) <= CHANCE
    }

    /// What happened before counts no more.
    pub(in crate::upstream) fn forget(&self) {
        self.end_run();
        for slot in self.slots() {
            slot.votes.store(0, Ordering::Relaxed);
            slot.median.store(0, Ordering::Relaxed);
        }
    }

    /// The tries of a window, without those of one slot.
    pub(super) fn tally(&self, window: u16, without: Option<usize>) -> Tally {
        let counted = self.votes(window).filter(|(index, _)| Some(*index) != without);
        counted.fold(Tally::default(), |tally, (_, votes)| Tally {
            requests: tally.requests + votes.good() + votes.failed(),
            failures: tally.failures + votes.failed(),
        })
    }

    /// Tries in a window.
    pub(in crate::upstream) fn requests(&self, window: u16) -> u64 {
        self.tally(window, None).requests
    }

    /// For each slot its failed and its good tries.
    pub(super) fn by_slot(&self, window: u16) -> [(u64, u64); SLOTS] {
        let mut all = [(0, 0); SLOTS];
        for (index, votes) in self.votes(window) {
            if let Some(slot) = all.get_mut(index) {
                *slot = (votes.failed(), votes.good());
            }
        }
        all
    }

    /// The medians of the networks that were here in this window, in microseconds.
    pub(super) fn medians(&self, window: u16) -> Vec<u32> {
        let medians = self.votes(window).filter_map(|(index, _)| {
            let slot = self.slots.get()?.get(index)?;
            Some(slot.median.load(Ordering::Relaxed)).filter(|median| *median > 0)
        });
        medians.collect()
    }

    fn votes(&self, window: u16) -> impl Iterator<Item = (usize, Votes)> {
        self.slots()
            .map(|slot| Votes(slot.votes.load(Ordering::Relaxed)))
            .enumerate()
            .filter(move |(_, votes)| votes.window() == window)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.get().into_iter().flat_map(|slots| slots.iter())
    }

    fn slot(&self, hash: u64) -> Option<&Slot> {
        let slots = self.slots.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::default())));
        // Other bits than those of the bitmap of networks.
        slots.get((hash >> 32) as usize % SLOTS)
    }

    fn add_to_run(&self, slot: &Slot, upstream: &Outliers, fault: Fault) {
        let (successes, failures) = upstream.totals();
        upstream.failed();
        if self.run_length.fetch_add(1, Ordering::Relaxed) == 0 {
            self.successes_before.store(successes, Ordering::Relaxed);
            self.failures_before.store(failures, Ordering::Relaxed);
        }
        if fault == Fault::Connect {
            self.run_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let number = self.run_number.load(Ordering::Relaxed) << 8;
        let before = slot.run.load(Ordering::Relaxed);
        let next = if before & !0xff == number {
            number | (before & 0xff).saturating_add(1).min(0xff)
        } else {
            number | 1
        };
        slot.run.store(next, Ordering::Relaxed);
    }

    fn end_run(&self) {
        self.run_number.fetch_add(1, Ordering::Relaxed);
        self.run_length.store(0, Ordering::Relaxed);
        self.run_refused.store(0, Ordering::Relaxed);
    }
}

/// Adds a vote; one of another window is the first of this one.
fn count(votes: &AtomicU64, vote: u64, window: u16) {
    let before = votes.load(Ordering::Relaxed);
    if Votes(before).window() == window && before != 0 {
        votes.fetch_add(vote, Ordering::Relaxed);
    } else {
        let first = vote | u64::from(window);
        // Of two that race the other one may have begun the window.
        if votes.compare_exchange(before, first, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            votes.fetch_add(vote, Ordering::Relaxed);
        }
    }
}
