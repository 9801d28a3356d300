//! What is alive of an attempt to move traffic: the dial, the numbers that requests are dealt by, the counts.
//!
//! By rollout, revision and both upstreams: another attempt has a dial of its own, so that requests of the generation before
//! are not dealt by a dial that was meant for other upstreams.

use std::time::Instant;

use super::{
    analysis::{LatencyCounts, Sides, Thresholds},
    clients::{ClientLimits, Counts, Kind, Limits},
    counters::{Counters, Outcome},
    dial::{Dial, Reading, Side, Turns},
    mirror::Copies,
};
use crate::types::{ClientNetwork, Name, Percent};

/// What makes an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// The rollout.
    pub rollout: Name,
    /// Its revision.
    pub revision: Option<Name>,
    /// The stable upstream.
    pub stable: Name,
    /// The candidate.
    pub candidate: Name,
}

/// The live state of an attempt. The request path reads the dial and counts; only the controller writes the dial.
#[derive(Debug)]
pub struct Attempt {
    key: AttemptKey,
    dial: Dial,
    turns: Turns,
    counters: Counters,
    clients: ClientLimits,
    copies: Copies,
}

impl Attempt {
    /// An attempt in which the candidate has nothing yet.
    pub fn new(key: AttemptKey, now: Instant) -> Self {
        Self {
            key,
            dial: Dial::default(),
            turns: Turns::new(fastrand::u64(..)),
            counters: Counters::new(),
            clients: ClientLimits::new(now),
            copies: Copies::default(),
        }
    }

    /// What it is.
    pub fn key(&self) -> &AttemptKey {
        &self.key
    }

    /// The candidate's share.
    pub fn reading(&self) -> Reading {
        self.dial.read()
    }

    /// A number to deal a request by.
    pub(super) fn next_number(&self) -> u64 {
        self.turns.next()
    }

    /// Sets the candidate's share from now on. `step` grows with every call.
    pub fn set(&self, share: Percent, step: u32, is_in_play: bool) {
        // Before the first request of the step is dealt.
        self.counters.begin_step(step);
        self.dial.set(share, step, is_in_play);
    }

    /// From now on copies of requests go to the candidate, and nothing else.
    pub(super) fn mirror(&self, step: u32) {
        self.counters.begin_step(step);
        self.dial.mirror(step);
    }

    /// What is known of copies.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Takes everything back from the candidate, at once; nothing else is done before it.
    pub(super) fn take_back(&self, step: u32) {
        self.dial.set(Percent::whole(0), step, false);
        self.counters.begin_step(step);
    }

    pub(super) fn count(&self, stratum: usize, side: Side, step: u32, outcome: Outcome) -> bool {
        self.counters.count(stratum, side, step, outcome)
    }

    /// What counts of a try of this client network.
    pub(super) fn take(
        &self,
        network: Option<ClientNetwork>,
        kind: Kind,
        limits: Limits,
        now: Instant,
    ) -> Counts {
        self.clients.take(network, kind, limits, now)
    }

    /// Tries of which nothing counted, because their clients had failed too often.
    pub(super) fn left_out(&self) -> u64 {
        self.clients.left_out()
    }

    /// The p95 and p99 of a stratum, where they are known.
    pub(super) fn thresholds(&self, stratum: usize) -> Option<Thresholds> {
        self.counters.thresholds(stratum)
    }

    pub(super) fn collect(&self) -> Vec<(usize, u32, Sides)> {
        self.counters.collect()
    }

    pub(super) fn collect_times(&self) -> Vec<(usize, LatencyCounts, LatencyCounts)> {
        self.counters.collect_times()
    }

    pub(super) fn set_thresholds(&self, stratum: usize, thresholds: Option<Thresholds>) {
        self.counters.set_thresholds(stratum, thresholds);
    }
}
