//! Rollouts on real traffic: dealt, judged, taken back, switched, and kept.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Client, Edge, Origin, Response},
};

/// Loopback is a proxy of ours, so that its failures all count.
const HEAD: &str = r#"
[server]
trusted_proxies = ["127.0.0.0/8"]

[sites.shop]
hosts = ["localhost", "127.0.0.1"]
rollout = "shop"

[upstream_defaults]
health_check = { path = "/healthz", interval = "50ms" }

[upstreams.v1]
endpoints = ["{0}"]

[upstreams.v2]
endpoints = ["{1}"]
"#;

const CANARY: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
revision = "r1"
canary = { steps = ["10% 1h", "50% 1h"] }
"#;

const BLUE_GREEN: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
blue-green = { watch = "1h" }
"#;

struct Shop {
    edge: Edge,
    v1: Origin,
    v2: Origin,
}

impl Shop {
    fn new(rollout: &str) -> Self {
        let (v1, v2) = (named("v1"), named("v2"));
        let edge = Edge::start(&[&v1, &v2], &format!("{HEAD}{rollout}"));
        Self { edge, v1, v2 }
    }

    /// With the first step taken.
    fn started(rollout: &str) -> Self {
        let shop = Self::new(rollout);
        shop.command("start").assert_status(200);
        assert_eventually!(shop.phase() == "step");
        shop
    }

    fn command(&self, command: &str) -> Response {
        self.edge.admin().post(&format!("/v1/rollouts/shop/{command}")).send()
    }

    fn status(&self) -> Value {
        status(&self.edge)
    }

    fn phase(&self) -> String {
        phase(&self.edge)
    }

    fn share(&self) -> u64 {
        self.status()["candidate"]["share"].as_u64().unwrap()
    }
}

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

fn status(edge: &Edge) -> Value {
    edge.admin().get("/v1/rollouts/shop").send().assert_status(200).json()
}

fn phase(edge: &Edge) -> String {
    status(edge)["phase"].as_str().unwrap().to_owned()
}

/// Which version answered.
fn version(client: &Client, headers: &[(&str, &str)]) -> String {
    let mut request = client.get("/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send().assert_status(200).header("x-origin").unwrap().to_owned()
}

#[test]
fn shares_are_exact() {
    let shop = Shop::started(CANARY);
    let report = shop.edge.client().get("/").load(8).requests(10_000);
    report.assert_all_ok();
    let share = shop.v2.requests() as f64 / 10_000.0;
    assert!((share - 0.1).abs() <= 0.005, "{share}");
    assert_eventually!(shop.status()["candidate"]["requests"].as_u64() == Some(shop.v2.requests()));
    assert_eq!(shop.status()["stable"]["requests"].as_u64(), Some(shop.v1.requests()));
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
    shop.edge.reload_with(&format!("{HEAD}[rollouts.shop]\nstable = \"v2\"\n")).unwrap();
    assert_eq!(
        (shop.phase().as_str(), &shop.status()["file_differs"]),
        ("steady", &Value::Bool(false))
    );
    let kept = shop.edge.path("state/rollouts.json");
    assert_eventually!(std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("steady")));
    let next =
        CANARY.replace("\"v1\"", "\"v\"").replace("\"v2\"", "\"v1\"").replace("\"v\"", "\"v2\"");
    shop.edge.reload_with(&format!("{HEAD}{}", next.replace("r1", "r2"))).unwrap();
    assert_eventually!(shop.phase() == "step");
}

#[test]
fn what_was_decided_outlives_restarts_and_reloads() {
    let state = tempfile::tempdir().unwrap();
    let text = |revision: &str| {
        let head = HEAD
            .replace("[server]", &format!("[server]\nstate_dir = \"{}\"", state.path().display()));
        format!("{head}{}", CANARY.replace("r1", revision))
    };
    let (v1, v2) = (named("v1"), named("v2"));
    let start = |revision: &str| Edge::start(&[&v1, &v2], &text(revision));
    let served = |edge: &Edge| {
        let before = v2.requests();
        edge.client().get("/").times(100).all_status(200);
        v2.requests() - before
    };
    let command = |edge: &Edge, command: &str| {
        edge.admin().post(&format!("/v1/rollouts/shop/{command}")).send().assert_status(200)
    };
    // In the middle of a rollout.
    let mut edge = start("r1");
    command(&edge, "start");
    assert_eventually!(phase(&edge) == "step");
    edge.shut_down(false);
    let mut edge = start("r1");
    assert_eq!(phase(&edge), "step");
    assert!((8..=12).contains(&served(&edge)));
    // Taken back, and the endpoints change.
    command(&edge, "abort");
    edge.shut_down(false);
    let mut edge = start("r1");
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("aborted", 0));
    let other = text("r1")
        .replace("endpoints = [\"{1}\"]", "endpoints = [{ address = \"{1}\", weight = 2 }]");
    edge.reload_with(&other).unwrap();
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("aborted", 0));
    // A new revision starts by itself, also on an edge that was down meanwhile.
    edge.shut_down(false);
    let mut edge = start("r2");
    assert_eventually!(phase(&edge) == "step");
    command(&edge, "promote");
    edge.shut_down(false);
    let edge = start("r2");
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("promoted", 100));
    // Back to the configuration from before: that revision was taken back, and stays back.
    edge.reload_with(&text("r1")).unwrap();
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("rolled_back", 0));
    edge.reload_with(&text("r2")).unwrap();
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("promoted", 100));
    drop(edge);
    damage(&state.path().join("rollouts.json"));
    let edge = start("r2");
    assert_eq!((phase(&edge).as_str(), served(&edge)), ("not_started", 0), "as the file says");
    assert!(state.path().join("rollouts.unreadable").exists());
}

fn damage(path: &Path) {
    let whole = std::fs::read(path).unwrap();
    std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn a_cookie_keeps_a_client_with_its_version_and_moves_it_at_most_once() {
    let steps = "[\"10% 1ms\", \"50% pause\", \"90% 1h\"]";
    let sticky = CANARY.replace("canary =", "sticky = \"cookie\"\ncanary =");
    let shop = Shop::started(&sticky.replace("[\"10% 1h\", \"50% 1h\"]", steps));
    shop.command("pause").assert_status(200);
    let client = shop.edge.client();
    let sessions: Vec<(String, String)> = (0..300)
        .map(|_| {
            let answer = client.get("/").send().assert_status(200);
            let cookie = answer.header("set-cookie").expect("a cookie").split(';').next().unwrap();
            (answer.header("x-origin").unwrap().to_owned(), cookie.to_owned())
        })
        .collect();
    let candidates = sessions.iter().filter(|(version, _)| version == "v2").count();
    assert!((24..=36).contains(&candidates), "{candidates} of 300");
    for (version_of, cookie) in sessions.iter().chain(&sessions) {
        let answer = client.get("/").header("cookie", cookie).send().assert_status(200);
        assert_eq!(answer.header("x-origin"), Some(&**version_of));
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert!(shop.v1.last_request().header("cookie").is_none(), "endpoints don't see it");
    // The share grows: who was there stays, and others come.
    shop.command("resume").assert_status(200);
    client.get("/").load(4).requests(800).assert_all_ok();
    assert_eventually!(shop.share() == 500_000);
    let mut moved = 0;
    for (before, cookie) in &sessions {
        let after = version(&client, &[("cookie", cookie)]);
        assert!(!(before == "v2" && after == "v1"), "it went back");
        moved += usize::from(*before != after);
    }
    assert!((90..=150).contains(&moved), "{moved} of 300 moved");
    // A cookie of somebody's own making is worth nothing.
    let (_, real) = sessions.iter().find(|(version, _)| version == "v1").unwrap();
    let name = real.split('=').next().unwrap();
    for forged in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "candidate"] {
        let answer = client.get("/").header("cookie", &format!("{name}={forged}")).send();
        assert!(answer.header("set-cookie").is_some(), "{forged} is taken for ours");
    }
}

#[test]
fn a_header_or_an_address_keep_a_client_with_its_version() {
    for (sticky, header) in
        [("{ header = \"X-User\" }", "x-user"), ("\"client-address\"", "x-forwarded-for")]
    {
        let shop =
            Shop::started(&CANARY.replace("canary =", &format!("sticky = {sticky}\ncanary =")));
        let client = shop.edge.client();
        let names: Vec<String> =
            (0..300).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
        let first: Vec<String> =
            names.iter().map(|name| version(&client, &[(header, name)])).collect();
        let again: Vec<String> =
            names.iter().map(|name| version(&client, &[(header, name)])).collect();
        assert_eq!(first, again, "{sticky}");
        let candidates = first.iter().filter(|version| *version == "v2").count();
        assert!((10..=55).contains(&candidates), "{sticky}: {candidates} of 300");
    }
}

#[test]
fn some_always_get_the_candidate_and_some_never_do() {
    let rules = "always = [{ headers = { X-Canary = \"yes\" } }, { cookies = { canary = \"1\" } }, { query = { canary = true } }, { client_address = [\"10.9.0.0/16\"] }]\nnever = [{ headers = { X-Bot = true } }]\ncanary =";
    let shop = Shop::new(&CANARY.replace("10% 1h", "0% pause").replace("canary =", rules));
    let client = shop.edge.client();
    let forced: [(&str, &str); 3] =
        [("x-canary", "yes"), ("cookie", "a=b; canary=1"), ("x-forwarded-for", "10.9.1.2")];
    for header in forced {
        assert_eq!(version(&client, &[header]), "v1", "before it has begun");
    }
    shop.command("start").assert_status(200);
    assert_eventually!(shop.phase() == "step");
    for header in forced {
        assert_eq!(version(&client, &[header]), "v2", "{header:?}");
        assert_eq!(version(&client, &[header, ("x-bot", "1")]), "v1", "{header:?}");
    }
    assert_eq!(client.get("/?canary=x").send().header("x-origin"), Some("v2"));
    assert_eq!(version(&client, &[("x-canary", "no")]), "v1");
    // They were not dealt, so they are not compared.
    let seen = shop.status()["stable"]["requests"].as_u64();
    client.get("/").times(5).all_status(200);
    assert_eventually!(shop.status()["stable"]["requests"].as_u64() >= seen.map(|n| n + 5));
    assert_eq!(shop.status()["candidate"]["requests"].as_u64(), Some(0));
    shop.command("abort").assert_status(200);
    assert_eq!(version(&client, &[("x-canary", "yes")]), "v1", "taken back from everybody");
}

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
    assert!(reason.contains("failures on the candidate"), "{reason}");
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

#[test]
fn a_candidate_whose_endpoints_are_gone_is_taken_back() {
    let shop = Shop::started(CANARY);
    shop.v2.set_healthy(false);
    assert_eventually!(shop.phase() == "rolled_back");
    assert_eq!(shop.status()["reason"], "no endpoint of the candidate is in service");
    shop.edge.client().get("/").times(50).all_status(200);
}

#[test]
fn a_process_that_takes_over_goes_on_where_the_other_was() {
    let (v1, v2) = (named("v1"), named("v2"));
    let slow = named("slow");
    let probed = "[upstreams.slow]\nendpoints = [\"{2}\"]\nhealth_check = { path = \"/healthz\", interval = \"1h\", timeout = \"30s\" }\n";
    let mut old = Edge::spawn(&[&v1, &v2, &slow], &format!("{HEAD}{CANARY}{probed}"));
    let command = |edge: &Edge, command: &str| {
        edge.admin().post(&format!("/v1/rollouts/shop/{command}")).send().assert_status(200)
    };
    command(&old, "start");
    assert_eventually!(phase(&old) == "step");
    assert_eventually!(slow.probes() > 0);
    let probes = slow.probes();
    slow.hang();
    let new = std::thread::scope(|scope| {
        let old = &old;
        let starting = scope.spawn(|| old.upgrade());
        // It has read what there was by now, and waits for the probe before it takes over.
        assert_eventually!(slow.probes() > probes);
        command(old, "abort");
        slow.resume();
        starting.join().expect("a process that takes over")
    });
    assert_eq!(phase(&new), "aborted");
    new.client().get("/").times(50).all_status(200);
    assert_eq!(v2.requests(), 0);
    assert_eq!(old.wait_exit(Duration::from_mins(1)).expect("it ends").code, Some(0));
}

#[test]
fn the_command_line_shows_and_commands() {
    let shop = Shop::started(CANARY);
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("rollout")
            .args(words)
            .args(["--admin", &format!("http://{}", shop.edge.admin_address())])
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    shop.edge.client().get("/").times(100).all_status(200);
    assert_eventually!(run(&["status"]).1.contains("of 50 requests of the candidate"));
    let (code, list, _) = run(&["list"]);
    assert!(code == Some(0) && list.contains("step-1/2") && list.contains("10 %"), "{list}");
    let (code, status, _) = run(&["status", "shop", "--json"]);
    let json: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((code, &json["phase"]), (Some(0), &Value::from("step")));
    let (code, _, error) = run(&["resume", "shop"]);
    assert!(code == Some(1) && error.contains("nothing waits for a person"), "{error}");
    let (code, _, error) = run(&["abort", "shpo"]);
    assert!(code == Some(1) && error.contains("did you mean \"shop\"?"), "{error}");
    let (code, done, _) = run(&["abort", "shop"]);
    assert!(code == Some(0) && done.contains("a new revision starts again"), "{done}");
    let (code, _, error) = run(&["status", "shpo"]);
    assert!(code == Some(1) && error.contains("there are shop"), "{error}");
}
