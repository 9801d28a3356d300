//! What a candidate must answer before it gets any request.

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Response},
};

const HEAD: &str = r#"
[sites.shop]
hosts = ["localhost", "127.0.0.1"]
rollout = "shop"

[upstream_defaults]
health_check = { path = "/healthz", interval = "50ms" }

[upstreams.v1]
endpoints = ["{0}"]

[upstreams.v2]
endpoints = ["{1}", "{2}"]
host = "shop.internal"
"#;

const CANARY: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
revision = "r1"
canary = { steps = ["50% 1h"] }
"#;

const BLUE_GREEN: &str = r#"
[rollouts.shop]
stable = "v1"
candidate = "v2"
blue-green = { watch = "1h" }
"#;

const READY: &str = r#"preflight = { requests = [{ method = "POST", path = "/ready?deep", status = [200, 204] }, { path = "/other", host = "other.test" }] }"#;

struct Shop {
    edge: Edge,
    v1: Origin,
    /// Both endpoints.
    v2: [Origin; 2],
}

impl Shop {
    fn new(rollout: &str) -> Self {
        let named = |name| Origin::builder().name(name).start();
        Self::of([named("v2"), named("v2")], rollout)
    }

    fn of(v2: [Origin; 2], rollout: &str) -> Self {
        let v1 = Origin::builder().name("v1").start();
        let edge = Edge::start(&[&v1, &v2[0], &v2[1]], &format!("{HEAD}{rollout}"));
        assert_eventually!(status(&edge)["candidate"]["endpoints_in_service"] == 2);
        Self { edge, v1, v2 }
    }

    fn command(&self, command: &str) -> Response {
        self.edge.admin().post(&format!("/v1/rollouts/shop/{command}")).send()
    }

    fn phase(&self) -> String {
        status(&self.edge)["phase"].as_str().unwrap().to_owned()
    }

    fn waits_for(&self) -> String {
        status(&self.edge)["waits_for"].as_str().unwrap_or_default().to_owned()
    }
}

fn status(edge: &Edge) -> Value {
    edge.admin().get("/v1/rollouts/shop").send().assert_status(200).json()
}

#[test]
fn a_candidate_waits_until_each_endpoint_answers_as_it_must() {
    let shop = Shop::new(&format!("{CANARY}{READY}"));
    shop.v2[1].set_status(503);
    shop.command("start").assert_status(200);
    let expected =
        format!("POST /ready?deep at {} answered 503, expected 200, 204", shop.v2[1].address());
    assert_eventually!(shop.waits_for() == expected);
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!((shop.phase().as_str(), shop.v1.requests()), ("preflight", 20));
    let asked = shop.v2[0].recorded();
    let lines: Vec<(&str, Option<&str>)> =
        asked.iter().take(2).map(|one| (one.path.as_str(), one.host())).collect();
    assert_eq!(lines, [("/ready?deep", Some("shop.internal")), ("/other", Some("other.test"))]);
    assert_eq!(asked[0].method, "POST");
    shop.v2[1].set_status(204);
    // The second one asks for 200 to 299.
    assert_eventually!(shop.phase() == "step");
}

#[test]
fn endpoints_that_give_no_answer_are_named_and_the_plan_may_be_called_off() {
    let shop = Shop::new(&format!(
        "{CANARY}{}",
        READY.replace("status = [200, 204]", "timeout = \"100ms\"")
    ));
    shop.v2[0].set_resetting(true);
    shop.command("start").assert_status(200);
    let place = format!("POST /ready?deep at {} gave no valid answer", shop.v2[0].address());
    assert_eventually!(shop.waits_for() == place);
    shop.command("abort").assert_status(200);
    assert_eq!(shop.phase(), "aborted");
}

#[test]
fn each_endpoint_is_warmed_up_once_before_it_gets_requests() {
    let warm_up = "preflight = { warm_up = { requests = 30, paths = [\"/a\", \"/b\"] } }";
    let shop = Shop::new(&format!("{CANARY}{warm_up}"));
    // What they answer does not matter.
    shop.v2[0].set_status(500);
    shop.command("start").assert_status(200);
    assert_eventually!(shop.phase() == "step");
    for origin in &shop.v2 {
        let of = |path: &str| origin.recorded().iter().filter(|one| one.path == path).count();
        assert_eq!((origin.requests(), of("/a"), of("/b")), (30, 15, 15));
        assert!(origin.most_in_flight() <= 8, "{}", origin.most_in_flight());
    }
}

#[test]
fn a_switch_waits_for_the_answers_and_a_switch_back_does_not() {
    let shop = Shop::new(&format!("{BLUE_GREEN}{READY}"));
    shop.v2[0].set_status(404);
    let switched: Value = shop.command("switch").assert_status(200).json();
    assert_eq!((&switched["phase"], &switched["live"]), (&"preflight".into(), &"v1".into()));
    assert_eventually!(shop.waits_for().contains("answered 404"));
    shop.v2[0].set_status(200);
    assert_eventually!(status(&shop.edge)["live"] == "v2");
    let back: Value = shop.command("switch").assert_status(200).json();
    assert_eq!(back["live"], "v1");
    // There again: what was answered before says nothing of now.
    shop.v2[0].set_status(404);
    let again: Value = shop.command("switch").assert_status(200).json();
    assert_eq!(again["live"], "v1");
    assert_eventually!(shop.waits_for().contains("answered 404"));
}

#[test]
fn endpoints_of_http_2_are_asked_by_http_2() {
    let http2 = || Origin::builder().name("v2").http2().start();
    let rollout = format!("{CANARY}{READY}").replace("status = [200, 204]", "body_contains = \"\"");
    let v1 = Origin::builder().name("v1").start();
    let v2 = [http2(), http2()];
    let head =
        HEAD.replace("host = \"shop.internal\"", "host = \"shop.internal\"\nprotocol = \"http2\"");
    let edge = Edge::start(&[&v1, &v2[0], &v2[1]], &format!("{head}{rollout}"));
    edge.admin().post("/v1/rollouts/shop/start").send().assert_status(200);
    assert_eventually!(status(&edge)["phase"] == "step");
    let asked = v2[0].recorded();
    assert_eq!((asked[0].path.as_str(), asked[0].host()), ("/ready?deep", Some("shop.internal")));
}
