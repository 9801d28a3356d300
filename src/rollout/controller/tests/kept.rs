//! What outlives restarts, reloads and a clock that jumps.

use super::*;

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
fn numbers_of_anybody_are_no_harm() {
    for phase in
        [Phase::Step, Phase::Ready, Phase::Mirror, Phase::Promoted, Phase::Live, Phase::Watch]
    {
        let kept = Progress {
            phase,
            revision: Some("r1".parse().unwrap()),
            step: usize::MAX,
            share: u32::MAX,
            passed: Duration::MAX,
            compared_before: u64::MAX,
            ..Progress::default()
        };
        for text in [CANARY, BLUE_GREEN] {
            let mut bench = Bench::new(text, Some(kept.clone()));
            bench.serve(100, 0);
            bench.adopt(text, 2);
            bench.serve(100, 0);
        }
    }
}

#[test]
fn an_attempt_that_has_counted_before_is_judged_on() {
    let last = 7;
    let mut bench = Bench::known(CANARY);
    let routes = || vec!["site.route".to_owned()];
    bench.machine = Machine::new(plan(CANARY), routes(), 1, last, None, Duration::ZERO, bench.wall);
    assert!(bench.machine.setting().number > last);
    bench.machine.adopt(plan(CANARY), routes(), 1, last + 9, bench.now);
    assert!(bench.machine.setting().number > last + 9);
}
