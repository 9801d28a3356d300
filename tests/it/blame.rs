//! Whose fault it is, and whose time: what clients ask for gives them nothing, and endpoints answer for themselves only.

use std::time::{Duration, Instant};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Raw},
};

/// Longer than any wait of a test on a busy machine.
const LONG: Duration = Duration::from_secs(30);

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn faults(edge: &Edge) -> f64 {
    edge.metric("tidegate_endpoint_faults_total", ())
}

fn get(edge: &Edge, path: &str, headers: &str) -> Raw {
    let mut raw = Raw::connect(edge.address("http"));
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    raw
}

#[test]
fn what_a_client_calls_its_request_frees_no_place() {
    // Ten seconds long: it does not end by itself before the second request.
    let slow = Origin::builder().paced(1_000, 10, Duration::from_millis(100)).start();
    let edge = Edge::start(
        &[&slow],
        "[upstreams.api]\nendpoints = [\"{0}\"]\nlimits = { max_requests = 1, max_waiting = 0 }\n",
    );
    for headers in [UPGRADE, "Accept: text/event-stream\r\n"] {
        let mut first = get(&edge, "/", headers);
        let head = first.read_head(LONG).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        edge.client().get("/").send().assert_status(503);
        drop(first);
        assert_eventually!(edge.metric("tidegate_upstream_requests_in_flight", ()) == 0.0);
    }
}

#[test]
fn a_web_socket_that_nobody_answers_ends_in_time() {
    let hung = Origin::answering(200);
    hung.hang();
    for timeouts in ["first_byte = \"300ms\"", "total = \"300ms\""] {
        let edge = Edge::start(
            &[&hung],
            &format!("[upstreams.api]\nendpoints = [\"{{0}}\"]\ntimeouts = {{ {timeouts} }}\n"),
        );
        let head = get(&edge, "/", UPGRADE).read_head(LONG).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 504"), "{timeouts}: {head}");
    }
}

#[test]
fn a_web_socket_lives_longer_than_any_answer_may() {
    let origin = Origin::builder().web_socket().start();
    let timeouts = "first_byte = \"300ms\", idle = \"300ms\", total = \"600ms\"";
    let edge = Edge::start(
        &[&origin],
        &format!("[upstreams.api]\nendpoints = [\"{{0}}\"]\ntimeouts = {{ {timeouts} }}\n"),
    );
    let mut socket = edge.client().web_socket("/").expect("a WebSocket");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(socket.echo("still here"), "still here");
    }
}

#[test]
fn an_endpoint_answers_for_its_own_slowness_only() {
    let hung = Origin::answering(200);
    hung.hang();
    let edge = Edge::start(
        &[&hung],
        "[upstreams.api]\nendpoints = [\"{0}\"]\ntimeouts = { first_byte = \"300ms\", total = \"1s\" }\n",
    );
    // The rest of the body never comes: nobody could have answered.
    let mut stalled = Raw::connect(edge.address("http"));
    stalled.send("POST /stalled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc");
    let head = stalled.read_head(LONG).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    assert_eq!(faults(&edge), 0.0);
    // All of it is there.
    edge.client().post("/whole").body("abc").send().assert_status(504);
    assert_eventually!(faults(&edge) == 1.0);
}

#[test]
fn the_rest_of_a_requests_time_is_no_measure_of_an_endpoint() {
    let (first, second) = (Origin::answering(200), Origin::answering(200));
    first.hang();
    second.hang();
    let edge = Edge::start(
        &[&first, &second],
        "[upstreams.api]\nendpoints = [\"{0}\", \"{1}\"]\ntimeouts = { total = \"700ms\" }\n\
         retries = { per_try_timeout = \"500ms\", backoff = \"1ms\" }\n",
    );
    edge.client().get("/").send().assert_status(504);
    assert_eq!(first.requests() + second.requests(), 2);
    let label = |origin: &Origin| {
        let address = origin.address();
        edge.metric("tidegate_endpoint_faults_total", [("endpoint", address.as_str())])
    };
    assert_eventually!(label(&first) + label(&second) == 1.0);
}

#[test]
fn an_endpoint_without_a_free_connection_leaves_the_request_to_another() {
    let (first, second) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(
        &[&first, &second],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\"]\n\
         limits = { max_connections = 1 }\n",
    );
    // The one connection there may be is the first endpoint's, and free.
    for _ in 0..6 {
        edge.client().get("/").send().assert_status(200);
    }
    assert_eq!((first.requests(), second.requests()), (6, 0));
    assert_eq!(faults(&edge), 0.0);
    assert_eq!(edge.metric("tidegate_upstream_retries_total", ()), 0.0);
}

#[test]
fn waiting_for_room_is_part_of_the_whole_exchange() {
    let origin = Origin::answering(200);
    origin.hang();
    let edge = Edge::start(
        &[&origin],
        r#"
        [upstreams.api]
        endpoints = ["{0}"]
        limits = { max_requests = 1, queue_timeout = "30s" }
        [sites.test]
        hosts = ["localhost"]
        [sites.test.routes.patient]
        path = "/"
        upstream = "api"
        [sites.test.routes.hurried]
        path = "/hurried"
        upstream = "api"
        timeouts = { total = "300ms" }
        "#,
    );
    let patient = get(&edge, "/", "");
    assert_eventually!(origin.in_flight() == 1);
    let began = Instant::now();
    let head = get(&edge, "/hurried", "").read_head(LONG).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(patient);
}

#[test]
fn a_fallback_reads_its_own_key_from_the_request() {
    let (first, second) =
        (Origin::builder().name("first").start(), Origin::builder().name("second").start());
    let down = Origin::answering(200);
    down.stop();
    let edge = Edge::start(
        &[&down, &first, &second],
        r#"
        [upstreams.main]
        endpoints = ["{0}"]
        [upstreams.spare]
        endpoints = ["{1}", "{2}"]
        balance = "consistent-hash"
        hash = { header = "X-User" }
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        [sites.test.routes.all]
        path = "/"
        upstream = "main"
        fallback = { upstream = "spare" }
        "#,
    );
    let endpoint_of = |user: &str| {
        let answer = edge.client().get("/").header("x-user", user).send().assert_status(200);
        answer.header("x-origin").expect("a name").to_owned()
    };
    for user in 0..8 {
        let user = user.to_string();
        let first_time = endpoint_of(&user);
        for _ in 0..3 {
            assert_eq!(endpoint_of(&user), first_time, "user {user} moved");
        }
    }
    assert!(first.requests() > 0 && second.requests() > 0);
}
