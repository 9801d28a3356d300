//! A preflight that asks the endpoints something.

use super::*;

const READY: &str = "preflight = { requests = [{ path = \"/ready\" }] }\n";

fn failed() -> PreflightResult {
    PreflightResult::Failed { text: "GET /ready at a answered 503, expected 200-299".to_owned() }
}

#[test]
fn a_canary_begins_when_all_was_answered_well() {
    let mut bench = Bench::known(&format!("{CANARY}{READY}"));
    assert_eq!(bench.machine.asks(), Some(Side::Candidate));
    for (result, waits_for) in [
        (PreflightResult::NotAsked, "the endpoints are asked"),
        (PreflightResult::Running, "the endpoints are asked"),
        (failed(), "GET /ready at a answered 503"),
        (PreflightResult::Running, "the endpoints are asked"),
    ] {
        bench.preflight = result;
        bench.serve(2, 0);
        assert_eq!(bench.phase(), Phase::Preflight);
        assert!(bench.waits_for().starts_with(waits_for), "{}", bench.waits_for());
    }
    assert_eq!(bench.kinds(), [EventKind::Started, EventKind::Held]);
    bench.preflight = PreflightResult::Passed;
    bench.facts[1] = DOWN;
    bench.serve(1, 0);
    assert!(bench.waits_for().contains("healthy"), "both must hold: {}", bench.waits_for());
    bench.facts[1] = UP;
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.machine.asks()), (Phase::Step, None));
}

#[test]
fn a_switch_asks_each_time_and_a_switch_back_never() {
    let mut bench = Bench::known(&format!("{BLUE_GREEN}{READY}"));
    assert_eq!(bench.machine.asks(), None);
    // Left over from before.
    bench.preflight = PreflightResult::Passed;
    bench.order(Command::Switch).unwrap();
    assert_eq!((bench.phase(), bench.machine.asks()), (Phase::Preflight, Some(Side::Candidate)));
    bench.preflight = failed();
    bench.serve(5, 0);
    assert_eq!(bench.phase(), Phase::Preflight);
    bench.preflight = PreflightResult::Passed;
    bench.serve(1, 0);
    assert_eq!((bench.phase(), bench.share()), (Phase::Watch, 1_000_000));
    bench.preflight = failed();
    bench.order(Command::Switch).unwrap();
    assert_eq!((bench.phase(), bench.share()), (Phase::Live, 0));
}
