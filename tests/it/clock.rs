//! Durations go by the monotonic clock: who may read the wall clock, and what a jump of it does.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    assert_eventually,
    harness::{Edge, Launch, Origin},
    layers::{
        lexer::{Kind, tokens},
        sources,
    },
};

/// Files that read the wall clock, each with what for. None of them waits, expires or measures by it.
const CALENDAR: &[(&str, &str)] = &[
    ("src/cli/backup.rs", "writes when a backup was made"),
    ("src/cli/certificates.rs", "certificates are valid by the calendar"),
    ("src/cli/experiment.rs", "shows how long ago something was"),
    ("src/cli/restore.rs", "names what it moves aside by the time"),
    ("src/cli/rollout.rs", "shows how long ago something was"),
    ("src/cli/status.rs", "shows how long ago something was"),
    ("src/listener/refusal.rs", "writes the time of a refused request"),
    ("src/listener/stream/mod.rs", "Pingora's digest has a field for it, which nobody reads"),
    ("src/policy/fault.rs", "exercises end by the calendar"),
    ("src/proxy/outcome.rs", "writes the time of a request"),
    ("src/proxy/tunnel.rs", "remembers when a connection came, for its line in the log"),
    ("src/rollout/controlled.rs", "steps are taken by a schedule of people"),
    (
        "src/rollout/live.rs",
        "steps are taken by a schedule of people; all else of a rollout goes by an Instant",
    ),
    ("src/rollout/checks/runner.rs", "shows when a check has run; runs go by an Instant"),
    ("src/server/control.rs", "shows points in time"),
    ("src/server/experiments.rs", "remembers when an experiment was switched"),
    ("src/server/mod.rs", "remembers the start; the uptime goes by an Instant"),
    ("src/server/reload.rs", "remembers when a reload was"),
    ("src/server/state.rs", "remembers when a reload was"),
    ("src/snapshot/attach.rs", "certificates end by the calendar"),
    ("src/telemetry/access_log/mod.rs", "writes the time of a request"),
    ("src/telemetry/access_log/tunnel.rs", "writes the time of a connection"),
    ("src/telemetry/audit/mod.rs", "writes the time of an entry"),
    ("src/telemetry/log_level.rs", "shows when a change will end; it ends by an Instant"),
    ("src/telemetry/logging.rs", "shows when a change will end"),
    ("src/telemetry/metrics/mod.rs", "exports points in time"),
    ("src/telemetry/time.rs", "writes points in time"),
    ("src/telemetry/webhooks/again.rs", "an answer may name the time of the next try by a date"),
    (
        "src/telemetry/webhooks/delivery.rs",
        "receivers compare the time of a request with their clock",
    ),
    ("src/telemetry/webhooks/event.rs", "writes the time of an event"),
    ("src/tls/acme/clock.rs", "compares it with the monotonic clock"),
    ("src/tls/acme/dns/update.rs", "signatures of updates have the time in them"),
    ("src/tls/acme/kept.rs", "certificates are valid by the calendar"),
    ("src/tls/acme/order.rs", "certificates are valid by the calendar"),
    ("src/tls/acme/renewal.rs", "renews by the calendar, looking every minute"),
    ("src/tls/acme/service.rs", "compares it with the monotonic clock"),
    ("src/tls/acme/variant.rs", "certificates are renewed by the calendar"),
    ("src/tls/blueprint.rs", "certificates are valid by the calendar"),
    ("src/tls/client_auth.rs", "revocation lists are good by the calendar"),
    ("src/tls/files.rs", "certificates are valid by the calendar"),
    ("src/tls/internal.rs", "certificates are valid by the calendar"),
    ("src/tls/live.rs", "certificates are valid by the calendar"),
    ("src/tls/mod.rs", "certificates are valid by the calendar"),
    ("src/tls/policy.rs", "revocation lists are good by the calendar"),
    ("src/tls/store.rs", "looks every hour whether a certificate is due by the calendar"),
    ("src/upstream/health.rs", "shows since when a verdict holds"),
    ("src/upstream/live_tls.rs", "certificates are valid by the calendar"),
    ("src/upstream/status.rs", "shows since when a verdict holds"),
    ("src/upstream/tls.rs", "certificates are valid by the calendar"),
];

/// Code of tests only.
const TESTS: [&str; 3] = ["src/tls/fixture.rs", "/tests.rs", "src/cli/status/tests.rs"];

#[test]
fn the_wall_clock_is_read_for_the_calendar_alone() {
    let allowed: BTreeMap<&str, &str> = CALENDAR.iter().copied().collect();
    let mut readers = Vec::new();
    for source in sources("src") {
        let reads = tokens(&source.text).into_iter().any(|token| match token.kind {
            Kind::Word(word) => matches!(word.as_str(), "SystemTime" | "Zoned" | "Utc"),
            _ => false,
        });
        let reads = reads || source.text.contains("Timestamp::now(");
        if reads && !TESTS.iter().any(|test| source.path.ends_with(test)) {
            readers.push(source.path);
        }
    }
    let new: Vec<_> = readers.iter().filter(|path| !allowed.contains_key(path.as_str())).collect();
    assert!(
        new.is_empty(),
        "{new:?} read the wall clock, which may jump: measure, wait and expire by `Instant`; for a point in the \
         calendar add the file to tests/it/clock.rs with its reason"
    );
    let gone: Vec<_> = allowed.keys().filter(|path| !readers.iter().any(|r| r == *path)).collect();
    assert!(gone.is_empty(), "{gone:?} no longer read the wall clock");
}

/// The library: as the environment says, or where Debian's package has it.
fn libfaketime() -> String {
    std::env::var("TIDEGATE_LIBFAKETIME").unwrap_or_else(|_| {
        let mut found = glob::glob("/usr/lib/*/faketime/libfaketimeMT.so.1").unwrap();
        let path = found.next().expect("libfaketime is installed").unwrap();
        path.to_str().unwrap().to_owned()
    })
}

fn is_about_now(line: &Value) -> bool {
    line["duration_ms"].as_f64().is_some_and(|took| took < 60_000.0)
}

#[test]
#[ignore = "needs libfaketime (Debian: libfaketime), or its path in TIDEGATE_LIBFAKETIME"]
fn a_jump_of_the_wall_clock_breaks_nothing() {
    let library = libfaketime();
    let folder = tempfile::tempdir().unwrap();
    let offset = folder.path().join("offset");
    // Whole or not there: the library reads it at each call.
    let jump = |to: &str| {
        let beside = folder.path().join("next");
        std::fs::write(&beside, to).unwrap();
        std::fs::rename(beside, &offset).unwrap();
    };
    jump("+0");
    let (origin, socket_origin) = (Origin::answering(200), Origin::builder().web_socket().start());
    let edge = Edge::launch(
        &[&origin, &socket_origin],
        r#"
        [upstreams.api]
        endpoints = ["{0}"]
        health_check = { path = "/healthz", interval = "50ms", unhealthy_after = 1 }
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http"]
        [sites.test.routes.api]
        path = "/"
        upstream = "api"
        [sites.test.routes.socket]
        path = "/socket"
        endpoints = ["{1}"]
        "#,
        Launch::default()
            .environment("LD_PRELOAD", &library)
            .environment("FAKETIME_TIMESTAMP_FILE", offset.display())
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    );
    let limit = Duration::from_secs(20);
    edge.admin()
        .request("PUT", "/v1/log/level")
        .body(json!({ "level": "debug", "for": "1h" }).to_string())
        .send()
        .assert_status(200);
    let mut socket = edge.client().web_socket("/socket").unwrap();
    let mut idle = edge.raw();
    let mut ask = |line: &str| {
        idle.send(line);
        idle.read_until(b"ok", limit).unwrap();
    };
    ask("GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let load = edge.client().get("/").load(4).pause(Duration::from_millis(5)).start();
    let start = edge.status()["started"].as_str().unwrap()[..10].to_owned();
    for to in ["+2d", "-2d", "+400d", "-400d", "+0"] {
        let (requests, probes) = (load.completed(), origin.probes());
        jump(to);
        assert_eventually!(load.completed() > requests + 100, within limit);
        assert_eventually!(origin.probes() > probes + 3, within limit);
        assert_eq!(socket.echo(to), to);
        ask("GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let status = edge.status();
        assert_eq!(status["upstreams"][0]["endpoints"][0]["health"], "healthy", "{to}");
        assert!(status["uptime_seconds"].as_u64().unwrap() < 300, "{to}: {status}");
        assert_eq!(status["log"]["level"], "debug", "{to}");
        edge.reload().unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    let report = load.stop().assert_all_ok();
    assert!(report.total() > 500, "{report}");
    let log = edge.access_log();
    assert!(log.iter().all(is_about_now), "{:?}", log.iter().find(|line| !is_about_now(line)));
    // The clock did jump.
    let days: std::collections::BTreeSet<&str> =
        log.iter().map(|line| &line["time"].as_str().unwrap()[..10]).collect();
    assert!(days.len() >= 5 && days.contains(&*start), "{days:?}");
    assert!(!edge.logs().contains("endpoint unhealthy"));
}
