//! Endpoints by DNS: names and services, by a name server of the test's own.

use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{Edge, NameServer, Origin, name_server::Mood},
};

/// A look-up that fails takes its time: two tries, then again.
const SLOWLY: Duration = Duration::from_secs(20);

fn port(origin: &Origin) -> u16 {
    origin.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

fn start(server: &NameServer, dns: &str, upstream: &str) -> Edge {
    Edge::start(
        &[],
        &format!(
            "[dns]\nservers = [\"{server}\"]\ntimeout = \"300ms\"\nmin_ttl = \"100ms\"\n{dns}\n\
             [upstreams.api]\nbalance = \"round-robin\"\n{upstream}\n"
        ),
    )
}

/// Address and weight of every endpoint, sorted.
fn endpoints(edge: &Edge) -> Vec<(String, u64)> {
    let status = edge.status();
    let list = status["upstreams"][0]["endpoints"].as_array().expect("endpoints").clone();
    let mut all: Vec<(String, u64)> = list
        .iter()
        .map(|it| (it["address"].as_str().unwrap().to_owned(), it["weight"].as_u64().unwrap()))
        .collect();
    all.sort();
    all
}

fn name(edge: &Edge) -> Value {
    edge.status()["upstreams"][0]["names"][0].clone()
}

fn error(edge: &Edge) -> String {
    name(edge)["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn srv_records_give_addresses_ports_and_weights() {
    let (one, three, spare) =
        (Origin::answering(200), Origin::answering(200), Origin::answering(200));
    let server = NameServer::start();
    server.service(
        "_http._tcp.shop.test",
        60,
        &[
            (10, 1, port(&one), "one.shop.test."),
            (10, 3, port(&three), "three.shop.test."),
            (20, 100, port(&spare), "spare.shop.test."),
        ],
    );
    for host in ["one", "three", "spare"] {
        server.host(&format!("{host}.shop.test"), 60, &["127.0.0.1"]);
    }
    let edge = start(&server, "", "endpoints = [\"srv:_http._tcp.shop.test\"]");
    let mut expected = vec![(one.address(), 1), (three.address(), 3)];
    expected.sort();
    assert_eventually!(endpoints(&edge) == expected);
    edge.client().get("/").times(40).all_status(200);
    assert_eq!((one.requests(), three.requests(), spare.requests()), (10, 30, 0));
    assert_eq!(name(&edge)["name"], "srv:_http._tcp.shop.test");
    assert_eq!(name(&edge)["endpoints"], 2);
    assert_eq!(error(&edge), "");
}

#[test]
fn a_service_is_followed_by_its_time_to_live() {
    let (first, second) = (Origin::answering(200), Origin::answering(200));
    let server = NameServer::start();
    let service = "_http._tcp.shop.test";
    server.host("a.test", 1, &["127.0.0.1"]);
    server.service(service, 1, &[(0, 5, port(&first), "a.test.")]);
    // Its look-ups tell the time; nothing is sent to it.
    server.host("tick.test", 1, &["127.0.0.1"]);
    let tick = "{ address = \"tick.test:9\", weight = 0 }";
    let edge = start(&server, "", &format!("endpoints = [\"srv:_http._tcp.shop.test\", {tick}]"));
    let endpoints = |edge: &Edge| {
        let all = endpoints(edge).into_iter();
        all.filter(|(address, _)| !address.ends_with(":9")).collect::<Vec<_>>()
    };
    assert_eventually!(endpoints(&edge) == [(first.address(), 5)]);
    server.service(service, 300, &[(0, 7, port(&second), "a.test.")]);
    server.host("a.test", 300, &["127.0.0.1"]);
    assert_eventually!(endpoints(&edge) == [(second.address(), 7)]);
    edge.client().get("/").send().assert_status(200);
    assert_eq!((first.requests(), second.requests()), (0, 1));
    // It holds for five minutes now.
    let asked = server.queries(service, RecordType::SRV);
    let ticks = || server.queries("tick.test", RecordType::A);
    let before = ticks();
    assert_eventually!(ticks() >= before + 3, within SLOWLY);
    assert_eq!(server.queries(service, RecordType::SRV), asked);
}

#[test]
fn failures_keep_the_last_answer_and_are_told_apart() {
    let origin = Origin::answering(200);
    for (service, upstream) in [
        (true, "endpoints = [\"srv:_http._tcp.shop.test\"]".to_owned()),
        (false, format!("endpoints = [\"a.test:{}\"]", port(&origin))),
    ] {
        let server = NameServer::start();
        let tell = || {
            server.host("a.test", 1, &["127.0.0.1"]);
            server.service("_http._tcp.shop.test", 1, &[(0, 1, port(&origin), "a.test.")]);
        };
        tell();
        let edge = start(&server, "", &upstream);
        let is_kept = || {
            edge.client().get("/").send().assert_status(200);
            endpoints(&edge) == [(origin.address(), 1)]
        };
        assert_eventually!(endpoints(&edge).len() == 1);
        server.set_mood(Mood::Silent);
        assert_eventually!(error(&edge) == "no name server answered in time", within SLOWLY);
        assert!(is_kept());
        server.set_mood(Mood::Failing);
        assert_eventually!(error(&edge).contains("Server Failure"), within SLOWLY);
        assert!(is_kept());
        server.set_mood(Mood::Well);
        server.remove("_http._tcp.shop.test");
        server.remove("a.test");
        assert_eventually!(error(&edge) == "the name does not exist (NXDOMAIN)", within SLOWLY);
        assert!(is_kept());
        if service {
            server.service("_http._tcp.shop.test", 1, &[]);
            assert_eventually!(error(&edge) == "the name has no SRV records", within SLOWLY);
        } else {
            server.host("a.test", 1, &[]);
            assert_eventually!(error(&edge) == "the name has no addresses", within SLOWLY);
        }
        assert!(is_kept());
        tell();
        assert_eventually!(error(&edge).is_empty(), within SLOWLY);
        for result in ["found", "timeout", "failed", "no_name", "no_records"] {
            let counted = edge.metric("tidegate_dns_lookups_total", [("result", result)]);
            assert!(counted > 0.0, "{result}");
        }
    }
}

#[test]
fn a_last_answer_is_given_up_after_its_time() {
    let origin = Origin::answering(200);
    let server = NameServer::start();
    server.host("a.test", 1, &["127.0.0.1"]);
    let upstream = format!("endpoints = [\"a.test:{}\"]", port(&origin));
    let edge = start(&server, "keep = \"2s\"", &upstream);
    assert_eventually!(endpoints(&edge).len() == 1);
    server.remove("a.test");
    assert_eventually!(!error(&edge).is_empty(), within SLOWLY);
    assert_eventually!(endpoints(&edge).is_empty(), within SLOWLY);
    edge.client().get("/").send().assert_status(503);
    server.host("a.test", 1, &["127.0.0.1"]);
    assert_eventually!(edge.client().get("/").send().status == 200, within SLOWLY);
}

#[test]
fn a_failure_is_logged_once_and_so_is_its_end() {
    let origin = Origin::answering(200);
    let server = NameServer::start();
    server.host("a.test", 1, &["127.0.0.1"]);
    let edge = Edge::spawn(
        &[],
        &format!(
            "[dns]\nservers = [\"{server}\"]\nmin_ttl = \"100ms\"\n\
             [upstreams.api]\nendpoints = [\"a.test:{}\"]\n",
            port(&origin)
        ),
    );
    assert_eventually!(endpoints(&edge).len() == 1);
    server.set_mood(Mood::Failing);
    let failed = || edge.metric("tidegate_dns_lookups_total", [("result", "failed")]);
    assert_eventually!(failed() >= 4.0, within SLOWLY);
    server.set_mood(Mood::Well);
    assert_eventually!(edge.logs().contains("name resolved again"), within SLOWLY);
    let logs = edge.logs();
    assert_eq!(logs.matches("name not resolved").count(), 1, "{logs}");
}

#[test]
fn other_name_servers_are_taken_by_a_reload() {
    let (here, there) = (Origin::answering(200), Origin::answering(200));
    let (old, new) = (NameServer::start(), NameServer::start());
    let text = |server: &NameServer| {
        format!(
            "[dns]\nservers = [\"{server}\"]\nmin_ttl = \"100ms\"\n\
             [upstreams.api]\nendpoints = [\"srv:_http._tcp.shop.test\"]\n"
        )
    };
    for (server, origin) in [(&old, &here), (&new, &there)] {
        server.host("a.test", 1, &["127.0.0.1"]);
        server.service("_http._tcp.shop.test", 1, &[(0, 1, port(origin), "a.test.")]);
    }
    let edge = Edge::start(&[], &text(&old));
    assert_eventually!(endpoints(&edge) == [(here.address(), 1)]);
    edge.reload_with(&text(&new)).unwrap();
    assert_eventually!(endpoints(&edge) == [(there.address(), 1)]);
}

#[test]
fn probes_of_a_service_name_its_hosts() {
    let origin = Origin::answering(200);
    let server = NameServer::start();
    server.host("a.test", 60, &["127.0.0.1"]);
    server.service("_http._tcp.shop.test", 60, &[(0, 1, port(&origin), "a.test.")]);
    let edge = start(
        &server,
        "",
        "endpoints = [\"srv:_http._tcp.shop.test\"]\nhealth_check = { path = \"/up\" }",
    );
    assert_eventually!(endpoints(&edge).len() == 1);
    assert_eventually!(origin.requests() > 0);
    assert_eq!(origin.last_request().host(), Some(&*format!("a.test:{}", port(&origin))));
}
