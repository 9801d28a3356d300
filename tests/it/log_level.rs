//! The level of the edge's own log, changed through the API.

use serde_json::{Value, json};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Response},
};

fn ask(edge: &Edge, method: &str, body: &Value) -> Response {
    edge.admin().request(method, "/v1/log/level").body(body.to_string()).send()
}

fn level(edge: &Edge) -> Value {
    edge.status()["log"]["level"].clone()
}

/// Whether reloads, which are logged at info, are seen in the log.
fn says_info(edge: &Edge) -> bool {
    let before = edge.logs().matches("configuration ").count();
    edge.reload().unwrap();
    // The log is written before the reload is answered.
    edge.logs().matches("configuration ").count() > before
}

#[test]
fn the_level_is_changed_shown_and_given_back() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[log]\nlevel = \"warn\"\n");
    assert_eq!(
        ask(&edge, "GET", &Value::Null).assert_status(200).json(),
        json!({ "level": "warn", "configured": "warn", "changed": false })
    );
    assert!(!says_info(&edge));
    let changed = ask(&edge, "PUT", &json!({ "level": "info" })).assert_status(200).json();
    assert_eq!(changed, json!({ "level": "info", "configured": "warn", "changed": true }));
    assert!(says_info(&edge), "and a reload with the same level has not undone it");
    assert_eq!(level(&edge), "info");
    let back = ask(&edge, "DELETE", &Value::Null).assert_status(200).json();
    assert_eq!(back["level"], "warn");
    assert!(!says_info(&edge));
}

#[test]
fn a_change_ends_by_its_time_and_by_another_level_in_the_configuration() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[log]\nlevel = \"warn\"\n");
    let change = json!({ "level": "debug", "for": "300ms" });
    let changed = ask(&edge, "PUT", &change).assert_status(200).json();
    assert!(changed["until"].is_string(), "{changed}");
    assert_eventually!(level(&edge) == "warn");
    ask(&edge, "PUT", &json!({ "level": "debug", "for": "1h" })).assert_status(200);
    edge.reload_with("[log]\nlevel = \"warn\"\n[server]\nhttps_port = 8443\n").unwrap();
    assert_eq!(level(&edge), "debug");
    edge.reload_with("[log]\nlevel = \"error\"\n").unwrap();
    assert_eq!(level(&edge), "error");
}

#[test]
fn what_the_command_line_says_comes_back_after_a_change() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn_with(&[&origin], "", &["--log-level", "error"]);
    assert_eq!(level(&edge), "error");
    ask(&edge, "PUT", &json!({ "level": "info" })).assert_status(200);
    assert!(says_info(&edge));
    edge.reload_with("[log]\nlevel = \"debug\"\n").unwrap();
    assert_eq!(level(&edge), "error", "the command line goes before the file");
}

#[test]
fn what_is_no_change_is_refused_and_changes_nothing() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "");
    for body in [
        json!({ "level": "verbose" }),
        json!({ "level": "debug", "for": "soon" }),
        json!({ "level": "debug", "for": "0s" }),
        json!({ "level": "debug", "untill": "1h" }),
        json!({}),
        json!("debug"),
    ] {
        let answer = ask(&edge, "PUT", &body);
        assert_eq!(answer.status, 422, "{body}");
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(ask(&edge, "PUT", &json!("x".repeat(5_000))).status, 413);
    assert_eq!(ask(&edge, "POST", &json!({ "level": "debug" })).status, 405);
    assert_eq!(edge.status()["log"]["changed"], false);
}

#[test]
fn an_edge_without_a_log_of_its_own_says_so() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    assert_eq!(ask(&edge, "PUT", &json!({ "level": "debug" })).status, 409);
    assert!(edge.status()["log"].is_null());
}
