//! A canary: up by steps, and back at once.

use std::time::Duration;

use super::{
    command::{Command, Refused},
    event::EventKind,
    hold::Hold,
    machine::{Facts, Machine, PreflightResult},
    progress::{Ended, Phase},
};
use crate::rollout::{
    analysis::{Goal, Verdict},
    checks::Standing,
    dial::Side,
    plan::Step,
    raw::Finish,
};

impl Machine {
    pub(super) fn look_at_canary(&mut self, now: Duration, passed: Duration, facts: &Facts) {
        match self.progress.phase {
            Phase::Preflight => {
                self.hold = self.before_first_step(facts);
                if self.hold.is_none() {
                    self.begin_traffic(now);
                }
            }
            Phase::Mirror => {
                if !self.takes_back(now, facts) {
                    self.progress.passed +=
                        if self.progress.is_paused { Duration::ZERO } else { passed };
                    self.go_on_mirroring(now, facts);
                }
            }
            // After a mirror alone the candidate has nothing that could be taken back.
            Phase::Ready if self.plan.strategy.canary().is_none() => self.hold = None,
            Phase::Step | Phase::Ready => {
                if !self.takes_back(now, facts) {
                    self.progress.passed +=
                        if self.progress.is_paused { Duration::ZERO } else { passed };
                    self.go_on(now, facts);
                }
            }
            _ => self.hold = None,
        }
    }

    fn before_first_step(&self, facts: &Facts) -> Option<Hold> {
        if self.progress.is_paused {
            return Some(Hold::Paused);
        }
        self.preflight_hold(Side::Candidate, facts).or_else(|| self.step_hold(facts))
    }

    /// Whether enough endpoints of a side have proven healthy, and answer what the plan lists.
    pub(super) fn preflight_hold(&self, side: Side, facts: &Facts) -> Option<Hold> {
        let (preflight, standing) = (&self.plan.preflight, facts.of(side));
        let have = standing.proven.min(standing.in_service);
        if have < preflight.min_endpoints as usize {
            return Some(Hold::CandidateEndpoints {
                have,
                need: preflight.min_endpoints,
                probes: preflight.healthy,
            });
        }
        match &facts.preflight {
            _ if !preflight.asks() => None,
            PreflightResult::Passed => None,
            PreflightResult::NotAsked | PreflightResult::Running => Some(Hold::Preflight),
            PreflightResult::Failed { text } => Some(Hold::PreflightFailed { text: text.clone() }),
        }
    }

    /// What other systems have yet to say.
    pub(super) fn check_hold(facts: &Facts) -> Option<Hold> {
        match &facts.checks {
            Standing::Hold { name, text } => {
                Some(Hold::Check { name: Some(name.clone()), text: text.clone() })
            }
            Standing::Waiting => {
                let text = "checks have yet to say whether the candidate does well".to_owned();
                Some(Hold::Check { name: None, text })
            }
            Standing::Good | Standing::Bad { .. } => None,
        }
    }

    /// What speaks against taking a step now.
    pub(super) fn step_hold(&self, facts: &Facts) -> Option<Hold> {
        let (have, need) = (facts.stable.in_service, self.plan.stable_min_endpoints);
        if have < need as usize {
            return Some(Hold::StableEndpoints { have, need });
        }
        let is_open = self.plan.schedule.as_ref().is_none_or(|open| open.is_open(facts.wall));
        (!is_open).then_some(Hold::Schedule)
    }

    /// Takes the candidate back where something speaks for it.
    fn takes_back(&mut self, now: Duration, facts: &Facts) -> bool {
        let text = if let Some(finding) = self.analysis.finding() {
            self.describe(finding)
        } else if let Standing::Bad { name, text } = &facts.checks {
            format!("the check \"{name}\" fails: {text}")
        } else if self.is_to_blame(Side::Candidate, now, facts) {
            "no endpoint of the candidate is in service".to_owned()
        } else {
            return false;
        };
        self.progress.phase = Phase::RolledBack;
        self.take_back(now, EventKind::RolledBack, text);
        true
    }

    fn take_back(&mut self, now: Duration, kind: EventKind, text: String) {
        self.hold = None;
        self.next_number(now);
        if let Some(revision) = self.progress.revision.clone() {
            self.progress.remember(revision, Ended::TakenBack, None);
        }
        self.progress.live = None;
        self.progress.is_paused = false;
        self.reason(text.clone());
        self.tell(kind, text);
    }

    /// The present step, while nothing speaks against the candidate.
    fn go_on(&mut self, now: Duration, facts: &Facts) {
        let steps = self.plan.strategy.steps();
        let Some(step) = steps.get(self.progress.step).copied() else { return };
        let is_ready = self.progress.phase == Phase::Ready;
        self.hold =
            self.outage_hold(Side::Candidate, facts).or_else(|| self.verdict_hold(now, &step));
        if self.progress.is_paused {
            self.hold = Some(Hold::Paused);
        }
        if is_ready || self.hold.is_some() {
            return;
        }
        if step.pause && !self.progress.is_resumed {
            self.hold = Some(Hold::Person);
            return;
        }
        self.hold = Self::check_hold(facts).or_else(|| self.step_hold(facts));
        if self.hold.is_some() {
            return;
        }
        let next = self.progress.step + 1;
        if next < steps.len() {
            self.begin_step(next, now);
            return;
        }
        match self.plan.strategy.canary() {
            Some(canary) if canary.finish == Finish::Promote => {
                self.promote(now, "all steps are done");
            }
            _ => {
                self.progress.phase = Phase::Ready;
                let text = format!(
                    "all steps are done: `tidegate rollout promote {}` gives the candidate all requests",
                    self.plan.name
                );
                self.tell(EventKind::Ready, text);
            }
        }
    }

    /// What the verdict and the step's own goals wait for.
    pub(super) fn verdict_hold(&self, now: Duration, step: &Step) -> Option<Hold> {
        let is_ready = self.progress.phase == Phase::Ready;
        let requests = step.requests.saturating_sub(self.progress.compared_before);
        // The step's time is counted here: an edge that was down, or a pause, does not add to it.
        let goal = Goal { requests, duration: Duration::ZERO };
        match self.analysis.verdict(now, goal) {
            Verdict::StableFails { stable, candidate } => {
                return Some(Hold::StableFails { stable, candidate });
            }
            // Without a share there is nothing to compare: it is for those who always get the candidate.
            Verdict::NotEnough(waiting) if !is_ready && step.share.millionths() > 0 => {
                return Some(waiting.into());
            }
            _ => {}
        }
        let (passed, needed) = (self.progress.passed, step.duration);
        (!is_ready && passed < needed).then_some(Hold::Time { passed, needed })
    }

    pub(super) fn begin_step(&mut self, place: usize, now: Duration) {
        let steps = self.plan.strategy.steps();
        let Some(step) = steps.get(place).copied() else { return };
        let text = format!(
            "{} of the requests go to the candidate (step {} of {})",
            step.share,
            place + 1,
            steps.len()
        );
        let progress = &mut self.progress;
        progress.phase = Phase::Step;
        (progress.step, progress.share) = (place, step.share.millionths());
        (progress.passed, progress.compared_before) = (Duration::ZERO, 0);
        progress.is_resumed = false;
        self.hold = None;
        self.next_number(now);
        self.tell(EventKind::Step, text);
    }

    fn promote(&mut self, now: Duration, why: &str) {
        self.progress.phase = Phase::Promoted;
        self.progress.live.clone_from(&self.plan.candidate);
        self.progress.is_paused = false;
        if let Some(revision) = self.progress.revision.clone() {
            let live = self.progress.live.clone();
            self.progress.remember(revision, Ended::Promoted, live);
        }
        self.hold = None;
        self.next_number(now);
        let candidate = self.plan.candidate.as_deref().unwrap_or_default();
        let text = format!(
            "{why}: \"{candidate}\" has all requests; write `stable = \"{candidate}\"` to the file to make it permanent"
        );
        self.reason(text.clone());
        self.tell(EventKind::Promoted, text);
    }

    pub(super) fn command_canary(
        &mut self,
        command: Command,
        now: Duration,
    ) -> Result<(), Refused> {
        use Phase as P;
        let phase = self.progress.phase;
        match (command, phase) {
            (Command::Start, P::NotStarted) => self.start(),
            (Command::Pause, P::Preflight | P::Mirror | P::Step | P::Ready)
                if !self.progress.is_paused =>
            {
                self.progress.is_paused = true;
                self.tell(
                    EventKind::Paused,
                    "no step is taken until it is resumed; the candidate is judged on",
                );
            }
            (Command::Resume, P::Preflight | P::Mirror | P::Step | P::Ready)
                if self.progress.is_paused =>
            {
                self.progress.is_paused = false;
                self.tell(EventKind::Resumed, "it goes on");
            }
            (Command::Resume, P::Step) if !self.progress.is_resumed && self.waits_for_person() => {
                self.progress.is_resumed = true;
                self.tell(EventKind::Resumed, "a person has let this step go on");
            }
            (Command::Promote, P::Step | P::Ready) if self.plan.strategy.canary().is_some() => {
                self.promote(now, "promoted by a person");
            }
            (
                Command::Abort,
                P::NotStarted | P::Preflight | P::Mirror | P::Step | P::Ready | P::Promoted,
            ) => {
                self.progress.phase = P::Aborted;
                self.take_back(
                    now,
                    EventKind::Aborted,
                    "a person has taken the candidate back; a new revision starts again".to_owned(),
                );
            }
            _ => return Err(self.refuse(command)),
        }
        Ok(())
    }

    fn waits_for_person(&self) -> bool {
        let step = self.plan.strategy.steps().get(self.progress.step);
        step.is_some_and(|step| step.pause)
    }

    fn refuse(&self, command: Command) -> Refused {
        use Phase as P;
        let name = &self.plan.name;
        let revision = self.progress.revision.as_deref().unwrap_or_default();
        let why = match (command, self.progress.phase) {
            (Command::Switch, _) => {
                "a canary has no sides to switch; use `promote` or `abort`".to_owned()
            }
            (_, P::RolledBack | P::Aborted) => format!(
                "revision \"{revision}\" was taken back and stays at 0; write a new `revision` to the file to start again"
            ),
            (_, P::Steady) => format!("revision \"{revision}\" is done"),
            (Command::Start, P::Promoted) => format!("revision \"{revision}\" is promoted already"),
            (Command::Start, _) => "it has been started already".to_owned(),
            (_, P::NotStarted) => {
                format!("it has not been started: `tidegate rollout start {name}`")
            }
            (Command::Pause | Command::Resume | Command::Promote, P::Promoted) => {
                "the candidate has all requests already".to_owned()
            }
            (Command::Pause, _) => "it is paused already".to_owned(),
            (Command::Resume, _) => "nothing waits for a person".to_owned(),
            (Command::Promote, P::Mirror | P::Ready) => format!(
                "the candidate has served nobody yet, only copies; {}",
                if self.plan.strategy.canary().is_some() {
                    "the canary comes after them"
                } else {
                    "write `mirror = { canary = { … } }`, or another `stable`, to the file"
                }
            ),
            (Command::Promote, _) => {
                "the candidate has not had any request yet; it is still looked at".to_owned()
            }
            (Command::Abort, _) => "there is nothing to take back".to_owned(),
        };
        Refused(why)
    }
}
