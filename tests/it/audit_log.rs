//! The audit log: who changed what on a running edge.

use std::{os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};

use crate::{
    assert_eventually,
    harness::{Edge, Origin},
};

fn entries(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The entries of an action, as actor, subject and outcome.
fn done(path: &Path, action: &str) -> Vec<[String; 3]> {
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    entries(path)
        .iter()
        .filter(|entry| entry["action"] == action)
        .map(|entry| ["actor", "subject", "outcome"].map(|key| word(entry, key)))
        .collect()
}

const LOG: &str = "[audit_log]\npath = \"{dir}/audit.log\"\n";

#[test]
fn each_change_has_an_entry_with_who_asked_for_it_and_what_came_of_it() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], LOG);
    let log = edge.path("audit.log");
    let file = edge.config_path().display().to_string();
    let reloads = |outcomes: &[[&str; 2]]| {
        let wanted: Vec<_> = outcomes
            .iter()
            .map(|[actor, outcome]| [*actor, &*file, *outcome].map(str::to_owned))
            .collect();
        assert_eventually!(done(&log, "reload") == wanted);
    };
    edge.reload().unwrap();
    reloads(&[["admin", "taken"]]);
    let entry = entries(&log).remove(0);
    assert!(entry["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry}");
    assert_eq!(entry["detail"], json!({ "generation": 2 }));
    let time = entry["time"].as_str().unwrap();
    assert_eq!((time.len(), &time[23..]), ("2026-11-21T07:42:16.123Z".len(), "Z"));
    edge.signal("HUP");
    reloads(&[["admin", "taken"], ["signal", "taken"]]);
    edge.write_config(&format!("{LOG}[server]\nhttps_port = 8443\n"));
    reloads(&[["admin", "taken"], ["signal", "taken"], ["file", "taken"]]);
    // By the file and by the API: whoever sees it first.
    edge.reload_with("[sites").unwrap_err();
    assert_eventually!({
        done(&log, "reload")
            .iter()
            .any(|[actor, _, outcome]| actor == "admin" && outcome == "refused")
    });
    let refused = entries(&log).into_iter().find(|entry| entry["outcome"] == "refused").unwrap();
    assert_eq!(refused["detail"]["errors"], 1);
    assert!(refused["detail"]["first"].as_str().unwrap().contains("tidegate.toml:1"), "{refused}");

    let level = |method: &str| {
        let change = json!({ "level": "debug", "for": "1h" }).to_string();
        edge.admin().request(method, "/v1/log/level").body(change).send().assert_status(200);
    };
    level("PUT");
    level("DELETE");
    let word = |words: [&str; 3]| words.map(str::to_owned);
    assert_eventually!(
        done(&log, "log_level")
            == [word(["admin", "log", "changed"]), word(["admin", "log", "restored"])]
    );
    let changed = entries(&log).into_iter().find(|entry| entry["outcome"] == "changed").unwrap();
    assert_eq!(changed["detail"]["level"], "debug");
    assert!(changed["detail"]["until"].is_string());

    edge.admin().post("/v1/certificates/renew?site=test").send().assert_status(409);
    assert_eventually!(done(&log, "certificate_renew") == [word(["admin", "test", "refused"])]);
    edge.admin().post("/v1/acme/roll-account-key?authority=none").send().assert_status(422);
    assert_eventually!(done(&log, "account_key_roll") == [word(["admin", "none", "failed"])]);
    let mode = std::fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn reading_changes_nothing_and_has_no_entry_and_no_token_is_written() {
    let origin = Origin::answering(200);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "hidden-token").unwrap();
    let edge = Edge::start(
        &[&origin],
        &format!("{LOG}[admin]\ntoken = {{ file = \"{}\" }}\n", token.display()),
    );
    let ask = |method: &str, path: &str| {
        let admin = edge.admin();
        let request = admin.request(method, path);
        request.header("authorization", "Bearer hidden-token").send()
    };
    ask("GET", "/v1/status").assert_status(200);
    ask("GET", "/v1/log/level");
    // Who has no token is refused before anything is done.
    edge.admin().post("/v1/config/reload").send().assert_status(401);
    ask("POST", "/v1/config/reload").assert_status(200);
    let log = edge.path("audit.log");
    assert_eventually!(entries(&log).len() == 1);
    assert_eq!(entries(&log)[0]["outcome"], "taken");
    assert!(!std::fs::read_to_string(&log).unwrap().contains("hidden"));
}

#[test]
fn a_moved_log_goes_on_in_a_new_file_after_sigusr1_and_a_reload_moves_it_too() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], LOG);
    let (log, moved) = (edge.path("audit.log"), edge.path("audit.log.1"));
    edge.reload().unwrap();
    assert_eventually!(entries(&log).len() == 1);
    std::fs::rename(&log, &moved).unwrap();
    edge.signal("USR1");
    assert_eventually!(log.exists());
    edge.reload().unwrap();
    assert_eventually!(entries(&log).len() == 1);
    assert_eq!(entries(&moved).len(), 1);
    // The entry of a reload goes where that reload says.
    edge.reload_with("[audit_log]\npath = \"{dir}/other.log\"\n").unwrap();
    assert_eventually!(!entries(&edge.path("other.log")).is_empty());
    assert_eq!(entries(&log).len(), 1);
}

#[test]
fn without_a_path_entries_stand_in_the_log_of_the_edge() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[log]\nformat = \"json\"\nlevel = \"error\"\n");
    edge.reload().unwrap();
    let said = || {
        let log = edge.logs();
        let line = log.lines().find(|line| line.contains("\"target\":\"audit\""))?;
        let line: Value = serde_json::from_str(line).unwrap();
        serde_json::from_str::<Value>(line["entry"].as_str().unwrap()).ok()
    };
    assert_eventually!(said().is_some());
    let entry = said().unwrap();
    assert_eq!((&entry["action"], &entry["outcome"]), (&"reload".into(), &"taken".into()));
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing_and_loses_nothing() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[audit_log]\npath = \"{dir}/none/audit.log\"\n");
    assert_eventually!(edge.logs().contains("audit log can't be opened"));
    edge.reload().unwrap();
    edge.client().get("/").send().assert_status(200);
    assert_eventually!(edge.metric("tidegate_audit_log_failures_total", ()) == 1.0);
    assert_eventually!(edge.logs().contains("\\\"action\\\":\\\"reload\\\""));
}
