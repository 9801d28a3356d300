//! What a candidate must answer before it gets any request.

use std::time::Duration;

use serde_json::Value;

use super::{BLUE_GREEN, CANARY, HEAD, PROBES, Shop, named};
use crate::{assert_eventually, harness::Origin};

const READY: &str = r#"preflight = { requests = [{ method = "POST", path = "/ready?deep", status = [200, 204] }, { path = "/other", host = "other.test" }] }"#;

/// A shop whose candidate has two endpoints.
fn shop(rollout: &str) -> (Shop, Origin) {
    let other = named("v2");
    let shop = Shop::of([named("v1"), named("v2")], &[&other], &format!("{}{rollout}", head()));
    assert_eventually!(shop.status()["candidate"]["endpoints_in_service"] == 2);
    (shop, other)
}

fn head() -> String {
    let two = HEAD.replace("[\"{1}\"]", "[\"{1}\", \"{2}\"]\nhost = \"shop.internal\"");
    format!("{two}{PROBES}")
}

fn waits_for(shop: &Shop) -> String {
    shop.status()["waits_for"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_candidate_waits_until_each_endpoint_answers_as_it_must() {
    let (shop, other) = shop(&format!("{CANARY}{READY}"));
    other.set_status(503);
    shop.command("start").assert_status(200);
    let expected =
        format!("POST /ready?deep at {} answered 503, expected 200, 204", other.address());
    assert_eventually!(waits_for(&shop) == expected);
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!((shop.phase().as_str(), shop.v1.requests()), ("preflight", 20));
    let asked = shop.v2.recorded();
    let lines: Vec<(&str, Option<&str>)> =
        asked.iter().take(2).map(|one| (one.path.as_str(), one.host())).collect();
    assert_eq!(lines, [("/ready?deep", Some("shop.internal")), ("/other", Some("other.test"))]);
    assert_eq!(asked[0].method, "POST");
    other.set_status(204);
    // The second one asks for 200 to 299.
    assert_eventually!(shop.phase() == "step");
}

#[test]
fn endpoints_that_give_no_answer_are_named_and_the_plan_may_be_called_off() {
    let (shop, _other) =
        shop(&format!("{CANARY}{}", READY.replace("status = [200, 204]", "timeout = \"100ms\"")));
    shop.v2.set_resetting(true);
    shop.command("start").assert_status(200);
    let place = format!("POST /ready?deep at {} gave no valid answer", shop.v2.address());
    assert_eventually!(waits_for(&shop) == place);
    shop.command("abort").assert_status(200);
    assert_eq!(shop.phase(), "aborted");
}

#[test]
fn each_endpoint_is_warmed_up_once_before_it_gets_requests() {
    let warm_up = "preflight = { warm_up = { requests = 30, paths = [\"/a\", \"/b\"] } }";
    let (shop, other) = shop(&format!("{CANARY}{warm_up}"));
    // What they answer does not matter.
    shop.v2.set_status(500);
    shop.command("start").assert_status(200);
    assert_eventually!(shop.phase() == "step");
    for origin in [&shop.v2, &other] {
        let of = |path: &str| origin.recorded().iter().filter(|one| one.path == path).count();
        assert_eq!((origin.requests(), of("/a"), of("/b")), (30, 15, 15));
        assert!(origin.most_in_flight() <= 8, "{}", origin.most_in_flight());
    }
}

#[test]
fn a_reload_of_something_else_begins_no_warm_up_anew() {
    let rollout =
        format!("{CANARY}preflight = {{ warm_up = {{ requests = 30, paths = [\"/a\"] }} }}");
    let (shop, other) = shop(&rollout);
    // One after the other: the first one that is asked keeps the task there, for less than a request may take.
    for origin in [&shop.v2, &other] {
        origin.set_delay(Duration::from_secs(3));
    }
    shop.command("start").assert_status(200);
    let waiting = || shop.v2.in_flight() + other.in_flight();
    assert_eventually!(waiting() == 8);
    let unrelated = "\n[sites.more]\nhosts = [\"more.test\"]\nendpoints = [\"{0}\"]\n";
    shop.edge.reload_with(&format!("{}{rollout}{unrelated}", head())).unwrap();
    for origin in [&shop.v2, &other] {
        origin.set_delay(Duration::ZERO);
    }
    assert_eventually!(shop.phase() == "step", within Duration::from_mins(1));
    assert_eq!((shop.v2.requests(), other.requests()), (30, 30));
}

#[test]
fn another_revision_is_asked_anew() {
    let rollout = format!("{CANARY}{READY}");
    let (shop, _other) = shop(&rollout);
    shop.start_until("step");
    shop.v2.set_status(503);
    let next = rollout.replace("\"r1\"", "\"r2\"");
    shop.edge.reload_with(&format!("{}{next}", head())).unwrap();
    assert_eventually!(waits_for(&shop).contains("answered 503"));
    assert_eq!(shop.phase(), "preflight");
}

#[test]
fn a_switch_waits_for_the_answers_and_a_switch_back_does_not() {
    let (shop, _other) = shop(&format!("{BLUE_GREEN}{READY}"));
    shop.v2.set_status(404);
    let switched: Value = shop.command("switch").assert_status(200).json();
    assert_eq!((&switched["phase"], &switched["live"]), (&"preflight".into(), &"v1".into()));
    assert_eventually!(waits_for(&shop).contains("answered 404"));
    shop.v2.set_status(200);
    assert_eventually!(shop.status()["live"] == "v2");
    let back: Value = shop.command("switch").assert_status(200).json();
    assert_eq!(back["live"], "v1");
    // There again: what was answered before says nothing of now.
    shop.v2.set_status(404);
    let again: Value = shop.command("switch").assert_status(200).json();
    assert_eq!(again["live"], "v1");
    assert_eventually!(waits_for(&shop).contains("answered 404"));
}

#[test]
fn endpoints_of_http_2_are_asked_by_http_2() {
    let http2 = || Origin::builder().name("v2").http2().start();
    let rollout = format!("{CANARY}{READY}").replace("status = [200, 204]", "body_contains = \"\"");
    let head = head().replace("host = \"shop", "protocol = \"http2\"\nhost = \"shop");
    let other = http2();
    let shop = Shop::of([named("v1"), http2()], &[&other], &format!("{head}{rollout}"));
    shop.start_until("step");
    let asked = shop.v2.recorded();
    assert_eq!((asked[0].path.as_str(), asked[0].host()), ("/ready?deep", Some("shop.internal")));
}
