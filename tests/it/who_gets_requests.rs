//! Priorities, zones, thresholds and slow start: which endpoints of an upstream get requests.

use crate::{
    assert_eventually,
    harness::{Edge, Origin},
};

const CHECK: &str = "health_check = { path = \"/healthz\", interval = \"50ms\", unhealthy_after = 1, healthy_after = 1 }\n\
                     slow_start = \"0s\"\n";

fn origins<const N: usize>() -> [Origin; N] {
    std::array::from_fn(|_| Origin::answering(200))
}

fn healthy(edge: &Edge) -> f64 {
    edge.metric("tidegate_endpoint_healthy", ())
}

/// How many of 60 requests each one gets.
fn shares<const N: usize>(edge: &Edge, origins: &[Origin; N]) -> [u64; N] {
    let before = origins.each_ref().map(Origin::requests);
    edge.client().get("/").times(60).all_status(200);
    let mut after = origins.each_ref().map(Origin::requests);
    for (count, before) in after.iter_mut().zip(before) {
        *count -= before;
    }
    after
}

#[test]
fn backups_serve_when_less_than_half_of_the_first_is_left() {
    let all = origins::<4>();
    let edge = Edge::start(
        &[&all[0], &all[1], &all[2], &all[3]],
        &format!(
            r#"
            [upstreams.api]
            balance = "round-robin"
            endpoints = ["{{0}}", "{{1}}", "{{2}}", {{ address = "{{3}}", priority = 1 }}]
            {CHECK}"#
        ),
    );
    assert_eventually!(healthy(&edge) == 4.0);
    assert_eq!(shares(&edge, &all), [20, 20, 20, 0]);
    all[0].set_healthy(false);
    assert_eventually!(healthy(&edge) == 3.0);
    assert_eq!(shares(&edge, &all), [0, 30, 30, 0]);
    all[1].set_healthy(false);
    assert_eventually!(healthy(&edge) == 2.0);
    assert_eq!(shares(&edge, &all), [0, 0, 30, 30]);
    all[2].set_healthy(false);
    assert_eventually!(healthy(&edge) == 1.0);
    assert_eq!(shares(&edge, &all), [0, 0, 0, 60]);
    all[0].set_healthy(true);
    all[1].set_healthy(true);
    assert_eventually!(healthy(&edge) == 3.0);
    assert_eq!(shares(&edge, &all), [30, 30, 0, 0]);
}

#[test]
fn a_retry_goes_to_a_backup_where_all_of_the_first_have_failed() {
    let all = origins::<3>();
    let edge = Edge::start(
        &[&all[0], &all[1], &all[2]],
        r#"
        [server]
        zone = "a"
        [upstreams.api]
        balance = "round-robin"
        endpoints = [
            { address = "{0}", zone = "a" }, { address = "{1}", zone = "b" },
            { address = "{2}", priority = 1 },
        ]
        retries = { tries = 3, budget = { share = "100%", floor = "100/s" } }
        outlier_detection = false
        "#,
    );
    assert_eq!(shares(&edge, &all), [60, 0, 0]);
    all[0].stop();
    assert_eq!(shares(&edge, &all), [0, 60, 0], "another zone");
    all[1].stop();
    assert_eq!(shares(&edge, &all), [0, 0, 60], "another priority");
}

#[test]
fn the_own_zone_is_preferred_while_enough_of_it_is_healthy() {
    let all = origins::<4>();
    let text = |zone: &str| {
        format!(
            r#"
            [server]
            {zone}
            [upstreams.api]
            balance = "round-robin"
            endpoints = [
                {{ address = "{{0}}", zone = "a" }}, {{ address = "{{1}}", zone = "a" }},
                {{ address = "{{2}}", zone = "b" }}, "{{3}}",
            ]
            {CHECK}"#
        )
    };
    let edge = Edge::start(&[&all[0], &all[1], &all[2], &all[3]], &text("zone = \"a\""));
    assert_eventually!(healthy(&edge) == 4.0);
    assert_eq!(shares(&edge, &all), [30, 30, 0, 0]);
    all[0].set_healthy(false);
    assert_eventually!(healthy(&edge) == 3.0);
    assert_eq!(shares(&edge, &all), [0, 60, 0, 0], "half is enough");
    all[1].set_healthy(false);
    assert_eventually!(healthy(&edge) == 2.0);
    assert_eq!(shares(&edge, &all), [0, 0, 30, 30]);
    all[0].set_healthy(true);
    all[1].set_healthy(true);
    assert_eventually!(healthy(&edge) == 4.0);
    edge.reload_with(&edge.completed(&text("zone = \"b\""))).expect("a good configuration");
    assert_eq!(shares(&edge, &all), [0, 0, 60, 0]);
    edge.reload_with(&edge.completed(&text(""))).expect("a good configuration");
    assert_eq!(shares(&edge, &all), [15, 15, 15, 15]);
}

#[test]
fn in_a_panic_all_are_used_and_that_is_said() {
    let all = origins::<3>();
    let edge = Edge::spawn(
        &[&all[0], &all[1], &all[2]],
        &format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\n\
             panic_threshold = \"50%\"\n{CHECK}"
        ),
    );
    let panic = || edge.metric_if_any("tidegate_upstream_panic", [("upstream", "api")]);
    assert_eventually!(healthy(&edge) == 3.0);
    assert_eq!(panic(), Some(0.0));
    all[0].set_healthy(false);
    assert_eventually!(healthy(&edge) == 2.0);
    assert_eq!(shares(&edge, &all), [0, 30, 30]);
    all[1].set_healthy(false);
    assert_eventually!(panic() == Some(1.0));
    assert_eq!(shares(&edge, &all), [20, 20, 20]);
    assert_eq!(edge.status()["upstreams"][0]["panic"], true);
    assert_eq!(edge.status()["upstreams"][0]["in_service"], 1);
    all[1].set_healthy(true);
    assert_eventually!(panic() == Some(0.0));
    assert_eq!(shares(&edge, &all), [0, 30, 30]);
    for message in ["too few healthy endpoints, all are used", "enough healthy endpoints again"] {
        assert_eventually!(edge.logs().matches(message).count() == 1);
    }
}

#[test]
fn where_none_is_healthy_requests_fail_at_once_or_are_tried() {
    let all = origins::<2>();
    let text =
        |more: &str| format!("[upstreams.api]\nendpoints = [\"{{0}}\", \"{{1}}\"]\n{CHECK}{more}");
    let edge = Edge::start(&[&all[0], &all[1]], &text(""));
    all[0].set_healthy(false);
    all[1].set_healthy(false);
    assert_eventually!(edge.client().get("/").send().status == 503);
    let response = edge.client().get("/").send().assert_status(503);
    assert!(response.header("retry-after").is_some());
    let trying = edge.completed(&text("when_none_healthy = \"try\"\n"));
    edge.reload_with(&trying).expect("a good configuration");
    edge.client().get("/").times(10).all_status(200);
    assert!(all.iter().all(|origin| origin.requests() > 0));
    // One that is healthy is better than all.
    all[0].set_healthy(true);
    assert_eventually!(healthy(&edge) == 1.0);
    assert_eq!(shares(&edge, &all), [60, 0]);
}

#[test]
fn fewer_endpoints_than_stable_min_are_an_event_and_so_is_their_return() {
    let all = origins::<3>();
    let text = |least: u32| {
        format!(
            "[upstreams.api]\nendpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\nstable_min = {least}\n{CHECK}"
        )
    };
    let edge = Edge::spawn(&[&all[0], &all[1], &all[2]], &text(3));
    let below = || edge.metric_if_any("tidegate_upstream_below_stable_min", [("upstream", "api")]);
    assert_eventually!(healthy(&edge) == 3.0);
    assert_eq!(below(), Some(0.0));
    all[2].set_healthy(false);
    assert_eventually!(below() == Some(1.0));
    assert_eq!(edge.status()["upstreams"][0]["below_stable_min"], true);
    let logged = |message: &str| edge.logs().matches(message).count();
    assert_eventually!(logged("fewer endpoints than stable_min") == 1);
    // A reload says nothing new.
    edge.reload_with(&edge.completed(&text(4))).expect("a good configuration");
    edge.reload_with(&edge.completed(&text(3))).expect("a good configuration");
    assert_eq!(below(), Some(1.0));
    all[2].set_healthy(true);
    assert_eventually!(below() == Some(0.0));
    assert_eventually!(logged("stable_min endpoints again") == 1);
    assert_eq!(logged("fewer endpoints than stable_min"), 1);
    edge.reload_with(&edge.completed(&text(0))).expect("a good configuration");
    assert_eq!(below(), None);
}

#[test]
fn who_joins_or_recovers_starts_slowly_and_grows() {
    let all = origins::<3>();
    let text = |slow_start: &str, endpoints: &str| {
        format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [{endpoints}]\n{}",
            CHECK.replace("\"0s\"", &format!("\"{slow_start}\""))
        )
    };
    let two = "\"{0}\", \"{1}\"";
    let three = "\"{0}\", \"{1}\", \"{2}\"";
    let edge = Edge::start(&[&all[0], &all[1], &all[2]], &text("10m", two));
    assert_eventually!(healthy(&edge) == 2.0);
    assert_eq!(shares(&edge, &all), [30, 30, 0], "all began together");
    edge.reload_with(&edge.completed(&text("10m", three))).expect("a good configuration");
    assert_eventually!(healthy(&edge) == 3.0);
    let joined = shares(&edge, &all)[2];
    assert!((2..=4).contains(&joined), "{joined} instead of 60 / 21");
    // The time has a setting, which holds at once: the share grows to the whole.
    edge.reload_with(&edge.completed(&text("2s", three))).expect("a good configuration");
    assert_eventually!(shares(&edge, &all) == [20, 20, 20]);
    edge.reload_with(&edge.completed(&text("10m", three))).expect("a good configuration");
    all[0].set_healthy(false);
    assert_eventually!(healthy(&edge) == 2.0);
    all[0].set_healthy(true);
    assert_eventually!(healthy(&edge) == 3.0);
    let status = edge.status();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().expect("endpoints");
    let recovered = endpoints.iter().find(|it| it["address"] == all[0].address());
    assert_eq!(recovered.expect("it is there")["slow_start"], 0.1);
}
