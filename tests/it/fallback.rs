//! What a route's fallback does in place of an upstream that has no answer.

use std::{fmt::Display, time::Duration};

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Edge, Origin, RawOrigin, origin::Step},
};

const STATIC: &str =
    "{ respond = { status = 203, body = \"soon\", headers = { x-from = \"edge\" } } }";
const OTHER: &str = "{ upstream = \"other\" }";

const CHECK: &str = "health_check = { path = \"/healthz\", interval = \"100ms\" }";

/// Endpoints that fail, each in its way.
struct Bad {
    refusing: Origin,
    hung: Origin,
    ill: Origin,
    busy: Origin,
    resetting: RawOrigin,
    rubbish: RawOrigin,
}

impl Bad {
    fn start() -> Self {
        let bad = Self {
            refusing: named("refusing"),
            hung: named("hung"),
            ill: named("ill"),
            busy: Origin::answering(503),
            resetting: RawOrigin::playing(vec![Step::Reset]),
            rubbish: RawOrigin::answering("this is not HTTP\r\n\r\n"),
        };
        bad.refusing.stop();
        bad.hung.hang();
        bad.ill.set_healthy(false);
        bad
    }
}

fn until_unhealthy(edge: &Edge, endpoint: &dyn Display) {
    let address = endpoint.to_string();
    let labels = [("endpoint", address.as_str())];
    assert_eventually!(edge.metric_if_any("tidegate_endpoint_healthy", labels) == Some(0.0));
}

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

/// A route with the endpoint `bad`, this fallback, and another upstream with these endpoints.
fn edge_of(bad: &dyn Display, others: &[&dyn Display], fallback: &str, settings: &str) -> Edge {
    let origins: Vec<&dyn Display> = std::iter::once(bad).chain(others.iter().copied()).collect();
    let others: Vec<String> = (1..origins.len()).map(|i| format!("{{{i}}}")).collect();
    Edge::start(
        &origins,
        &format!(
            r#"
            [sites.test]
            hosts = ["localhost", "127.0.0.1"]
            listeners = ["http"]
            policies = ["mark"]
            [sites.test.routes.main]
            upstream = "api"
            fallback = {fallback}
            [policies.mark.headers]
            response = {{ set = {{ x-policy = "acts" }} }}
            [upstreams.other]
            balance = "round-robin"
            endpoints = {others:?}
            host = "other.internal"
            [upstreams.api]
            endpoints = ["{{0}}"]
            timeouts = {{ first_byte = "300ms" }}
            {settings}
            "#
        ),
    )
}

fn line_of(edge: &Edge, path: &str) -> Value {
    let find = || edge.access_log().into_iter().find(|line| line["path"] == path);
    assert_eventually!(find().is_some());
    find().expect("it was there")
}

fn fallbacks(edge: &Edge) -> f64 {
    edge.metric("tidegate_fallbacks_total", [("site", "test"), ("route", "main")])
}

#[test]
fn each_cause_is_answered_by_the_fallback_and_told() {
    let good = named("good");
    let Bad { refusing, hung, ill, busy, resetting, rubbish } = Bad::start();
    for (bad, settings, cause) in [
        (&refusing as &dyn Display, "", "connect_failed"),
        (&resetting, "", "upstream_closed"),
        (&hung, "", "upstream_timeout"),
        (&rubbish, "", "upstream_invalid"),
        (&busy, "retries = { on = [503], backoff = \"1ms\" }", "upstream_status"),
        (&ill, CHECK, "no_healthy_endpoint"),
    ] {
        let edge = edge_of(bad, &[&good], STATIC, settings);
        if settings == CHECK {
            until_unhealthy(&edge, bad);
        }
        let answer = edge.client().get("/static").send().assert_status(203);
        assert_eq!(answer.text(), "soon", "{cause}");
        let seen = ["x-from", "x-policy"].map(|name| answer.header(name));
        assert_eq!(seen, [Some("edge"), Some("acts")], "{cause}");
        // Pingora closes the client's connection after a failed try; without one it stays.
        let closes = answer.header("connection") == Some("close");
        assert_eq!(closes, cause != "no_healthy_endpoint", "{cause}");
        let line = line_of(&edge, "/static");
        assert_eq!(line["status"], 203, "{line}");
        assert_eq!((&line["fallback"], &line["error"]), (&cause.into(), &cause.into()), "{line}");
        assert_eq!(fallbacks(&edge), 1.0, "{cause}");
    }
}

#[test]
fn another_upstream_takes_over_with_tries_and_a_host_of_its_own() {
    let good = named("good");
    let Bad { refusing, hung, ill, busy, resetting, rubbish } = Bad::start();
    let flaky = RawOrigin::playing(vec![Step::Reset]);
    let once = "retries = { tries = 1 }";
    for (bad, settings, cause, tries) in [
        (&refusing as &dyn Display, once, "connect_failed", 3),
        (&resetting, "", "upstream_closed", 4),
        (&hung, once, "upstream_timeout", 3),
        (&rubbish, "", "upstream_invalid", 3),
        (&busy, "retries = { on = [503], tries = 1 }", "upstream_status", 3),
        (&ill, CHECK, "no_healthy_endpoint", 2),
    ] {
        // The first of the other upstream's endpoints fails as well.
        let edge = edge_of(bad, &[&flaky, &good], OTHER, settings);
        if settings == CHECK {
            until_unhealthy(&edge, bad);
        }
        let answer = edge.client().get("/x").send().assert_status(200);
        let seen = ["x-origin", "x-policy"].map(|name| answer.header(name));
        assert_eq!(seen, [Some("good"), Some("acts")], "{cause}");
        let request = good.last_request();
        assert_eq!(request.host(), Some("other.internal"), "{cause}");
        assert_eq!(request.header("x-attempt-count"), Some(tries.to_string().as_str()), "{cause}");
        let line = line_of(&edge, "/x");
        assert_eq!((&line["fallback"], &line["upstream"]), (&cause.into(), &"other".into()));
        assert_eq!((&line["tries"], &line["error"]), (&tries.into(), &Value::Null), "{line}");
        assert_eq!(fallbacks(&edge), 1.0, "{cause}");
        let count =
            |upstream| edge.metric("tidegate_upstream_retries_total", [("upstream", upstream)]);
        assert_eq!(count("other"), 1.0, "{cause}");
    }
}

#[test]
fn there_is_no_fallback_of_a_fallback() {
    let resetting = RawOrigin::playing(vec![Step::Reset]);
    let edge = edge_of(&resetting, &[&resetting], OTHER, "retries = { tries = 4 }");
    edge.client().get("/x").send().assert_status(502);
    let line = line_of(&edge, "/x");
    assert_eq!(
        (&line["fallback"], &line["error"]),
        (&"upstream_closed".into(), &"upstream_closed".into())
    );
    assert_eq!(line["tried"].as_array().map(Vec::len), Some(6), "{line}");
    assert_eq!(fallbacks(&edge), 1.0);
}

#[test]
fn a_request_that_can_not_be_repeated_goes_to_no_other_upstream() {
    let good = named("good");
    let resetting = RawOrigin::playing(vec![Step::ReadBody(3), Step::Reset]);
    let all_of_it = RawOrigin::playing(vec![Step::ReadBody(200 << 10), Step::Reset]);
    let puts = "retries = { methods = [\"PUT\"] }";
    for (bad, method, body, settings) in
        [(&resetting, "POST", vec![b'x'; 3], ""), (&all_of_it, "PUT", vec![b'x'; 200 << 10], puts)]
    {
        let edge = edge_of(bad, &[&good], OTHER, settings);
        edge.client().request(method, "/").body(body.clone()).send().assert_status(502);
        assert_eq!((good.requests(), fallbacks(&edge)), (0, 0.0), "{method}");
        let edge = edge_of(bad, &[&good], STATIC, settings);
        edge.client().request(method, "/").body(body).send().assert_status(203);
    }
    // Where nothing was sent, it does go.
    let Bad { refusing, .. } = Bad::start();
    let edge = edge_of(&refusing, &[&good], OTHER, "");
    edge.client().post("/").body("abc").send().assert_status(200);
    assert_eq!(good.last_request().body, "abc");
}

#[test]
fn an_answer_that_has_begun_is_not_replaced() {
    let good = named("good");
    let cutting = Origin::builder().truncated(100_000, 50_000).start();
    for fallback in [STATIC, OTHER] {
        let edge = edge_of(&cutting, &[&good], fallback, "");
        assert!(edge.client().get("/").try_send().is_err());
        assert_eq!((good.requests(), fallbacks(&edge)), (0, 0.0));
    }
}

#[test]
fn the_total_time_holds_for_the_fallback_too() {
    let (hung, other) = (named("hung"), named("other"));
    hung.hang();
    other.hang();
    let settings = "retries = { tries = 1 }";
    let text = |fallback| {
        let edge = edge_of(&hung, &[&other], fallback, settings);
        let text = std::fs::read_to_string(edge.config_path()).unwrap();
        let total = "first_byte = \"300ms\", total = \"800ms\"";
        edge.reload_with(&text.replace("first_byte = \"300ms\"", total)).expect("it is good");
        edge
    };
    let answer = text(OTHER).client().timeout(Duration::from_secs(30)).get("/").send();
    assert!(answer.elapsed < Duration::from_secs(5), "{:?}", answer.elapsed);
    answer.assert_status(504);
    assert_eq!(other.requests(), 1);
    text(STATIC).client().timeout(Duration::from_secs(30)).get("/").send().assert_status(203);
}
