//! Copies of real requests: never felt by clients, compared, judged.

use std::time::Duration;

use super::{HEAD, Shop};
use crate::{assert_eventually, harness::Origin};

const MIRROR: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
revision = "r1"
preflight = { healthy = 0 }
mirror = { share = "100%", duration = "1h", timeout = "60s" }
"#;

/// A shop whose mirror has begun.
fn mirrored(v1: Origin, v2: Origin, rollout: &str) -> Shop {
    let shop = Shop::of([v1, v2], &[], &format!("{}{rollout}", head()));
    shop.start_until("mirror");
    shop
}

fn plain(rollout: &str) -> Shop {
    mirrored(answering("one"), answering("one"), rollout)
}

fn head() -> String {
    HEAD.replace("[\"{0}\"]", "[\"{0}\"]\nhost = \"v1.internal\"")
}

fn skipped(shop: &Shop, reason: &str) -> f64 {
    let labels = [("rollout", "shop"), ("reason", reason)];
    shop.edge.metric("tidegate_rollout_mirror_skipped_total", labels)
}

fn copies_of(shop: &Shop) -> f64 {
    shop.edge.metric("tidegate_rollout_mirror_copies_total", [("rollout", "shop")])
}

fn compared(shop: &Shop) -> [u64; 2] {
    let status = shop.status();
    ["stable", "candidate"].map(|side| status[side]["requests"].as_u64().unwrap())
}

fn failures(shop: &Shop) -> [u64; 2] {
    let status = shop.status();
    ["stable", "candidate"].map(|side| status[side]["failures"].as_u64().unwrap())
}

fn answering(body: &str) -> Origin {
    Origin::builder().body(body.to_owned()).start()
}

#[test]
fn a_copy_is_like_the_request_and_the_client_gets_the_stables_answer() {
    let shop = mirrored(answering("one"), answering("two"), MIRROR);
    let answer = shop
        .edge
        .client()
        .get("/a/b?c=d")
        .header("cookie", "session=1")
        .header("authorization", "Bearer x")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-tidegate-mirror", "forged")
        .send()
        .assert_status(200);
    assert_eq!(answer.text(), "one");
    assert_eventually!(shop.v2.requests() == 1);
    let (live, copy) = (shop.v1.last_request(), shop.v2.last_request());
    assert_eq!((&copy.method, &copy.path), (&live.method, &live.path));
    assert_eq!(live.header("x-tidegate-mirror"), None, "what clients send is removed");
    assert_eq!(copy.header("x-tidegate-mirror"), Some("1"));
    assert_eq!(copy.header("x-hop"), None);
    for name in ["cookie", "authorization", "x-request-id", "x-forwarded-for"] {
        assert!(live.header(name).is_some(), "{name}");
        assert_eq!(copy.header(name), live.header(name), "{name}");
    }
    assert_eq!(live.host(), Some("v1.internal"));
    assert!(copy.host().unwrap().starts_with("127.0.0.1:"), "as the client wrote it");
    assert_eventually!(compared(&shop) == [1, 1]);
    assert_eq!(shop.status()["candidate"]["share"], 0);
}

#[test]
fn a_candidate_that_hangs_delays_nobody_and_copies_are_bounded() {
    let shop = plain(&MIRROR.replace("timeout", "max_in_flight = 3, timeout"));
    shop.v2.hang();
    // All are answered while no copy is.
    shop.edge.client().get("/").times(30).all_status(200);
    assert_eventually!(shop.v2.in_flight() == 3);
    assert_eq!((shop.v2.requests(), compared(&shop)), (3, [0, 0]));
    assert_eventually!(skipped(&shop, "in_flight") == 27.0);
    assert_eq!(shop.status()["mirror"]["in_flight"], 3);
    shop.v2.resume();
    assert_eventually!(compared(&shop) == [3, 3]);
    shop.edge.client().get("/").send().assert_status(200);
    assert_eventually!(compared(&shop) == [4, 4]);
}

#[test]
fn a_candidate_that_is_slow_or_down_delays_nobody() {
    let shop = plain(&MIRROR.replace("60s", "100ms"));
    shop.v2.set_delay(Duration::from_mins(1));
    shop.edge.client().get("/").times(5).all_status(200);
    assert_eventually!(shop.status()["candidate"]["failures"] == 5);
    let differences = shop.status()["mirror"]["differences"].to_string();
    assert!(differences.contains("GET /: no answer within 100ms"), "{differences}");
    shop.v2.stop();
    let load = shop.edge.client().get("/").load(4).pause(Duration::from_millis(5)).start();
    assert_eventually!(shop.phase() == "rolled_back");
    load.stop().assert_all_ok();
    let no_answer = [("rollout", "shop"), ("what", "no_answer")];
    assert!(shop.edge.metric("tidegate_rollout_mirror_differences_total", no_answer) > 5.0);
    let sent = copies_of(&shop);
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!(copies_of(&shop), sent, "no more copies");
}

#[test]
fn a_post_is_copied_only_where_it_is_listed_and_small_enough() {
    let shop = plain(MIRROR);
    let post =
        |size: usize| shop.edge.client().post("/").body("x".repeat(size)).send().assert_status(200);
    post(10);
    assert_eventually!(skipped(&shop, "method") == 1.0);
    assert_eq!((shop.v2.requests(), copies_of(&shop)), (0, 0.0));
    let listed = MIRROR.replace("timeout", "methods = [\"POST\"], max_body = \"1KiB\", timeout");
    shop.edge.reload_with(&format!("{}{listed}", head())).unwrap();
    post(1_024);
    assert_eventually!(shop.v2.requests() == 1);
    assert_eventually!(shop.v2.last_request().body_length == 1_024);
    post(1_025);
    assert_eventually!(skipped(&shop, "body") == 1.0);
    shop.edge.client().get("/").send().assert_status(200);
    assert_eventually!(skipped(&shop, "method") == 2.0);
    assert_eq!(shop.v2.requests(), 1);
}

#[test]
fn an_answer_that_differs_is_found_and_told_without_what_is_secret() {
    let compare = "compare = { body = \"json\", ignore = [\"/at\"] }, timeout";
    let json = |text: &str| {
        Origin::builder().header("content-type", "application/json").body(text.to_owned()).start()
    };
    let shop = mirrored(
        json("{\"at\":1,\"items\":[{\"price\":5}]}"),
        json("{\"at\":2,\"items\":[{\"price\":6}]}"),
        &MIRROR.replace("timeout", compare),
    );
    let load = shop.edge.client().get("/items?token=secret").load(4).start();
    assert_eventually!(shop.phase() == "rolled_back");
    load.stop().assert_all_ok();
    let mirror = &shop.status()["mirror"];
    let differences = mirror["differences"].as_array().unwrap();
    assert!(differences.len() <= 20, "{differences:?}");
    assert_eq!(differences[0], "GET /items: the body differs at /items/0/price");
    let body = [("rollout", "shop"), ("what", "body")];
    assert!(shop.edge.metric("tidegate_rollout_mirror_differences_total", body) >= 14.0);
    let reason = shop.status()["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("failures on the candidate: "), "{reason}");
}

#[test]
fn a_candidate_that_answers_alike_goes_on_to_the_canary() {
    let next = "duration = \"100ms\", requests = 60, compare = { body = \"hash\" }, canary = { steps = [\"50% 1h\"] }";
    let shop = plain(&MIRROR.replace("duration = \"1h\"", next));
    let load = shop.edge.client().get("/").load(4).start();
    assert_eventually!(shop.phase() == "step");
    assert_eventually!(shop.status()["mirror"]["in_flight"] == 0);
    let sent = copies_of(&shop);
    let before = shop.v2.requests();
    assert_eventually!(shop.v2.requests() > before + 100);
    load.stop().assert_all_ok();
    assert_eq!(shop.v2.last_request().header("x-tidegate-mirror"), None);
    assert_eq!(copies_of(&shop), sent);
    assert_eq!(shop.status()["candidate"]["failures"], 0);
}

#[test]
fn alone_it_ends_ready_and_is_not_promoted() {
    let shop = plain(&MIRROR.replace("\"1h\"", "\"100ms\", requests = 60"));
    let load = shop.edge.client().get("/").load(4).start();
    assert_eventually!(shop.phase() == "ready");
    load.stop().assert_all_ok();
    let refused = shop.command("promote").assert_status(409);
    assert!(refused.text().contains("served nobody"), "{}", refused.text());
    let live = shop.v1.requests();
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!(shop.v1.requests(), live + 20);
}

#[test]
fn what_both_fail_at_counts_on_both_sides() {
    // Both answer badly, break off, or can't be connected to, as where what stands behind them is down.
    let cut = || Origin::builder().truncated(1_000, 10).start();
    for (case, [v1, v2]) in [
        ("status", [answering("one"), answering("one")]),
        ("reset", [answering("one"), answering("one")]),
        ("cut", [cut(), cut()]),
        ("stopped", [answering("one"), answering("one")]),
    ] {
        let shop = mirrored(v1, v2, MIRROR);
        for origin in [&shop.v1, &shop.v2] {
            match case {
                "status" => origin.set_status(500),
                "reset" => origin.set_resetting(true),
                "stopped" => origin.stop(),
                _ => {}
            }
        }
        for _ in 0..5 {
            // What the client gets does not matter here.
            drop(shop.edge.client().get("/").try_send());
        }
        assert_eventually!(compared(&shop) == [5, 5], within Duration::from_secs(30));
        assert_eq!(failures(&shop), [5, 5], "{case}");
        assert_eq!(shop.phase(), "mirror", "{case}");
    }
}

#[test]
fn a_candidate_that_does_better_than_the_stable_has_not_failed() {
    let shop = plain(MIRROR);
    shop.v1.set_status(500);
    shop.edge.client().get("/").times(3).all_status(500);
    assert_eventually!(compared(&shop) == [3, 3]);
    assert_eq!(failures(&shop), [3, 0]);
    // Nobody is connected to, and the copy is like any other.
    shop.v1.stop();
    shop.edge.client().get("/x?y").header("x-tidegate_mirror", "1").send().assert_status(502);
    assert_eventually!(compared(&shop) == [4, 4]);
    assert_eq!(failures(&shop), [4, 0]);
    let copy = shop.v2.last_request();
    assert_eq!((copy.path.as_str(), copy.header("x-tidegate_mirror")), ("/x?y", None));
    for name in ["x-forwarded-for", "x-request-id", "x-tidegate-mirror"] {
        assert!(copy.header(name).is_some(), "{name}");
    }
}

#[test]
fn a_retry_hides_no_failure_of_the_stable() {
    // One endpoint of the stable resets: every client is served by the other.
    let good = answering("one");
    let head = head()
        .replace("[\"{0}\"]", "[\"{0}\", \"{2}\"]\noutlier_detection = false\nretries = { tries = 2, budget = { floor = \"100/s\" } }");
    let v1 = Origin::builder().reset_before_head().start();
    let shop = Shop::of([v1, answering("one")], &[&good], &format!("{head}{MIRROR}"));
    shop.start_until("mirror");
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eventually!(compared(&shop) == [20, 20]);
    let [stable, candidate] = failures(&shop);
    assert!((5..=15).contains(&stable), "{stable}");
    assert_eq!(candidate, 0);
    let retried = shop.v2.recorded().iter().any(|copy| copy.header("x-attempt-count").is_some());
    assert!(!retried, "a copy is no retry");
}

#[test]
fn what_a_client_ends_is_no_pair() {
    let shop = plain(MIRROR);
    shop.v1.hang();
    let mut raw = shop.edge.raw();
    raw.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eventually!(shop.v1.in_flight() == 1);
    raw.reset();
    assert_eventually!(skipped(&shop, "unanswered") == 1.0);
    shop.v1.resume();
    assert_eq!((compared(&shop), shop.v2.requests()), ([0, 0], 0));
}

#[test]
fn a_candidate_that_breaks_off_every_body_is_found() {
    let cut = Origin::builder().truncated(100_000, 50_000).start();
    let shop = mirrored(Origin::builder().download(100_000).start(), cut, MIRROR);
    shop.edge.client().get("/").times(3).all_status(200);
    assert_eventually!(compared(&shop) == [3, 3]);
    assert_eq!(failures(&shop), [0, 3]);
}

#[test]
fn a_copy_goes_to_the_candidate_of_the_generation_in_force() {
    let other = answering("one");
    let shop =
        Shop::of([answering("one"), answering("one")], &[&other], &format!("{}{MIRROR}", head()));
    shop.start_until("mirror");
    let ask = || {
        shop.v1.hang();
        let mut raw = shop.edge.raw();
        raw.send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eventually!(shop.v1.in_flight() == 1);
        raw
    };
    let end = |mut raw: crate::harness::Raw| {
        shop.v1.resume();
        raw.read_to_end(Duration::from_mins(1)).unwrap();
    };
    // Something else is reloaded: the copy is sent all the same.
    let raw = ask();
    let unrelated = "\n[sites.more]\nhosts = [\"more.test\"]\nendpoints = [\"{0}\"]\n";
    shop.edge.reload_with(&format!("{}{MIRROR}{unrelated}", head())).unwrap();
    end(raw);
    assert_eventually!(compared(&shop) == [1, 1]);
    // The candidate's endpoint is another one: what began before is not sent to the one that is gone.
    let raw = ask();
    shop.edge.reload_with(&format!("{}{MIRROR}", head().replace("{1}", "{2}"))).unwrap();
    end(raw);
    assert_eventually!(skipped(&shop, "over") == 1.0 || shop.v2.requests() > 1);
    assert_eq!(shop.v2.requests(), 1);
    shop.edge.client().get("/").send().assert_status(200);
    assert_eventually!(other.requests() == 1);
}

#[test]
fn who_is_answered_slowly_takes_no_place_of_the_copies() {
    let shop = plain(&MIRROR.replace("timeout", "max_in_flight = 1, timeout"));
    shop.v1.set_delay(Duration::from_mins(5));
    let mut raw = shop.edge.raw();
    raw.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eventually!(shop.v1.in_flight() == 1);
    shop.v1.set_delay(Duration::ZERO);
    shop.edge.client().get("/").send().assert_status(200);
    assert_eventually!(compared(&shop) == [1, 1]);
    assert_eq!(skipped(&shop, "in_flight"), 0.0);
    raw.reset();
}

#[test]
fn times_are_not_compared() {
    let shop = plain(MIRROR);
    shop.edge.client().get("/").times(5).all_status(200);
    assert_eventually!(compared(&shop) == [5, 5]);
    // Requests behind it are timed again; by then what was timed before is shown too.
    shop.command("abort").assert_status(200);
    let is_timed = || {
        shop.edge.client().get("/").send().assert_status(200);
        !shop.status()["stable"]["p50"].is_null()
    };
    assert_eventually!(is_timed(), within Duration::from_secs(30));
    assert!(shop.status()["candidate"]["p50"].is_null());
}
