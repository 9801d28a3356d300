//! The state machine of one rollout: what every strategy has in common.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    baseline::Baseline,
    command::{Command, Refused},
    event::{Event, EventKind},
    hold::Hold,
    progress::{Phase, Progress, Reason},
};
use crate::{
    rollout::{
        analysis::{
            Analysis, Batch, Finding, LatencyCounts, MOST_STRATA, Outcomes, Scope, Settings, Sides,
            Thresholds, Window,
        },
        checks::Standing,
        dial::Side,
        plan::{RolloutConfig, Strategy},
    },
    types::Percent,
    upstream::SetStanding,
};

/// Between two looks no more time than this counts: the machine that the edge runs on may have slept.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// What is known of the world at one look.
#[derive(Clone, Debug)]
pub(in crate::rollout) struct Facts {
    /// The stable's endpoints.
    pub stable: SetStanding,
    /// The candidate's.
    pub candidate: SetStanding,
    /// What other systems say of the candidate.
    pub checks: Standing,
    /// What became of the requests of the preflight, of the side that is to get requests.
    pub preflight: PreflightResult,
    /// The calendar, for schedules and for showing.
    pub wall: Timestamp,
}

/// What became of the requests of the preflight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::rollout) enum PreflightResult {
    /// Nobody has asked yet.
    #[default]
    NotAsked,
    /// The first round is under way.
    Running,
    /// All was answered well, and the endpoints are warm.
    Passed,
    /// Something was not.
    Failed {
        /// What was asked, where, and what came.
        text: String,
    },
}

impl Facts {
    pub(super) fn of(&self, side: Side) -> &SetStanding {
        match side {
            Side::Stable => &self.stable,
            Side::Candidate => &self.candidate,
        }
    }
}

/// What the dial is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rollout) struct Setting {
    /// The candidate's share.
    pub share: Percent,
    /// The number under which tries are counted.
    pub number: u32,
    /// Whether the candidate may get any request.
    pub is_in_play: bool,
    /// Whether it gets copies of requests.
    pub is_mirrored: bool,
}

/// A rollout's state machine.
#[derive(Debug)]
pub(in crate::rollout) struct Machine {
    pub(super) plan: Arc<RolloutConfig>,
    /// Names of the routes, by their numbers.
    pub(super) routes: Vec<String>,
    pub(super) progress: Progress,
    pub(super) analysis: Analysis,
    pub(super) settings: Settings,
    pub(super) fingerprint: u64,
    /// Nothing was known of this rollout before.
    pub(super) is_unknown: bool,
    pub(super) number: u32,
    last_look: Option<Duration>,
    intervals: u64,
    pub(super) hold: Option<Hold>,
    /// Why nothing is decided under this plan, and the state is left as it is.
    pub(super) standstill: Option<Hold>,
    told: Option<Hold>,
    pub(super) baseline: Baseline,
    /// Whether each side has had an endpoint in service since the plan was taken.
    pub(super) was_up: [bool; 2],
    pub(super) is_down: [bool; 2],
    /// When neither side had an endpoint in service, until both have again.
    pub(super) both_down: Option<Duration>,
    pub(super) wall: i64,
    pub(super) events: Vec<Event>,
}

impl Machine {
    /// Begins with what was kept, if anything was. `last`: the number under which its attempt has counted up to now.
    pub(in crate::rollout) fn new(
        plan: Arc<RolloutConfig>,
        routes: Vec<String>,
        fingerprint: u64,
        last: u32,
        kept: Option<Progress>,
        now: Duration,
        wall: Timestamp,
    ) -> Self {
        let settings = settings_of(&plan, routes.len());
        let is_unknown = kept.is_none();
        let mut progress = kept.unwrap_or_default().within_bounds();
        let restored = go_on_judging(&settings, &routes, &mut progress);
        let mut machine = Self {
            analysis: restored.unwrap_or_else(|| Analysis::new(&settings)),
            baseline: Baseline::new(settings.strata()),
            plan,
            routes,
            progress,
            settings,
            fingerprint,
            is_unknown,
            number: last,
            last_look: None,
            intervals: 0,
            hold: None,
            standstill: None,
            told: None,
            was_up: [false; 2],
            is_down: [false; 2],
            both_down: None,
            wall: wall.as_second(),
            events: Vec::new(),
        };
        let compared = machine.analysis.compared();
        machine.progress.compared_before =
            machine.progress.compared_before.saturating_add(compared);
        machine.take_plan();
        machine.begin_window(now);
        machine.is_unknown = false;
        machine
    }

    /// A configuration comes into force. `last`: the number under which its attempt has counted up to now.
    pub(in crate::rollout) fn adopt(
        &mut self,
        plan: Arc<RolloutConfig>,
        routes: Vec<String>,
        fingerprint: u64,
        last: u32,
        now: Duration,
    ) -> Vec<Event> {
        let settings = settings_of(&plan, routes.len());
        let is_other_judgement = settings != self.settings || routes != self.routes;
        let mut is_touched = is_other_judgement || fingerprint != self.fingerprint;
        // An attempt that had a state machine of its own before.
        is_touched |= last > self.number;
        self.number = self.number.max(last);
        let (before, live_before) = (self.place(), self.upstream_of(self.live_side()));
        // In blue-green another revision is no other attempt for a person, but its counters know of no latencies yet.
        is_touched |=
            matches!(plan.strategy, Strategy::BlueGreen(_)) && self.plan.revision != plan.revision;
        let sides = |plan: &RolloutConfig| (plan.stable.clone(), plan.candidate.clone());
        if sides(&self.plan) != sides(&plan) {
            self.was_up = [false; 2];
            is_touched = true;
        }
        let old_routes = std::mem::replace(&mut self.routes, routes);
        (self.plan, self.fingerprint) = (plan, fingerprint);
        if is_other_judgement {
            self.progress.analysis = Some(self.analysis.save(&self.settings, &old_routes));
            self.settings = settings;
            let judged = go_on_judging(&self.settings, &self.routes, &mut self.progress);
            self.analysis = judged.unwrap_or_else(|| Analysis::new(&self.settings));
            self.baseline = Baseline::new(self.settings.strata());
        }
        self.take_plan();
        is_touched |= self.upstream_of(self.live_side()) != live_before;
        if is_touched && before == self.place() && self.is_judging() {
            self.begin_window(now);
            self.tell(
                EventKind::NewWindow,
                "the configuration of its routes or upstreams has changed: what is counted from now on is not compared with what was before",
            );
        } else if is_touched || before != self.place() {
            self.begin_window(now);
        }
        std::mem::take(&mut self.events)
    }

    fn place(&self) -> (Phase, usize, u32) {
        (self.progress.phase, self.progress.step, self.progress.share)
    }

    /// Whether tries of both sides are being compared.
    pub(in crate::rollout) fn is_judging(&self) -> bool {
        self.has_attempt()
            && match self.progress.phase {
                Phase::Mirror | Phase::Step | Phase::Watch => true,
                // After a mirror alone there is nothing to compare.
                Phase::Ready => self.plan.strategy.canary().is_some(),
                _ => false,
            }
    }

    /// The side whose endpoints are to be asked what the preflight lists, now.
    pub(in crate::rollout) fn asks(&self) -> Option<Side> {
        let is_asked = self.progress.phase == Phase::Preflight
            && self.plan.preflight.asks()
            && self.has_attempt();
        let side = match self.plan.strategy {
            Strategy::BlueGreen(_) => self.live_side().other(),
            Strategy::Canary(_) | Strategy::Mirror(_) => Side::Candidate,
        };
        is_asked.then_some(side)
    }

    /// Whether it has to be looked at often.
    pub(in crate::rollout) fn is_active(&self) -> bool {
        self.is_judging() || (self.has_attempt() && self.progress.phase == Phase::Preflight)
    }

    /// Whether the state is that of the plan: there is a candidate, and it is the one that was meant.
    fn has_attempt(&self) -> bool {
        self.plan.candidate.is_some() && self.standstill.is_none()
    }

    /// One look: what was counted since the last one, and how the world is.
    pub(in crate::rollout) fn look(
        &mut self,
        now: Duration,
        facts: &Facts,
        counts: &[(usize, u32, Sides)],
    ) -> Vec<Event> {
        let passed = now.saturating_sub(self.last_look.unwrap_or(now)).min(LONGEST_LOOK);
        self.last_look = Some(now);
        self.wall = facts.wall.as_second();
        self.intervals += 1;
        self.see_sides(now, facts);
        if self.progress.phase == Phase::Watch {
            self.earn(passed);
        }
        for (stratum, step, sides) in counts {
            self.observe(now, *stratum, *step, sides);
        }
        if self.plan.candidate.is_some() {
            self.watch_sides(facts);
            match self.plan.strategy {
                _ if self.standstill.is_some() => self.hold.clone_from(&self.standstill),
                Strategy::Canary(_) | Strategy::Mirror(_) => {
                    self.look_at_canary(now, passed, facts);
                }
                Strategy::BlueGreen(_) => self.look_at_blue_green(now, passed, facts),
            }
        }
        self.tell_of_hold();
        std::mem::take(&mut self.events)
    }

    fn observe(&mut self, now: Duration, stratum: usize, step: u32, sides: &Sides) {
        match (&self.plan.strategy, self.progress.phase) {
            _ if self.standstill.is_some() => {}
            (
                Strategy::Canary(_) | Strategy::Mirror(_),
                Phase::Mirror | Phase::Step | Phase::Ready,
            ) => {
                let window = Window { step, stratum, interval: self.intervals };
                self.analysis.observe(now, &Batch { window, sides: *sides });
            }
            (Strategy::BlueGreen(_), _) => self.observe_blue_green(now, stratum, step, sides),
            _ => {}
        }
    }

    pub(super) fn batch(&self, stratum: usize, step: u32, sides: Sides) -> Batch {
        Batch { window: Window { step, stratum, interval: self.intervals }, sides }
    }

    /// Times to the first byte since the last time: by route, the stable's and the candidate's. Says what answers are to be
    /// compared with from now on.
    pub(in crate::rollout) fn learn(
        &mut self,
        now: Duration,
        times: &[(usize, LatencyCounts, LatencyCounts)],
    ) -> Vec<(usize, Option<Thresholds>)> {
        let is_blue_green = matches!(self.plan.strategy, Strategy::BlueGreen(_));
        if is_blue_green && self.progress.phase == Phase::Watch {
            return Vec::new();
        }
        let live = self.live_side();
        for (stratum, stable, candidate) in times {
            let of_live = if is_blue_green && live == Side::Candidate { candidate } else { stable };
            self.analysis.learn_latencies(*stratum, of_live);
        }
        let strata = 0..self.settings.strata();
        let known = strata.map(|stratum| (stratum, self.analysis.thresholds(stratum)));
        if !is_blue_green {
            return known.collect();
        }
        let baseline = &mut self.baseline;
        known
            .filter(|(stratum, fresh)| {
                fresh.is_some_and(|fresh| baseline.renews(now, *stratum, fresh))
            })
            .collect()
    }

    /// What the dial is to say now.
    pub(in crate::rollout) fn setting(&self) -> Setting {
        let nothing = Percent::whole(0);
        let (share, is_in_play) = match (&self.plan.strategy, self.progress.phase) {
            (Strategy::BlueGreen(_), _) => match self.live_side() {
                Side::Stable => (nothing, true),
                Side::Candidate => (Percent::ALL, true),
            },
            // What was promoted keeps its requests, where the plan has it.
            _ if self.standstill.is_some() => match self.live_side() {
                Side::Stable => (nothing, false),
                Side::Candidate => (Percent::ALL, true),
            },
            (_, Phase::Step | Phase::Ready) => {
                let step = self.plan.strategy.steps().get(self.progress.step);
                step.map_or((nothing, false), |step| (step.share, true))
            }
            _ if self.progress.promoted().is_some() => (Percent::ALL, true),
            _ => (nothing, false),
        };
        let is_mirrored = self.progress.phase == Phase::Mirror && self.has_attempt();
        Setting { share, number: self.number, is_in_play, is_mirrored }
    }

    /// Does what a person asks for.
    ///
    /// # Errors
    /// It can't be done now; nothing has changed.
    pub(in crate::rollout) fn command(
        &mut self,
        command: Command,
        now: Duration,
        facts: &Facts,
    ) -> Result<Vec<Event>, Refused> {
        self.wall = facts.wall.as_second();
        if self.plan.candidate.is_none() {
            return Err(Refused(format!(
                "the rollout \"{}\" has no candidate in the file: there is nothing to {}",
                self.plan.name,
                command.word()
            )));
        }
        if let Some(hold) = &self.standstill {
            if command != Command::Abort || self.progress.phase != Phase::Promoted {
                return Err(Refused(hold.to_string()));
            }
            self.command_canary(command, now)?;
            // Now the file's revision may begin.
            self.take_plan();
            return Ok(std::mem::take(&mut self.events));
        }
        match self.plan.strategy {
            Strategy::Canary(_) | Strategy::Mirror(_) => self.command_canary(command, now)?,
            Strategy::BlueGreen(_) => self.command_blue_green(command, now, facts)?,
        }
        Ok(std::mem::take(&mut self.events))
    }

    /// What is to be kept of it.
    pub(in crate::rollout) fn keep(&self) -> Progress {
        let mut progress = self.progress.clone();
        // Also where the file has no candidate just now: the state waits for it.
        let is_judged =
            matches!(progress.phase, Phase::Mirror | Phase::Step | Phase::Ready | Phase::Watch);
        progress.analysis = is_judged.then(|| self.analysis.save(&self.settings, &self.routes));
        progress
    }

    /// Whether the file says something else than what is in force, which holds only as long as the state is kept.
    pub(in crate::rollout) fn file_differs(&self) -> bool {
        match &self.plan.strategy {
            Strategy::Canary(_) | Strategy::Mirror(_) => self.progress.promoted().is_some(),
            Strategy::BlueGreen(plan) => {
                let live = self.progress.live.as_ref().filter(|_| self.plan.candidate.is_some());
                live.is_some_and(|live| *live != plan.live)
            }
        }
    }

    /// The side that has all requests, where one has.
    pub(in crate::rollout) fn live_side(&self) -> Side {
        let live = match (&self.plan.strategy, &self.progress.live) {
            (_, Some(live)) => live,
            (Strategy::BlueGreen(plan), None) => &plan.live,
            (Strategy::Canary(_) | Strategy::Mirror(_), None) => &self.plan.stable,
        };
        if self.plan.candidate.as_ref() == Some(live) { Side::Candidate } else { Side::Stable }
    }

    pub(in crate::rollout) fn plan(&self) -> &Arc<RolloutConfig> {
        &self.plan
    }

    pub(in crate::rollout) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(in crate::rollout) fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    pub(in crate::rollout) fn standstill(&self) -> Option<&Hold> {
        self.standstill.as_ref()
    }

    /// Where it is, as far as the plan is concerned.
    pub(in crate::rollout) fn shown_phase(&self) -> Phase {
        match self.progress.phase {
            Phase::Promoted if !self.progress.is_out_of_force => Phase::Promoted,
            _ if self.standstill.is_some() => Phase::NotStarted,
            phase => phase,
        }
    }

    pub(in crate::rollout) fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Nothing from before is compared with anything after.
    pub(super) fn begin_window(&mut self, now: Duration) {
        self.number += 2;
        self.analysis.begin_window(now, self.number);
        self.baseline.clear();
    }

    /// The dial is to change.
    pub(super) fn next_number(&mut self, now: Duration) {
        self.number += 1;
        self.analysis.begin_step(now, self.number);
    }

    pub(super) fn tell(&mut self, kind: EventKind, text: impl Into<String>) {
        self.events.push(Event {
            kind,
            rollout: self.plan.name.clone(),
            revision: self.progress.revision.clone(),
            text: text.into(),
            at: self.wall,
        });
    }

    pub(super) fn reason(&mut self, text: String) {
        self.progress.reason = Some(Reason { text, at: self.wall });
    }

    /// What was compared of a side. After a switch the side that is live is judged, by what the other one was before.
    pub(in crate::rollout) fn totals_of(&self, side: Side) -> Outcomes {
        let Sides { stable, candidate } = self.analysis.totals();
        let judged = match self.plan.strategy {
            Strategy::BlueGreen(_) => self.live_side(),
            Strategy::Canary(_) | Strategy::Mirror(_) => Side::Candidate,
        };
        if side == judged { candidate } else { stable }
    }

    /// A finding with the name of its route.
    pub(super) fn describe(&self, finding: &Finding) -> String {
        let text = match self.plan.strategy {
            Strategy::BlueGreen(_) => {
                let live = self.live_side();
                let name = |side| format!("\"{}\"", self.upstream_of(side));
                finding.between(&name(live), &name(live.other()))
            }
            Strategy::Canary(_) | Strategy::Mirror(_) => finding.to_string(),
        };
        match finding.scope {
            Scope::Stratum(route) if self.routes.len() > 1 => {
                let name = self.routes.get(route).map_or("one route", String::as_str);
                format!("{text}; most of it on {name}")
            }
            _ => text,
        }
    }

    /// A new reason to wait is told once, when it begins.
    fn tell_of_hold(&mut self) {
        let news = self.hold.clone().filter(Hold::is_news);
        let is_same = match (&news, &self.told) {
            (Some(new), Some(old)) => new.is_like(old),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            if let Some(hold) = &news {
                self.tell(EventKind::Held, hold.to_string());
            }
            self.told = news;
        }
    }
}

/// The judgement so far, under settings and on routes that may be others. What was compared by another measure, or on other
/// routes, does not count for the step.
fn go_on_judging(
    settings: &Settings,
    routes: &[String],
    progress: &mut Progress,
) -> Option<Analysis> {
    let saved = progress.analysis.take()?;
    if !saved.is_of(settings, routes) {
        progress.compared_before = 0;
    }
    Analysis::restore(settings, routes, &saved)
}

fn settings_of(plan: &RolloutConfig, routes: usize) -> Settings {
    // The parser has checked the rest.
    plan.analysis.settings(routes.min(MOST_STRATA)).unwrap_or_default()
}
