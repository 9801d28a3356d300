//! What the live side of a blue-green rollout was like before a switch: the last requests, to judge the other side by.
//!
//! After a switch there is nobody left to compare with at the same moment. So each request of the side that became live is
//! compared with one of the other side's from before, each of which is used once. What holds then is weaker than in a canary:
//! that the world has not changed between. A common trouble that begins after the switch speaks against the new side.
//!
//! Bounded: [`MOST_SLOTS`] of counts, of a second and a route each.

use std::{collections::VecDeque, time::Duration};

use crate::rollout::analysis::Outcomes;

const MOST_SLOTS: usize = 4_096;
/// Answers are compared with thresholds that stand so long; what was counted under others says nothing of latency.
const EPOCH: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
struct Slot {
    second: u64,
    stratum: usize,
    outcomes: Outcomes,
}

/// The last requests of the live side.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    slots: VecDeque<Slot>,
    epoch: Option<Duration>,
}

impl Baseline {
    /// Adds what was counted.
    pub(super) fn add(&mut self, now: Duration, stratum: usize, outcomes: &Outcomes) {
        let second = now.as_secs();
        let slot = self.slots.iter_mut().rev().take_while(|slot| slot.second == second);
        if let Some(slot) = slot.into_iter().find(|slot| slot.stratum == stratum) {
            slot.outcomes.add(outcomes);
            return;
        }
        if self.slots.len() == MOST_SLOTS {
            self.slots.pop_front();
        }
        self.slots.push_back(Slot { second, stratum, outcomes: *outcomes });
    }

    /// Whether new thresholds are due. Then what was compared with the old ones is forgotten.
    pub(super) fn renews_thresholds(&mut self, now: Duration) -> bool {
        if self.epoch.is_some_and(|since| now < since + EPOCH) {
            return false;
        }
        self.epoch = Some(now);
        for Slot { outcomes, .. } in &mut self.slots {
            (outcomes.timed, outcomes.above_p95, outcomes.above_p99) = (0, 0, 0);
        }
        true
    }

    /// New thresholds are due at the next question.
    pub(super) fn forget_thresholds(&mut self) {
        self.epoch = None;
    }

    /// Takes out requests of a route, the oldest first, until they are as many as `requests`, or there are none.
    pub(super) fn take(&mut self, stratum: usize, requests: u64) -> Outcomes {
        let mut taken = Outcomes::default();
        while taken.requests() < requests {
            let Some(place) = self.slots.iter().position(|slot| slot.stratum == stratum) else {
                break;
            };
            let Some(slot) = self.slots.remove(place) else { break };
            taken.add(&slot.outcomes);
        }
        taken
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many requests there are.
    pub(super) fn requests(&self) -> u64 {
        self.slots.iter().map(|slot| slot.outcomes.requests()).sum()
    }
}
