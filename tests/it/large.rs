//! An edge with a thousand sites: how long it takes to start and to reload, and what it holds in memory.
//!
//! The figures of the project are those of a release build (`TIDEGATE_BINARY=target/release/tidegate`); what runs always
//! has bounds that a debug build on a busy machine keeps.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Tls},
};

const MIB: u64 = 1 << 20;
const ROUTES: usize = 10;

/// What is asked of an edge with so many sites.
struct Form {
    sites: usize,
    start: Duration,
    reload: Duration,
    memory: u64,
}

/// The figures of the project.
const FIGURES: Form = Form {
    sites: 1_000,
    start: Duration::from_secs(1),
    reload: Duration::from_millis(300),
    memory: 64 * MIB,
};

/// A debug build is ten times slower, and other tests run beside this one.
const ANY_BUILD: Form = Form {
    sites: 1_000,
    start: Duration::from_secs(15),
    reload: Duration::from_secs(5),
    memory: 128 * MIB,
};

#[test]
fn a_thousand_sites_start_and_reload_in_bounds_on_any_build() {
    serves(&ANY_BUILD, Listener::Plain);
}

#[test]
#[ignore = "slow: these figures are those of a release build, with nothing beside it"]
fn a_thousand_sites_start_reload_and_rest_within_the_figures() {
    serves(&FIGURES, Listener::Plain);
}

#[test]
#[ignore = "slow: these figures are those of a release build, with nothing beside it"]
fn a_thousand_sites_with_certificates_start_reload_and_rest_within_the_figures() {
    serves(&FIGURES, Listener::Tls);
}

/// Which listener the sites are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Plain,
    /// With a certificate of the internal authority for each.
    Tls,
}

fn serves(form: &Form, listener: Listener) {
    let origin = Origin::answering(200);
    let start = Instant::now();
    let edge = Edge::spawn(&[&origin], &configuration(form.sites, listener, 1));
    ask(&edge, listener, form.sites - 1, "1");
    let started = start.elapsed();
    assert_eventually!(edge.admin().get("/ready").send().status == 200);
    let first = edge.rss();
    let memory = at_rest(&edge);
    let mut reloads = Vec::new();
    for k in 2..=6 {
        edge.write_config(&configuration(form.sites, listener, k));
        let start = Instant::now();
        edge.reload().expect("the configuration is taken");
        ask(&edge, listener, form.sites / 2, &k.to_string());
        reloads.push(start.elapsed());
    }
    reloads.sort();
    let after = at_rest(&edge);
    println!(
        "{} sites of {ROUTES} routes, {listener:?}: serves after {started:?}, reloads in {reloads:?}, {:.1} MiB at the first answer, {:.1} MiB idle, {:.1} MiB after the reloads",
        form.sites,
        first as f64 / MIB as f64,
        memory as f64 / MIB as f64,
        after as f64 / MIB as f64,
    );
    assert!(started < form.start, "{started:?} to the first answer");
    assert!(reloads[2] < form.reload, "half of the reloads took longer: {reloads:?}");
    assert!(memory < form.memory, "{memory} bytes");
}

/// The memory of an idle edge: what a start or a reload needed for itself goes back within a second.
fn at_rest(edge: &Edge) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut readings = [0, 0, 0, edge.rss()];
    while Instant::now() < deadline && readings.iter().any(|reading| *reading != readings[0]) {
        std::thread::sleep(Duration::from_millis(250));
        readings = [readings[1], readings[2], readings[3], edge.rss()];
    }
    readings[3]
}

/// A request to the last route of a site: it must be the one of configuration `k`.
fn ask(edge: &Edge, listener: Listener, site: usize, k: &str) {
    let client = match listener {
        Listener::Plain => edge.client(),
        Listener::Tls => edge.tls_client(Tls::any()),
    };
    let client = client.host(&format!("site-{site}.test"));
    let answer = client.get(&format!("/part/{}/x", ROUTES - 1)).send().assert_status(200);
    assert_eq!(answer.header("x-generation"), Some(k));
}

fn configuration(sites: usize, listener: Listener, k: usize) -> String {
    let mut text = format!(
        "[reload]\nwatch = false\n[policies.mark.headers]\nresponse = {{ set = {{ X-Generation = \"{k}\" }} }}\n"
    );
    text.push_str(match listener {
        Listener::Plain => "[listeners.http]\naddress = \"127.0.0.1:0\"\n",
        Listener::Tls => "[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\n",
    });
    for site in 0..sites {
        let _ = write!(
            text,
            "[upstreams.up-{site}]\nendpoints = [\"{{0}}\"]\n\
             [sites.site-{site}]\nhosts = [\"site-{site}.test\"]\npolicies = [\"mark\"]\n"
        );
        if listener == Listener::Tls {
            text.push_str("certificate = { internal = true }\n");
        }
        let _ = writeln!(text, "[sites.site-{site}.routes]");
        for route in 0..ROUTES {
            let _ = writeln!(
                text,
                "part-{route} = {{ path = \"/part/{route}\", upstream = \"up-{site}\" }}"
            );
        }
    }
    text
}
