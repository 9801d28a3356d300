//! Sticky sessions: a signed cookie keeps a client at one endpoint.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Client, Edge, Origin, Tls};

const THREE: &str = r#"
[upstreams.api]
balance = "round-robin"
endpoints = ["{0}", "{1}", "{2}"]
sticky = { cookie = "node" }
"#;

fn named(name: &str) -> Origin {
    Origin::builder().name(name).start()
}

fn three() -> [Origin; 3] {
    [named("a"), named("b"), named("c")]
}

/// Who answered a client with these cookies, and the `Set-Cookie` that came with it.
fn ask(client: &Client, cookies: &str) -> (String, Option<String>) {
    let mut request = client.get("/");
    if !cookies.is_empty() {
        request = request.header("cookie", cookies);
    }
    let answer = request.send().assert_status(200);
    assert!(answer.header_values("set-cookie").len() <= 1);
    let name = answer.header("x-origin").expect("a name").to_owned();
    (name, answer.header("set-cookie").map(ToOwned::to_owned))
}

/// The cookie that a client without one is given, as it would send it, and who answered.
fn new_session(client: &Client) -> (String, String) {
    let (name, set) = ask(client, "");
    let set = set.expect("a cookie");
    (name, set.split(';').next().expect("a pair").to_owned())
}

#[test]
fn a_client_stays_at_its_endpoint_and_is_told_once() {
    let origins = three();
    let edge = Edge::start(&[&origins[0], &origins[1], &origins[2]], THREE);
    let client = edge.client();
    let sessions: Vec<_> = (0..3).map(|_| new_session(&client)).collect();
    assert_eq!(sessions.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    for _ in 0..10 {
        for (name, cookie) in &sessions {
            assert_eq!(ask(&client, cookie), (name.clone(), None));
        }
    }
}

#[test]
fn attributes_are_safe_by_default_and_follow_the_configuration() {
    let origins = three();
    let all: [&dyn std::fmt::Display; 3] = [&origins[0], &origins[1], &origins[2]];
    let edge = Edge::start(&all, THREE);
    let (_, plain) = ask(&edge.client(), "");
    let plain = plain.unwrap();
    let (pair, attributes) = plain.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; SameSite=Lax; HttpOnly");
    let value = pair.strip_prefix("node=").unwrap();
    assert_eq!(value.len(), 43, "{value}");
    let (_, over_tls) = ask(&edge.tls_client(Tls::any()), "");
    assert!(over_tls.unwrap().ends_with("; HttpOnly; Secure"));
    let text = THREE.replace(
        "\"node\"",
        "\"node\", max_age = \"1h\", path = \"/app\", domain = \"shop.test\", same_site = \"strict\", http_only = false",
    );
    edge.reload_with(&text).unwrap();
    let (_, set) = ask(&edge.client(), "");
    assert!(set.unwrap().ends_with("; Path=/app; Domain=shop.test; Max-Age=3600; SameSite=Strict"),);
}

#[test]
fn endpoints_see_every_cookie_but_the_sticky_one() {
    let origins = three();
    let edge = Edge::start(&[&origins[0]], &THREE.replace("\"{0}\", \"{1}\", \"{2}\"", "\"{0}\""));
    for client in [edge.client(), edge.tls_client(Tls::any()).http2()] {
        let (_, cookie) = new_session(&client);
        assert_eq!(ask(&client, &format!("a=1;  b=\"2\"; {cookie}; c=3")).1, None);
        assert_eq!(origins[0].last_request().header_values("cookie"), ["a=1;  b=\"2\"; c=3"]);
        ask(&client, &cookie);
        assert_eq!(origins[0].last_request().header("cookie"), None);
        ask(&client, "a=1;b=2");
        assert_eq!(origins[0].last_request().header_values("cookie"), ["a=1;b=2"]);
        // Nor one that is not ours.
        ask(&client, "node=forged; a=1");
        assert_eq!(origins[0].last_request().header_values("cookie"), ["a=1"]);
    }
}

#[test]
fn a_forged_or_foreign_cookie_is_replaced() {
    let origins = three();
    let all: [&dyn std::fmt::Display; 3] = [&origins[0], &origins[1], &origins[2]];
    let (edge, other) = (Edge::start(&all, THREE), Edge::start(&all, THREE));
    let (_, cookie) = new_session(&edge.client());
    let (_, foreign) = new_session(&other.client());
    let flipped = {
        let (rest, last) = cookie.split_at(cookie.len() - 2);
        let other = if last.starts_with('A') { "B" } else { "A" };
        format!("{rest}{other}{}", &last[1..])
    };
    for forged in [
        foreign,
        flipped,
        "node=".to_owned(),
        "node=10.0.0.1".to_owned(),
        format!("node={}", "A".repeat(43)),
        format!("node={}", "x".repeat(2_000)),
    ] {
        let client = edge.client();
        let (name, set) = ask(&client, &forged);
        let set = set.unwrap_or_else(|| panic!("{forged} is taken for ours"));
        let real = set.split(';').next().unwrap();
        assert_eq!(ask(&client, real), (name, None), "after {forged}");
    }
}

#[test]
fn a_session_survives_a_reload_and_a_restart() {
    let origins = three();
    let all: [&dyn std::fmt::Display; 3] = [&origins[0], &origins[1], &origins[2]];
    let state = tempfile::tempdir().unwrap();
    let text = format!("[server]\nstate_dir = \"{}\"\n{THREE}", state.path().display());
    let mut edge = Edge::start(&all, &text);
    let (name, cookie) = new_session(&edge.client());
    let reordered = text.replace("\"{0}\", \"{1}\", \"{2}\"", "\"{2}\", \"{1}\", \"{0}\"");
    edge.reload_with(&reordered).unwrap();
    assert_eq!(ask(&edge.client(), &cookie), (name.clone(), None));
    let mode = state.path().join("edge-secret").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    edge.shut_down(false);
    drop(edge);
    let restarted = Edge::start(&all, &text);
    for _ in 0..5 {
        assert_eq!(ask(&restarted.client(), &cookie), (name.clone(), None));
    }
}

#[test]
fn replicas_with_a_shared_secret_know_each_other_s_cookies() {
    let origins = three();
    let all: [&dyn std::fmt::Display; 3] = [&origins[0], &origins[1], &origins[2]];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "correct horse battery staple\n").unwrap();
    let text = format!("[server]\nshared_secret = {{ file = \"{}\" }}\n{THREE}", file.display());
    let (one, two) = (Edge::start(&all, &text), Edge::start(&all, &text));
    assert!(!one.path("state/edge-secret").exists(), "none of its own is needed");
    for _ in 0..4 {
        let (name, cookie) = new_session(&one.client());
        assert_eq!(ask(&two.client(), &cookie), (name, None));
    }
    let (_, cookie) = new_session(&one.client());
    std::fs::write(&file, "short").unwrap();
    let refusal = one.reload().unwrap_err();
    assert!(refusal.contains("server.shared_secret") && refusal.contains("16 bytes"), "{refusal}");
    assert!(!refusal.contains("short"), "{refusal}");
    // A new secret is another key.
    std::fs::write(&file, "correct horse battery rustler\n").unwrap();
    one.reload().unwrap();
    assert!(ask(&one.client(), &cookie).1.is_some());
    std::fs::remove_file(&file).unwrap();
    let refusal = one.reload().unwrap_err();
    assert!(refusal.contains("server.shared_secret"), "{refusal}");
}

#[test]
fn an_endpoint_that_is_gone_sick_or_of_weight_zero_is_replaced_quietly() {
    let origins = three();
    let text = format!(
        "{THREE}health_check = {{ path = \"/healthz\", interval = \"50ms\", unhealthy_after = 1, healthy_after = 1 }}\n"
    );
    let edge = Edge::start(&[&origins[0], &origins[1], &origins[2]], &text);
    let client = edge.client();
    let sessions: Vec<_> = (0..3).map(|_| new_session(&client)).collect();
    let cookie_of = |name: &str| &sessions.iter().find(|(other, _)| other == name).unwrap().1;
    let is_moved = |name: &str| {
        let (other, set) = ask(&client, cookie_of(name));
        assert_eq!(other != name, set.is_some());
        other != name
    };
    origins[0].set_healthy(false);
    crate::assert_eventually!(is_moved("a"));
    assert!(!is_moved("b"));
    origins[0].set_healthy(true);
    crate::assert_eventually!(!is_moved("a"));
    edge.reload_with(&text.replace("\"{1}\"", "{ address = \"{1}\", weight = 0 }")).unwrap();
    assert!(is_moved("b") && !is_moved("c"));
    edge.reload_with(&text.replace(", \"{2}\"", "")).unwrap();
    assert!(is_moved("c") && !is_moved("b"));
}

#[test]
fn a_client_whose_endpoint_refuses_is_answered_by_another_and_told_so() {
    let origins = three();
    let edge = Edge::start(&[&origins[0], &origins[1], &origins[2]], THREE);
    let client = edge.client();
    let (name, cookie) = new_session(&client);
    assert_eq!(name, "a");
    origins[0].stop();
    let (other, set) = ask(&client, &cookie);
    assert_ne!(other, "a");
    let set = set.expect("another cookie");
    assert_eq!(ask(&client, set.split(';').next().unwrap()), (other, None));
}

#[test]
fn an_upstream_without_sticky_sessions_gives_no_cookie_and_leaves_all() {
    let origins = three();
    let text = THREE.replace("sticky = { cookie = \"node\" }\n", "");
    let edge = Edge::start(&[&origins[0], &origins[1], &origins[2]], &text);
    assert_eq!(ask(&edge.client(), "node=x; a=1"), ("a".to_owned(), None));
    assert_eq!(origins[0].last_request().header("cookie"), Some("node=x; a=1"));
    assert!(!edge.path("state/edge-secret").exists());
}
