//! A mirror: copies first, then a canary, or nothing.

use super::*;

const MIRROR: &str = "
stable = \"v1\"
candidate = \"v2\"
revision = \"r1\"
mirror = { share = \"20%\", duration = \"1m\", requests = 500, canary = { steps = [\"10% 1m\"] } }
";

fn alone() -> String {
    MIRROR.replace(", canary = { steps = [\"10% 1m\"] }", "")
}

impl Bench {
    /// So many seconds with 20 pairs each, of which so many differ.
    fn compare(&mut self, seconds: u64, stable: u64, candidate: u64) {
        for _ in 0..seconds {
            self.look(side(20, stable), side(20, candidate));
        }
    }

    /// Share, whether the candidate may get requests, and whether it gets copies.
    fn dial(&self) -> (u32, bool, bool) {
        let setting = self.machine.setting();
        (setting.share.millionths(), setting.is_in_play, setting.is_mirrored)
    }
}

#[test]
fn a_candidate_that_answers_alike_goes_on_to_its_canary() {
    let mut bench = Bench::known(MIRROR);
    assert_eq!(bench.dial(), (0, false, false));
    bench.compare(1, 0, 0);
    assert_eq!((bench.phase(), bench.dial()), (Phase::Mirror, (0, false, true)));
    assert!(bench.order(Command::Promote).unwrap_err().contains("served nobody"));
    bench.compare(20, 0, 0);
    assert!(bench.waits_for().contains("of 500 requests"), "{}", bench.waits_for());
    bench.compare(10, 0, 0);
    assert!(bench.waits_for().contains("of 1m have passed"), "{}", bench.waits_for());
    let before = bench.machine.setting().number;
    bench.compare(40, 0, 0);
    assert_eq!((bench.phase(), bench.dial()), (Phase::Step, (100_000, true, false)));
    assert!(bench.machine.setting().number >= before + 2, "a new window");
    bench.serve(61, 0);
    assert_eq!(bench.phase(), Phase::Ready);
    bench.order(Command::Promote).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Promoted, 1_000_000));
}

#[test]
fn differences_end_it_and_the_revision_stays_back() {
    let mut bench = Bench::known(MIRROR);
    bench.compare(10, 0, 0);
    bench.compare(10, 0, 4);
    assert_eq!((bench.phase(), bench.dial()), (Phase::RolledBack, (0, false, false)));
    let mut again = bench.restart(MIRROR);
    again.compare(100, 0, 0);
    assert_eq!(again.phase(), Phase::RolledBack);
    // Both fail alike: nobody is to blame.
    let mut bench = Bench::known(MIRROR);
    bench.compare(100, 10, 10);
    assert_eq!(bench.phase(), Phase::Mirror);
}

#[test]
fn alone_it_ends_ready_and_nothing_is_promoted() {
    let mut bench = Bench::known(&alone());
    bench.compare(70, 0, 0);
    assert_eq!((bench.phase(), bench.dial()), (Phase::Ready, (0, false, false)));
    let refused = bench.order(Command::Promote).unwrap_err();
    assert!(refused.contains("served nobody"), "{refused}");
    assert!(!bench.machine.is_judging());
    bench.facts[1] = DOWN;
    bench.compare(10, 0, 0);
    // The file goes on to a canary.
    bench.facts[1] = UP;
    bench.adopt(MIRROR, 1);
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Step, 100_000));
    // And back: there are no steps any more.
    bench.adopt(&alone(), 1);
    bench.compare(1, 0, 0);
    assert_eq!((bench.phase(), bench.dial()), (Phase::Mirror, (0, false, true)));
}

#[test]
fn it_outlives_a_restart_and_may_be_paused_and_aborted() {
    let mut bench = Bench::known(MIRROR);
    bench.compare(30, 0, 0);
    let mut bench = bench.restart(MIRROR);
    assert_eq!((bench.phase(), bench.dial()), (Phase::Mirror, (0, false, true)));
    bench.order(Command::Pause).unwrap();
    bench.compare(100, 0, 0);
    assert_eq!(bench.phase(), Phase::Mirror);
    bench.order(Command::Resume).unwrap();
    bench.compare(20, 0, 0);
    assert_eq!(bench.phase(), Phase::Mirror, "the time of a pause does not count");
    bench.compare(15, 0, 0);
    assert_eq!(bench.phase(), Phase::Step);
    let mut bench = Bench::known(MIRROR);
    bench.compare(5, 0, 0);
    bench.order(Command::Abort).unwrap();
    assert_eq!((bench.phase(), bench.dial()), (Phase::Aborted, (0, false, false)));
    // A plan without a mirror begins with its preflight.
    let mut bench = Bench::known(MIRROR);
    bench.compare(5, 0, 0);
    bench.adopt(CANARY, 1);
    assert_eq!(bench.phase(), Phase::Preflight);
}
