//! A configuration comes into force: what a canary's state means under another plan.
//!
//! A revision begins once. The file names one; what became of it before, and of those before it, is remembered, so that a
//! configuration that is rolled back, and comes again, changes nothing.

use super::{
    event::EventKind,
    machine::Machine,
    progress::{Ended, Phase, Progress},
};
use crate::rollout::analysis::Analysis;

impl Machine {
    pub(super) fn adopt_canary(&mut self) {
        let plan = self.plan.clone();
        let is_of_blue_green =
            self.progress.phase.is_blue_green() || self.progress.target.is_some();
        if is_of_blue_green {
            self.progress = Progress::default();
        }
        if self.progress.phase == Phase::Promoted
            && self.progress.live.as_ref() == Some(&plan.stable)
        {
            // The file agrees now.
            self.progress.phase = Phase::Steady;
            self.progress.live = None;
            self.progress.reason = None;
        }
        // Without a candidate everything goes to the stable, and the state waits for the file to come back.
        let Some(candidate) = &plan.candidate else { return };
        if self.progress.revision == plan.revision {
            self.find_step();
            return;
        }
        self.put_away();
        let before = std::mem::take(&mut self.progress);
        let past = plan.revision.as_ref().and_then(|revision| before.past_of(revision)).cloned();
        self.progress =
            Progress { revision: plan.revision.clone(), past: before.past, ..Progress::default() };
        self.analysis = Analysis::new(&self.settings);
        match past {
            Some(past) if past.ended == Ended::TakenBack => {
                self.progress.phase = Phase::RolledBack;
                self.reason("this revision was taken back before; a new one starts again".into());
            }
            Some(past) if past.ended == Ended::Promoted => {
                let is_candidate = past.live.as_ref() == Some(candidate);
                self.progress.phase = if is_candidate { Phase::Promoted } else { Phase::Steady };
                self.progress.live = past.live.filter(|_| is_candidate);
            }
            _ if self.is_unknown => {
                self.progress.phase = Phase::NotStarted;
                self.reason("nothing is known of what was before: a person must start it".into());
            }
            _ => self.start(),
        }
    }

    /// The attempt begins with its preflight.
    pub(super) fn start(&mut self) {
        self.progress.phase = Phase::Preflight;
        self.progress.reason = None;
        self.tell(EventKind::Started, "the candidate is looked at before it gets any request");
    }

    /// Remembers the present attempt, before another revision takes its place.
    fn put_away(&mut self) {
        let Some(revision) = self.progress.revision.clone() else { return };
        let ended = match self.progress.phase {
            Phase::RolledBack | Phase::Aborted => Ended::TakenBack,
            Phase::Promoted => Ended::Promoted,
            // It is remembered from when it was promoted.
            Phase::Steady => return,
            _ => Ended::Replaced,
        };
        let live = self.progress.live.clone();
        self.progress.remember(revision, ended, live);
    }

    /// The same attempt under a plan with other steps: the last one whose share is not above what the candidate has.
    fn find_step(&mut self) {
        let (has_mirror, has_steps) =
            (self.plan.strategy.mirror().is_some(), !self.plan.strategy.steps().is_empty());
        match self.progress.phase {
            // There are no copies any more: what the canary begins with comes first.
            Phase::Mirror if !has_mirror => self.progress.phase = Phase::Preflight,
            Phase::Step if !has_steps => {
                self.progress.phase = Phase::Preflight;
                self.progress.share = 0;
            }
            _ => {}
        }
        if !has_steps {
            return;
        }
        if !matches!(self.progress.phase, Phase::Step | Phase::Ready) {
            return;
        }
        let plan = self.plan.clone();
        let steps = plan.strategy.steps();
        let share_of = |place: usize| steps.get(place).map(|step| step.share.millionths());
        let is_last = self.progress.step + 1 == steps.len();
        if share_of(self.progress.step) == Some(self.progress.share) {
            if self.progress.phase == Phase::Ready && !is_last {
                self.progress.phase = Phase::Step;
            }
            return;
        }
        let place = steps.iter().rposition(|step| step.share.millionths() <= self.progress.share);
        self.progress.phase = Phase::Step;
        self.progress.step = place.unwrap_or_default();
        self.progress.share = share_of(self.progress.step).unwrap_or_default();
        self.progress.passed = std::time::Duration::ZERO;
        self.progress.compared_before = 0;
        self.progress.is_resumed = false;
    }
}
