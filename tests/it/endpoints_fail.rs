//! Five endpoints, of which some are killed, hang, or reset: what reaches the clients, and what it costs.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Edge, LoadReport, Origin};

/// Requests a second, over all clients.
const RATE: u64 = 200;
const CLIENTS: usize = 20;
/// From here on nothing may fail.
const EARLY: Duration = Duration::from_secs(2);

const TEXT: &str = r#"
[upstreams.api]
endpoints = ["{0}", "{1}", "{2}", "{3}", "{4}"]
health_check = { path = "/healthz", interval = "1s", timeout = "500ms", unhealthy_after = 2 }
timeouts = { connect = "500ms" }
retries = { tries = 3, on = ["connect-failure", "reset", "timeout"], per_try_timeout = "500ms" }
"#;

struct Five {
    origins: Vec<Origin>,
    edge: Edge,
}

impl Five {
    fn start(more: &str) -> Self {
        let origins: Vec<Origin> =
            (0..5).map(|_| Origin::builder().delay(Duration::from_millis(1)).start()).collect();
        let shown: Vec<&dyn std::fmt::Display> = origins.iter().map(|origin| origin as _).collect();
        let edge = Edge::start(&shown, &format!("{TEXT}{more}"));
        Self { origins, edge }
    }

    fn load(&self, time: Duration) -> LoadReport {
        let pause = Duration::from_secs(1) * CLIENTS as u32 / RATE as u32;
        self.edge.client().get("/").load(CLIENTS).pause(pause).during(time)
    }

    /// Requests that reached an endpoint, which resetting ones don't count.
    fn asked(&self) -> u64 {
        self.origins.iter().map(Origin::requests).sum()
    }

    /// Lets `blow` fall on the endpoints: what fails is told for the first two seconds and for those after.
    fn suffer(&self, later: Duration, blow: impl FnOnce(&[Origin])) -> (LoadReport, LoadReport) {
        self.load(Duration::from_secs(1)).assert_all_ok();
        blow(&self.origins);
        (self.load(EARLY), self.load(later))
    }
}

fn retries(edge: &Edge) -> f64 {
    edge.metric("tidegate_upstream_retries_total", [("upstream", "api")])
}

/// No request may fail after the first two seconds, and retries may cost a fifth at most.
fn check(blow: &str, more: &str, later: Duration, fall: impl FnOnce(&[Origin])) {
    let five = Five::start(more);
    let (early, late) = five.suffer(later, fall);
    assert_eq!(late.ok, late.total(), "{blow}: {late}");
    let sent = early.total() + late.total();
    let retries = retries(&five.edge);
    println!(
        "{blow}: failed early {} of {}, later 0 of {}, {retries} retries, p95 later {:?}",
        early.total() - early.ok,
        early.total(),
        late.total(),
        late.latency(95.0)
    );
    assert!(retries <= 0.2 * sent as f64, "{blow}: {retries} retries of {sent} requests");
    assert!(five.asked() > 0);
}

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(15);

fn kill_one(origins: &[Origin]) {
    origins[0].stop();
}

fn hang_one(origins: &[Origin]) {
    origins[0].hang();
}

fn reset_one(origins: &[Origin]) {
    origins[0].set_resetting(true);
}

fn kill_one_and_hang_one(origins: &[Origin]) {
    origins[0].stop();
    origins[1].hang();
}

#[test]
fn one_of_five_is_killed() {
    check("killed", "", SHORT, kill_one);
}

#[test]
fn one_of_five_hangs() {
    check("hung", "", SHORT, hang_one);
}

#[test]
fn one_of_five_resets_before_the_head() {
    check("resets", "", SHORT, reset_one);
}

#[test]
fn two_of_five_are_killed_and_hang() {
    check("killed and hung", "", SHORT, kill_one_and_hang_one);
}

#[test]
#[ignore = "slow: all blows, with both balancers, for 15 seconds each"]
fn blows_on_five_endpoints_for_long() {
    for balance in ["least-conn", "peak-ewma", "round-robin", "random-two"] {
        let more = format!("balance = \"{balance}\"\n");
        check(&format!("{balance}, killed"), &more, LONG, kill_one);
        check(&format!("{balance}, hung"), &more, LONG, hang_one);
        check(&format!("{balance}, resets"), &more, LONG, reset_one);
        check(&format!("{balance}, killed and hung"), &more, LONG, kill_one_and_hang_one);
    }
}

#[test]
fn all_of_five_are_down_and_come_back() {
    let five = Five::start("");
    for origin in &five.origins {
        origin.stop();
    }
    thread::sleep(Duration::from_millis(2_500));
    let refused = five.edge.client().get("/").send().assert_status(503);
    assert!(refused.elapsed < Duration::from_millis(500), "{:?}", refused.elapsed);
    assert!(refused.headers.contains_key("retry-after"));
    let back = Instant::now();
    for origin in &five.origins {
        origin.restart();
    }
    // One interval of a second with its spread: where all are down, one good probe is enough.
    crate::assert_eventually!(five.edge.client().get("/").send().status == 200, within Duration::from_secs(3));
    println!("back after {:?}", back.elapsed());
    five.load(Duration::from_secs(1)).assert_all_ok();
}
