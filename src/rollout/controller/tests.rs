//! The state machine on made-up looks: no clock, no network.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Command, Event, EventKind, Facts, Machine, Phase, Progress, progress::Ended};
use crate::{
    rollout::{
        analysis::{Outcomes, Sides},
        checks::Standing,
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
    events: Vec<Event>,
}

impl Bench {
    fn new(text: &str, kept: Option<Progress>) -> Self {
        let wall: Timestamp = "2026-01-05T10:00:00Z".parse().unwrap();
        let routes = vec!["site.route".to_owned()];
        let machine = Machine::new(plan(text), routes, 1, kept, Duration::ZERO, wall);
        Self {
            machine,
            now: Duration::ZERO,
            wall,
            facts: [UP, UP],
            checks: Standing::Good,
            events: Vec::new(),
        }
    }

    /// An edge that has served without a candidate before.
    fn known(text: &str) -> Self {
        Self::new(text, Some(Progress::default()))
    }

    fn facts(&self) -> Facts {
        let [stable, candidate] = self.facts;
        Facts { stable, candidate, checks: self.checks.clone(), wall: self.wall }
    }

    fn look(&mut self, stable: Outcomes, candidate: Outcomes) {
        let step = self.machine.setting().number;
        let counts = [(0, step, Sides { stable, candidate })];
        let events = self.machine.look(self.now, &self.facts(), &counts);
        self.events.extend(events);
        self.now += SECOND;
        self.wall += SECOND;
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
        let events = self.machine.adopt(plan(text), routes, fingerprint, self.now);
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

#[test]
fn a_healthy_candidate_goes_up_step_by_step_and_waits_at_the_end() {
    let mut bench = Bench::known(CANARY);
    assert_eq!((bench.phase(), bench.share()), (Phase::Preflight, 0));
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    bench.serve(59, 0);
    assert!(bench.waits_for().contains("of 1m have passed"), "{}", bench.waits_for());
    bench.serve(2, 0);
    assert_eq!(bench.share(), 500_000);
    bench.serve(62, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Ready, 500_000));
    bench.order(Command::Promote).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Promoted, 1_000_000));
    assert!(bench.machine.file_differs());
    assert_eq!(
        bench.kinds(),
        [
            EventKind::Started,
            EventKind::Step,
            EventKind::Step,
            EventKind::Ready,
            EventKind::Promoted
        ]
    );
    let last = &bench.events.last().unwrap().text;
    assert!(last.contains("`stable = \"v2\"`"), "{last}");
}

#[test]
fn a_plan_that_promotes_does_so_and_the_file_may_agree_later() {
    let text = CANARY.replace("\"50% 1m\"] }", "\"50% 1m\"], finish = \"promote\" }");
    let mut bench = Bench::known(&text);
    bench.serve(130, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Promoted, 1_000_000));
    let agreed = "stable = \"v2\"\n";
    bench.adopt(agreed, 2);
    assert_eq!((bench.phase(), bench.machine.file_differs()), (Phase::Steady, false));
    // The next one starts by itself.
    bench.adopt("stable = \"v2\"\ncandidate = \"v3\"\nrevision = \"r2\"\ncanary = {}", 3);
    assert_eq!(bench.phase(), Phase::Preflight);
    // A configuration from before the promotion comes back: that revision was promoted.
    bench.adopt(&text, 1);
    assert_eq!((bench.phase(), bench.share()), (Phase::Promoted, 1_000_000));
}

#[test]
fn a_bad_candidate_is_taken_back_and_stays_back() {
    let mut bench = Bench::known(CANARY);
    bench.serve(20, 0);
    bench.serve(20, 5);
    assert_eq!((bench.phase(), bench.share()), (Phase::RolledBack, 0));
    assert!(!bench.machine.setting().is_in_play);
    let reason = bench.machine.progress().reason.clone().unwrap().text;
    assert!(reason.starts_with("failures on the candidate: "), "{reason}");
    bench.serve(600, 0);
    assert_eq!(bench.phase(), Phase::RolledBack);
    for command in Command::ALL {
        let refused = bench.order(command).unwrap_err();
        assert!(refused.contains("revision") || refused.contains("switch"), "{refused}");
    }
    // After a restart, and with other endpoints.
    let mut again = bench.restart(CANARY);
    again.adopt(CANARY, 2);
    again.serve(600, 0);
    assert_eq!((again.phase(), again.share()), (Phase::RolledBack, 0));
    // Another revision starts again, and the old one stays where it was.
    again.adopt(&CANARY.replace("r1", "r2"), 3);
    again.serve(2, 0);
    assert_eq!((again.phase(), again.share()), (Phase::Step, 100_000));
    again.adopt(CANARY, 3);
    again.serve(600, 0);
    assert_eq!((again.phase(), again.share()), (Phase::RolledBack, 0));
}

#[test]
fn a_candidate_without_endpoints_is_taken_back_at_once() {
    let mut bench = Bench::known(CANARY);
    bench.serve(2, 0);
    bench.facts[1] = DOWN;
    bench.serve(1, 0);
    assert_eq!(bench.phase(), Phase::RolledBack);
    let reason = bench.machine.progress().reason.clone().unwrap().text;
    assert!(reason.contains("no endpoint of the candidate"), "{reason}");
    // One that was not there yet is not down.
    let mut bench = Bench::known(CANARY);
    bench.serve(2, 0);
    let mut again = bench.restart(CANARY);
    again.facts[1] = SetStanding::default();
    again.serve(5, 0);
    assert_eq!(again.phase(), Phase::Step);
}

#[test]
fn a_common_outage_holds_and_blames_nobody() {
    let mut bench = Bench::known(CANARY);
    bench.serve(40, 0);
    for _ in 0..60 {
        bench.look(side(90, 45), side(10, 5));
    }
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    assert!(bench.waits_for().contains("the stable itself fails"), "{}", bench.waits_for());
    assert!(bench.kinds().contains(&EventKind::Held));
    bench.serve(40, 0);
    assert_eq!(bench.share(), 500_000, "it is over");
}

#[test]
fn an_idle_service_waits() {
    let mut bench = Bench::known(CANARY);
    for _ in 0..10_000 {
        bench.look(side(0, 0), side(0, 0));
    }
    assert_eq!(bench.share(), 100_000);
    assert!(bench.waits_for().starts_with("0 of 50 requests"), "{}", bench.waits_for());
}

#[test]
fn nothing_starts_by_itself_where_nothing_is_known() {
    let mut bench = Bench::new(CANARY, None);
    bench.serve(600, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::NotStarted, 0));
    for command in [Command::Pause, Command::Resume, Command::Promote] {
        let refused = bench.order(command).unwrap_err();
        assert!(refused.contains("rollout start shop"), "{refused}");
    }
    bench.order(Command::Start).unwrap();
    bench.serve(1, 0);
    assert_eq!(bench.phase(), Phase::Step);
}

#[test]
fn the_preflight_waits_for_the_candidate_and_for_the_stable() {
    let text = format!("{CANARY}stable_min_endpoints = 2\npreflight = {{ min_endpoints = 2 }}");
    let mut bench = Bench::known(&text);
    bench.facts[1].proven = 1;
    bench.serve(5, 0);
    assert_eq!(bench.phase(), Phase::Preflight);
    assert!(bench.waits_for().starts_with("1 of 2 endpoints of the candidate"));
    bench.facts = [SetStanding { in_service: 1, ..UP }, UP];
    bench.serve(5, 0);
    assert!(bench.waits_for().starts_with("the stable has 1 of 2"), "{}", bench.waits_for());
    bench.facts = [UP, UP];
    bench.serve(1, 0);
    assert_eq!(bench.phase(), Phase::Step);
    // Nor is a later step taken.
    bench.facts[0].in_service = 1;
    bench.serve(90, 0);
    assert_eq!(bench.share(), 100_000);
    let held = bench.events.iter().filter(|event| event.kind == EventKind::Held).count();
    assert_eq!(held, 3, "each reason is told once");
}

#[test]
fn a_pause_stops_steps_and_not_the_judgement() {
    let mut bench = Bench::known(CANARY);
    bench.serve(30, 0);
    bench.order(Command::Pause).unwrap();
    assert!(bench.order(Command::Pause).is_err());
    bench.serve(600, 0);
    assert_eq!((bench.share(), bench.waits_for().as_str()), (100_000, "paused; `resume` goes on"));
    bench.order(Command::Resume).unwrap();
    bench.serve(25, 0);
    assert_eq!(bench.share(), 100_000, "time in the pause does not count");
    bench.serve(10, 0);
    assert_eq!(bench.share(), 500_000);
    bench.order(Command::Pause).unwrap();
    bench.serve(60, 20);
    assert_eq!(bench.phase(), Phase::RolledBack);
}

#[test]
fn a_step_may_wait_for_a_person() {
    let text = CANARY.replace("10% 1m", "0% pause");
    let mut bench = Bench::known(&text);
    bench.serve(600, 0);
    let setting = bench.machine.setting();
    assert_eq!(
        (setting.share.millionths(), setting.is_in_play),
        (0, true),
        "for who always gets it"
    );
    assert!(bench.waits_for().contains("waits for a person"));
    bench.order(Command::Resume).unwrap();
    bench.serve(2, 0);
    assert_eq!(bench.share(), 500_000);
    assert!(bench.order(Command::Resume).is_err());
}

#[test]
fn a_schedule_holds_steps_and_never_the_way_back() {
    let schedule = "schedule = { zone = \"UTC\", from = \"09:00\", to = \"10:00\" }";
    let mut bench = Bench::known(&format!("{CANARY}{schedule}"));
    bench.serve(5, 0);
    assert_eq!(bench.phase(), Phase::Preflight);
    assert!(bench.waits_for().contains("schedule"));
    bench.wall = "2026-01-06T09:58:30Z".parse().unwrap();
    bench.serve(200, 0);
    assert_eq!(bench.share(), 500_000, "one minute for the first step, then the second");
    assert!(bench.waits_for().contains("schedule"), "{}", bench.waits_for());
    bench.serve(60, 20);
    assert_eq!(bench.phase(), Phase::RolledBack);
}

/// The wall clock jumps an hour, forth and back, in every phase: only what a schedule says may change by it, and here there
/// is none.
#[test]
fn a_clock_that_jumps_changes_nothing() {
    type Reach = fn() -> Bench;
    let phases: [(Phase, Reach); 10] = [
        (Phase::Steady, || Bench::known("stable = \"v1\"\n")),
        (Phase::NotStarted, || Bench::new(CANARY, None)),
        (Phase::Preflight, || {
            let mut bench = Bench::known(CANARY);
            bench.facts[1].proven = 0;
            bench
        }),
        (Phase::Step, || {
            let mut bench = Bench::known(CANARY);
            bench.serve(2, 0);
            bench
        }),
        (Phase::Ready, || {
            let mut bench = Bench::known(CANARY);
            bench.serve(140, 0);
            bench
        }),
        (Phase::Promoted, || {
            let mut bench = Bench::known(CANARY);
            bench.serve(2, 0);
            bench.order(Command::Promote).unwrap();
            bench
        }),
        (Phase::RolledBack, || {
            let mut bench = Bench::known(CANARY);
            bench.serve(60, 9);
            bench
        }),
        (Phase::Aborted, || {
            let mut bench = Bench::known(CANARY);
            bench.order(Command::Abort).unwrap();
            bench
        }),
        (Phase::Live, || Bench::new(BLUE_GREEN, None)),
        (Phase::Watch, || {
            let mut bench = Bench::new(BLUE_GREEN, None);
            bench.serve(5, 0);
            bench.order(Command::Switch).unwrap();
            bench
        }),
    ];
    for (phase, reach) in phases {
        for hours in [1, -1] {
            let mut bench = reach();
            assert_eq!(bench.phase(), phase);
            let before = (bench.share(), bench.machine.progress().passed, bench.events.len());
            bench.wall += jiff::SignedDuration::from_hours(hours);
            bench.look(side(0, 0), side(0, 0));
            let passed = bench.machine.progress().passed;
            assert_eq!((bench.phase(), bench.share()), (phase, before.0), "{hours} {phase:?}");
            assert!(passed <= before.1 + SECOND * 2, "{hours} {phase:?}: {passed:?}");
            let is_old = |kind| matches!(kind, EventKind::Held | EventKind::Started);
            let news = bench.events.iter().skip(before.2).any(|event| !is_old(event.kind));
            assert!(!news, "{hours} {phase:?}: {:?}", bench.events);
        }
    }
}

#[test]
fn time_while_the_edge_was_down_does_not_count() {
    let mut bench = Bench::known(CANARY);
    bench.serve(41, 0);
    let passed = bench.machine.progress().passed;
    let mut again = bench.restart(CANARY);
    // Much later, by any clock.
    again.now = Duration::from_hours(5);
    again.wall += jiff::SignedDuration::from_hours(5);
    again.serve(1, 0);
    assert_eq!(again.share(), 100_000, "the step goes on with its share");
    let after = again.machine.progress().passed;
    assert!(after <= passed + SECOND, "{passed:?} {after:?}");
    again.serve(25, 0);
    assert_eq!(again.share(), 500_000);
    // A machine that sleeps for an hour between two looks.
    again.now += Duration::from_hours(1);
    again.serve(1, 0);
    assert_eq!(again.phase(), Phase::Step);
}

#[test]
fn evidence_is_kept_over_a_restart() {
    let mut bench = Bench::known(CANARY);
    bench.serve(20, 0);
    while bench.phase() == Phase::Step {
        bench.serve(1, 1);
        if bench.machine.analysis().ln_evidence(crate::rollout::analysis::Criterion::Failures) > 4.0
        {
            break;
        }
    }
    let mut again = bench.restart(CANARY);
    let mut fresh = Bench::known(CANARY);
    fresh.serve(1, 0);
    let needed = |bench: &mut Bench| {
        (0..1_000)
            .take_while(|_| {
                bench.serve(1, 1);
                bench.phase() == Phase::Step
            })
            .count()
    };
    let (kept, anew) = (needed(&mut again), needed(&mut fresh));
    assert!(kept < anew, "{kept} {anew}");
}

#[test]
fn a_reload_that_touches_the_routes_begins_a_new_window() {
    let mut bench = Bench::known(CANARY);
    bench.serve(30, 0);
    let number = bench.machine.setting().number;
    bench.adopt(CANARY, 1);
    assert_eq!(bench.machine.setting().number, number, "the same configuration");
    bench.adopt(CANARY, 2);
    assert_eq!(bench.machine.setting().number, number + 2);
    assert_eq!(bench.kinds().last(), Some(&EventKind::NewWindow));
    // Late answers of before are not compared with anything.
    let counts = [(0, number, Sides { stable: side(0, 0), candidate: side(50, 50) })];
    bench.machine.look(bench.now, &bench.facts(), &counts);
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    bench.serve(40, 0);
    assert_eq!(bench.share(), 500_000, "and the step's time goes on");
}

#[test]
fn a_plan_may_change_while_it_runs() {
    let steps = |list: &str| CANARY.replace("[\"10% 1m\", \"50% 1m\"]", list);
    let mut bench = Bench::known(CANARY);
    bench.serve(70, 0);
    assert_eq!(bench.share(), 500_000);
    bench.adopt(&steps("[\"10% 1m\", \"20% 1m\", \"50% 1m\", \"70% 1m\"]"), 1);
    assert_eq!(bench.share(), 500_000, "the step with the same share");
    bench.adopt(&steps("[\"10% 1m\", \"20% 1m\", \"60% 1m\"]"), 1);
    assert_eq!(bench.share(), 200_000, "the last that is not above");
    bench.adopt(&steps("[\"40% 1m\"]"), 1);
    assert_eq!(bench.share(), 400_000);
    bench.serve(70, 0);
    assert_eq!(bench.phase(), Phase::Ready);
    // Without its candidate the file sends everything to the stable; with it, it goes on.
    bench.adopt("stable = \"v1\"\n", 4);
    assert!(bench.order(Command::Promote).unwrap_err().contains("no candidate"));
    bench.adopt(&steps("[\"40% 1m\"]"), 1);
    assert_eq!((bench.phase(), bench.share()), (Phase::Ready, 400_000));
}

#[test]
fn a_person_may_abort_at_any_time() {
    for seconds in [0, 5, 140] {
        let mut bench = Bench::known(CANARY);
        bench.serve(seconds, 0);
        bench.order(Command::Abort).unwrap();
        assert_eq!((bench.phase(), bench.share()), (Phase::Aborted, 0), "{seconds}");
        assert_eq!(bench.kinds().last(), Some(&EventKind::Aborted));
    }
    let mut bench = Bench::known(CANARY);
    bench.serve(2, 0);
    bench.order(Command::Promote).unwrap();
    bench.order(Command::Abort).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Aborted, 0));
    let again = bench.restart(CANARY);
    assert_eq!((again.phase(), again.share()), (Phase::Aborted, 0));
}

#[test]
fn revisions_of_long_ago_are_forgotten_and_no_others() {
    let mut bench = Bench::known(CANARY);
    for n in 2..150 {
        bench.serve(2, 0);
        bench.order(Command::Abort).unwrap();
        bench.adopt(&CANARY.replace("r1", &format!("r{n}")), 1);
    }
    let known = |revision: &str| {
        let past = bench.machine.progress().past_of(&revision.parse().unwrap());
        past.map(|past| past.ended)
    };
    assert_eq!(
        (known("r148"), known("r60"), known("r2")),
        (Some(Ended::TakenBack), Some(Ended::TakenBack), None)
    );
}

#[test]
fn a_switch_is_one_step_there_and_back() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
    assert!(bench.machine.setting().is_in_play, "either side serves where the other is down");
    bench.serve(10, 0);
    bench.order(Command::Switch).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000));
    assert!(bench.machine.file_differs());
    bench.order(Command::Switch).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
    assert!(!bench.machine.file_differs());
    // A side that has not proven itself is looked at first.
    bench.facts[1].proven = 0;
    bench.order(Command::Switch).unwrap();
    bench.serve(5, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Preflight, 0));
    bench.facts[1] = UP;
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000));
    bench.serve(70, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 1_000_000));
    let again = bench.restart(BLUE_GREEN);
    assert_eq!((again.phase(), again.share()), (Phase::Live, 1_000_000), "kept over a restart");
    bench.adopt(&BLUE_GREEN.replace("{ watch", "{ live = \"green\", watch"), 2);
    assert_eq!((bench.share(), bench.machine.file_differs()), (1_000_000, false));
}

#[test]
fn a_switch_to_a_bad_side_is_taken_back() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve(30, 0);
    bench.order(Command::Switch).unwrap();
    bench.serve(3, 0);
    assert_eq!(bench.share(), 1_000_000);
    bench.serve(5, 20);
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
    assert_eq!(bench.kinds().last(), Some(&EventKind::RolledBack));
    // So is one whose endpoints are gone.
    bench.order(Command::Switch).unwrap();
    bench.serve(1, 0);
    bench.facts[1] = DOWN;
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
}

#[test]
fn a_switch_to_a_side_that_is_as_good_stays() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    for _ in 0..60 {
        bench.look(side(98, 2), side(0, 0));
    }
    bench.order(Command::Switch).unwrap();
    for _ in 0..70 {
        bench.look(side(0, 0), side(98, 2));
    }
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 1_000_000));
}

#[test]
fn a_side_that_is_down_is_told_once() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve(2, 0);
    bench.facts[0] = DOWN;
    bench.serve(3, 0);
    bench.facts[0] = UP;
    bench.serve(3, 0);
    assert_eq!(bench.kinds(), [EventKind::SideDown, EventKind::SideUp]);
}

#[test]
fn checks_hold_steps_and_take_the_candidate_back() {
    let fails = || Standing::Bad { name: "slo".parse().unwrap(), text: "7 is above 5".to_owned() };
    let silent = || Standing::Hold { name: "slo".parse().unwrap(), text: "no route".to_owned() };
    let mut bench = Bench::known(CANARY);
    for (standing, waits_for) in [
        (Standing::Waiting, "checks have yet to say"),
        (silent(), "the check \"slo\" has no answer: no route"),
    ] {
        bench.checks = standing;
        bench.serve(90, 0);
        assert_eq!(bench.share(), 100_000);
        assert!(bench.waits_for().starts_with(waits_for), "{}", bench.waits_for());
    }
    bench.checks = Standing::Good;
    bench.serve(1, 0);
    assert_eq!(bench.share(), 500_000);
    bench.checks = fails();
    bench.serve(1, 0);
    let reason = bench.machine.progress().reason.clone().unwrap().text;
    assert_eq!(
        (bench.phase(), reason.as_str()),
        (Phase::RolledBack, "the check \"slo\" fails: 7 is above 5")
    );
    // And a switch too.
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve(5, 0);
    bench.order(Command::Switch).unwrap();
    bench.checks = silent();
    bench.serve(90, 0);
    assert_eq!(bench.phase(), Phase::Watch);
    bench.checks = fails();
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
}
