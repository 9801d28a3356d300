//! A canary, step by step.

use super::*;

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
    // Also where a reload comes in between.
    let mut bench = Bench::known(CANARY);
    bench.serve(2, 0);
    bench.facts[1] = DOWN;
    bench.adopt(CANARY, 2);
    bench.serve(1, 0);
    assert_eq!(bench.phase(), Phase::RolledBack);
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

#[test]
fn endpoints_that_are_gone_on_both_sides_blame_nobody() {
    let mut bench = Bench::known(CANARY);
    bench.serve(30, 0);
    bench.facts = [DOWN, DOWN];
    bench.serve(300, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    assert!(bench.waits_for().contains("lost their endpoints together"), "{}", bench.waits_for());
    // One of them is seen to be back first.
    bench.facts = [UP, DOWN];
    bench.serve(10, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    bench.facts = [UP, UP];
    bench.serve(2, 0);
    assert_eq!(bench.share(), 500_000, "it goes on");
    // Alone it is to blame, and so is one that does not come back.
    bench.facts = [DOWN, DOWN];
    bench.serve(2, 0);
    bench.facts = [UP, DOWN];
    bench.serve(29, 0);
    assert_eq!(bench.phase(), Phase::Step);
    bench.serve(2, 0);
    assert_eq!(bench.phase(), Phase::RolledBack);
    let mut bench = Bench::known(CANARY);
    bench.serve(2, 0);
    bench.facts = [DOWN, UP];
    bench.serve(2, 0);
    bench.facts = [UP, UP];
    bench.serve(2, 0);
    bench.facts = [UP, DOWN];
    bench.serve(1, 0);
    assert_eq!(bench.phase(), Phase::RolledBack);
    // A switch alike.
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve(2, 0);
    bench.order(Command::Switch).unwrap();
    bench.facts = [DOWN, DOWN];
    bench.serve(90, 0);
    bench.facts = [UP, DOWN];
    bench.serve(5, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000));
}
