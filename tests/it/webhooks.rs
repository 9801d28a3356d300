//! Webhooks: events reach real receivers, signed, in order and again after a failure; secrets stay secret.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate::{
    telemetry::{
        metrics::{Metrics, Samples},
        webhooks::{Event, EventKind, RawWebhook, WebhookConfig, Webhooks},
    },
    types::{KeyPath, Problems, Secret, SecretSource},
};
use tokio::sync::watch;

use crate::{
    assert_eventually,
    harness::{Authority, Edge, Launch, Origin, block_on, origin::Recorded},
};

const LONG: Duration = Duration::from_mins(1);

fn read(source: &SecretSource) -> Result<Secret, String> {
    tidegate::state::read_secret(source).map_err(|error| error.to_string())
}

/// A webhook by its name and the keys of its table.
fn config(name: &str, keys: &str) -> WebhookConfig {
    let raw: RawWebhook = toml::from_str(keys).unwrap();
    let mut problems = Problems::new();
    let parsed = raw.parse(&name.parse().unwrap(), &KeyPath::root(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    parsed.unwrap()
}

/// Webhooks without an edge around them.
struct Alone {
    webhooks: Arc<Webhooks>,
    metrics: Arc<Metrics>,
}

impl Alone {
    fn new(configs: &[WebhookConfig]) -> Self {
        let metrics = Metrics::new();
        let webhooks = Webhooks::new(metrics.clone(), read);
        webhooks.configure(configs);
        Self { webhooks, metrics }
    }

    fn started(configs: &[WebhookConfig]) -> Self {
        let alone = Self::new(configs);
        alone.start();
        alone
    }

    fn start(&self) {
        self.webhooks.start(&block_on(async { tokio::runtime::Handle::current() }));
    }

    fn tell(&self, kind: EventKind, text: &str) {
        self.webhooks.tell(Event::new(kind, "shop-api".parse().unwrap(), text, json!({})));
    }

    /// A count by webhook and result.
    fn events(&self, webhook: &str, result: &str) -> u64 {
        let text = self.metrics.render(&Samples::default());
        let series =
            format!("tidegate_webhook_events_total{{result=\"{result}\",webhook=\"{webhook}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

fn body(request: &Recorded) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_else(|error| panic!("{error}: {request:?}"))
}

/// The sentences that came, in their order, those of one event in a row once.
fn texts(origin: &Origin) -> Vec<String> {
    let mut texts: Vec<String> = origin
        .recorded()
        .iter()
        .filter(|request| !request.body.is_empty())
        .map(|request| body(request)["text"].as_str().unwrap().to_owned())
        .collect();
    texts.dedup();
    texts
}

/// As docs/guides/webhooks.md says it.
fn verified_by_openssl(folder: &Path, request: &Recorded, key: &str) -> String {
    std::fs::write(folder.join("body"), &request.body).unwrap();
    let (id, timestamp) =
        (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
    let line = format!(
        "{{ printf '%s.%s.' '{id}' '{timestamp}'; cat body; }} | openssl dgst -sha256 -hmac '{key}' -binary | base64"
    );
    let output = Command::new("sh").args(["-c", &line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    format!("v1,{}", String::from_utf8(output.stdout).unwrap().trim())
}

#[test]
fn an_event_arrives_over_tls_with_a_signature_that_others_can_verify() {
    let authority = Authority::new("receivers");
    let origin = Origin::builder().status(204).tls(&authority.issue(&["localhost"])).start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("secret"), "raw-secret\n").unwrap();
    let at = folder.display();
    let keys = format!(
        "url = \"https://localhost:{}/hook?a=b\"\nca = \"{at}/ca.pem\"\nsecret = {{ file = \"{at}/secret\" }}",
        origin.port()
    );
    let alone = Alone::started(&[config("ops", &keys)]);
    let event = Event::new(
        EventKind::RolledBack,
        "shop-api".parse().unwrap(),
        "shop-api went back: 5 % of its requests failed",
        json!({ "weight": 0 }),
    );
    alone.webhooks.tell(event.clone());
    assert_eventually!(alone.events("ops", "sent") == 1, within LONG);
    let request = origin.last_request();
    assert_eq!((request.method.as_str(), &*request.path), ("POST", "/hook?a=b"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("webhook-id"), Some(&*event.id));
    let told = body(&request);
    assert_eq!((&told["type"], &told["subject"]), (&"rolled_back".into(), &"shop-api".into()));
    assert_eq!((&told["id"], &told["data"]["weight"]), (&(*event.id).into(), &0.into()));
    assert_eq!(told["text"], event.text);
    let signature = request.header("webhook-signature").unwrap();
    assert_eq!(signature, verified_by_openssl(folder, &request, "raw-secret"));
    // A changed secret counts with the next event. `whsec_` and base64 mean the bytes behind it.
    std::fs::write(folder.join("secret"), "whsec_YW5vdGhlciBvbmU=").unwrap();
    alone.tell(EventKind::Step, "next");
    assert_eventually!(alone.events("ops", "sent") == 2, within LONG);
    let request = origin.last_request();
    let signature = request.header("webhook-signature").unwrap();
    assert_eq!(signature, verified_by_openssl(folder, &request, "another one"));
}

#[test]
fn events_come_in_their_order_and_again_until_they_are_taken() {
    let origin = Origin::answering(503);
    let alone = Alone::started(&[config("ops", &format!("url = \"http://{origin}/\""))]);
    for text in ["one", "two", "three"] {
        alone.tell(EventKind::Step, text);
    }
    assert_eventually!(origin.requests() >= 2, within LONG);
    assert_eq!(texts(&origin), ["one"], "the others wait for their turn");
    origin.set_status(200);
    assert_eventually!(alone.events("ops", "sent") == 3, within LONG);
    assert_eq!(texts(&origin), ["one", "two", "three"]);
    let recorded = origin.recorded();
    assert_eq!(recorded[0].header("webhook-id"), recorded[1].header("webhook-id"));
    assert!(recorded[0].header("webhook-signature").is_none(), "there is no secret");
    assert_eq!((alone.events("ops", "failed"), alone.events("ops", "dropped")), (0, 0));
}

#[test]
fn what_is_refused_is_not_told_again_and_the_next_event_is() {
    let origin = Origin::answering(404);
    let alone = Alone::started(&[config("ops", &format!("url = \"http://{origin}/\""))]);
    alone.tell(EventKind::Step, "one");
    assert_eventually!(alone.events("ops", "failed") == 1, within LONG);
    origin.set_status(200);
    alone.tell(EventKind::Step, "two");
    assert_eventually!(alone.events("ops", "sent") == 1, within LONG);
    assert_eq!((origin.requests(), texts(&origin)), (2, vec!["one".into(), "two".into()]));
}

#[test]
fn a_silent_webhook_holds_up_no_other_and_each_gets_the_kinds_it_wants() {
    let (silent, slack) = (Origin::answering(200), Origin::answering(200));
    silent.hang();
    let alone = Alone::started(&[
        config("silent", &format!("url = \"http://{silent}/\"\ntimeout = \"5m\"")),
        config(
            "slack",
            &format!("url = \"http://{slack}/\"\nformat = \"slack\"\nevents = [\"rolled_back\"]"),
        ),
    ]);
    alone.tell(EventKind::Step, "10 %");
    alone.tell(EventKind::RolledBack, "5 % > 1 %");
    assert_eventually!(alone.events("slack", "sent") == 1, within LONG);
    assert_eq!(body(&slack.last_request()), json!({ "text": "5 % &gt; 1 %" }));
    assert_eq!(slack.requests(), 1);
    assert_eventually!(silent.requests() == 1, within LONG);
    assert_eq!(alone.events("silent", "sent"), 0);
}

#[test]
fn many_silent_webhooks_hold_up_no_other() {
    let (silent, good) = (Origin::answering(200), Origin::answering(200));
    silent.hang();
    let silent_one = |n: u32| {
        config(&format!("silent{n}"), &format!("url = \"http://{silent}/\"\ntimeout = \"5m\""))
    };
    let mut configs: Vec<WebhookConfig> = (0..6).map(silent_one).collect();
    let alone = Alone::started(&configs);
    alone.tell(EventKind::Step, "one");
    assert_eventually!(silent.in_flight() == 6, within LONG);
    configs.push(config("good", &format!("url = \"http://{good}/\"")));
    alone.webhooks.configure(&configs);
    alone.tell(EventKind::Step, "two");
    assert_eventually!(alone.events("good", "sent") == 1, within LONG);
    assert_eq!(silent.requests(), 6, "of each at most one is under way");
}

/// Says a secret once it may, which is when a webhook was taken out.
fn read_late(source: &SecretSource) -> Result<Secret, String> {
    READING.send_replace(true);
    block_on(MAY_BE_READ.subscribe().wait_for(|may| *may)).map_err(|error| error.to_string())?;
    read(source)
}

static READING: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);
static MAY_BE_READ: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);

#[test]
fn an_event_is_not_sent_to_a_webhook_that_is_taken_out_before_its_try() {
    let origin = Origin::answering(200);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "word").unwrap();
    let keys = format!(
        "url = \"http://{origin}/\"\nsecret = {{ file = \"{}/secret\" }}",
        folder.path().display()
    );
    let metrics = Metrics::new();
    let alone = Alone { webhooks: Webhooks::new(metrics.clone(), read_late), metrics };
    alone.webhooks.configure(&[config("gone", &keys)]);
    alone.start();
    alone.tell(EventKind::Step, "one");
    let is_reading = || *READING.borrow();
    assert_eventually!(is_reading(), within LONG);
    alone.webhooks.configure(&[]);
    MAY_BE_READ.send_replace(true);
    assert_eventually!(alone.events("gone", "dropped") == 1, within LONG);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn authorities_are_read_for_each_try_also_after_one_that_went_well() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let origin = Origin::builder().tls(&old.issue(&["localhost"])).start();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, old.pem()).unwrap();
    let keys = format!("url = \"https://localhost:{}/\"\nca = \"{}\"", origin.port(), ca.display());
    let alone = Alone::started(&[config("ops", &keys)]);
    origin.hang();
    alone.tell(EventKind::Step, "one");
    // Behind the first one, so that the client of that is at hand.
    alone.tell(EventKind::Step, "two");
    assert_eventually!(origin.in_flight() == 1, within LONG);
    std::fs::write(&ca, new.pem()).unwrap();
    origin.resume();
    let failed = || {
        let text = alone.metrics.render(&Samples::default());
        text.contains("tidegate_webhook_failed_tries_total{webhook=\"ops\"} 1")
    };
    assert_eventually!(failed(), within LONG);
    assert_eq!((texts(&origin), alone.events("ops", "sent")), (vec!["one".to_owned()], 1));
}

#[test]
fn a_full_queue_loses_the_oldest_and_counts_them() {
    let origin = Origin::answering(200);
    let alone = Alone::new(&[config("ops", &format!("url = \"http://{origin}/\""))]);
    for n in 0..1_003 {
        alone.tell(EventKind::Step, &n.to_string());
    }
    assert_eq!(alone.events("ops", "dropped"), 3);
    alone.start();
    assert_eventually!(alone.events("ops", "sent") == 1_000, within LONG);
    let wanted: Vec<String> = (3..1_003).map(|n: u32| n.to_string()).collect();
    assert_eq!(texts(&origin), wanted);
}

/// Has the edge tell a webhook a test event.
fn test(edge: &Edge, name: &str) {
    edge.admin().post(&format!("/v1/webhooks/test?name={name}")).send().assert_status(202);
}

#[test]
fn a_reload_keeps_what_waits_and_drops_what_is_for_a_webhook_that_is_gone() {
    let (origin, receiver) = (Origin::answering(200), Origin::answering(200));
    // For longer than this test waits; a changed configuration ends the pause.
    let busy = Origin::builder().status(503).header("retry-after", "300").start();
    let edge = Edge::start(
        &[&origin, &receiver, &busy],
        "[webhooks.ops]\nurl = \"http://{2}/\"\n[webhooks.gone]\nurl = \"http://{2}/\"\n[sites.a]\nhosts = [\"a\"]\nlisteners = [\"http\"]\nendpoints = [\"{0}\"]\n",
    );
    let answer = edge.admin().post("/v1/webhooks/test?name=none").send();
    assert_eq!((answer.status, edge.admin().post("/v1/webhooks/test").send().status), (404, 400));
    for name in ["ops", "gone"] {
        test(&edge, name);
        let failed = || {
            edge.metric("tidegate_webhook_failed_tries_total", [("webhook", name)]) >= 1.0
                && edge.metric("tidegate_webhook_events_waiting", [("webhook", name)]) == 1.0
        };
        assert_eventually!(failed(), within LONG);
    }
    edge.reload_with(
        "[webhooks.ops]\nurl = \"http://{1}/\"\n[sites.a]\nhosts = [\"a\"]\nlisteners = [\"http\"]\nendpoints = [\"{0}\"]\n",
    )
    .unwrap();
    assert_eventually!(receiver.requests() == 1, within LONG);
    assert_eq!(body(&receiver.last_request())["type"], "test");
    let events = |name: &str, result: &str| {
        edge.metric("tidegate_webhook_events_total", [("webhook", name), ("result", result)])
    };
    assert_eventually!(events("ops", "sent") == 1.0);
    assert_eventually!(events("gone", "dropped") == 1.0);
}

#[test]
fn a_url_is_read_from_its_file_for_each_try_and_never_shown_and_no_proxy_is_used() {
    let (origin, receiver, proxy) =
        (Origin::answering(200), Origin::answering(500), Origin::answering(200));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slack");
    let config = format!(
        "[sites.a]\nhosts = [\"a\"]\nlisteners = [\"http\"]\nendpoints = [\"{{0}}\"]\n[webhooks.slack]\nformat = \"slack\"\nurl = {{ file = \"{}\" }}\n[log]\nlevel = \"debug\"\n",
        file.display()
    );
    let launch = Launch::default()
        .environment("http_proxy", format!("http://{proxy}"))
        .environment("HTTP_PROXY", format!("http://{proxy}"));
    let edge = Edge::launch(&[&origin], &config, launch);
    assert!(edge.logs().contains("webhooks.slack.url"), "a missing secret is warned of");
    test(&edge, "slack");
    let log_says = |text: &str| edge.logs().contains(text);
    assert_eventually!(log_says("webhook can't be told"), within LONG);
    std::fs::write(&file, format!("http://{receiver}/services/hidden?key=hidden\n")).unwrap();
    assert_eventually!(receiver.requests() >= 1, within LONG);
    assert_eq!(receiver.last_request().path, "/services/hidden?key=hidden");
    assert_eventually!(log_says(&format!("http://{receiver} answers 500")), within LONG);
    receiver.set_status(200);
    let sent = || edge.metric("tidegate_webhook_events_total", [("result", "sent")]);
    assert_eventually!(sent() == 1.0, within LONG);
    assert!(log_says("webhook takes events again"));
    assert!(!log_says("hidden"), "{}", edge.logs());
    assert!(!edge.status().to_string().contains("hidden"));
    assert_eq!(proxy.requests(), 0);
}

#[test]
fn the_end_waits_for_an_event_on_its_way_and_not_for_a_silent_webhook() {
    let (origin, receiver) = (Origin::answering(200), Origin::answering(200));
    let config = "[log]\nlevel = \"debug\"\n[server]\ndrain = \"100ms\"\n[webhooks.ops]\nurl = \"http://{1}/\"\ntimeout = \"5m\"\n[sites.a]\nhosts = [\"a\"]\nlisteners = [\"http\"]\nendpoints = [\"{0}\"]\n";
    let mut edge = Edge::spawn(&[&origin, &receiver], config);
    receiver.set_delay(Duration::from_millis(300));
    test(&edge, "ops");
    assert_eventually!(receiver.in_flight() == 1, within LONG);
    let exit = edge.signal_and_wait("TERM", LONG);
    assert_eq!(exit.code, Some(0));
    assert!(exit.log.contains("webhook told"), "{}", exit.log);

    let mut edge = Edge::spawn(&[&origin, &receiver], config);
    receiver.hang();
    test(&edge, "ops");
    assert_eventually!(receiver.in_flight() == 1, within LONG);
    let exit = edge.signal_and_wait("TERM", LONG);
    assert_eq!(exit.code, Some(0));
    assert!(exit.log.contains("webhooks were not told of the last events"), "{}", exit.log);
}
