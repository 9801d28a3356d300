//! Switches, there and back.

use super::*;
use crate::rollout::analysis::LatencyCounts;

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
    let told = bench.events.last().unwrap().text.clone();
    assert!(told.starts_with("failures on \"green\": ") && told.contains("; on \"blue\": 0 of"));
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

const FIVE_MINUTES: &str = "
stable = \"blue\"
candidate = \"green\"
blue-green = { watch = \"5m\" }
";

#[test]
fn a_side_that_goes_bad_late_in_the_watch_is_taken_back() {
    for per_second in [500, 20] {
        // Twice what a watch needs, less than half of it, and very little.
        for (before, at_most) in [(1_200, 3), (120, 6), (10, 60)] {
            let mut bench = Bench::new(FIVE_MINUTES, None);
            bench.serve_live(before, per_second, false);
            bench.order(Command::Switch).unwrap();
            bench.serve_live(180, per_second, false);
            let case = format!("{per_second}/s, {before} s before");
            assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000), "{case}");
            let failing = bench.now;
            while bench.phase() == Phase::Watch && bench.now < failing + SECOND * at_most {
                bench.serve_live(1, per_second, true);
            }
            assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0), "{case}");
            assert_eq!(bench.kinds().last(), Some(&EventKind::RolledBack));
        }
    }
}

#[test]
fn a_side_that_fails_at_once_is_taken_back_at_once() {
    for before in [600, 10, 2] {
        let mut bench = Bench::new(FIVE_MINUTES, None);
        bench.serve_live(before, 500, false);
        bench.order(Command::Switch).unwrap();
        bench.serve_live(1, 500, true);
        assert_eq!(bench.phase(), Phase::Live, "{before} s before");
    }
}

#[test]
fn a_side_that_is_as_good_stays_for_a_whole_watch() {
    let mut bench = Bench::new(FIVE_MINUTES, None);
    for _ in 0..600 {
        bench.look(side(490, 10), side(0, 0));
    }
    bench.order(Command::Switch).unwrap();
    for n in 0..20 * 299 {
        bench.look_after(SECOND / 20, side(0, 0), side(25, u64::from(n % 2 == 0)));
    }
    assert_eq!(bench.phase(), Phase::Watch);
    let compared = bench.waits_for();
    assert!(compared.contains("requests were compared with those from before"), "{compared}");
    bench.serve_live(2, 500, false);
    let last = bench.events.last().unwrap().text.clone();
    assert!(last.contains("nothing spoke against it for 5m"), "{last}");
}

#[test]
fn a_watch_with_nothing_to_compare_with_says_so() {
    // Nothing was served before the switch.
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.order(Command::Switch).unwrap();
    let told = bench.events.last().unwrap().text.clone();
    assert!(told.contains("nothing is known of the other side"), "{told}");
    bench.serve_live(10, 100, false);
    assert!(bench.waits_for().contains("only endpoints and checks are judged"));
    bench.serve_live(60, 100, true);
    let told = bench.events.last().unwrap().text.clone();
    assert!(told.contains("could not be judged"), "{told}");
    assert_eq!(bench.machine.progress().reason.clone().unwrap().text, told);
    // An edge that is started again in the watch, and a reload of its upstreams in it, forget what was before.
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve_live(60, 100, false);
    bench.order(Command::Switch).unwrap();
    bench.serve_live(10, 100, false);
    assert!(!bench.waits_for().contains("only endpoints"), "{}", bench.waits_for());
    let mut again = bench.restart(BLUE_GREEN);
    bench.adopt(BLUE_GREEN, 2);
    for bench in [&mut again, &mut bench] {
        bench.serve_live(2, 100, true);
        assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000));
        assert!(bench.waits_for().contains("only endpoints"), "{}", bench.waits_for());
    }
}

#[test]
fn what_was_before_a_reload_is_compared_with_nothing_after_it() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.serve_live(60, 100, false);
    bench.adopt(BLUE_GREEN, 2);
    bench.order(Command::Switch).unwrap();
    let told = bench.events.last().unwrap().text.clone();
    assert!(told.contains("nothing is known of the other side"), "{told}");
}

#[test]
fn latency_is_judged_after_most_switches() {
    let mut times = LatencyCounts::default();
    (0..1_000).for_each(|n| times.record(Duration::from_micros(10_000 + n)));
    // A switch at any time, also minutes after the thresholds were first known.
    for seconds in [120, 301, 420, 900] {
        let mut bench = Bench::new(FIVE_MINUTES, None);
        let mut thresholds = false;
        for _ in 0..seconds {
            let timed = if thresholds { 500 } else { 0 };
            let live = Outcomes { successes: 500, timed, above_p95: timed / 20, ..side(0, 0) };
            bench.look(live, side(0, 0));
            let none = LatencyCounts::default();
            let fresh = bench.machine.learn(bench.now, &[(0, times.clone(), none)]);
            thresholds |= fresh.iter().any(|(_, fresh)| fresh.is_some());
        }
        bench.order(Command::Switch).unwrap();
        bench.serve_live(100, 500, false);
        let slow = Outcomes { successes: 25, timed: 25, above_p95: 20, ..side(0, 0) };
        for _ in 0..20 * 20 {
            bench.look_after(SECOND / 20, side(0, 0), slow);
        }
        assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0), "{seconds}");
        let reason = bench.machine.progress().reason.clone().unwrap().text;
        assert!(reason.contains("slower"), "{reason}");
    }
}

#[test]
fn each_side_has_its_own_counts_whichever_is_live() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    bench.order(Command::Switch).unwrap();
    bench.serve(100, 0);
    bench.order(Command::Switch).unwrap();
    bench.look(side(40, 1), side(0, 0));
    let of = |bench: &Bench, side| bench.machine.totals_of(side).requests();
    assert_eq!((of(&bench, Side::Stable), of(&bench, Side::Candidate)), (40, 100));
    while bench.phase() == Phase::Watch {
        bench.look(side(40, 20), side(0, 0));
    }
    let told = bench.events.last().unwrap().text.clone();
    assert!(told.starts_with("failures on \"blue\": "), "{told}");
}

#[test]
fn a_pause_ends_with_the_switch_that_was_paused() {
    let mut bench = Bench::new(BLUE_GREEN, None);
    let unproven = SetStanding { proven: 0, ..UP };
    for end in 0..2 {
        bench.facts = [UP, unproven];
        bench.order(Command::Switch).unwrap();
        bench.order(Command::Pause).unwrap();
        if end == 0 {
            bench.order(Command::Abort).unwrap();
        } else {
            bench.adopt(&BLUE_GREEN.replace("green\"", "red\""), 2);
        }
        assert!(!bench.machine.progress().is_paused);
        assert_eq!(bench.phase(), Phase::Live);
    }
}
