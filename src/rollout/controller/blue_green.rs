//! Blue-green: one side has all requests; a switch is one store, there and back.
//!
//! After a switch the new live side is judged for a while by what the other side was before ([`super::baseline`]).

use std::time::Duration;

use super::{
    command::{Command, Refused},
    event::EventKind,
    hold::Hold,
    machine::{Facts, Machine, PreflightResult},
    progress::Phase,
};
use crate::{
    rollout::{
        analysis::{Analysis, Sides},
        checks::Standing,
        dial::Side,
        plan::{BlueGreen, Strategy},
    },
    types::{HumanDuration, Name},
};

impl Machine {
    fn blue_green(&self) -> Option<&BlueGreen> {
        match &self.plan.strategy {
            Strategy::BlueGreen(plan) => Some(plan),
            Strategy::Canary(_) | Strategy::Mirror(_) => None,
        }
    }

    pub(super) fn upstream_of(&self, side: Side) -> Name {
        match (side, &self.plan.candidate) {
            (Side::Candidate, Some(candidate)) => candidate.clone(),
            _ => self.plan.stable.clone(),
        }
    }

    pub(super) fn observe_blue_green(
        &mut self,
        now: Duration,
        stratum: usize,
        step: u32,
        sides: &Sides,
    ) {
        let live = match self.live_side() {
            Side::Stable => sides.stable,
            Side::Candidate => sides.candidate,
        };
        if self.progress.phase != Phase::Watch {
            self.baseline.add(now, stratum, &live);
            return;
        }
        // Late answers of the side that was live before are no news.
        if step != self.number || live.requests() == 0 {
            return;
        }
        // Without anything from before it waits for what comes next.
        let before = self.baseline.take(stratum);
        let batch = self.batch(stratum, step, Sides { stable: before, candidate: live });
        self.analysis.observe(now, &batch);
    }

    /// Time passes in a watch.
    pub(super) fn earn(&mut self, passed: Duration) {
        let left = self.watch_time().saturating_sub(self.progress.passed);
        self.baseline.earn(passed, left);
    }

    fn watch_time(&self) -> Duration {
        self.blue_green().map_or(Duration::ZERO, |plan| plan.watch)
    }

    /// Requests of the live side that were compared in this watch.
    fn compared(&self) -> u64 {
        self.progress.compared_before.saturating_add(self.analysis.compared())
    }

    pub(super) fn look_at_blue_green(&mut self, now: Duration, passed: Duration, facts: &Facts) {
        match self.progress.phase {
            Phase::Preflight => {
                let side = self.live_side().other();
                self.hold = self.preflight_hold(side, facts);
                if self.progress.is_paused {
                    self.hold = Some(Hold::Paused);
                }
                if self.hold.is_none() {
                    self.switch_to(side, now, "a person has switched");
                }
            }
            Phase::Watch => self.watch(now, passed, facts),
            _ => self.hold = None,
        }
    }

    fn watch(&mut self, now: Duration, passed: Duration, facts: &Facts) {
        let live = self.live_side();
        let is_down = self.is_to_blame(live, now, facts);
        let bad = if let Some(finding) = self.analysis.finding() {
            Some(self.describe(finding))
        } else if let Standing::Bad { name, text } = &facts.checks {
            Some(format!("the check \"{name}\" fails: {text}"))
        } else {
            is_down.then(|| format!("no endpoint of \"{}\" is in service", self.upstream_of(live)))
        };
        if let Some(text) = bad {
            self.return_to(live.other(), now, &text);
            return;
        }
        if !self.progress.is_paused {
            self.progress.passed = self.progress.passed.saturating_add(passed);
        }
        let (passed, needed) = (self.progress.passed, self.watch_time());
        let (compared, left) = (self.compared(), self.baseline.sum().requests());
        let hold = self.outage_hold(live, facts).or_else(|| Self::check_hold(facts));
        if passed >= needed && hold.is_none() {
            self.end_watch();
            let (upstream, time) = (self.upstream_of(live), HumanDuration(needed));
            let text = match compared {
                0 => format!(
                    "\"{upstream}\" stays live: it had endpoints in service for {time}; what it answered could not be judged, since there was nothing to compare it with"
                ),
                _ => format!(
                    "\"{upstream}\" stays live: nothing spoke against it for {time}; {compared} of its requests were compared"
                ),
            };
            self.reason(text.clone());
            self.tell(EventKind::Ready, text);
        } else {
            self.hold = hold.or(Some(Hold::Watch { passed, needed, compared, left }));
        }
    }

    fn end_watch(&mut self) {
        self.progress.phase = Phase::Live;
        self.progress.returns_to = None;
        self.progress.is_paused = false;
        self.hold = None;
        self.baseline.clear();
        self.analysis = Analysis::new(&self.settings);
    }

    /// All requests go to `side` from now on, and it is watched.
    fn switch_to(&mut self, side: Side, now: Duration, why: &str) {
        let upstream = self.upstream_of(side);
        self.set_live(&upstream);
        self.progress.phase = Phase::Watch;
        self.progress.returns_to = Some(self.upstream_of(side.other()));
        (self.progress.passed, self.progress.compared_before) = (Duration::ZERO, 0);
        self.next_number(now);
        self.baseline.begin(now);
        let before = self.baseline.sum();
        let compared = match (before.requests(), before.timed) {
            (0, _) => "nothing is known of the other side to compare it with".to_owned(),
            (requests, 0) => format!(
                "it is compared with {requests} requests of the other side, but for their latency, of which nothing is known yet"
            ),
            (requests, _) => {
                format!("it is compared with {requests} requests of the other side")
            }
        };
        let text = format!("{why}: \"{upstream}\" has all requests; {compared}");
        self.reason(text.clone());
        self.tell(EventKind::Switched, text);
    }

    /// Back to the side that was live before.
    fn return_to(&mut self, side: Side, now: Duration, why: &str) {
        let upstream = self.upstream_of(side);
        self.set_live(&upstream);
        self.next_number(now);
        self.end_watch();
        let text = format!("{why}: \"{upstream}\" has all requests again");
        self.reason(text.clone());
        self.tell(EventKind::RolledBack, text);
    }

    fn set_live(&mut self, upstream: &Name) {
        self.progress.live = Some(upstream.clone());
        self.progress.target = None;
        self.hold = None;
    }

    pub(super) fn command_blue_green(
        &mut self,
        command: Command,
        now: Duration,
        facts: &Facts,
    ) -> Result<(), Refused> {
        let other = self.live_side().other();
        match (command, self.progress.phase) {
            (Command::Switch, Phase::Live) => {
                self.progress.target = Some(self.upstream_of(other));
                self.progress.phase = Phase::Preflight;
                // What is known of an earlier preflight is not of now.
                let facts = Facts { preflight: PreflightResult::NotAsked, ..facts.clone() };
                if self.preflight_hold(other, &facts).is_none() {
                    self.switch_to(other, now, "a person has switched");
                } else {
                    let text = format!(
                        "\"{}\" is looked at before it gets any request",
                        self.upstream_of(other)
                    );
                    self.tell(EventKind::Started, text);
                }
            }
            // Back to what was live a moment ago: it has shown that it can.
            (Command::Switch | Command::Abort, Phase::Watch) => {
                let upstream = self.upstream_of(other);
                self.set_live(&upstream);
                self.next_number(now);
                self.end_watch();
                let text = format!("a person has switched back: \"{upstream}\" has all requests");
                self.reason(text.clone());
                self.tell(EventKind::Switched, text);
            }
            (Command::Abort, Phase::Preflight) => {
                self.progress.phase = Phase::Live;
                (self.progress.target, self.progress.is_paused) = (None, false);
                self.hold = None;
                self.tell(EventKind::Aborted, "a person has called the switch off");
            }
            (Command::Pause, Phase::Preflight | Phase::Watch) if !self.progress.is_paused => {
                self.progress.is_paused = true;
                self.tell(
                    EventKind::Paused,
                    "it waits until it is resumed; what is live is judged on",
                );
            }
            (Command::Resume, Phase::Preflight | Phase::Watch) if self.progress.is_paused => {
                self.progress.is_paused = false;
                self.tell(EventKind::Resumed, "it goes on");
            }
            (Command::Promote, Phase::Watch) => {
                let live = self.upstream_of(self.live_side());
                self.end_watch();
                let text = format!("a person has ended the watch: \"{live}\" stays live");
                self.tell(EventKind::Ready, text);
            }
            _ => return Err(refuse(command, self.progress.phase)),
        }
        Ok(())
    }
}

fn refuse(command: Command, phase: Phase) -> Refused {
    Refused(match (command, phase) {
        (Command::Switch, _) => "a switch is under way already".to_owned(),
        (Command::Start, _) => "blue-green has no steps to start; use `switch`".to_owned(),
        (Command::Pause, Phase::Preflight | Phase::Watch) => "it is paused already".to_owned(),
        (Command::Resume, _) => "nothing waits for a person".to_owned(),
        _ => format!("there is nothing to {}: no switch is under way", command.word()),
    })
}
