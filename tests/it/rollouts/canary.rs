//! A canary on real traffic: shares, failures, the way to the end and back.

use std::time::Duration;

use serde_json::Value;

use super::{CANARY, HEAD, PROBES, Shop};
use crate::assert_eventually;

#[test]
fn shares_are_exact() {
    let shop = Shop::started(CANARY);
    let report = shop.edge.client().get("/").load(8).requests(10_000);
    report.assert_all_ok();
    let share = shop.v2.requests() as f64 / 10_000.0;
    assert!((share - 0.1).abs() <= 0.005, "{share}");
    assert_eventually!(shop.status()["candidate"]["requests"].as_u64() == Some(shop.v2.requests()));
    assert_eventually!(shop.status()["stable"]["requests"].as_u64() == Some(shop.v1.requests()));
}

#[test]
fn an_edge_that_knows_nothing_starts_nothing() {
    let shop = Shop::new(CANARY);
    assert_eq!(shop.phase(), "not_started");
    shop.edge.client().get("/").times(50).all_status(200);
    assert_eq!((shop.v1.requests(), shop.v2.requests()), (50, 0));
    let refused = shop.command("promote").assert_status(409);
    assert!(refused.text().contains("tidegate rollout start shop"), "{}", refused.text());
    shop.edge.admin().post("/v1/rollouts/shpo/start").send().assert_status(404);
    shop.edge.admin().post("/v1/rollouts/shop/begin").send().assert_status(404);
    shop.edge.admin().get("/v1/rollouts/shop/start").send().assert_status(405);
}

#[test]
fn a_candidate_that_fails_is_taken_back_and_nearly_nobody_is_hurt() {
    let shop = Shop::started(CANARY);
    let load = shop.edge.client().get("/").load(10).pause(Duration::from_millis(10)).start();
    assert_eventually!(shop.status()["candidate"]["requests"].as_u64() >= Some(100));
    let before = shop.v2.requests();
    shop.v2.set_status(500);
    assert_eventually!(shop.phase() == "rolled_back");
    let failed = shop.v2.requests() - before;
    let report = load.stop();
    assert!(failed <= 30, "{failed} tries failed");
    assert!(report.failures() <= 2, "{report:?}");
    let (at_verdict, status) = (shop.v2.requests(), shop.status());
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.starts_with("failures on the candidate: "), "{reason}");
    shop.edge.client().get("/").times(200).all_status(200);
    assert_eq!(shop.v2.requests(), at_verdict, "nobody is sent there any more");
    let events = |event| {
        shop.edge.metric("tidegate_rollout_events_total", [("rollout", "shop"), ("event", event)])
    };
    assert_eq!((events("rolled_back"), events("step")), (1.0, 1.0));
    assert_eq!(shop.edge.metric("tidegate_rollout_phase", [("phase", "rolled_back")]), 1.0);
}

#[test]
fn a_failed_try_on_the_candidate_is_tried_again_on_the_stable_where_that_does_no_harm() {
    let shop = Shop::started(&CANARY.replace("10% 1h", "50% 1h"));
    // Too few for a verdict.
    shop.v2.set_status(500);
    let gets = shop.edge.client().get("/").times(6);
    assert_eq!(gets.statuses().get(&200), Some(&6), "{:?}", gets.statuses());
    let second = || {
        let log = shop.edge.access_log();
        log.into_iter().find(|line| line["tries"].as_u64() == Some(2))
    };
    assert_eventually!(second().is_some_and(|line| line["upstream"] == "v1"));
    let posts: usize =
        (0..6).filter(|_| shop.edge.client().post("/").body("x").send().status == 500).count();
    assert!((1..=5).contains(&posts), "{posts} of 6 posts went to the candidate");
    shop.v2.set_status(200);
    shop.v2.set_resetting(true);
    let gets = shop.edge.client().get("/").times(4);
    assert_eq!(gets.statuses().get(&200), Some(&4), "{:?}", gets.statuses());
}

#[test]
fn a_candidate_that_is_as_good_goes_to_the_end() {
    let steps = "[\"20% 200ms\", \"50% 200ms 100\"], finish = \"promote\"";
    let shop = Shop::started(&CANARY.replace("[\"10% 1h\", \"50% 1h\"]", steps));
    let load = shop.edge.client().get("/").load(8).pause(Duration::from_millis(2)).start();
    assert_eventually!(shop.phase() == "promoted");
    load.stop().assert_all_ok();
    let v1 = shop.v1.requests();
    shop.edge.client().get("/").times(50).all_status(200);
    assert_eq!((shop.v1.requests(), shop.share()), (v1, 1_000_000));
    assert_eq!(shop.status()["file_differs"], true);
    assert_eq!(shop.edge.metric("tidegate_rollout_file_differs", ()), 1.0);
    // The file agrees; a new revision starts by itself, and an edge that crashes meanwhile knows that it may.
    shop.edge.reload_with(&format!("{HEAD}{PROBES}[rollouts.shop]\nstable = \"v2\"\n")).unwrap();
    assert_eq!(
        (shop.phase().as_str(), &shop.status()["file_differs"]),
        ("steady", &Value::Bool(false))
    );
    let kept = shop.edge.path("state/rollouts.json");
    assert_eventually!(std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("steady")));
    let next =
        CANARY.replace("\"v1\"", "\"v\"").replace("\"v2\"", "\"v1\"").replace("\"v\"", "\"v2\"");
    shop.edge.reload_with(&format!("{HEAD}{PROBES}{}", next.replace("r1", "r2"))).unwrap();
    assert_eventually!(shop.phase() == "step");
}

#[test]
fn a_candidate_whose_endpoints_are_gone_is_taken_back() {
    let shop = Shop::started(CANARY);
    shop.v2.set_healthy(false);
    assert_eventually!(shop.phase() == "rolled_back");
    assert_eq!(shop.status()["reason"], "no endpoint of the candidate is in service");
    shop.edge.client().get("/").times(50).all_status(200);
}
