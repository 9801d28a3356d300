//! Switches on real traffic.

use std::time::{Duration, Instant};

use super::{BLUE_GREEN, Shop, version};
use crate::assert_eventually;

#[test]
fn a_switch_under_load_loses_nothing_and_each_request_goes_to_one_side() {
    let shop = Shop::new(BLUE_GREEN);
    let load = shop.edge.client().get("/").load(8).start();
    assert_eventually!(shop.v1.requests() > 500);
    assert_eq!(shop.v2.requests(), 0);
    for (live, other) in [("v2", "v1"), ("v1", "v2"), ("v2", "v1")] {
        let began = Instant::now();
        shop.command("switch").assert_status(200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(shop.status()["live"], live);
        let origin = |name: &str| if name == "v1" { &shop.v1 } else { &shop.v2 };
        // What was dealt before the switch is on its way there.
        let now = origin(live).requests();
        assert_eventually!(origin(live).requests() > now + 100);
        assert_eventually!(origin(other).in_flight() == 0);
        let (before, now) = (origin(other).requests(), origin(live).requests());
        assert_eventually!(origin(live).requests() > now + 200);
        assert_eq!(origin(other).requests(), before);
    }
    let report = load.stop().assert_all_ok();
    assert_eq!(shop.v1.requests() + shop.v2.requests(), report.total());
}

#[test]
fn a_switch_to_a_version_that_fails_is_taken_back() {
    let shop = Shop::new(BLUE_GREEN);
    let load = shop.edge.client().get("/").load(4).pause(Duration::from_millis(5)).start();
    assert_eventually!(shop.v1.requests() > 300);
    // What it was like is counted once a second.
    let seen = shop.v1.requests();
    assert_eventually!(shop.v1.requests() > seen + 800);
    shop.v2.set_status(503);
    shop.command("switch").assert_status(200);
    assert_eventually!(shop.status()["live"] == "v1");
    load.stop();
    let reason = shop.status()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("failures on \"v2\": "), "{reason}");
    shop.edge.client().get("/").times(20).all_status(200);
}

#[test]
fn a_side_without_endpoints_is_served_by_the_other() {
    let shop = Shop::new(BLUE_GREEN);
    shop.edge.client().get("/").send().assert_status(200);
    shop.v1.stop();
    assert_eventually!(shop.status()["stable"]["endpoints_in_service"] == 0);
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!(shop.v2.requests(), 20);
    let down = || {
        shop.edge
            .metric("tidegate_rollout_events_total", [("rollout", "shop"), ("event", "side_down")])
    };
    assert_eventually!(down() == 1.0);
    shop.v1.restart();
    assert_eventually!(version(&shop.edge.client(), &[]) == "v1");
}
