//! Listeners that speak nothing and send TCP on: the same endpoints, balancing, health and drain as for requests.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Edge, FailureKind, Origin, Play, Raw, TcpOrigin},
};

const SOON: Duration = Duration::from_secs(10);

/// A listener `tcp` before the upstream `echo` with these endpoints.
fn config(endpoints: &str, more: &str) -> String {
    format!(
        "allow_empty = true\n[listeners.tcp]\naddress = \"127.0.0.1:0\"\ntcp = {{ upstream = \"echo\" }}\n\
         [upstreams.echo]\nendpoints = [{endpoints}]\n{more}\n"
    )
}

fn connect(edge: &Edge) -> Raw {
    Raw::connect(edge.address("tcp"))
}

/// Whether a byte goes there and back.
fn echoes(raw: &mut Raw) -> bool {
    raw.try_send("x").is_ok() && raw.read_exactly(1, SOON).is_ok_and(|byte| byte == b"x")
}

/// The `end` of each line of the access log.
fn ends(edge: &Edge) -> Vec<String> {
    edge.access_log().iter().map(|line| line["end"].as_str().unwrap().to_owned()).collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn bytes_pass_both_ways_untouched_and_a_half_close_is_one() {
    let echo = TcpOrigin::echoing();
    let edge = Edge::start(&[&echo], &config("\"{0}\"", ""));
    let bytes = pattern(3 << 20);
    let mut raw = connect(&edge);
    // Sent and read at once: neither side holds it all.
    for piece in bytes.chunks(64 << 10) {
        raw.send(piece);
        assert!(raw.read_exactly(piece.len(), SOON).unwrap() == piece);
    }
    raw.finish_sending();
    assert!(raw.read_to_end(SOON).unwrap().is_empty());
    assert!(echo.received() == [bytes]);

    // The question has to end before the answer comes.
    let answering = TcpOrigin::playing(Play::AnswerAtEnd("the answer".into()));
    let edge = Edge::start(&[&answering], &config("\"{0}\"", ""));
    let mut raw = connect(&edge);
    raw.send("a question").finish_sending();
    assert_eq!(raw.read_to_end(SOON).unwrap(), b"the answer");
    assert_eventually!(ends(&edge) == ["closed"]);
    // The origin speaks first, and ends first.
    let greeting = TcpOrigin::playing(Play::Greet("220 ready\r\n".into()));
    let edge = Edge::start(&[&greeting], &config("\"{0}\"", ""));
    let mut raw = connect(&edge);
    assert_eq!(raw.read_to_end(SOON).unwrap(), b"220 ready\r\n");
    raw.send("still listening").finish_sending();
    assert_eventually!(greeting.received() == [b"still listening"]);
}

#[test]
fn connections_are_balanced_and_counted_as_requests_are() {
    let (one, other) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let edge =
        Edge::start(&[&one, &other], &config("\"{0}\", \"{1}\"", "balance = \"round-robin\""));
    let mut open: Vec<Raw> = (0..8).map(|_| connect(&edge)).collect();
    assert!(open.iter_mut().all(echoes));
    assert_eq!((one.connections(), other.connections()), (4, 4));
    for origin in [&one, &other] {
        assert_eq!(edge.metric("tidegate_endpoint_requests_in_flight", origin), 4.0);
        assert_eq!(edge.metric("tidegate_endpoint_requests_total", origin), 4.0);
    }
    assert_eq!(edge.metric("tidegate_tunnels", [("listener", "tcp")]), 8.0);
    open.clear();
    assert_eventually!(edge.metric("tidegate_endpoint_requests_in_flight", &one) == 0.0);
    assert_eventually!(edge.metric("tidegate_tunnels", [("listener", "tcp")]) == 0.0);

    // The fewest connections, weighted.
    let weighted = "\"{0}\", { address = \"{1}\", weight = 3 }";
    let edge = Edge::start(&[&one, &other], &config(weighted, ""));
    let before = (one.connections(), other.connections());
    let mut open: Vec<Raw> = (0..12).map(|_| connect(&edge)).collect();
    assert!(open.iter_mut().all(echoes));
    assert_eq!((one.connections() - before.0, other.connections() - before.1), (3, 9));
}

#[test]
fn an_unhealthy_endpoint_gets_none_and_one_that_refuses_costs_a_try() {
    let (good, bad) = (TcpOrigin::echoing(), Origin::answering(200));
    let check = "health_check = { kind = \"tcp\", interval = \"100ms\", unhealthy_after = 1 }";
    let edge = Edge::start(&[&good, &bad], &config("\"{0}\", \"{1}\"", check));
    bad.stop();
    assert_eventually!(edge.metric("tidegate_endpoint_healthy", &bad) == 0.0);
    assert!((0..6).all(|_| echoes(&mut connect(&edge))));
    assert_eq!(edge.metric("tidegate_upstream_retries_total", ()), 0.0);

    // Without a check it is found out by trying; nothing was sent, so another one is tried, and never the same again.
    let edge = Edge::start(&[&good, &bad], &config("\"{1}\", \"{0}\"", ""));
    assert!((0..40).all(|_| echoes(&mut connect(&edge))));
    assert_eventually!(edge.access_log().len() == 40);
    let tries = edge.access_log().iter().map(|line| line["tries"].as_u64().unwrap()).sum::<u64>();
    let retries = edge.metric("tidegate_upstream_retries_total", [("upstream", "echo")]);
    assert!(retries >= 1.0 && tries as f64 == 40.0 + retries, "{tries} {retries}");
}

#[test]
fn where_nobody_takes_it_the_client_is_reset_and_the_reason_counted() {
    let gone = Origin::answering(200);
    let edge = Edge::start(&[&gone], &config("\"{0}\"", ""));
    gone.stop();
    let mut raw = connect(&edge);
    assert_eq!(raw.read_to_end(SOON).unwrap_err().kind, FailureKind::Reset);
    assert_eventually!(ends(&edge) == ["connect_failed"]);
    assert_eq!(edge.access_log()[0]["tries"], 2);

    let check = "health_check = { kind = \"tcp\", interval = \"100ms\", unhealthy_after = 1 }";
    let edge = Edge::start(&[&gone], &config("\"{0}\"", check));
    assert_eventually!(edge.metric("tidegate_endpoint_healthy", &gone) == 0.0);
    assert!(connect(&edge).is_closed_within(SOON));
    assert_eventually!(ends(&edge) == ["no_endpoint"]);
    assert_eq!(edge.access_log()[0]["tries"], 0);
    let ended = edge.metric("tidegate_tunnels_total", [("end", "no_endpoint")]);
    assert_eq!(ended, 1.0);
    assert_eventually!(edge.metric("tidegate_connections", [("listener", "tcp")]) == 0.0);
}

#[test]
fn an_open_breaker_lets_no_connection_through_and_then_a_few() {
    let origin = Origin::answering(200);
    let breaker = |open: &str| {
        let settings = format!("min_requests = 3, open = \"{open}\", half_open_requests = 1");
        config("\"{0}\"", &format!("retries = {{ tries = 1 }}\nbreaker = {{ {settings} }}"))
    };
    let edge = Edge::start(&[&origin], &breaker("1h"));
    let state = || edge.status()["upstreams"][0]["limits"]["breaker"].clone();
    let end = |end| edge.metric("tidegate_tunnels_total", [("end", end)]);
    origin.stop();
    for _ in 0..3 {
        assert!(connect(&edge).is_closed_within(SOON));
    }
    assert_eventually!(state() == "open");
    origin.restart();
    for _ in 0..2 {
        assert!(connect(&edge).is_closed_within(SOON));
    }
    assert_eventually!(end("breaker_open") == 2.0);
    assert_eq!((end("connect_failed"), origin.connections()), (3.0, 0));
    assert_eventually!(ends(&edge).last().is_some_and(|end| end == "breaker_open"));
    // The probe of half-open is a connection too: it goes well, and the breaker closes.
    origin.stop();
    let edge = Edge::start(&[&origin], &breaker("100ms"));
    let state = || edge.status()["upstreams"][0]["limits"]["breaker"].clone();
    for _ in 0..3 {
        assert!(connect(&edge).is_closed_within(SOON));
    }
    let entered = |state| {
        edge.metric("tidegate_breaker_changes_total", [("upstream", "echo"), ("state", state)])
    };
    assert_eventually!(entered("open") >= 1.0);
    origin.restart();
    let reaches = || {
        let mut raw = connect(&edge);
        raw.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && raw.read_head(SOON).is_ok()
    };
    assert_eventually!(reaches());
    assert_eq!(state(), "closed");
    assert_eq!(entered("closed"), 1.0);
}

#[test]
fn silence_ends_a_connection_and_a_byte_now_and_then_does_not() {
    let echo = TcpOrigin::echoing();
    let edge = Edge::start(&[&echo], &config("\"{0}\"", "timeouts = { stream_idle = \"1s\" }"));
    let mut silent = connect(&edge);
    let mut talking = connect(&edge);
    // It talks all the while, until the other one is ended.
    assert_eventually!({
        assert!(echoes(&mut talking));
        ends(&edge) == ["idle"]
    });
    assert!(silent.is_closed_within(SOON) && echoes(&mut talking));
    let life = edge.access_log()[0]["duration_ms"].as_f64().unwrap();
    assert!(life >= 1_000.0, "{life}");
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let resetting = TcpOrigin::playing(Play::Reset("half an ans".into()));
    let edge = Edge::start(&[&resetting], &config("\"{0}\"", ""));
    let mut raw = connect(&edge);
    assert_eq!(raw.read_exactly(11, SOON).unwrap(), b"half an ans");
    raw.send("x");
    assert_eq!(raw.read_to_end(SOON).unwrap_err().kind, FailureKind::Reset);
    assert_eventually!(ends(&edge) == ["endpoint_reset"]);

    let echo = TcpOrigin::echoing();
    let edge = Edge::start(&[&echo], &config("\"{0}\"", ""));
    let mut raw = connect(&edge);
    assert!(echoes(&mut raw));
    raw.reset();
    assert_eventually!(ends(&edge) == ["client_reset"]);
    assert_eventually!(echo.open_connections() == 0);
}

#[test]
fn a_reload_changes_where_new_connections_go_and_leaves_open_ones() {
    let (first, second) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let edge = Edge::start(&[&first, &second], &config("\"{0}\"", ""));
    let mut old = connect(&edge);
    assert!(echoes(&mut old));
    edge.reload_with(&config("\"{1}\"", "")).unwrap();
    let mut new = connect(&edge);
    assert!(echoes(&mut new) && echoes(&mut old));
    assert_eq!((first.connections(), second.connections()), (1, 1));
    // The old connection holds its endpoint and nothing of its generation.
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
    // The listener begins to speak HTTP on the same socket: what is open goes on.
    let http = "[listeners.tcp]\naddress = \"127.0.0.1:0\"\n[sites.test]\nhosts = [\"localhost\"]\nrespond = { body = \"here\" }\n";
    edge.reload_with(http).unwrap();
    let mut speaking = connect(&edge);
    speaking.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(speaking.read_head(SOON).unwrap().starts_with("HTTP/1.1 200 "));
    assert!(echoes(&mut old));
}

#[test]
fn an_open_connection_keeps_its_endpoint_and_not_the_probes_of_its_generation() {
    let (first, second) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let check = "health_check = { kind = \"tcp\", interval = \"50ms\" }";
    let edge = Edge::start(&[&first, &second], &config("\"{0}\"", check));
    let mut old = connect(&edge);
    assert!(echoes(&mut old));
    edge.reload_with(&config("\"{1}\"", check)).unwrap();
    let is_quiet = || {
        let before = first.connections();
        thread::sleep(Duration::from_millis(400));
        first.connections() == before
    };
    assert_eventually!(is_quiet());
    assert!(echoes(&mut old));
}

#[test]
fn a_listener_that_goes_away_takes_its_connections_with_it_at_the_end_of_its_drain() {
    let echo = TcpOrigin::echoing();
    let server = "[server]\ndrain = \"3s\"\nlame_duck = \"0s\"\n";
    let edge = Edge::start(&[&echo], &format!("{}{server}", config("\"{0}\"", "")));
    let mut open: Vec<Raw> = (0..20).map(|_| connect(&edge)).collect();
    assert!(open.iter_mut().all(echoes));
    let start = Instant::now();
    let other = "[listeners.http]\naddress = \"127.0.0.1:0\"\n[sites.test]\nhosts = [\"localhost\"]\nrespond = { body = \"here\" }\n";
    edge.reload_with(&format!("{server}{other}")).unwrap();
    assert!(open.iter_mut().all(echoes), "they go on for two thirds of the drain");
    assert!(open.iter_mut().all(|raw| raw.is_closed_within(SOON)));
    let took = start.elapsed();
    assert!((1_900..8_000).contains(&took.as_millis()), "{took:?}");
    assert_eventually!(ends(&edge) == ["drained"; 20]);
    // Not all at once: of 20 points in 900 ms it happens once in ten million times that all are within 300 ms.
    let lives: Vec<f64> =
        edge.access_log().iter().map(|line| line["duration_ms"].as_f64().unwrap()).collect();
    let longest = lives.iter().copied().fold(0.0, f64::max);
    assert!(lives.iter().any(|life| longest - life > 300.0), "{lives:?}");
}

#[test]
fn the_process_ends_with_connections_open() {
    let echo = TcpOrigin::echoing();
    let server = "[server]\ndrain = \"3s\"\nlame_duck = \"1s\"\n";
    let mut edge = Edge::spawn(&[&echo], &format!("{}{server}", config("\"{0}\"", "")));
    let mut raw = connect(&edge);
    assert!(echoes(&mut raw));
    edge.signal("TERM");
    assert!(echoes(&mut raw));
    assert!(raw.is_closed_within(SOON));
    assert_eq!(edge.wait_exit(Duration::from_secs(20)).expect("the process ends").code, Some(0));
    assert_eq!(ends(&edge), ["drained"]);
}

#[test]
fn one_runtime_for_each_core_and_unix_sockets_at_both_ends() {
    let (echo, path) = (TcpOrigin::echoing(), "{dir}/up.sock");
    // An edge behind an edge: the first sends on to a socket of the second.
    let text = format!(
        "allow_empty = true\n[server]\nworkers = \"per-core\"\nthreads = 2\n\
         [listeners.tcp]\naddress = \"127.0.0.1:0\"\ntcp = {{ endpoints = [\"unix:{path}\"] }}\n\
         [listeners.up]\naddress = \"unix:{path}\"\ntcp = {{ endpoints = [\"{{0}}\"] }}\n"
    );
    let edge = Edge::start(&[&echo], &text);
    for _ in 0..20 {
        let mut raw = connect(&edge);
        assert!(echoes(&mut raw));
        raw.finish_sending();
        assert!(raw.read_to_end(SOON).unwrap().is_empty());
    }
    assert_eq!(echo.connections(), 20);
}

#[test]
fn a_limit_of_connections_holds_here_too() {
    let echo = TcpOrigin::echoing();
    let text = config("\"{0}\"", "").replace("tcp = {", "max_connections_per_client = 2\ntcp = {");
    let edge = Edge::start(&[&echo], &text);
    let mut open = [connect(&edge), connect(&edge)];
    assert!(open.iter_mut().all(echoes));
    assert!(connect(&edge).is_closed_within(SOON));
    drop(open);
    assert_eventually!(echoes(&mut connect(&edge)));
}
