//! A system that is full: no file descriptors, no room on the disk. What works without them goes on, and the rest comes
//! back by itself.

use std::{process::Command, time::Duration};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Raw, eventually::eventually},
};

const SOON: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// Open files of a process: proc(5).
fn open_files(edge: &Edge) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", edge.pid())).expect("the process runs").count()
}

/// Lets the running edge open only so many files more.
fn leave_files(edge: &Edge, more: usize) {
    let most = open_files(edge) + more;
    let status = Command::new("prlimit")
        .arg("--pid")
        .arg(edge.pid().to_string())
        .arg(format!("--nofile={most}:"))
        .status()
        .expect("prlimit of util-linux");
    assert!(status.success());
}

fn is_pausing(edge: &Edge) -> bool {
    edge.logs().contains("accepting pauses")
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "");
    // Connections that are there before, with none to the endpoint: no request was sent.
    let mut first = edge.raw();
    assert_eventually!(edge.metric("tidegate_connections", ()) == 1.0);
    leave_files(&edge, 10);
    let flood: Vec<Raw> = (0..40).map(|_| edge.raw()).collect();
    assert_eventually!(is_pausing(&edge), within SOON);
    // There is nothing left to reach the endpoint with: the answer says so, at once.
    let head = first.send(GET).read_head(SOON).unwrap();
    assert!(head.starts_with("HTTP/1.1 502 ") || head.starts_with("HTTP/1.1 503 "), "{head}");
    drop((first, flood));
    let is_well = || edge.client().get("/").try_send().is_ok_and(|answer| answer.status == 200);
    assert_eventually!(is_well(), within SOON);
    let refused = || edge.metric("tidegate_connections_refused_total", [("reason", "socket")]);
    assert_eventually!(refused() >= 1.0, within SOON);
    let told = edge.logs().matches("accepting pauses").count();
    assert!(told < 15, "{told} lines: it is said once a second");
}

#[test]
fn want_of_file_descriptors_is_no_fault_of_the_endpoint() {
    let origin = Origin::answering(200);
    let text = "allow_empty = true\n[listeners.tcp]\naddress = \"127.0.0.1:0\"\ntcp = { upstream = \"api\" }\n\
                [upstreams.api]\nendpoints = [\"{0}\"]\nbreaker = { min_requests = 1 }\n";
    let edge = Edge::spawn(&[&origin], text);
    let ends = |end: &str| edge.access_log().iter().filter(|line| line["end"] == end).count();
    // A connection that is sent on takes two: where an odd number is left, the last is for a client and none is left for its
    // endpoint. How many are left depends on the gaps between those that are open, too: one more each time.
    let is_out_with = |more| {
        leave_files(&edge, more);
        let flood: Vec<Raw> = (0..20).map(|_| Raw::connect(edge.address("tcp"))).collect();
        let is_out = eventually(Duration::from_secs(2), || ends("no_resources") > 0);
        drop(flood);
        // There is room again for whoever asks.
        leave_files(&edge, 100);
        assert_eventually!(edge.metric("tidegate_tunnels", ()) == 0.0, within SOON);
        is_out
    };
    assert!((1..=8).any(is_out_with));
    assert_eq!(ends("connect_failed"), 0);
    assert_eq!(edge.metric("tidegate_endpoint_faults_total", ()), 0.0);
    assert_eq!(edge.status()["upstreams"][0]["limits"]["breaker"], "closed");
}

#[test]
fn what_waits_for_a_file_descriptor_when_the_edge_ends_is_still_served() {
    let text = "[server]\ndrain = \"15s\"\nlame_duck = \"0s\"\n[sites.a]\nhosts = [\"127.0.0.1\"]\nlisteners = [\"http\"]\nrespond = { body = \"here\" }\n[listeners.http]\naddress = \"127.0.0.1:0\"\n";
    let mut edge = Edge::spawn(&[], text);
    leave_files(&edge, 10);
    let flood: Vec<Raw> = (0..40).map(|_| edge.raw()).collect();
    assert_eventually!(is_pausing(&edge), within SOON);
    let mut waiting: Vec<Raw> = (0..5).map(|_| edge.raw()).collect();
    for raw in &mut waiting {
        raw.send(GET);
    }
    edge.signal("TERM");
    assert_eventually!(edge.logs().contains("draining"), within SOON);
    drop(flood);
    for raw in &mut waiting {
        assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(edge.wait_exit(Duration::from_secs(20)).expect("the process ends").code, Some(0));
}

#[test]
fn an_access_log_on_a_full_disk_is_dropped_and_counted() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "[access_log]\noutput = \"/dev/full\"\n");
    edge.client().get("/").load(4).requests(50).assert_all_ok();
    let dropped = || edge.metric("tidegate_access_log_dropped_total", ());
    assert_eventually!(dropped() == 50.0);
}

#[test]
fn a_state_directory_that_takes_nothing_stops_no_reload() {
    let site = |body: &str| {
        format!(
            "[sites.a]\nhosts = [\"127.0.0.1\"]\nlisteners = [\"http\"]\nrespond = {{ body = \"{body}\" }}\n[listeners.http]\naddress = \"127.0.0.1:0\"\n"
        )
    };
    let edge = Edge::spawn(&[], &site("one"));
    assert_eq!(edge.client().get("/").send().text(), "one");
    // Not even root can write into it.
    let state = edge.path("state");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "a file").unwrap();
    edge.reload_with(&site("two")).unwrap();
    assert_eq!(edge.client().get("/").send().text(), "two");
    let is_told = || edge.logs().contains("the last good configuration can't be kept");
    assert_eventually!(is_told());
}
