//! Files that would move all requests at once: what was decided stands.

use super::*;

/// A canary from `stable` to `candidate`.
fn canary(stable: &str, candidate: &str, revision: &str) -> String {
    let upstreams = format!("stable = \"{stable}\"\ncandidate = \"{candidate}\"\n");
    format!(
        "{upstreams}revision = \"{revision}\"\ncanary = {{ steps = [\"10% 1m\", \"50% 1m\"] }}\n"
    )
}

/// v1 and v2 in blue-green, where the file says that one of them is live.
fn blue_green(live: &str) -> String {
    format!(
        "stable = \"v1\"\ncandidate = \"v2\"\nblue-green = {{ live = \"{live}\", watch = \"1m\" }}\n"
    )
}

fn promoted() -> Bench {
    let mut bench = Bench::known(CANARY);
    bench.serve(5, 0);
    bench.order(Command::Promote).unwrap();
    bench
}

impl Bench {
    /// Phase, the candidate's share, whether the file differs.
    fn standing(&self) -> (Phase, u32, bool) {
        (self.machine.shown_phase(), self.share(), self.machine.file_differs())
    }

    /// What speaks against a reload with this text.
    fn objection(&self, text: &str) -> String {
        self.machine.objection(&plan(text)).unwrap_or_default()
    }
}

#[test]
fn what_was_promoted_stays_so_when_the_file_from_before_comes_back() {
    let mut bench = promoted();
    bench.adopt("stable = \"v2\"\nrevision = \"r1\"\n", 2);
    assert_eq!(bench.standing(), (Phase::Steady, 0, false));
    let mut again = bench.restart("stable = \"v2\"\n");
    for bench in [&mut bench, &mut again] {
        bench.adopt(CANARY, 1);
        bench.serve(2, 0);
        assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
        bench.adopt("stable = \"v2\"\n", 2);
        assert_eq!(bench.standing(), (Phase::Steady, 0, false));
    }
}

#[test]
fn no_file_moves_what_a_person_has_switched() {
    let mut bench = Bench::new(&blue_green("v1"), None);
    bench.serve(5, 0);
    bench.order(Command::Switch).unwrap();
    assert_eq!(bench.standing(), (Phase::Watch, 1_000_000, true));
    bench.serve(70, 0);
    bench.adopt(&blue_green("v2"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, false));
    // The configuration is rolled back, also over a restart.
    bench.adopt(&blue_green("v1"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, true));
    let mut bench = bench.restart(&blue_green("v1"));
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, true));
    // A file without the other side sends everything to the stable, and changes nothing.
    bench.adopt("stable = \"v1\"\nblue-green = {}\n", 2);
    bench.serve(2, 0);
    assert_eq!((bench.share(), bench.machine.file_differs()), (0, false));
    bench.adopt("stable = \"v1\"\n", 2);
    let mut bench = bench.restart("stable = \"v1\"\n");
    bench.adopt(&blue_green("v1"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, true));
    // A person moves it.
    bench.order(Command::Switch).unwrap();
    assert_eq!(bench.standing(), (Phase::Watch, 0, false));
    // Nor does another `live` where nobody has switched yet.
    let mut bench = Bench::new(&blue_green("v1"), None);
    bench.adopt(&blue_green("v2"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 0, true));
    // What the file says counts where nothing is known.
    assert_eq!(Bench::new(&blue_green("v2"), None).standing(), (Phase::Live, 1_000_000, false));
}

#[test]
fn what_became_of_a_revision_outlives_another_strategy() {
    let mut bench = Bench::known(CANARY);
    bench.serve(5, 0);
    bench.order(Command::Abort).unwrap();
    bench.adopt(&blue_green("v1"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 0, false));
    let mut bench = bench.restart(&blue_green("v1"));
    bench.adopt(CANARY, 1);
    bench.serve(100, 0);
    assert_eq!(bench.standing(), (Phase::RolledBack, 0, false));
    // What is live is live on, there and back.
    bench.adopt(&blue_green("v1"), 1);
    bench.order(Command::Switch).unwrap();
    bench.adopt(&canary("v1", "v2", "r2"), 1);
    bench.serve(100, 0);
    assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
    bench.adopt(&blue_green("v1"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, true));
    let mut bench = promoted();
    bench.adopt(&blue_green("v1"), 1);
    assert_eq!(bench.standing(), (Phase::Live, 1_000_000, true));
}

#[test]
fn other_upstreams_under_the_same_revision_get_nothing() {
    let mut bench = Bench::known(CANARY);
    bench.serve(70, 0);
    assert_eq!(bench.share(), 500_000);
    for other in [canary("v1", "v3", "r1"), canary("v0", "v2", "r1")] {
        bench.adopt(&other, 2);
        bench.serve(100, 0);
        assert_eq!(bench.standing(), (Phase::NotStarted, 0, false));
        assert!(!bench.machine.setting().is_in_play && !bench.machine.is_judging());
        assert!(bench.waits_for().contains("write a new `revision`"), "{}", bench.waits_for());
        for command in [Command::Start, Command::Promote, Command::Resume, Command::Abort] {
            let refused = bench.order(command).unwrap_err();
            assert!(refused.contains("\"v1\" to \"v2\""), "{refused}");
        }
        let mut again = bench.restart(&other);
        again.serve(100, 0);
        assert_eq!(again.standing(), (Phase::NotStarted, 0, false));
        again.adopt(CANARY, 1);
        assert_eq!(again.standing(), (Phase::Step, 500_000, false));
    }
    bench.adopt(CANARY, 1);
    assert_eq!(bench.standing(), (Phase::Step, 500_000, false));
    // The file agrees with what was promoted, and has forgotten the revision.
    let mut bench = promoted();
    bench.adopt(&canary("v2", "v3", "r1"), 2);
    bench.serve(100, 0);
    assert_eq!(bench.share(), 0);
    bench.adopt(&canary("v2", "v3", "r2"), 2);
    bench.serve(1, 0);
    assert_eq!(bench.standing(), (Phase::Step, 100_000, false));
    // A state from before upstreams were written down.
    let mut kept = promoted().machine.keep();
    kept.upstreams = None;
    let mut bench = Bench::new("stable = \"v2\"\n", Some(kept));
    bench.adopt(&canary("v2", "v3", "r1"), 2);
    bench.serve(100, 0);
    assert_eq!(bench.standing(), (Phase::Steady, 0, false));
}

#[test]
fn what_was_promoted_keeps_its_requests_until_the_file_agrees() {
    let mut bench = promoted();
    bench.adopt(&canary("v1", "v2", "r2"), 1);
    bench.serve(100, 0);
    assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
    assert!(bench.waits_for().contains("write `stable = \"v2\"`"), "{}", bench.waits_for());
    assert!(bench.order(Command::Promote).unwrap_err().contains("was promoted"));
    let mut bench = bench.restart(&canary("v1", "v2", "r2"));
    assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
    // Taken back by a person; then the other revision begins.
    bench.order(Command::Abort).unwrap();
    assert_eq!(bench.standing(), (Phase::Preflight, 0, false));
    bench.serve(2, 0);
    assert_eq!(bench.standing(), (Phase::Step, 100_000, false));
    bench.adopt(CANARY, 1);
    assert_eq!(bench.standing(), (Phase::RolledBack, 0, false));
}

#[test]
fn a_plan_without_what_has_all_requests_is_objected_to() {
    let bench = promoted();
    for text in [canary("v1", "v3", "r1"), canary("v1", "v3", "r2")] {
        let objection = bench.objection(&text);
        assert!(objection.contains("`stable = \"v2\"`, or `abort` it first"), "{objection}");
    }
    // An edge that is started with it can't but go by the file. No reload is refused for that.
    let mut again = bench.restart(&canary("v1", "v3", "r1"));
    again.serve(100, 0);
    assert_eq!(again.standing(), (Phase::NotStarted, 0, false));
    let mut again = bench.restart(&canary("v1", "v3", "r2"));
    again.serve(2, 0);
    assert_eq!(again.standing(), (Phase::Step, 100_000, false));
    assert_eq!(again.objection(&canary("v1", "v4", "r3")), "");
    for text in [
        canary("v2", "v3", "r2"),
        canary("v1", "v2", "r2"),
        blue_green("v1"),
        "stable = \"v1\"\n".to_owned(),
    ] {
        assert_eq!(bench.objection(&text), "");
    }
    let mut bench = Bench::new(&blue_green("v1"), None);
    let other = blue_green("v1").replace("v2", "v3");
    assert_eq!(bench.objection(&other), "", "the file has said what is live");
    bench.order(Command::Switch).unwrap();
    assert!(bench.objection(&other).contains("`switch` to the other side first"));
    bench.adopt(&blue_green("v2"), 1);
    assert_eq!(bench.objection(&other), "");
}

#[test]
fn what_a_file_has_taken_its_requests_from_gets_them_by_no_new_revision() {
    let without = "stable = \"v1\"\n";
    let mut bench = promoted();
    bench.adopt(without, 2);
    bench.serve(2, 0);
    assert_eq!((bench.share(), bench.machine.file_differs()), (0, false));
    assert_eq!(bench.objection(&canary("v1", "v3", "r2")), "", "v1 has all of them already");
    let mut restarted = bench.restart(without);
    let mut gone = promoted().machine.keep();
    gone.leave();
    let mut returned = Bench::new(&canary("v1", "v2", "r2"), Some(gone));
    returned.serve(2, 0);
    assert_eq!(returned.standing(), (Phase::Step, 100_000, false), "it was not in the file");
    for bench in [&mut bench, &mut restarted] {
        bench.adopt(&canary("v1", "v2", "r2"), 1);
        assert_eq!(bench.standing(), (Phase::Preflight, 0, false));
        bench.serve(2, 0);
        assert_eq!(bench.standing(), (Phase::Step, 100_000, false));
        // The file from before says what was so then.
        bench.adopt(CANARY, 1);
        assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
    }
}

#[test]
fn an_earlier_promotion_takes_nothing_from_a_later_one() {
    let mut bench = promoted();
    bench.adopt(&canary("v2", "v1", "r2"), 1);
    bench.serve(5, 0);
    bench.order(Command::Promote).unwrap();
    assert_eq!(bench.standing(), (Phase::Promoted, 1_000_000, true));
    bench.adopt(CANARY, 1);
    bench.serve(2, 0);
    assert_eq!(bench.machine.upstream_of(bench.machine.live_side()), "v1".parse().unwrap());
    // What a person has switched away from in blue-green is over.
    let mut bench = promoted();
    bench.adopt(&blue_green("v1"), 1);
    bench.serve(2, 0);
    bench.order(Command::Switch).unwrap();
    assert_eq!(bench.share(), 0);
    bench.adopt(CANARY, 1);
    bench.serve(2, 0);
    assert_eq!(bench.standing(), (Phase::RolledBack, 0, false));
}

#[test]
fn nothing_returns_to_a_side_that_another_file_has_put_there() {
    let next = blue_green("v2").replace("v1", "v3");
    let next =
        next.replace("stable = \"v3\"\ncandidate = \"v2\"", "stable = \"v2\"\ncandidate = \"v3\"");
    let mut bench = Bench::new(&blue_green("v1"), None);
    bench.serve(5, 0);
    bench.order(Command::Switch).unwrap();
    assert_eq!(bench.phase(), Phase::Watch);
    bench.adopt(&blue_green("v2"), 1);
    assert_eq!(bench.phase(), Phase::Watch, "the same sides");
    let mut again = bench.restart(&next);
    bench.adopt(&next, 2);
    for bench in [&mut bench, &mut again] {
        assert_eq!(bench.standing(), (Phase::Live, 0, false));
        assert!(bench.order(Command::Abort).is_err());
        bench.facts = [DOWN, UP];
        bench.serve(60, 0);
        assert_eq!(bench.standing(), (Phase::Live, 0, false));
    }
}
