//! Balancing that looks at latency, draws, or follows a key.

use std::{collections::BTreeSet, time::Duration};

use crate::harness::{Edge, Origin};

const ALL: [&str; 5] = ["round-robin", "least-conn", "peak-ewma", "random-two", "consistent-hash"];

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

/// An upstream of all origins.
fn upstream(balance: &str, origins: usize) -> String {
    let hash = if balance == "consistent-hash" { "hash = { header = \"x-user\" }\n" } else { "" };
    let endpoints: Vec<String> = (0..origins).map(|i| format!("\"{{{i}}}\"")).collect();
    let endpoints = endpoints.join(", ");
    // Who joins or comes back is to have its whole share at once.
    format!(
        "[upstreams.api]\nbalance = \"{balance}\"\n{hash}slow_start = \"0s\"\noutlier_detection = false\nendpoints = [{endpoints}]\n"
    )
}

/// Which origin answers each of these users.
fn homes(edge: &Edge, users: usize) -> Vec<String> {
    let client = edge.client();
    (0..users)
        .map(|user| {
            let answer = client.get("/").header("x-user", &format!("user-{user}")).send();
            answer.assert_status(200).header("x-origin").expect("a name").to_owned()
        })
        .collect()
}

#[test]
fn peak_ewma_keeps_away_from_a_slow_endpoint_at_low_concurrency() {
    for clients in [1, 4] {
        let slow = Origin::builder().delay(Duration::from_millis(200)).start();
        let (a, b) = (named("a"), named("b"));
        let edge = Edge::start(&[&a, &slow, &b], &upstream("peak-ewma", 3));
        edge.client().get("/").load(clients).requests(600).assert_all_ok();
        let share = slow.requests() as f64 / 600.0;
        assert!(share < 0.05, "{share} to the slow one of {clients} clients");
        assert!(slow.requests() > 0, "it was never tried");
        // How they share the rest is a matter of the latest answers, which a busy machine delays now and then.
        assert!(a.requests() + b.requests() > 550, "{} and {}", a.requests(), b.requests());
    }
}

#[test]
fn peak_ewma_finds_out_that_a_slow_endpoint_is_quick_again() {
    let slow = Origin::builder().delay(Duration::from_millis(100)).start();
    let other = Origin::builder().delay(Duration::from_millis(5)).start();
    let edge = Edge::start(&[&other, &slow], &upstream("peak-ewma", 2));
    edge.client().get("/").load(2).requests(50).assert_all_ok();
    slow.set_delay(Duration::from_millis(5));
    let load = edge.client().get("/").load(8).start();
    let mut before = (slow.requests(), other.requests());
    let is_back = || {
        let now = (slow.requests(), other.requests());
        let (mine, theirs) = (now.0 - before.0, now.1 - before.1);
        if mine + theirs < 40 {
            return false;
        }
        before = now;
        mine * 4 > theirs
    };
    let mut is_back = is_back;
    crate::assert_eventually!(is_back(), within Duration::from_mins(1));
    load.stop();
}

#[test]
fn open_streams_count_as_connections_and_not_as_slow_requests() {
    let origin = || Origin::builder().web_socket().delay(Duration::from_millis(10)).start();
    let origins = [origin(), origin(), origin()];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2]],
        "[upstreams.api]\nbalance = \"peak-ewma\"\nendpoints = [\"{0}\"]\n",
    );
    let sockets: Vec<_> = (0..40).map(|_| edge.client().web_socket("/").unwrap()).collect();
    edge.reload_with(&upstream("peak-ewma", 3)).unwrap();
    let before = origins[0].requests();
    // They are answered with 426, which is as good an answer as another.
    edge.client().get("/").load(6).requests(600);
    let to_the_busy_one = origins[0].requests() - before;
    assert!(to_the_busy_one > 60, "{to_the_busy_one} of 600 beside {} streams", sockets.len());
    edge.reload_with(&upstream("least-conn", 3)).unwrap();
    let before = origins[0].requests();
    edge.client().get("/").times(60).all_status(426);
    assert_eq!(origins[0].requests() - before, 0, "least-conn counts them");
    drop(sockets);
}

#[test]
fn a_key_keeps_its_endpoint_and_one_more_endpoint_takes_its_share() {
    let origins = [named("a"), named("b"), named("c"), named("d")];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2], &origins[3]],
        &upstream("consistent-hash", 3),
    );
    let before = homes(&edge, 80);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{before:?}");
    assert_eq!(homes(&edge, 80), before);
    edge.reload_with(&upstream("consistent-hash", 4)).unwrap();
    let after = homes(&edge, 80);
    let moved: Vec<_> =
        before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!(moved.iter().all(|(_, after)| *after == "d"), "{moved:?}");
    // A quarter of 80 is 20; the bounds are far enough for every choice of ports.
    assert!((4..=44).contains(&moved.len()), "{} of 80 moved", moved.len());
    edge.reload_with(&upstream("consistent-hash", 3)).unwrap();
    assert_eq!(homes(&edge, 80), before);
}

#[test]
fn keys_of_a_dead_endpoint_go_elsewhere_and_come_back() {
    let origins = [named("a"), named("b"), named("c")];
    let edge =
        Edge::start(&[&origins[0], &origins[1], &origins[2]], &upstream("consistent-hash", 3));
    let before = homes(&edge, 40);
    origins[1].stop();
    let meanwhile = homes(&edge, 40);
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(meanwhile != "b" && (before == "b" || before == meanwhile));
    }
    origins[1].restart();
    assert_eq!(homes(&edge, 40), before);
}

#[test]
fn every_part_of_a_request_can_be_the_key() {
    let origins = [named("a"), named("b"), named("c"), named("d")];
    for key in [
        "header = \"x-user\"",
        "cookie = \"user\"",
        "query = \"user\"",
        "path = true",
        "client_address = true",
    ] {
        let text = upstream("consistent-hash", 4).replace("header = \"x-user\"", key);
        let edge = Edge::start(&[&origins[0], &origins[1], &origins[2], &origins[3]], &text);
        let client = edge.client();
        let home = |user: usize| {
            // What is not the key differs from request to request.
            let other = fastrand::u64(..);
            let path = if key.starts_with("path") {
                format!("/{user}?n={other}")
            } else if key.starts_with("query") {
                format!("/{other}?a=1&user={user}")
            } else {
                format!("/{other}")
            };
            let header = if key.starts_with("header") { user as u64 } else { other };
            let cookie = if key.starts_with("cookie") { user as u64 } else { other };
            let request = client
                .get(&path)
                .header("x-user", &header.to_string())
                .header("cookie", &format!("a=1; user={cookie}"));
            request.send().assert_status(200).header("x-origin").expect("a name").to_owned()
        };
        let mut found = BTreeSet::new();
        for user in 0..30 {
            let first = home(user);
            assert_eq!(home(user), first, "{key}, user {user}");
            found.insert(first);
        }
        let expected = if key.starts_with("client") { 1 } else { 4 };
        assert_eq!(found.len(), expected, "{key}: {found:?}");
    }
}

#[test]
fn the_load_of_one_key_is_bounded() {
    let origin = || Origin::builder().delay(Duration::from_millis(40)).start();
    let origins = [origin(), origin(), origin(), origin()];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2], &origins[3]],
        &upstream("consistent-hash", 4),
    );
    edge.client().get("/").header("x-user", "hot").load(16).requests(480).assert_all_ok();
    let most = origins.iter().map(Origin::most_in_flight).max().unwrap_or_default();
    // 125 % of a fourth of 16 are 5; two workers may pick at the same moment, and an answer that is read is counted a moment longer.
    assert!(most <= 8, "{most} at once");
}

#[test]
fn random_two_follows_the_weights() {
    let origins = [named("a"), named("b"), named("c")];
    let edge = Edge::start(
        &[&origins[0], &origins[1], &origins[2]],
        r#"
        [upstreams.api]
        balance = "random-two"
        endpoints = [
            { address = "{0}", weight = 5 },
            { address = "{1}", weight = 3 },
            { address = "{2}", weight = 2 },
        ]
        "#,
    );
    edge.client().get("/").times(1_000).all_status(200);
    for (origin, expected) in origins.iter().zip([500, 300, 200]) {
        assert!(origin.requests().abs_diff(expected) < 90, "{} for {expected}", origin.requests());
    }
}

#[test]
fn every_balance_leaves_out_the_weight_zero_and_tries_another_endpoint() {
    let (good, dead, unused) = (named("a"), named("b"), named("c"));
    dead.stop();
    for balance in ALL {
        let text = upstream(balance, 3).replace("\"{2}\"", "{ address = \"{2}\", weight = 0 }");
        let edge = Edge::start(&[&good, &dead, &unused], &text);
        let client = edge.client();
        for user in 0..30 {
            let request = client.get("/").header("x-user", &user.to_string());
            request.send().assert_status(200);
        }
        assert_eq!(unused.requests(), 0, "{balance}");
        assert_eq!(edge.status()["upstreams"][0]["balance"], balance);
    }
}

#[test]
fn a_connection_that_is_sent_on_follows_its_client() {
    let origins = [named("a"), named("b"), named("c")];
    let text = upstream("consistent-hash", 3)
        .replace("header = \"x-user\"", "client_address = true")
        + "[listeners.http]\naddress = \"127.0.0.1:0\"\n[listeners.raw]\naddress = \"127.0.0.1:0\"\ntcp = { upstream = \"api\" }\n";
    let edge = Edge::start(&[&origins[0], &origins[1], &origins[2]], &text);
    let client = crate::harness::Client::to(edge.address("raw")).new_connections();
    let mut names = BTreeSet::new();
    for _ in 0..12 {
        let answer = client.get("/").send().assert_status(200);
        names.insert(answer.header("x-origin").expect("a name").to_owned());
        // Of two at once the bound would send the second elsewhere.
        let in_flight = [("upstream", "api")];
        crate::assert_eventually!(
            edge.metric("tidegate_endpoint_requests_in_flight", in_flight) == 0.0
        );
    }
    assert_eq!(names.len(), 1, "{names:?}");
}
