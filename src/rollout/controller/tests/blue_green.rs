//! Switches, there and back.

use super::*;

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
