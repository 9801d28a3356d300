//! Five endpoints, of which some are killed, hang, or reset: what reaches the clients, and what it costs.

use std::time::{Duration, Instant};

use crate::{
    assert_eventually,
    harness::{Edge, Load, LoadReport, Origin},
};

/// Requests a second, over all clients.
const RATE: u64 = 200;
const CLIENTS: usize = 20;
/// From here on nothing may fail.
const EARLY: Duration = Duration::from_secs(2);

const TEXT: &str = r#"
[upstreams.api]
endpoints = ["{0}", "{1}", "{2}", "{3}", "{4}"]
health_check = { path = "/healthz", interval = "1s", timeout = "500ms", unhealthy_after = 2, healthy_after = 5 }
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

    fn load(&self) -> Load {
        let pause = Duration::from_secs(1) * CLIENTS as u32 / RATE as u32;
        self.edge.client().get("/").load(CLIENTS).pause(pause)
    }

    /// Requests that reached each endpoint, which resetting ones don't count.
    fn asked(&self) -> Vec<u64> {
        self.origins.iter().map(Origin::requests).collect()
    }

    fn healthy(&self) -> f64 {
        self.edge.metric("tidegate_endpoint_healthy", ())
    }

    /// Lets `blow` fall on the endpoints: the loads of the second before it, of the first two seconds after it, and of those
    /// that follow.
    fn suffer(&self, later: Duration, blow: impl FnOnce(&[Origin])) -> [LoadReport; 3] {
        let before = self.load().during(Duration::from_secs(1)).assert_all_ok();
        blow(&self.origins);
        [before, self.load().during(EARLY), self.load().during(later)]
    }
}

fn retries(edge: &Edge) -> f64 {
    edge.metric("tidegate_upstream_retries_total", [("upstream", "api")])
}

/// No request may fail after the first two seconds, and retries may cost a fifth at most.
fn check(blow: &str, more: &str, later: Duration, fall: impl FnOnce(&[Origin])) {
    let five = Five::start(more);
    let [before, early, late] = five.suffer(later, fall);
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
    // Each answer came from an endpoint, and none was asked for anything but these requests and their retries.
    let asked: u64 = five.asked().iter().sum();
    let (answered, most) = (before.ok + early.ok + late.ok, before.total() + sent);
    assert!(asked >= answered, "{blow}: {asked} for {answered} answers");
    assert!(asked as f64 <= most as f64 + retries, "{blow}: {asked} for {most} and {retries}");
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
    let five = Five::start("slow_start = \"0s\"\n");
    for origin in &five.origins {
        origin.stop();
    }
    assert_eventually!(five.healthy() == 0.0);
    let refused = five.edge.client().get("/").send().assert_status(503);
    assert!(refused.elapsed < Duration::from_millis(500), "{:?}", refused.elapsed);
    assert!(refused.headers.contains_key("retry-after"));

    // One interval of a second with its spread: where all are down, one good probe is enough, and not the five that it
    // takes to be healthy.
    let (first, others) = five.origins.split_first().expect("five");
    let back = Instant::now();
    first.restart();
    assert_eventually!(five.edge.client().get("/").send().status == 200, within Duration::from_millis(2_500));
    println!("back after {:?}", back.elapsed());

    // The others are back two probes later: the first one is healthy while they are not yet, and must not bear the
    // load of all five.
    let probed = |origin: &Origin, more: u64| {
        let before = origin.probes();
        move |now: u64| now >= before + more
    };
    let twice = probed(first, 2);
    assert_eventually!(twice(first.probes()));
    let once: Vec<_> = others.iter().map(|origin| probed(origin, 2)).collect();
    others.iter().for_each(Origin::restart);
    assert_eventually!(others.iter().zip(&once).all(|(origin, once)| once(origin.probes())));
    assert!(five.healthy() < 5.0);
    let before = five.asked();
    let load = five.load().start();
    assert_eventually!(five.healthy() == 5.0, within Duration::from_secs(30));
    load.stop().assert_all_ok();
    let got: Vec<u64> = five.asked().iter().zip(before).map(|(now, before)| now - before).collect();
    let sum: u64 = got.iter().sum();
    assert!(sum > 100, "{got:?}");
    assert!(got.iter().all(|count| (sum / 10..=sum * 7 / 20).contains(count)), "{got:?}");
}
