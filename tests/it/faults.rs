//! Faults on purpose: delays, aborts, slow bodies.

use std::time::Duration;

use crate::harness::{Edge, Origin};

fn drill(faults: &str) -> String {
    format!(
        "[upstreams.api]\nendpoints = [\"{{0}}\"]\n\
         [sites.a]\nhosts = [\"127.0.0.1\"]\nupstream = \"api\"\npolicies = [\"drill\"]\n\
         [policies.drill.fault]\nuntil = \"2100-01-01T00:00:00Z\"\n{faults}\n"
    )
}

fn injected(edge: &Edge, fault: &str) -> f64 {
    edge.metric_if_any("tidegate_faults_injected_total", [("fault", fault)]).unwrap_or(0.0)
}

#[test]
fn aborts_hit_their_share_and_never_reach_the_endpoint() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &drill("abort = { share = \"25%\", status = 500 }"));
    let statuses = edge.client().get("/").times(400).statuses();
    let aborted = statuses.get(&500).copied().unwrap_or(0);
    // Five standard deviations of a binomial distribution are 43.
    assert!((57..=143).contains(&aborted), "{statuses:?}");
    assert_eq!(statuses.get(&200).copied(), Some(400 - aborted));
    assert_eq!(origin.requests(), 400 - aborted as u64);
    assert_eq!(injected(&edge, "abort"), f64::from(aborted as u32));
    crate::assert_eventually!(
        edge.access_log().iter().filter(|line| line["error"] == "fault").count() == aborted
    );
}

#[test]
fn faults_hit_marked_requests_only_and_end_with_a_reload() {
    let origin = Origin::answering(200);
    let faults = "match = { headers = { x-drill = \"yes\" }, methods = [\"GET\"] }\n\
                  delay = { share = \"100%\", time = \"300ms\" }\nabort = { share = \"100%\" }";
    let edge = Edge::start(&[&origin], &drill(faults));
    let client = edge.client();
    client.get("/").send().assert_status(200);
    client.post("/").header("x-drill", "yes").send().assert_status(200);
    let hit = client.get("/").header("x-drill", "yes").send().assert_status(503);
    assert!(hit.elapsed >= Duration::from_millis(300), "{:?}", hit.elapsed);
    assert_eq!((injected(&edge, "delay"), injected(&edge, "abort")), (1.0, 1.0));
    edge.reload_with(&drill(faults).replace("2100", "2020")).unwrap();
    client.get("/").header("x-drill", "yes").send().assert_status(200);
}

#[test]
fn a_slow_body_comes_whole_and_late() {
    let origin = Origin::builder().body(vec![b'x'; 30_000]).start();
    let faults = "slow_body = { share = \"100%\", rate = \"50KiB\" }";
    let h2c = "\n[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let edge = Edge::start(&[&origin], &(drill(faults) + h2c));
    for client in [edge.client(), edge.client().http2()] {
        let answer = client.get("/").send().assert_status(200);
        assert_eq!(answer.body.len(), 30_000);
        assert!(answer.elapsed >= Duration::from_millis(500), "{:?}", answer.elapsed);
    }
    assert_eq!(injected(&edge, "slow_body"), 2.0);
}
