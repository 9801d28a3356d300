//! A configuration comes into force: what a rollout's state means under another plan.
//!
//! A revision begins once. The file names one; what became of it before, and of those before it, is remembered, so that a
//! configuration that is rolled back, and comes again, changes nothing. Where the file asks for what would move all requests
//! at once, the state is left as it is, and the rollout stands still until the file, or a person, says what is meant.

use super::{
    event::EventKind,
    hold::Hold,
    machine::Machine,
    progress::{Ended, Past, Phase, Progress},
};
use crate::{
    rollout::{
        analysis::Analysis,
        plan::{RolloutConfig, Strategy},
    },
    types::Name,
};

impl Machine {
    pub(super) fn take_plan(&mut self) {
        self.standstill = None;
        match self.plan.strategy {
            Strategy::Canary(_) | Strategy::Mirror(_) => self.adopt_canary(),
            Strategy::BlueGreen(_) => self.adopt_blue_green(),
        }
    }

    fn adopt_canary(&mut self) {
        let plan = self.plan.clone();
        if self.progress.phase == Phase::Promoted
            && self.progress.live.as_ref() == Some(&plan.stable)
        {
            // The file agrees now.
            self.progress.phase = Phase::Steady;
            self.progress.live = None;
            self.progress.reason = None;
        }
        if self.progress.live != plan.candidate {
            self.progress.leave();
        }
        // Without a candidate everything goes to the stable, and the state waits for the file to come back.
        let Some(candidate) = &plan.candidate else { return };
        if self.progress.is_of_blue_green() {
            self.leave_blue_green(candidate);
        }
        if self.progress.revision == plan.revision {
            self.go_on_with(&plan, candidate);
            return;
        }
        let past = plan.revision.as_ref().and_then(|revision| self.progress.past_of(revision));
        let past = past.filter(|past| past.ended != Ended::Replaced).cloned();
        // To begin, or to go on with what was promoted before, would take all requests from what has them. What was taken back is at
        // 0 whatever has become of others.
        let moves = |live: &&Name| {
            past.as_ref().is_none_or(|past| {
                past.ended == Ended::Promoted && past.live.as_ref() != Some(*live)
            })
        };
        if let Some(live) = self.progress.promoted().filter(moves) {
            self.standstill = Some(Hold::StillPromoted { live: live.clone() });
            return;
        }
        self.put_away();
        let before = std::mem::take(&mut self.progress);
        self.progress = Progress {
            revision: plan.revision.clone(),
            upstreams: Some((plan.stable.clone(), candidate.clone())),
            past: before.past,
            ..Progress::default()
        };
        self.analysis = Analysis::new(&self.settings);
        match past {
            Some(past) => self.come_back(&past, candidate),
            None if self.is_unknown => {
                self.progress.phase = Phase::NotStarted;
                self.reason("nothing is known of what was before: a person must start it".into());
            }
            None => self.start(),
        }
    }

    /// The file names a revision again, of which is known how it ended.
    fn come_back(&mut self, past: &Past, candidate: &Name) {
        // A later promotion of something else has taken the place of an earlier one.
        let is_last = self.progress.last_promoted().is_none_or(|last| last == &past.revision);
        match (past.ended, &past.live) {
            (Ended::Promoted, Some(live)) if live == candidate && is_last => {
                self.progress.phase = Phase::Promoted;
                self.progress.live = Some(live.clone());
            }
            (Ended::Promoted, _) => {
                self.progress.phase = Phase::Steady;
                self.reason("this revision was promoted before; a new one starts again".into());
            }
            (Ended::TakenBack | Ended::Replaced, _) => {
                self.progress.phase = Phase::RolledBack;
                self.reason("this revision was taken back before; a new one starts again".into());
            }
        }
    }

    /// The same attempt, under a plan that may be another.
    fn go_on_with(&mut self, plan: &RolloutConfig, candidate: &Name) {
        let upstreams = (plan.stable.clone(), candidate.clone());
        let own = self.progress.upstreams.get_or_insert_with(|| upstreams.clone()).clone();
        if self.progress.phase == Phase::Steady {
            // The file agreed with what was promoted, and is again what it was before.
            let past = plan.revision.as_ref().and_then(|revision| self.progress.past_of(revision));
            if let Some(past) = past.cloned().filter(|past| past.live.as_ref() == Some(candidate)) {
                self.come_back(&past, candidate);
                return;
            }
        }
        if own == upstreams {
            self.progress.is_out_of_force = false;
            self.find_step();
            return;
        }
        self.standstill = plan.revision.clone().map(|revision| Hold::OtherUpstreams {
            revision,
            stable: own.0,
            candidate: own.1,
        });
    }

    /// Blue-green ends. What was live is live on, where the new plan has it; a promotion from before it that a person has switched
    /// away from is over.
    fn leave_blue_green(&mut self, candidate: &Name) {
        let mut before = std::mem::take(&mut self.progress);
        let live = before.live.filter(|live| live == candidate);
        if live.is_none() {
            let promoted = before.past.iter_mut().filter(|past| past.ended == Ended::Promoted);
            promoted
                .filter(|past| past.live.as_ref() == Some(candidate))
                .for_each(|past| past.ended = Ended::TakenBack);
        }
        let phase = if live.is_some() { Phase::Promoted } else { Phase::Steady };
        self.progress = Progress { phase, live, past: before.past, ..Progress::default() };
        self.analysis = Analysis::new(&self.settings);
    }

    pub(super) fn adopt_blue_green(&mut self) {
        let plan = self.plan.clone();
        let Strategy::BlueGreen(blue_green) = &plan.strategy else { return };
        // Without its other side everything goes to the stable, and the state waits for the file to come back.
        let Some(candidate) = &plan.candidate else { return };
        let is_side = |name: &Name| *name == plan.stable || name == candidate;
        if !self.progress.is_of_blue_green() {
            self.put_away();
            let Progress { live, past, .. } = std::mem::take(&mut self.progress);
            self.progress = Progress { phase: Phase::Live, live, past, ..Progress::default() };
            self.analysis = Analysis::new(&self.settings);
        }
        self.progress.revision.clone_from(&plan.revision);
        let is_gone = |name: &Option<Name>| name.as_ref().is_some_and(|name| !is_side(name));
        if is_gone(&self.progress.live) || is_gone(&self.progress.target) {
            // What is not in the plan can't be live, nor become it.
            self.progress.phase = Phase::Live;
            (self.progress.target, self.progress.is_paused) = (None, false);
            self.analysis = Analysis::new(&self.settings);
        }
        let other = [&plan.stable, candidate]
            .into_iter()
            .find(|side| self.progress.live.as_ref() != Some(side));
        if self.progress.returns_to.as_ref().is_some_and(|before| Some(before) != other) {
            // Nobody has looked at what is the other side now: nothing returns to it by itself.
            self.progress.phase = Phase::Live;
            (self.progress.returns_to, self.progress.is_paused) = (None, false);
            self.analysis = Analysis::new(&self.settings);
        }
        // What the file says counts once, where nothing is known. Then a person switches.
        let live = self.progress.live.take().filter(is_side);
        self.progress.live = live.or_else(|| Some(blue_green.live.clone()));
    }

    /// Why this plan must not come into force now, if so: it would take all requests at once from what a person has decided to
    /// give them to, and have nobody look at what gets them.
    pub(in crate::rollout) fn objection(&self, plan: &RolloutConfig) -> Option<String> {
        let candidate = plan.candidate.as_ref()?;
        let live = self.progress.live.as_ref().filter(|_| self.file_differs())?;
        if self.upstream_of(self.live_side()) != *live {
            // It has none: the plan in force does not name it either.
            return None;
        }
        let is_side = *live == plan.stable || live == candidate;
        let undo = match self.plan.strategy {
            Strategy::BlueGreen(_) => "`switch` to the other side",
            Strategy::Canary(_) | Strategy::Mirror(_) => "`abort` it",
        };
        (!is_side).then(|| {
            format!(
                "\"{live}\" has all requests of this rollout, and the plan does not name it: \"{}\" would get them at once; write `stable = \"{live}\"`, or {undo} first",
                plan.stable
            )
        })
    }

    /// The attempt begins with its preflight.
    pub(super) fn start(&mut self) {
        self.progress.phase = Phase::Preflight;
        self.progress.reason = None;
        self.tell(EventKind::Started, "the candidate is looked at before it gets any request");
    }

    /// Remembers the present attempt, before another one takes its place.
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
