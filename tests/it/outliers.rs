//! Outlier detection: who is ejected by its traffic and who is not, and how an endpoint comes back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    assert_eventually,
    harness::{
        Client, Edge, Origin,
        origin::{RecordingOrigin, Reply, Seen},
    },
};

/// An origin that can be ill, and whose URLs fail by themselves.
struct Patient {
    origin: RecordingOrigin,
    is_ill: Arc<AtomicBool>,
}

impl std::fmt::Display for Patient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.origin.fmt(f)
    }
}

impl Patient {
    fn start() -> Self {
        let is_ill = Arc::new(AtomicBool::new(false));
        let ill = Arc::clone(&is_ill);
        let origin =
            RecordingOrigin::answering(move |seen| answer(seen, ill.load(Ordering::SeqCst)));
        Self { origin, is_ill }
    }

    fn set_ill(&self, is_ill: bool) {
        self.is_ill.store(is_ill, Ordering::SeqCst);
    }

    fn address(&self) -> String {
        self.origin.to_string()
    }

    fn requests(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.target != "/healthz").count()
    }

    fn probes(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.target == "/healthz").count()
    }

    fn label<'a>(&'a self, address: &'a str) -> [(&'a str, &'a str); 1] {
        let _ = self;
        [("endpoint", address)]
    }

    fn is_ejected(&self, edge: &Edge) -> bool {
        let address = self.address();
        edge.metric_if_any("tidegate_endpoint_ejected", self.label(&address)) == Some(1.0)
    }

    fn ejections(&self, edge: &Edge, reason: &str) -> f64 {
        let address = self.address();
        let labels = [("endpoint", address.as_str()), ("reason", reason)];
        edge.metric("tidegate_endpoint_ejections_total", labels)
    }
}

fn answer(seen: &Seen, is_ill: bool) -> Reply {
    let whole = |status: &str| Reply {
        bytes: format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").into_bytes(),
        ..Reply::default()
    };
    let cut = Reply {
        bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun".to_vec(),
        closes: true,
        later: None,
    };
    match seen.target.as_str() {
        "/healthz" if is_ill => whole("503 Service Unavailable"),
        "/healthz" => whole("200 OK"),
        "/reset" => Reply { closes: true, ..Reply::default() },
        "/500" => whole("500 Internal Server Error"),
        "/cut" => cut,
        _ if is_ill => cut,
        _ => whole("200 OK"),
    }
}

/// Ejections of all endpoints, for whatever reason.
fn all_ejections(edge: &Edge) -> f64 {
    edge.metric("tidegate_endpoint_ejections_total", ())
}

/// Sends and says whether the answer was whole.
fn is_whole(client: &Client, path: &str) -> bool {
    client.get(path).try_send().is_ok()
}

fn endpoint(edge: &Edge, address: &str) -> Value {
    let status = edge.status();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().expect("endpoints").clone();
    endpoints.into_iter().find(|it| it["address"] == address).expect("the endpoint")
}

/// A check that never makes an endpoint unhealthy, so that only ejections count, and that an ill one fails.
const CHECKED: &str = r#"
    health_check = { path = "/healthz", interval = "50ms", unhealthy_after = 1000000 }
"#;

#[test]
fn an_endpoint_that_cuts_answers_is_ejected_at_once_and_taken_back_by_a_probe_only() {
    let patients = [Patient::start(), Patient::start(), Patient::start()];
    let ill = &patients[2];
    let edge = Edge::start(
        &[&patients[0], &patients[1], ill],
        &format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\n\
             outlier_detection = {{ ejection = \"200ms\" }}\nslow_start = \"0s\"\n{CHECKED}"
        ),
    );
    assert_eventually!(edge.metric("tidegate_endpoint_healthy", ()) == 3.0);
    let client = edge.client();
    assert!((0..30).all(|_| is_whole(&client, "/")));
    assert_eq!(ill.requests(), 10);
    ill.set_ill(true);
    let cut = (0..60).filter(|_| !is_whole(&client, "/")).count();
    assert!((1..=4).contains(&cut), "{cut} answers were cut");
    assert!(ill.is_ejected(&edge));
    assert_eq!(ill.ejections(&edge, "consecutive_failures"), 1.0);
    let shown = endpoint(&edge, &ill.address())["ejected"].clone();
    assert_eq!(shown["reason"], "consecutive_failures", "{shown}");
    assert!(shown["until"].as_str() >= shown["since"].as_str(), "{shown}");

    // The time is over soon, but its probes fail: it stays out, and no client notices.
    let (before, probes) = (ill.requests(), ill.probes());
    assert_eventually!(ill.probes() > probes + 10);
    assert!((0..30).all(|_| is_whole(&client, "/")));
    assert_eq!(ill.requests(), before);
    assert!(ill.is_ejected(&edge));

    ill.set_ill(false);
    assert_eventually!(!ill.is_ejected(&edge));
    assert!((0..30).all(|_| is_whole(&client, "/")));
    assert_eq!(ill.requests(), before + 10);
    assert_eq!(all_ejections(&edge), 1.0);
    assert_eq!(endpoint(&edge, &ill.address())["ejected"], Value::Null);
}

#[test]
fn a_killed_endpoint_is_not_tried_for_long_without_a_health_check() {
    let (good, dead) = (Origin::answering(200), Origin::answering(200));
    let edge = Edge::start(
        &[&good, &dead],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\"]\n\
         outlier_detection = { ejection = \"300ms\" }\n",
    );
    dead.stop();
    edge.client().get("/").times(20).all_status(200);
    let faults = || edge.metric("tidegate_endpoint_faults_total", [("fault", "connect")]);
    assert_eq!(faults(), 3.0);
    assert_eq!(edge.metric("tidegate_endpoint_ejected", &dead), 1.0);
    dead.restart();
    // A connection is the probe.
    assert_eventually!(edge.metric("tidegate_endpoint_ejected", &dead) == 0.0);
    assert_eq!(faults(), 3.0);
    assert_eventually!({
        edge.client().get("/").send().assert_status(200);
        dead.requests() > 0
    });
}

#[test]
fn never_all_endpoints_are_ejected_and_never_the_only_one() {
    let (a, b) = (Patient::start(), Patient::start());
    let edge = Edge::start(
        &[&a, &b],
        &format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\"]\n\
             retries = {{ tries = 1 }}\noutlier_detection = {{ max_ejected = \"100%\", ejection = \"1m\" }}\n{CHECKED}"
        ),
    );
    assert_eventually!(edge.metric("tidegate_endpoint_healthy", ()) == 2.0);
    let client = edge.client();
    assert!((0..10).all(|_| is_whole(&client, "/")));
    a.set_ill(true);
    (0..20).for_each(|_| drop(client.get("/").try_send()));
    assert!(a.is_ejected(&edge) && !b.is_ejected(&edge));
    b.set_ill(true);
    let before = b.requests();
    (0..20).for_each(|_| drop(client.get("/").try_send()));
    assert_eq!(b.requests() - before, 20, "the last one is still asked");
    assert!(a.is_ejected(&edge) && !b.is_ejected(&edge));
    b.set_ill(false);
    assert!((0..20).all(|_| is_whole(&client, "/")));
}

#[test]
fn an_ejected_endpoint_that_is_well_is_asked_early_where_the_last_one_fails() {
    let (a, b) = (Patient::start(), Patient::start());
    let edge = Edge::start(
        &[&a, &b],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\"]\n\
         retries = { tries = 1 }\noutlier_detection = { ejection = \"1h\", max_ejection = \"1h\" }\n\
         slow_start = \"0s\"\n",
    );
    let client = edge.client();
    assert!((0..10).all(|_| is_whole(&client, "/")));
    a.set_ill(true);
    (0..10).for_each(|_| drop(client.get("/").try_send()));
    assert!(a.is_ejected(&edge) && !b.is_ejected(&edge));
    a.set_ill(false);
    b.set_ill(true);
    // They change places: the one that is back has good answers, beside which the other one fails.
    assert_eventually!({
        drop(client.get("/").try_send());
        b.is_ejected(&edge)
    });
    assert!(!a.is_ejected(&edge));
    assert!((0..10).all(|_| is_whole(&client, "/")));
}

/// Clients are told apart by what a trusted proxy in front says of them.
const BEHIND_A_PROXY: &str = "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";

/// Quick comparisons.
const QUICK: &str =
    "outlier_detection = { interval = \"200ms\", min_requests = 10, ejection = \"1m\" }\n";

fn as_client(client: &Client, from: usize, path: &str) -> bool {
    let address = format!("203.0.113.{from}");
    client.get(path).header("x-forwarded-for", &address).try_send().is_ok()
}

/// Three endpoints, and a bot that asks an URL that fails everywhere. How many were ejected.
fn ejected_by_a_bot(balance: &str, path: &str, others: usize) -> f64 {
    let patients = [Patient::start(), Patient::start(), Patient::start()];
    let edge = Edge::start(
        &[&patients[0], &patients[1], &patients[2]],
        &format!(
            "{BEHIND_A_PROXY}[upstreams.api]\nbalance = \"{balance}\"\n\
             endpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\nretries = {{ tries = 1 }}\n{QUICK}"
        ),
    );
    let (bot, client) = (edge.client(), edge.client());
    for round in 0..60 {
        for _ in 0..4 {
            as_client(&bot, 1, path);
        }
        for other in 0..others {
            assert!(as_client(&client, 2 + other, "/"), "{balance} {path} {round}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(patients.iter().all(|patient| patient.requests() > 40));
    all_ejections(&edge)
}

#[test]
fn a_bot_whose_url_always_fails_ejects_nothing() {
    for balance in ["round-robin", "least-conn"] {
        for path in ["/reset", "/cut", "/500"] {
            for others in [0, 1, 4] {
                let ejected = ejected_by_a_bot(balance, path, others);
                assert_eq!(ejected, 0.0, "{balance} {path} beside {others}");
            }
        }
    }
}

#[test]
fn what_fails_for_several_networks_is_ejected_also_beside_a_bot() {
    let patients = [Patient::start(), Patient::start(), Patient::start()];
    let edge = Edge::start(
        &[&patients[0], &patients[1], &patients[2]],
        &format!(
            "{BEHIND_A_PROXY}[upstreams.api]\nbalance = \"round-robin\"\n\
             endpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\n{QUICK}"
        ),
    );
    let client = edge.client();
    patients[1].set_ill(true);
    assert_eventually!({
        as_client(&client, 1, "/cut");
        for from in 2..7 {
            as_client(&client, from, "/");
        }
        patients[1].is_ejected(&edge)
    });
    assert_eq!(all_ejections(&edge), 1.0);
}

#[test]
fn server_errors_eject_only_who_has_more_of_them_than_the_others() {
    let (a, b, c) = (Origin::answering(200), Origin::answering(200), Origin::answering(500));
    let text = format!(
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", \"{{1}}\", \"{{2}}\"]\n{QUICK}"
    );
    let edge = Edge::start(&[&a, &b, &c], &text);
    assert_eventually!({
        edge.client().get("/").times(6);
        edge.metric("tidegate_endpoint_ejected", &c) == 1.0
    });
    let labels = [("reason", "failure_rate")];
    assert_eq!(edge.metric("tidegate_endpoint_ejections_total", labels), 1.0);
    edge.client().get("/").times(10).all_status(200);

    for origin in [&a, &b] {
        origin.set_status(500);
    }
    let edge = Edge::start(&[&a, &b, &c], &text);
    for _ in 0..100 {
        edge.client().get("/").times(6);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(all_ejections(&edge), 0.0, "an error of the service is none of an endpoint");
}

#[test]
fn an_endpoint_that_is_much_slower_is_ejected_where_that_is_asked_for() {
    let origins = [Origin::answering(200), Origin::answering(200), Origin::answering(200)];
    origins[0].set_delay(Duration::from_millis(80));
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2]],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\", \"{2}\"]\n\
         outlier_detection = { interval = \"500ms\", min_requests = 5, latency_factor = 3 }\n",
    );
    assert_eventually!({
        edge.client().get("/").times(6).all_status(200);
        edge.metric("tidegate_endpoint_ejected", &origins[0]) == 1.0
    });
    let labels = [("reason", "latency")];
    assert_eq!(edge.metric("tidegate_endpoint_ejections_total", labels), 1.0);
}

#[test]
fn an_ejection_outlives_reloads_and_ends_where_nothing_is_to_be_detected() {
    let (good, ill) = (Patient::start(), Patient::start());
    let text = |more: &str| {
        format!(
            "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{{0}}\", {{ address = \"{{1}}\", weight = 1 }}]\n{more}"
        )
    };
    let edge = Edge::start(&[&good, &ill], &text(""));
    let client = edge.client();
    assert!((0..10).all(|_| is_whole(&client, "/")));
    ill.set_ill(true);
    (0..20).for_each(|_| drop(client.get("/").try_send()));
    ill.set_ill(false);
    let before = ill.requests();
    for more in [
        "timeouts = { idle = \"20s\" }\n",
        "health_check = { path = \"/healthz\", interval = \"50ms\" }\n",
        "health_check = { path = \"/healthz\", interval = \"60ms\" }\n",
        "outlier_detection = { ejection = \"20s\" }\n",
    ] {
        edge.reload_with(&edge.completed(&text(more))).expect("a good configuration");
        assert!((0..10).all(|_| is_whole(&client, "/")), "{more}");
        assert!(ill.is_ejected(&edge), "{more}");
    }
    assert_eq!(ill.requests(), before);
    let off = edge.completed(&text("outlier_detection = false\n"));
    edge.reload_with(&off).expect("a good configuration");
    assert_eventually!(!ill.is_ejected(&edge));
    ill.set_ill(true);
    let cut = (0..40).filter(|_| !is_whole(&client, "/")).count();
    assert!(cut >= 4, "{cut}");
    assert_eq!(all_ejections(&edge), 1.0);
}

#[test]
fn who_comes_back_starts_slowly() {
    let patients = [Patient::start(), Patient::start(), Patient::start()];
    let back = &patients[2];
    let edge = Edge::start(
        &[&patients[0], &patients[1], back],
        "[upstreams.api]\nbalance = \"round-robin\"\nendpoints = [\"{0}\", \"{1}\", \"{2}\"]\n\
         outlier_detection = { ejection = \"200ms\" }\nslow_start = \"10m\"\n",
    );
    let client = edge.client();
    assert!((0..30).all(|_| is_whole(&client, "/")));
    assert_eq!(back.requests(), 10, "not at the start of the edge");
    back.set_ill(true);
    (0..20).for_each(|_| drop(client.get("/").try_send()));
    back.set_ill(false);
    assert_eventually!(back.ejections(&edge, "consecutive_failures") == 1.0);
    assert_eventually!(!back.is_ejected(&edge));
    let share = endpoint(&edge, &back.address())["slow_start"].clone();
    assert_eq!(share, 0.1);
    let before: BTreeMap<_, _> =
        patients.iter().map(|patient| (patient.address(), patient.requests())).collect();
    assert!((0..210).all(|_| is_whole(&client, "/")));
    let got = |patient: &Patient| patient.requests() - before[&patient.address()];
    // A tenth of a share: 1 of 21.
    assert_eq!([got(&patients[0]), got(&patients[1]), got(back)], [100, 100, 10]);
}
