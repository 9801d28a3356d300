//! The state machine on made-up looks: no clock, no network.

mod asked;
mod blue_green;
mod canary;
mod kept;
mod meant;
mod mirrored;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Command, Event, EventKind, Facts, Machine, Phase, PreflightResult, Progress, progress::Ended,
};
use crate::{
    rollout::{
        analysis::{Outcomes, Sides},
        checks::Standing,
        dial::Side,
        plan::RolloutConfig,
        raw::RawRollout,
    },
    types::{KeyPath, Problems},
    upstream::SetStanding,
};

const SECOND: Duration = Duration::from_secs(1);
const UP: SetStanding = SetStanding { endpoints: 2, in_service: 2, proven: 2 };
const DOWN: SetStanding = SetStanding { endpoints: 2, in_service: 0, proven: 0 };
const CANARY: &str = "
stable = \"v1\"
candidate = \"v2\"
revision = \"r1\"
canary = { steps = [\"10% 1m\", \"50% 1m\"] }
";
const BLUE_GREEN: &str = "
stable = \"blue\"
candidate = \"green\"
blue-green = { watch = \"1m\" }
";

fn plan(text: &str) -> Arc<RolloutConfig> {
    let raw: RawRollout = toml::from_str(text).unwrap();
    let mut problems = Problems::new();
    let path = KeyPath::of(&["rollouts", "shop"]);
    let plan = raw.parse(&"shop".parse().unwrap(), &path, &mut problems);
    let found: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(found.is_empty(), "{found:?}");
    Arc::new(plan.unwrap())
}

/// A machine with a clock of its own.
struct Bench {
    machine: Machine,
    now: Duration,
    wall: Timestamp,
    facts: [SetStanding; 2],
    checks: Standing,
    preflight: PreflightResult,
    events: Vec<Event>,
}

impl Bench {
    fn new(text: &str, kept: Option<Progress>) -> Self {
        let wall: Timestamp = "2026-01-05T10:00:00Z".parse().unwrap();
        let routes = vec!["site.route".to_owned()];
        let machine = Machine::new(plan(text), routes, 1, 0, kept, Duration::ZERO, wall);
        Self {
            machine,
            now: Duration::ZERO,
            wall,
            facts: [UP, UP],
            checks: Standing::Good,
            preflight: PreflightResult::NotAsked,
            events: Vec::new(),
        }
    }

    /// An edge that has served without a candidate before.
    fn known(text: &str) -> Self {
        Self::new(text, Some(Progress::default()))
    }

    fn facts(&self) -> Facts {
        let [stable, candidate] = self.facts;
        Facts {
            stable,
            candidate,
            checks: self.checks.clone(),
            preflight: self.preflight.clone(),
            wall: self.wall,
        }
    }

    fn look(&mut self, stable: Outcomes, candidate: Outcomes) {
        self.look_after(SECOND, stable, candidate);
    }

    /// A look, and then so much time.
    fn look_after(&mut self, pause: Duration, stable: Outcomes, candidate: Outcomes) {
        let step = self.machine.setting().number;
        let counts = [(0, step, Sides { stable, candidate })];
        let events = self.machine.look(self.now, &self.facts(), &counts);
        self.events.extend(events);
        self.now += pause;
        self.wall += pause;
    }

    /// So many seconds as the edge looks: 20 times a second while something is judged, else once. The live side of blue-green
    /// gets so many requests a second, of which every one fails, or none.
    fn serve_live(&mut self, seconds: u64, per_second: u64, fails: bool) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            let looks = if self.machine.is_active() { 20 } else { 1 };
            let requests = per_second / looks;
            let live = side(requests, if fails { requests } else { 0 });
            let (stable, candidate) = match self.machine.live_side() {
                Side::Stable => (live, side(0, 0)),
                Side::Candidate => (side(0, 0), live),
            };
            self.look_after(SECOND / looks as u32, stable, candidate);
        }
    }

    /// So many seconds in which each side gets its share of 100 requests, and `failures` of the candidate's fail.
    fn serve(&mut self, seconds: u64, failures: u64) {
        for _ in 0..seconds {
            let share = u64::from(self.share()) / 10_000;
            let candidate = side(share, failures.min(share));
            self.look(side(100 - share, 0), candidate);
        }
    }

    fn share(&self) -> u32 {
        self.machine.setting().share.millionths()
    }

    fn phase(&self) -> Phase {
        self.machine.progress().phase
    }

    fn order(&mut self, command: Command) -> Result<(), String> {
        let facts = self.facts();
        let events = self.machine.command(command, self.now, &facts).map_err(|no| no.0)?;
        self.events.extend(events);
        Ok(())
    }

    fn adopt(&mut self, text: &str, fingerprint: u64) {
        let routes = vec!["site.route".to_owned()];
        let events = self.machine.adopt(plan(text), routes, fingerprint, 0, self.now);
        self.events.extend(events);
    }

    /// The edge is started again: what was kept goes through its form on disk.
    fn restart(&self, text: &str) -> Self {
        let kept = serde_json::to_string(&self.machine.keep()).unwrap();
        let mut next = Self::new(text, Some(serde_json::from_str(&kept).unwrap()));
        next.wall = self.wall;
        next
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|event| event.kind).collect()
    }

    fn waits_for(&self) -> String {
        self.machine.hold().map(ToString::to_string).unwrap_or_default()
    }
}

fn side(requests: u64, failures: u64) -> Outcomes {
    Outcomes { successes: requests - failures, failures, ..Outcomes::default() }
}
