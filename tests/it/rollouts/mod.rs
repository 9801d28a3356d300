//! Rollouts on real traffic: dealt, judged, taken back, switched, mirrored, and kept.

mod blue_green;
mod canary;
mod commands;
mod figures;
mod judged;
mod kept;
mod mirror;
mod preflight;
mod who;

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

[upstreams.v1]
endpoints = ["{0}"]

[upstreams.v2]
endpoints = ["{1}"]
"#;

const PROBES: &str = r#"
[upstream_defaults]
health_check = { path = "/healthz", interval = "50ms" }
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

/// An edge with a rollout, and an origin of each version.
struct Shop {
    edge: Edge,
    v1: Origin,
    v2: Origin,
}

impl Shop {
    fn new(rollout: &str) -> Self {
        Self::of([named("v1"), named("v2")], &[], &format!("{HEAD}{PROBES}{rollout}"))
    }

    /// With these origins; `more` are further ones that the text speaks of.
    fn of([v1, v2]: [Origin; 2], more: &[&Origin], text: &str) -> Self {
        let mut origins: Vec<&dyn std::fmt::Display> = vec![&v1, &v2];
        origins.extend(more.iter().map(|origin| *origin as &dyn std::fmt::Display));
        let edge = Edge::start(&origins, text);
        Self { edge, v1, v2 }
    }

    /// With the first step taken.
    fn started(rollout: &str) -> Self {
        let shop = Self::new(rollout);
        shop.start_until("step");
        shop
    }

    /// Starts it, and waits until it is in this phase.
    fn start_until(&self, phase: &str) {
        self.command("start").assert_status(200);
        assert_eventually!(self.phase() == phase);
    }

    fn command(&self, command: &str) -> Response {
        post(&self.edge, command)
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

fn post(edge: &Edge, command: &str) -> Response {
    edge.admin().post(&format!("/v1/rollouts/shop/{command}")).send()
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
