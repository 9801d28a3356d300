//! The access log end to end: what a line says of refusals and tries, which requests get one, and rotation.

use std::path::Path;

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Edge, Origin, RawOrigin, origin::Step},
};

/// The line of the request with this path, once it is there.
fn line_of(edge: &Edge, path: &str) -> Value {
    let find = || edge.access_log().into_iter().find(|line| line["path"] == path);
    assert_eventually!(find().is_some());
    find().expect("it was there")
}

/// An address where nobody listens.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn each_try_is_written_with_its_endpoint_its_times_and_its_outcome() {
    let closing = RawOrigin::playing(vec![Step::Close]);
    let (good, refusing) = (Origin::answering(200), refusing());
    let edge = Edge::start(
        &[&closing, &refusing, &good],
        r#"
        [upstreams.api]
        balance = "round-robin"
        endpoints = ["{0}", "{1}", "{2}"]
        retries = { tries = 3 }
        "#,
    );
    // Round-robin: the first request goes the whole way.
    edge.client().get("/first").send().assert_status(200);
    let line = line_of(&edge, "/first");
    let tried = line["tried"].as_array().expect("tries");
    let endpoints: Vec<&str> = tried.iter().map(|one| one["endpoint"].as_str().unwrap()).collect();
    assert_eq!(endpoints, [closing.address(), refusing, good.address()]);
    let outcomes: Vec<&str> = tried.iter().map(|one| one["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["upstream_closed", "connect_failed", "ok"]);
    assert!(tried[0]["connect_ms"].is_number() && tried[0]["first_byte_ms"].is_null());
    assert!(tried[1]["connect_ms"].is_null(), "no connection came about: {line}");
    let last = &tried[2];
    let [connect, first_byte, took] = ["connect_ms", "first_byte_ms", "duration_ms"]
        .map(|key| last[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}")));
    assert!(0.0 < connect && connect <= first_byte && first_byte <= took, "{line}");
    let whole = line["duration_ms"].as_f64().unwrap();
    let tries: f64 = tried.iter().map(|one| one["duration_ms"].as_f64().unwrap()).sum();
    assert!(tries <= whole, "{line}");
    assert_eq!((&line["tries"], &line["endpoint"]), (&3.into(), &good.address().into()));
    assert!(line["error"].is_null());
}

#[test]
fn a_connection_that_was_open_already_has_no_connect_time() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    edge.client().get("/one").send().assert_status(200);
    assert!(line_of(&edge, "/one")["tried"][0]["connect_ms"].is_number());
    // The pool gets the connection back after the answer.
    assert_eventually!({
        edge.client().get("/again").send().assert_status(200);
        edge.access_log().iter().any(|line| {
            line["path"] == "/again"
                && line["tried"][0]["connect_ms"].is_null()
                && line["tried"][0]["outcome"] == "ok"
        })
    });
}

#[test]
fn a_failure_of_all_tries_says_why() {
    let refusing = refusing();
    let edge = Edge::start(&[&refusing], "[upstreams.api]\nendpoints = [\"{0}\"]\n");
    edge.client().get("/dead").send().assert_status(502);
    let line = line_of(&edge, "/dead");
    assert_eq!((&line["error"], &line["tries"]), (&"connect_failed".into(), &2.into()));
    assert_eq!(line["tried"].as_array().map(Vec::len), Some(2), "{line}");
}

#[test]
fn refusals_say_their_reason() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.shop]
        hosts = ["shop.test"]
        listeners = ["http"]
        [sites.shop.routes.api]
        path = "/api"
        methods = ["GET"]
        endpoints = ["{0}"]
        max_body = "10B"
        [sites.shop.routes.upload]
        path = "/upload"
        endpoints = ["{0}"]
        max_body = "10B"
        "#,
    );
    let shop = edge.client().host("shop.test");
    shop.get("/none").send().assert_status(404);
    assert_eq!(line_of(&edge, "/none")["error"], "no_route");
    shop.post("/api").send().assert_status(405);
    assert_eq!(line_of(&edge, "/api")["error"], "method");
    shop.post("/upload").body("more than ten bytes").send().assert_status(413);
    assert_eq!(line_of(&edge, "/upload")["error"], "body_too_large");
    edge.client().host("other.test").get("/elsewhere").send().assert_status(421);
    let line = line_of(&edge, "/elsewhere");
    assert_eq!((&line["error"], &line["listener"]), (&"unknown_host".into(), &"http".into()));
    let mut raw = edge.raw();
    raw.send("GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let line = line_of(&edge, "/a%2fb");
    assert_eq!((&line["error"], &line["status"]), (&"bad_path".into(), &400.into()));
    assert_eq!(line["detail"], "it has an encoded slash or backslash");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn only_chosen_fields_of_chosen_requests_are_written() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [access_log]
        fields = ["status", "path", "error"]
        sample = { rate = "0%", always = ["4xx"] }
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http"]
        [sites.test.routes.api]
        path = "/api"
        endpoints = ["{0}"]
        "#,
    );
    edge.client().get("/api").times(20).all_status(200);
    edge.client().get("/none").send().assert_status(404);
    let line = line_of(&edge, "/none");
    assert_eq!(line.to_string(), r#"{"error":"no_route","path":"/none","status":404}"#);
    assert_eq!(edge.access_log().len(), 1);
    assert_eq!(edge.metric("tidegate_access_log_sampled_out_total", ()), 20.0);
    assert_eq!(edge.metric("tidegate_access_log_dropped_total", ()), 0.0);
}

#[test]
fn an_answer_that_broke_off_has_a_line_whatever_its_status() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let broken = RawOrigin::playing(vec![Step::Write(half.into()), Step::Close]);
    let edge = Edge::start(
        &[&broken],
        "[upstreams.api]\nendpoints = [\"{0}\"]\n[access_log]\nsample = { rate = \"0%\" }\n",
    );
    let mut raw = edge.raw();
    raw.send("GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let line = line_of(&edge, "/half");
    assert_eq!((&line["status"], &line["error"]), (&200.into(), &"upstream_closed".into()));
    assert_eq!(line["tried"][0]["outcome"], "upstream_closed");
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file_after_sigusr1() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "");
    let (log, rotated) = (edge.path("access.log"), edge.path("access.log.1"));
    let mut sent = 0;
    for turn in 0..3 {
        edge.client().get("/").times(50).all_status(200);
        sent += 50;
        std::fs::rename(&log, edge.path(&format!("access.log.{turn}"))).unwrap();
        edge.signal("USR1");
        assert_eventually!(log.exists());
    }
    edge.client().get("/").times(50).all_status(200);
    sent += 50;
    let files = ["access.log", "access.log.0", "access.log.1", "access.log.2"];
    let all = || files.iter().map(|name| lines(&edge.path(name))).sum::<usize>();
    assert_eventually!(all() == sent);
    assert!(lines(&log) >= 50 && rotated.exists());
    assert_eq!(edge.metric("tidegate_access_log_dropped_total", ()), 0.0);
    assert!(edge.logs().contains("access log opened again"));
}

#[test]
fn a_file_that_cannot_be_opened_again_is_reported_and_the_old_one_kept() {
    let origin = Origin::answering(200);
    let edge = Edge::spawn(&[&origin], "[access_log]\noutput = \"{dir}/state/access.log\"\n");
    let (folder, moved) = (edge.path("state"), edge.path("moved"));
    edge.client().get("/").times(5).all_status(200);
    assert_eventually!(lines(&folder.join("access.log")) == 5);
    std::fs::rename(&folder, &moved).unwrap();
    edge.signal("USR1");
    assert_eventually!(edge.logs().contains("the old file is written on"));
    edge.client().get("/").times(5).all_status(200);
    assert_eventually!(lines(&moved.join("access.log")) == 10);
    assert_eq!(edge.metric("tidegate_access_log_dropped_total", ()), 0.0);
}

#[test]
fn a_reload_changes_the_form_of_lines_and_loses_none() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], "");
    edge.client().get("/before").times(20).all_status(200);
    edge.reload_with("[access_log]\nfields = [\"path\"]\n").unwrap();
    edge.client().get("/after").times(20).all_status(200);
    let count = |path: &str| edge.access_log().iter().filter(|line| line["path"] == path).count();
    assert_eventually!(count("/before") == 20 && count("/after") == 20);
    let log = edge.access_log();
    let after = log.iter().find(|line| line["path"] == "/after").unwrap();
    assert_eq!(after.to_string(), r#"{"path":"/after"}"#);
}
