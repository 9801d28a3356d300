//! Which tries say something of a version, and which say nothing.

use std::time::Duration;

use super::{CANARY, HEAD, PROBES, Shop, named};
use crate::{assert_eventually, harness::Origin};

/// Every other request goes to the candidate, and nothing is ever concluded.
const HALF: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
revision = "r1"
analysis = { max_error_increase = "90%" }
canary = { steps = ["50% 1h"] }
"#;

/// Requests and failures that count for a side.
fn counted(shop: &Shop, side: &str) -> (u64, u64) {
    let side = &shop.status()[side];
    (side["requests"].as_u64().unwrap(), side["failures"].as_u64().unwrap())
}

fn with(origins: [Origin; 2], text: &str) -> Shop {
    let shop = Shop::of(origins, &[], text);
    shop.start_until("step");
    shop
}

#[test]
fn a_client_that_waits_too_long_had_no_answer_and_one_that_leaves_at_once_says_nothing() {
    let plan = HALF.replace("canary", "failures = { slower_than = \"400ms\" }\ncanary");
    let shop = Shop::started(&plan);
    shop.v2.set_delay(Duration::from_mins(1));
    let client = shop.edge.client();
    let hasty = client.clone().timeout(Duration::from_millis(30));
    let sent = |n| assert_eventually!(shop.v1.requests() + shop.v2.requests() >= n);
    hasty.get("/").times(6);
    sent(6);
    let before = shop.v2.requests();
    client.timeout(Duration::from_millis(800)).get("/").times(6);
    sent(12);
    let waited = shop.v2.requests() - before;
    assert!((2..=4).contains(&waited), "{waited}");
    assert_eventually!(counted(&shop, "candidate") == (waited, waited));
    assert_eq!(counted(&shop, "stable").1, 0);
}

#[test]
fn an_answer_that_does_not_end_in_the_time_of_the_request_is_a_failure() {
    let v2 = Origin::builder().paced(1_000, 10, Duration::from_millis(100)).start();
    let head = HEAD.replace("rollout =", "timeouts = { total = \"400ms\" }\nrollout =");
    let shop = with([named("v1"), v2], &format!("{head}{PROBES}{HALF}"));
    for _ in 0..6 {
        // Half of them break off.
        drop(shop.edge.client().get("/").try_send());
    }
    let sent = shop.v2.requests();
    assert!((2..=4).contains(&sent), "{sent}");
    assert_eventually!(counted(&shop, "candidate") == (sent, sent));
    assert_eq!(counted(&shop, "stable").1, 0);
}

#[test]
fn how_slowly_a_client_sends_is_not_the_candidates_fault() {
    let plan = HALF.replace("canary", "failures = { slower_than = \"400ms\" }\ncanary");
    let shop = Shop::started(&plan);
    let client = shop.edge.client();
    let upload = client.post("/").chunked(80, 10, Duration::from_millis(100));
    upload.times(4).all_status(200);
    assert_eventually!(counted(&shop, "stable").0 + counted(&shop, "candidate").0 == 4);
    assert_eq!((counted(&shop, "stable").1, counted(&shop, "candidate").1), (0, 0));
}

#[test]
fn a_client_network_that_fails_too_often_is_left_out_good_and_bad() {
    let shop = Shop::started(HALF);
    let client = shop.edge.client();
    let one = |address: &str| client.get("/").header("x-forwarded-for", address);
    shop.v2.set_status(500);
    one("192.0.2.1").times(60);
    assert_eventually!(shop.status()["left_out"].as_u64() >= Some(50));
    let (all, failed) = counted(&shop, "candidate");
    assert_eq!((all, failed), (3, 3), "up to the third failure");
    assert!(counted(&shop, "stable").0 <= 8);
    shop.v2.set_status(200);
    one("192.0.2.1").times(20).all_status(200);
    one("192.0.2.2").times(20).all_status(200);
    assert_eventually!(counted(&shop, "candidate").0 >= 9);
    let sum = counted(&shop, "stable").0 + counted(&shop, "candidate").0;
    assert!(sum <= 35, "the first one is still left out: {sum}");
}

#[test]
fn what_the_stable_has_no_room_for_is_not_poured_onto_the_candidate() {
    let head =
        HEAD.replace("[\"{0}\"]", "[\"{0}\"]\nlimits = { max_requests = 1, max_waiting = 0 }");
    let plan = CANARY.replace("10% 1h", "0% pause");
    let shop = with([named("v1"), named("v2")], &format!("{head}{PROBES}{plan}"));
    shop.v1.set_delay(Duration::from_millis(20));
    let report = shop.edge.client().get("/").load(4).requests(40);
    assert!(report.statuses.get(&503).is_some_and(|n| *n > 5), "{report}");
    assert_eq!(shop.v2.requests(), 0);
}

#[test]
fn what_the_candidate_has_no_connection_for_is_served_by_the_stable_and_counts() {
    let head = HEAD.replace("[\"{1}\"]", "[\"{1}\"]\nlimits = { max_connections = 1 }");
    let shop = with([named("v1"), named("v2")], &format!("{head}{PROBES}{HALF}"));
    shop.v2.set_delay(Duration::from_millis(50));
    shop.edge.client().post("/").body("x").load(8).requests(80).assert_all_ok();
    assert_eventually!(counted(&shop, "candidate").1 > 5);
    assert!(shop.v1.requests() > 45, "{}", shop.v1.requests());
}
