//! Checks of a rollout against real servers.

use std::time::Duration;

use tidegate::{
    rollout::checks::{CheckConfig, Checks, Outcome, RawCheck, Standing},
    types::{KeyPath, Problems},
};

use crate::{
    assert_eventually,
    harness::{Origin, block_on},
};

const LONG: Duration = Duration::from_mins(1);

fn config(name: &str, toml: &str) -> CheckConfig {
    let raw: RawCheck = toml::from_str(toml).unwrap();
    let mut problems = Problems::new();
    let parsed = raw.parse(&name.parse().unwrap(), &KeyPath::root(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    parsed.unwrap()
}

fn start(configs: Vec<CheckConfig>) -> Checks {
    Checks::start(configs, &block_on(async { tokio::runtime::Handle::current() }))
}

fn prometheus(value: &str) -> Origin {
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1,"{value}"]}}]}}}}"#
    );
    Origin::builder().header("content-type", "application/json").body(body).start()
}

fn last(checks: &Checks, index: usize) -> Option<Outcome> {
    checks.status()[index].last.clone()
}

#[test]
fn prometheus_is_asked_again_and_again_and_a_number_out_of_bounds_is_bad() {
    let (good, high) = (prometheus("0.01"), prometheus("0.2"));
    let keys = |origin: &Origin| {
        format!(
            "every = \"20ms\"\nprometheus = {{ url = \"http://{origin}\", query = \"a / b\", max = 0.05 }}"
        )
    };
    let checks = start(vec![config("errors", &keys(&good))]);
    assert_eventually!(checks.standing() == Standing::Good, within LONG);
    assert_eventually!(good.requests() >= 3, within LONG);
    let asked = good.last_request();
    assert_eq!((asked.method.as_str(), &*asked.path), ("GET", "/api/v1/query?query=a+%2F+b"));
    let status = checks.status().remove(0);
    assert_eq!((&*status.name, status.last), ("errors", Some(Outcome::Passes)));
    assert!(status.at.is_some());

    let checks = start(vec![config("errors", &keys(&good)), config("latency", &keys(&high))]);
    let text = "the query gives 0.2, wanted at most 0.05".to_owned();
    let bad = Standing::Bad { name: "latency".parse().unwrap(), text };
    assert_eventually!(checks.standing() == bad, within LONG);
}

#[test]
fn a_check_without_an_answer_holds_or_is_ignored_and_a_token_is_read_for_each_run() {
    let origin = Origin::builder().body("all is well").start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let keys = format!(
        "every = \"20ms\"\ntimeout = \"10s\"\nfailures = 2\ntoken = {{ file = \"{}\" }}\nhttp = {{ url = \"http://{origin}/ready\", body_contains = \"well\" }}",
        token.display()
    );
    let checks = start(vec![config("smoke", &keys)]);
    assert_eventually!(checks.standing() == Standing::Good, within LONG);
    assert_eq!(origin.last_request().header("authorization"), Some("Bearer first"));
    std::fs::write(&token, "second").unwrap();
    let token_is = |wanted: &str| origin.last_request().header("authorization") == Some(wanted);
    assert_eventually!(token_is("Bearer second"), within LONG);
    origin.set_status(503);
    assert_eventually!(matches!(checks.standing(), Standing::Bad { .. }), within LONG);
    origin.set_status(200);
    assert_eventually!(checks.standing() == Standing::Good, within LONG);
    origin.stop();
    assert_eventually!(matches!(checks.standing(), Standing::Hold { .. }), within LONG);
    let Some(Outcome::NoAnswer { text }) = last(&checks, 0) else { panic!("{checks:?}") };
    assert!(text.starts_with(&format!("http://{origin}: there is no connection")), "{text}");
    let ignoring = start(vec![config("smoke", &format!("on_error = \"ignore\"\n{keys}"))]);
    assert_eventually!(last(&ignoring, 0).is_some(), within LONG);
    assert_eq!(ignoring.standing(), Standing::Good);
    origin.restart();
    assert_eventually!(checks.standing() == Standing::Good, within LONG);
    std::fs::remove_file(&token).unwrap();
    assert_eventually!(matches!(checks.standing(), Standing::Hold { .. }), within LONG);
}

#[test]
fn a_silent_server_is_no_answer_in_time_and_dropped_checks_ask_no_more() {
    let silent = Origin::answering(200);
    silent.hang();
    let keys = |every: &str| {
        format!("every = \"{every}\"\ntimeout = \"100ms\"\nhttp = {{ url = \"http://{silent}/\" }}")
    };
    let checks = start(vec![config("smoke", &keys("1h"))]);
    assert_eventually!(last(&checks, 0).is_some(), within LONG);
    let Some(Outcome::NoAnswer { text }) = last(&checks, 0) else { panic!("{checks:?}") };
    assert!(text.ends_with("there is no whole answer within 100ms"), "{text}");
    let next = checks.status().remove(0).next.unwrap();
    assert!(next > Duration::from_mins(50) && next <= Duration::from_hours(1), "{next:?}");
    assert_eq!(silent.requests(), 1, "the next run is in an hour");
    drop(checks);

    let origin = Origin::answering(200);
    let keys = format!("every = \"1ms\"\nhttp = {{ url = \"http://{origin}/\" }}");
    let checks = start(vec![config("smoke", &keys)]);
    assert_eventually!(origin.requests() > 5, within LONG);
    drop(checks);
    // What is under way ends with its connection.
    assert_eventually!(origin.open_connections() == 0, within LONG);
    let (after, other) = (origin.requests(), Origin::answering(200));
    let keys = format!("every = \"1ms\"\nhttp = {{ url = \"http://{other}/\" }}");
    let _others = start(vec![config("other", &keys)]);
    assert_eventually!(other.requests() > 20, within LONG);
    assert_eq!(origin.requests(), after);
}
