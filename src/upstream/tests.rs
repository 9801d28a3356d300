//! Upstreams as a whole, attached to living state: picks, reloads, probes, names.

mod eligibility;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

use tokio::{net::UdpSocket, runtime::Handle};

use super::{
    test_origin::{Behaviour, Origin, eventually},
    *,
};
use crate::{telemetry::metrics::Metrics, types::KeyPath};

fn config(text: &str) -> Arc<UpstreamConfig> {
    let raw: RawUpstream = toml::from_str(text).unwrap();
    let mut problems = Problems::new();
    let path = KeyPath::of(&["upstreams", "web"]);
    let config = raw.parse(&"web".parse().unwrap(), &path, &mut problems);
    assert!(!problems.has_errors(), "{problems:?}");
    Arc::new(config)
}

fn blueprint(text: &str) -> Blueprint {
    let mut problems = Problems::new();
    let blueprint = compile(&config(text), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    blueprint.unwrap()
}

fn attach(live: &Arc<Live>, text: &str) -> Arc<Upstream> {
    let upstream = live.attach(blueprint(text));
    upstream.put_in_force(Instant::now());
    upstream
}

fn labels(upstream: &Upstream, picks: usize) -> Vec<String> {
    let pick = |_| upstream.pick(&Wish::default()).unwrap().endpoint_label().to_owned();
    (0..picks).map(pick).collect()
}

fn counts(upstream: &Upstream, picks: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for label in labels(upstream, picks) {
        *counts.entry(label).or_default() += 1;
    }
    counts
}

fn health(upstream: &Upstream) -> Vec<Verdict> {
    upstream.status().endpoints.iter().map(|endpoint| endpoint.health).collect()
}

#[tokio::test]
async fn round_robin_is_exact_and_goes_on_over_a_reload() {
    let live = Live::new(Handle::current(), Metrics::new());
    let text = r#"
        endpoints = [{ address = "10.0.0.1:80", weight = 5 }, "10.0.0.2:80", "10.0.0.3:80"]
        balance = "round-robin"
    "#;
    let upstream = attach(&live, text);
    let mut seen = labels(&upstream, 4);
    let reloaded = attach(&live, text);
    seen.extend(labels(&reloaded, 3));
    let last: String = seen.iter().map(|label| &label[7..8]).collect();
    assert_eq!(last, "1121311");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_hold_over_10_000_picks_of_many_threads() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(
        &live,
        r#"
        endpoints = [{ address = "10.0.0.1:80", weight = 7 }, { address = "10.0.0.2:80", weight = 2 }, "10.0.0.3:80"]
        balance = "round-robin"
        "#,
    );
    let total = Mutex::new(HashMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mine = counts(&upstream, 1_250);
                let mut total = total.lock().unwrap();
                for (label, count) in mine {
                    *total.entry(label).or_default() += count;
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    assert_eq!(total["10.0.0.1:80"], 7_000);
    assert_eq!(total["10.0.0.2:80"], 2_000);
    assert_eq!(total["10.0.0.3:80"], 1_000);
}

#[tokio::test]
async fn least_conn_avoids_the_slow_endpoint() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, r#"endpoints = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]"#);
    // The first endpoint never answers: what it has stays in flight. The others answer at once.
    let mut stuck = Vec::new();
    for _ in 0..1_000 {
        let picked = upstream.pick(&Wish::default()).unwrap();
        if picked.endpoint_label() == "10.0.0.1:80" {
            stuck.push(picked);
        }
    }
    assert_eq!(stuck.len(), 1, "one request found it idle, none after it");
    drop(stuck);
    assert!(upstream.status().endpoints.iter().all(|endpoint| endpoint.in_flight == 0));
}

#[tokio::test]
async fn an_endpoint_that_fails_at_once_draws_no_requests() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(
        &live,
        "endpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\nbalance = \"peak-ewma\"\noutlier_detection = false",
    );
    let mut failed = 0;
    for _ in 0..1_000 {
        let mut picked = upstream.pick(&Wish::default()).unwrap();
        let is_failing = picked.endpoint_label() == "10.0.0.2:80";
        let (status, micros) = if is_failing { (500, 10) } else { (200, 2_000) };
        picked.answered(
            http::StatusCode::from_u16(status).unwrap(),
            Duration::from_micros(micros),
            false,
            Instant::now(),
        );
        failed += u32::from(is_failing);
    }
    // Its half, as one of which nothing is known.
    assert!((400..600).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let live = Live::new(Handle::current(), Metrics::new());
    for balance in ["round-robin", "least-conn"] {
        let upstream = attach(
            &live,
            &format!("endpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\nbalance = \"{balance}\""),
        );
        for _ in 0..20 {
            let mut wish = Wish::default();
            let first = upstream.pick(&wish).unwrap();
            wish.tried.add(first.endpoint());
            let second = upstream.pick(&wish).unwrap();
            assert_ne!(first.endpoint_label(), second.endpoint_label());
            wish.tried.add(second.endpoint());
            assert!(upstream.pick(&wish).is_ok(), "rather again than not at all");
        }
    }
}

#[tokio::test]
async fn a_reload_keeps_what_is_alive() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, r#"endpoints = ["10.0.0.1:80"]"#);
    let picked = upstream.pick(&Wish::default()).unwrap();
    picked.endpoint().learn_keep_alive(Some(Duration::from_secs(5)));
    drop(upstream);
    // A changed weight is the same endpoint.
    let text = r#"endpoints = [{ address = "10.0.0.1:80", weight = 9 }, "10.0.0.2:80"]"#;
    let reloaded = attach(&live, text);
    let status = reloaded.status();
    assert_eq!((status.endpoints[0].in_flight, status.endpoints[0].requests), (1, 1));
    assert_eq!((status.endpoints[0].weight, status.endpoints[1].requests), (9, 0));
    // The request that began before the reload ends after it.
    let in_flight = picked.into_in_flight();
    let mut wish = Wish::default();
    wish.tried.add(in_flight.endpoint());
    drop(in_flight);
    assert_eq!(reloaded.status().endpoints[0].in_flight, 0);
    let other = reloaded.pick(&wish).unwrap();
    assert_eq!(other.endpoint_label(), "10.0.0.2:80");
    wish = Wish::default();
    wish.tried.add(other.endpoint());
    let same = reloaded.pick(&wish).unwrap();
    let idle = same.peer(&Timeouts::default(), false).options.idle_timeout;
    assert_eq!(idle, Some(Duration::from_secs(4)), "what it announced is still known");
    assert_eq!(live.endpoint_count(), 2);
}

#[tokio::test]
async fn an_upstream_of_another_name_shares_nothing() {
    let live = Live::new(Handle::current(), Metrics::new());
    let web = attach(&live, r#"endpoints = ["10.0.0.1:80"]"#);
    let mut other = (*config(r#"endpoints = ["10.0.0.1:80"]"#)).clone();
    other.name = "api".parse().unwrap();
    let api = live.attach(compile(&Arc::new(other), &mut Problems::new()).unwrap());
    let _picked = web.pick(&Wish::default()).unwrap();
    assert_eq!(web.status().endpoints[0].in_flight, 1);
    assert_eq!(api.status().endpoints[0].in_flight, 0);
    let peers = [&web, &api].map(|upstream| {
        upstream.pick(&Wish::default()).unwrap().peer(&Timeouts::default(), false).group_key
    });
    assert_ne!(peers[0], peers[1]);
}

#[tokio::test]
async fn weight_0_takes_out_and_nothing_left_is_said_at_once() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream =
        attach(&live, r#"endpoints = [{ address = "10.0.0.1:80", weight = 0 }, "10.0.0.2:80"]"#);
    assert_eq!(counts(&upstream, 50), HashMap::from([("10.0.0.2:80".to_owned(), 50)]));
}

fn checked(origins: &[&Origin], more: &str) -> String {
    let addresses: Vec<String> =
        origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    format!(
        "endpoints = [{}]\nhealth_check = {{ path = \"/\", interval = \"50ms\", timeout = \"1s\", unhealthy_after = 2, healthy_after = 2 {more} }}",
        addresses.join(", ")
    )
}

#[tokio::test]
async fn unhealthy_endpoints_get_nothing_until_they_recover() {
    let (good, bad) =
        (Origin::start(Behaviour::status(200)).await, Origin::start(Behaviour::status(500)).await);
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, &checked(&[&good, &bad], ""));
    upstream.probed().await;
    assert_eq!(health(&upstream), [Verdict::Healthy, Verdict::Unhealthy]);
    assert_eq!(counts(&upstream, 20), HashMap::from([(good.address.to_string(), 20)]));
    let status = upstream.status();
    assert_eq!(status.endpoints[1].last_error.as_deref(), Some("status 500"));
    assert!(status.endpoints[1].since.unwrap() > 1_700_000_000);

    bad.behave(Behaviour::status(200));
    eventually("recovered", || health(&upstream) == [Verdict::Healthy; 2]).await;
    assert_eq!(counts(&upstream, 200).len(), 2);

    good.behave(Behaviour::Close);
    bad.behave(Behaviour::status(503));
    eventually("both down", || health(&upstream) == [Verdict::Unhealthy; 2]).await;
    assert_eq!(upstream.pick(&Wish::default()).unwrap_err(), NoEndpoint::NoneHealthy);
    assert!(!upstream.has_healthy());
}

#[tokio::test]
async fn a_never_probed_endpoint_serves_where_none_is_healthy() {
    let (silent, bad) =
        (Origin::start(Behaviour::Silent).await, Origin::start(Behaviour::status(500)).await);
    let live = Live::new(Handle::current(), Metrics::new());
    let slow = ", timeout = \"1h\"";
    let text = checked(&[&silent, &bad], slow).replace("timeout = \"1s\",", "");
    let upstream = attach(&live, &text);
    assert!(upstream.pick(&Wish::default()).is_ok(), "a reload never makes a 503");
    eventually("one is known", || health(&upstream) == [Verdict::Unknown, Verdict::Unhealthy])
        .await;
    assert_eq!(counts(&upstream, 10), HashMap::from([(silent.address.to_string(), 10)]));
    assert!(!upstream.has_healthy());
    bad.behave(Behaviour::status(200));
    eventually("one is healthy", || upstream.has_healthy()).await;
    assert_eq!(counts(&upstream, 10), HashMap::from([(bad.address.to_string(), 10)]));
}

#[tokio::test]
async fn a_changed_check_resets_health_only_and_a_changed_weight_nothing() {
    let origin = Origin::start(Behaviour::status(200)).await;
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, &checked(&[&origin], ""));
    upstream.probed().await;
    let picked = upstream.pick(&Wish::default()).unwrap();
    let since = upstream.status().endpoints[0].since;

    let heavier = checked(&[&origin], "").replacen(
        &format!("\"{}\"", origin.address),
        &format!("{{ address = \"{}\", weight = 3 }}", origin.address),
        1,
    );
    let reloaded = attach(&live, &heavier);
    assert_eq!(health(&reloaded), [Verdict::Healthy], "known without a new probe");
    assert_eq!(reloaded.status().endpoints[0].since, since);

    origin.behave(Behaviour::Silent);
    let changed = attach(&live, &checked(&[&origin], ", host = \"other.test\""));
    assert_eq!(health(&changed), [Verdict::Unknown]);
    assert_eq!(changed.status().endpoints[0].in_flight, 1);
    assert_eq!(health(&reloaded), [Verdict::Healthy], "the other check goes on");
    drop(picked);
}

#[tokio::test]
async fn a_dropped_upstream_stops_probing_and_a_rollback_finds_its_verdict() {
    let origin = Origin::start(Behaviour::status(200)).await;
    let live = Live::new(Handle::current(), Metrics::new());
    // So many that only an outcome which decides at once can change the verdict here.
    let text = checked(&[&origin], "").replace("unhealthy_after = 2", "unhealthy_after = 1000");
    let (upstream, second) = (attach(&live, &text), attach(&live, &text));
    upstream.probed().await;
    // A request that goes on after its generation does not keep it probing.
    let in_flight = upstream.pick(&Wish::default()).unwrap().into_in_flight();
    drop(upstream);
    let before = origin.connections();
    eventually("probes go on for the second", || origin.connections() > before + 1).await;
    drop(second);
    eventually("the task has ended", || live.probed_endpoints() == 0).await;
    assert_eq!(in_flight.endpoint().in_flight(), 1);
    origin.behave(Behaviour::status(500));
    let back = attach(&live, &text);
    assert_eq!(health(&back), [Verdict::Healthy], "until the next probe, which decides at once");
    eventually("decided", || health(&back) == [Verdict::Unhealthy]).await;
}

#[tokio::test]
async fn what_can_not_be_compiled_is_said() {
    for (text, path, message) in [
        (
            "endpoints = [\"10.0.0.1:80\"]\ntls = { ca = \"/nowhere/ca.pem\" }",
            "upstreams.web.tls.ca",
            "the file can't be read",
        ),
        (
            "endpoints = [\"10.0.0.1:80\", \"unix:/run/a\"]\ntls = true",
            "upstreams.web.endpoints[1]",
            "TLS over a Unix socket needs a name",
        ),
        (
            "endpoints = [\"10.0.0.1:80\"]\nhealth_check = { path = \"/\", host = \"a b\" }",
            "upstreams.web.health_check.host",
            "\"a b\" is not a Host header value",
        ),
    ] {
        let mut problems = Problems::new();
        assert!(compile(&config(text), &mut problems).is_none());
        let found: Vec<_> = problems.iter().collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path.to_string(), path);
        assert!(found[0].message.starts_with(message), "{}", found[0].message);
    }
}

/// A name server that answers A queries with the addresses it is told, and nothing else.
struct NameServer {
    port: u16,
    addresses: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    queries: Arc<AtomicU32>,
    task: tokio::task::AbortHandle,
}

impl NameServer {
    async fn start(addresses: &[[u8; 4]]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let told = addresses.iter().map(|octets| Ipv4Addr::from(*octets)).collect();
        let addresses = Arc::new(Mutex::new(Some(told)));
        let queries = Arc::new(AtomicU32::new(0));
        let (told, counted) = (Arc::clone(&addresses), Arc::clone(&queries));
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut query).await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&query[..length], told.lock().unwrap().as_deref());
                socket.send_to(&answer, client).await.unwrap();
            }
        })
        .abort_handle();
        Self { port, addresses, queries, task }
    }

    fn say(&self, addresses: Option<&[[u8; 4]]>) {
        let addresses = addresses.map(|all| all.iter().map(|octets| Ipv4Addr::from(*octets)));
        *self.addresses.lock().unwrap() = addresses.map(Iterator::collect);
    }

    fn live(&self) -> Arc<Live> {
        let live = Live::new(Handle::current(), Metrics::new());
        live.configure(&DnsConfig {
            servers: vec![(Ipv4Addr::LOCALHOST, self.port).into()],
            timeout: Duration::from_millis(500),
            ..DnsConfig::default()
        });
        live
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer by RFC 1035, section 4: the query's header and question, then one record of TTL 1 for each address.
/// No addresses is no error; `None` is SERVFAIL.
fn answer(query: &[u8], addresses: Option<&[Ipv4Addr]>) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[12..name_end + 4];
    let is_a = query[name_end..name_end + 2] == [0, 1];
    let records = addresses.filter(|_| is_a).unwrap_or_default();
    let code = if addresses.is_some() { 0 } else { 2 };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(question);
    for address in records {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    upstream.status().endpoints.into_iter().map(|endpoint| endpoint.address).collect()
}

fn name_error(upstream: &Upstream) -> String {
    upstream.status().names[0].error.clone().unwrap_or_default()
}

#[tokio::test]
async fn a_name_is_resolved_followed_and_held() {
    let server = NameServer::start(&[[127, 0, 0, 2], [127, 0, 0, 1]]).await;
    let live = server.live();
    let text = "endpoints = [\"app.test:8080\", \"127.0.0.9:80\"]\nbalance = \"round-robin\"";
    let upstream = attach(&live, text);
    assert_eq!(
        addresses(&upstream),
        ["127.0.0.9:80"],
        "nothing of the name yet, and no wait for it"
    );
    upstream.probed().await;
    assert_eq!(addresses(&upstream), ["127.0.0.1:8080", "127.0.0.2:8080", "127.0.0.9:80"]);
    assert_eq!(labels(&upstream, 3), addresses(&upstream));
    assert_eq!(upstream.status().endpoints[0].host.as_deref(), Some("app.test"));

    let picked = upstream.pick(&Wish::default()).unwrap();
    assert_eq!(picked.endpoint_label(), "127.0.0.1:8080");
    server.say(Some(&[[127, 0, 0, 3], [127, 0, 0, 1]]));
    let followed = ["127.0.0.1:8080", "127.0.0.3:8080", "127.0.0.9:80"];
    eventually("followed", || addresses(&upstream) == followed).await;
    assert_eq!(upstream.status().endpoints[0].in_flight, 1, "one that stays keeps its state");

    // Failures and empty answers change nothing but what is said of the name.
    server.say(None);
    eventually("a failure is said", || !name_error(&upstream).is_empty()).await;
    assert_eq!(addresses(&upstream), followed);

    // A reload does not wait for the name. Once nobody needs it, it is no longer looked up.
    let reloaded = attach(&live, text);
    assert_eq!(reloaded.status().endpoints.len(), 3);
    drop(upstream);
    let before = server.queries.load(Ordering::SeqCst);
    eventually("still followed", || server.queries.load(Ordering::SeqCst) > before).await;
    server.say(Some(&[]));
    eventually("an empty answer is said", || name_error(&reloaded) == "the name has no addresses")
        .await;
    assert_eq!(addresses(&reloaded), followed);
    drop(reloaded);
    eventually("the task has ended", || live.followed_names() == 0).await;
}

#[tokio::test]
async fn before_the_first_answer_there_is_no_endpoint_and_no_wait() {
    let server = NameServer::start(&[]).await;
    let live = server.live();
    let upstream = attach(&live, "endpoints = [\"app.test:8080\"]");
    assert_eq!(upstream.pick(&Wish::default()).unwrap_err(), NoEndpoint::NoneKnown);
    upstream.probed().await;
    assert_eq!(upstream.pick(&Wish::default()).unwrap_err(), NoEndpoint::NoneKnown);
}

/// The endpoint with this address, picked.
fn pick_at(upstream: &Upstream, label: &str) -> Picked {
    let mut wish = Wish::default();
    loop {
        let picked = upstream.pick(&wish).unwrap();
        if picked.endpoint_label() == label {
            return picked;
        }
        wish.tried.add(picked.endpoint());
    }
}

#[tokio::test]
async fn a_connection_that_is_sent_on_ends_a_run_of_failures() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, r#"endpoints = ["10.0.0.1:80", "10.0.0.2:80"]"#);
    let ejected = || upstream.status().endpoints[1].ejected.is_some();
    let fail = || pick_at(&upstream, "10.0.0.2:80").failed(Fault::Connect);
    (0..2).for_each(|_| fail());
    drop(pick_at(&upstream, "10.0.0.2:80").into_in_flight());
    (0..2).for_each(|_| fail());
    assert!(!ejected());
    fail();
    assert!(ejected());
    assert_eq!(counts(&upstream, 20), HashMap::from([("10.0.0.1:80".to_owned(), 20)]));
}

#[tokio::test]
async fn only_the_newest_set_judges_and_all_see_the_ejection() {
    let live = Live::new(Handle::current(), Metrics::new());
    let text = r#"endpoints = ["10.0.0.1:80", "10.0.0.2:80"]"#;
    let (old, new) =
        (attach(&live, text), attach(&live, &format!("{text}\noutlier_detection = false")));
    for _ in 0..10 {
        pick_at(&old, "10.0.0.2:80").failed(Fault::Connect);
    }
    assert!(old.status().endpoints[1].ejected.is_none(), "what is in force detects nothing");
    let newest = attach(&live, text);
    for _ in 0..3 {
        pick_at(&old, "10.0.0.2:80").failed(Fault::Connect);
    }
    for upstream in [&old, &newest] {
        assert_eq!(counts(upstream, 20).len(), 1);
    }
    assert_eq!(counts(&new, 200).len(), 2, "whose settings know no ejections");
    // One that never came into force leaves the one before it in charge.
    drop(new);
    drop(attach(&live, text));
    assert!(newest.status().endpoints[1].ejected.is_some());
}
