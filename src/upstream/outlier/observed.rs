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

use super::{
    Outliers,
    chance::{is_chance, is_usual},
    compare::{Seen, Tally},
    networks::{self, SLOTS},
    votes::Votes,
};
use crate::{telemetry::metrics::Fault, types::ClientNetwork};

/// Of one network's failures in a run so many are counted.
const MOST_IN_RUN: u32 = 0xff;

/// What a client network saw of the endpoint.
#[derive(Debug, Default)]
struct Slot {
    votes: Votes,
    /// Failures in the present run, in the lower 8 bits, and the run's number.
    run: AtomicU32,
    /// Failures of the network at all endpoints when the run began.
    failures_before: AtomicU32,
    /// A running median of the times to an answer, in microseconds.
    median: AtomicU32,
}

/// What a try shows of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Judgement {
    /// It is not known to fail.
    Fine,
    /// It has failed too many tries in a row, but the others may be no better.
    Run,
    /// It [fails](Observed::is_failing).
    Fails,
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
    /// Good tries and refused connections of the whole upstream when the run began.
    successes_before: AtomicU64,
    refused_before: AtomicU64,
}

impl Observed {
    /// Takes what became of a try, and says what it shows.
    pub(in crate::upstream) fn judge(
        &self,
        upstream: &Outliers,
        outcome: Result<(), Fault>,
        network: Option<ClientNetwork>,
    ) -> Judgement {
        let Some(limit) = upstream.consecutive() else { return Judgement::Fine };
        let hash = ClientNetwork::spread(network);
        upstream.count(hash, outcome.is_ok());
        let Some(slot) = self.slot(hash) else { return Judgement::Fine };
        slot.votes.count(outcome.is_ok(), upstream.window());
        match outcome {
            Ok(()) => {
                upstream.succeeded();
                if self.run_length() > 0 {
                    self.end_run();
                }
                Judgement::Fine
            }
            // It answers: whether it does so worse than its siblings is seen over the window.
            Err(Fault::ServerError) => Judgement::Fine,
            Err(fault) => {
                self.add_to_run(hash, upstream, fault);
                if self.is_failing(upstream, limit) {
                    Judgement::Fails
                } else if self.run_length() >= limit {
                    Judgement::Run
                } else {
                    Judgement::Fine
                }
            }
        }
    }

    /// Failures since the last good try.
    pub(in crate::upstream) fn run_length(&self) -> u32 {
        self.run_length.load(Ordering::Relaxed)
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
        let Some(slot) = self.slot(ClientNetwork::spread(network)) else { return };
        let sample = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        // A step towards each sample, whatever its distance, ends where as many are above as below (Ma, Muthukrishnan,
        // Sandler, "Frugal Streaming for Estimating Quantiles", 2013); steps of a sixteenth follow any scale.
        // It goes on from window to window while its network comes, since few requests of each move it; what an endpoint
        // took longer ago says nothing of now.
        let is_recent = slot.votes.lately(upstream.window()).requests > 0;
        let median = if is_recent { slot.median.load(Ordering::Relaxed) } else { 0 };
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
    /// Of what a client can cause, one of `n` networks counts at most `limit / n`, rounded up, and the siblings' tries must make it
    /// unlikely that the run is chance: where nobody else had a good answer since it began, nothing speaks against this endpoint.
    /// `limit` refused connections are enough where nobody else was asked meanwhile.
    pub(in crate::upstream) fn is_failing(&self, upstream: &Outliers, limit: u32) -> bool {
        if self.run_length() < limit {
            return false;
        }
        let refused = self.run_refused.load(Ordering::Relaxed);
        let networks = upstream.networks();
        let most = limit.div_ceil(networks);
        let (counted, all, largest) = self.slots().map(|slot| self.in_run(slot)).fold(
            (refused, refused, 0),
            |(counted, all, largest): (u32, u32, u32), run| {
                (counted.saturating_add(run.min(most)), all.saturating_add(run), run.max(largest))
            },
        );
        if counted < limit {
            return false;
        }
        let has_several = networks > 1;
        // A longer run is less likely chance, but not by what one network adds to it.
        let run = if has_several { all - largest + largest.min(most) } else { all };
        let since = self.siblings_since(upstream, has_several);
        let lately = self.siblings_lately(upstream, has_several);
        if refused >= limit && since.requests == 0 {
            return !is_usual(run, lately);
        }
        !is_chance(run, since, lately)
    }

    /// The siblings' tries since the run began. Of several networks one may do nothing but fail everywhere: the failures of that
    /// which has most of them are no measure.
    fn siblings_since(&self, upstream: &Outliers, has_several: bool) -> Tally {
        let failed = upstream.slots().iter().zip(self.slots()).map(|(all, mine)| {
            match self.in_run(mine) {
                // Not counted any further: no telling which of them are the siblings'.
                MOST_IN_RUN => 0,
                own => {
                    let before = mine.failures_before.load(Ordering::Relaxed);
                    let all = all.failures.load(Ordering::Relaxed).wrapping_sub(before);
                    u64::from(all.saturating_sub(own))
                }
            }
        });
        let (all, most) = failed.fold((0, 0), |(all, most), one| (all + one, one.max(most)));
        let (successes, refused) = upstream.totals();
        let refused = refused
            .saturating_sub(self.refused_before.load(Ordering::Relaxed))
            .saturating_sub(self.run_refused.load(Ordering::Relaxed).into());
        let good = successes.saturating_sub(self.successes_before.load(Ordering::Relaxed));
        let failures = refused + if has_several { all - most } else { all };
        Tally { requests: good + failures, failures }
    }

    /// The siblings' tries in this window and the one before it, without those of the network that fails most there.
    fn siblings_lately(&self, upstream: &Outliers, has_several: bool) -> Tally {
        let window = upstream.window();
        let each = upstream
            .slots()
            .iter()
            .zip(self.slots())
            .map(|(all, mine)| all.votes.lately(window).without(mine.votes.lately(window)));
        let (all, worst) = each.fold((Tally::default(), Tally::default()), |(all, worst), one| {
            (all.and(one), if one.failures > worst.failures { one } else { worst })
        });
        if has_several { all.without(worst) } else { all }
    }

    /// What happened before counts no more.
    pub(in crate::upstream) fn forget(&self) {
        self.end_run();
        for slot in self.slots() {
            slot.votes.forget();
            slot.median.store(0, Ordering::Relaxed);
        }
    }

    /// What was seen in a window, as a copy.
    pub(in crate::upstream) fn seen(&self, window: u16) -> Seen {
        let mut seen = Seen::default();
        for (index, slot) in self.slots().enumerate() {
            if let Some(tally) = slot.votes.of(window) {
                seen.add(index, tally, slot.median.load(Ordering::Relaxed));
            }
        }
        seen
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.get().into_iter().flat_map(|slots| slots.iter())
    }

    fn slot(&self, hash: u64) -> Option<&Slot> {
        let slots = self.slots.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::default())));
        slots.get(networks::slot_of(hash))
    }

    /// Failures of a slot in the present run.
    fn in_run(&self, slot: &Slot) -> u32 {
        let number = self.run_number.load(Ordering::Relaxed) << 8;
        let run = slot.run.load(Ordering::Relaxed);
        if run & !0xff == number { run & 0xff } else { 0 }
    }

    fn add_to_run(&self, hash: u64, upstream: &Outliers, fault: Fault) {
        if self.run_length.fetch_add(1, Ordering::Relaxed) == 0 {
            let (successes, refused) = upstream.totals();
            self.successes_before.store(successes, Ordering::Relaxed);
            self.refused_before.store(refused, Ordering::Relaxed);
            for (mine, all) in self.slots().zip(upstream.slots()) {
                mine.failures_before.store(all.failures.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        if fault == Fault::Connect {
            upstream.was_refused();
            self.run_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(all) = upstream.slots().get(networks::slot_of(hash)) {
            all.failures.fetch_add(1, Ordering::Relaxed);
        }
        let Some(slot) = self.slot(hash) else { return };
        let number = self.run_number.load(Ordering::Relaxed) << 8;
        let next = number | (self.in_run(slot) + 1).min(MOST_IN_RUN);
        slot.run.store(next, Ordering::Relaxed);
    }

    fn end_run(&self) {
        self.run_number.fetch_add(1, Ordering::Relaxed);
        self.run_length.store(0, Ordering::Relaxed);
        self.run_refused.store(0, Ordering::Relaxed);
    }
}
