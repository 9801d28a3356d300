//! What was decided outlives the process: restarts, reloads, an upgrade.

use std::{path::Path, time::Duration};

use super::{CANARY, HEAD, PROBES, Shop, named, phase, post};
use crate::{assert_eventually, harness::Edge};

#[test]
fn what_was_decided_outlives_restarts_and_reloads() {
    let state = tempfile::tempdir().unwrap();
    let text = |revision: &str| {
        let head = HEAD
            .replace("[server]", &format!("[server]\nstate_dir = \"{}\"", state.path().display()));
        format!("{head}{PROBES}{}", CANARY.replace("r1", revision))
    };
    let (v1, v2) = (named("v1"), named("v2"));
    let start = |revision: &str| Edge::start(&[&v1, &v2], &text(revision));
    let served = |edge: &Edge| {
        let before = v2.requests();
        edge.client().get("/").times(100).all_status(200);
        v2.requests() - before
    };
    let command = |edge: &Edge, command: &str| post(edge, command).assert_status(200);
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
fn a_process_that_takes_over_goes_on_where_the_other_was() {
    let (v1, v2) = (named("v1"), named("v2"));
    let slow = named("slow");
    let probed = "[upstreams.slow]\nendpoints = [\"{2}\"]\nhealth_check = { path = \"/healthz\", interval = \"1h\", timeout = \"30s\" }\n";
    let mut old = Edge::spawn(&[&v1, &v2, &slow], &format!("{HEAD}{PROBES}{CANARY}{probed}"));
    let command = |edge: &Edge, command: &str| post(edge, command).assert_status(200);
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
fn a_rollout_that_left_the_configuration_and_comes_back_is_judged_on() {
    let shop = Shop::started(CANARY);
    let text = |weight: u32, rollout: &str| {
        let weighted = format!("endpoints = [{{ address = \"{{1}}\", weight = {weight} }}]");
        format!("{HEAD}{PROBES}{rollout}").replace("endpoints = [\"{1}\"]", &weighted)
    };
    // What is counted at the end of each is left over.
    let load = shop.edge.client().get("/").load(4).pause(Duration::from_millis(2)).start();
    // Each begins a new window, with a higher number.
    for weight in [2, 3, 4] {
        shop.edge.reload_with(&text(weight, CANARY)).unwrap();
    }
    let without = text(4, "").replace("rollout = \"shop\"", "upstream = \"v1\"");
    shop.edge.reload_with(&without).unwrap();
    shop.edge.reload_with(&text(4, CANARY)).unwrap();
    assert_eq!(shop.phase(), "step");
    shop.v2.set_status(503);
    assert_eventually!(shop.phase() == "rolled_back");
    load.stop();
}

#[test]
fn what_could_not_be_written_down_is_written_later() {
    let state = tempfile::tempdir().unwrap();
    let head =
        HEAD.replace("[server]", &format!("[server]\nstate_dir = \"{}\"", state.path().display()));
    let (v1, v2) = (named("v1"), named("v2"));
    let edge = Edge::start(&[&v1, &v2], &format!("{head}{PROBES}{CANARY}"));
    post(&edge, "start").assert_status(200);
    let file = state.path().join("rollouts.json");
    assert_eventually!(phase(&edge) == "step" && file.is_file());
    // Nothing can take the place of a folder with something in it.
    let kept = || std::fs::read_to_string(&file).unwrap_or_default();
    assert_eventually!(kept().contains("\"step\""));
    loop {
        // A save may be under way.
        drop(std::fs::remove_file(&file));
        if std::fs::create_dir_all(file.join("in-the-way")).is_ok() {
            break;
        }
    }
    let refused = post(&edge, "abort");
    assert!(refused.text().contains("can't be written down"), "{}", refused.text());
    assert_eq!(phase(&edge), "aborted", "it is in force");
    std::fs::remove_dir_all(&file).unwrap();
    // It is tried again every five seconds.
    assert_eventually!(kept().contains("\"aborted\""), within Duration::from_secs(30));
}

#[test]
fn a_file_that_would_move_all_requests_unseen_is_refused() {
    let shop = Shop::started(CANARY);
    shop.command("promote").assert_status(200);
    let third = "\n[upstreams.v3]\nendpoints = [\"{1}\"]\n";
    let text = |stable: &str| {
        let rollout = CANARY
            .replace("\"v2\"", "\"v3\"")
            .replace("\"r1\"", "\"r2\"")
            .replace("stable = \"v1\"", &format!("stable = \"{stable}\""));
        format!("{HEAD}{PROBES}{third}{rollout}")
    };
    let refused = shop.edge.reload_with(&text("v1")).unwrap_err();
    assert!(refused.contains("has all requests of this rollout"), "{refused}");
    let before = shop.v2.requests();
    shop.edge.client().get("/").times(20).all_status(200);
    assert_eq!(shop.v2.requests() - before, 20);
    shop.edge.reload_with(&text("v2")).unwrap();
    assert_eventually!(shop.phase() == "step");
}
