//! The stage of a mirror: copies before the first step of a canary, or alone.

use std::time::Duration;

use super::{
    event::EventKind,
    hold::Hold,
    machine::{Facts, Machine},
    progress::Phase,
};
use crate::rollout::dial::Side;

impl Machine {
    /// The candidate has passed its preflight.
    pub(super) fn begin_traffic(&mut self, now: Duration) {
        let Some(stage) = self.plan.strategy.mirror().map(|mirror| mirror.stage) else {
            return self.begin_step(0, now);
        };
        let progress = &mut self.progress;
        progress.phase = Phase::Mirror;
        (progress.step, progress.share) = (0, 0);
        (progress.passed, progress.compared_before) = (Duration::ZERO, 0);
        self.hold = None;
        self.next_number(now);
        self.tell(
            EventKind::Step,
            format!(
                "copies of {} of the requests go to the candidate; clients get the stable's answers",
                stage.share
            ),
        );
    }

    /// While nothing speaks against the candidate.
    pub(super) fn go_on_mirroring(&mut self, now: Duration, facts: &Facts) {
        let Some(stage) = self.plan.strategy.mirror().map(|mirror| mirror.stage) else { return };
        self.hold = if self.progress.is_paused {
            Some(Hold::Paused)
        } else {
            self.outage_hold(Side::Candidate, facts)
                .or_else(|| self.verdict_hold(now, &stage))
                .or_else(|| self.step_hold(facts))
        };
        if self.hold.is_some() {
            return;
        }
        if self.plan.strategy.canary().is_some() {
            // Pairs say nothing of a candidate that serves by itself, nor the other way round.
            self.begin_window(now);
            self.begin_step(0, now);
            return;
        }
        self.progress.phase = Phase::Ready;
        self.begin_window(now);
        self.tell(
            EventKind::Ready,
            "the answers to the copies were as good as the live ones; no more copies are sent, and the candidate has served nobody",
        );
    }
}
