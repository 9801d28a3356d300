//! Experiments: what endpoints are told, who stays where, and switching without a reload.

use std::{collections::BTreeMap, process::Command, thread};

use serde_json::{Value, json};

use crate::harness::{Client, Edge, Origin, RecordingOrigin, origin::Reply};

/// One site with one experiment called `new`; `more` stands before everything else.
fn text(more: &str, experiment: &str) -> String {
    format!(
        "{more}\n[upstreams.api]\nendpoints = [\"{{0}}\"]\n\
         [sites.a]\nhosts = [\"127.0.0.1\"]\nupstream = \"api\"\npolicies = [\"new\"]\n\
         [policies.new.experiment]\nheader = \"X-New\"\n{experiment}\n"
    )
}

const STICKY: &str = "sticky = { cookie = \"exp\" }\nvariants = { a = \"50%\", b = \"50%\" }";
const FLAG: &str = "variants = { on = \"100%\" }";

/// Answers with what it saw of `X-New` and of cookies.
fn mirror() -> RecordingOrigin {
    RecordingOrigin::answering(|seen| {
        let line = |name| {
            let values = seen.values(name);
            values.iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>().join("|")
        };
        let bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Saw: {}\r\nX-Saw-Cookie: {}\r\n\r\n",
            line("x-new"),
            line("cookie")
        );
        Reply { bytes: bytes.into_bytes(), ..Reply::default() }
    })
}

/// What the endpoint saw of a request with these headers, and the `Set-Cookie` that came with the answer.
fn ask(client: &Client, headers: &[(&str, &str)]) -> (String, Option<String>) {
    let mut request = client.get("/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send().assert_status(200);
    assert!(answer.header_values("set-cookie").len() <= 1);
    let saw = answer.header("x-saw").expect("the mirror says it").to_owned();
    (saw, answer.header("set-cookie").map(ToOwned::to_owned))
}

/// The cookie that a client without one is given, as it would send it, and its variant.
fn new_client(client: &Client) -> (String, String) {
    let (variant, set) = ask(client, &[]);
    let set = set.expect("a cookie");
    (variant, set.split(';').next().expect("a pair").to_owned())
}

fn exposures(edge: &Edge, variant: &str, by: &str) -> f64 {
    let labels = [("experiment", "new"), ("variant", variant), ("by", by)];
    edge.metric("tidegate_experiment_exposures_total", labels)
}

fn experiments(edge: &Edge) -> Value {
    edge.admin().get("/v1/experiments").send().assert_status(200).json()
}

fn switch(edge: &Edge, what: &str) -> Value {
    edge.admin().post(&format!("/v1/experiments/{what}")).send().assert_status(200).json()
}

#[test]
fn shares_hold_within_a_percent_of_ten_thousand_keys_and_replicas_agree() {
    const THREADS: usize = 4;
    let origin = mirror();
    let split = "key = { header = \"x-user\" }\nsalt = \"s\"\n\
                 variants = { a = \"10%\", b = \"25%\", c = \"40%\" }";
    let edge = Edge::start(&[&origin], &text("", split));
    let counts: Vec<BTreeMap<String, i32>> = thread::scope(|scope| {
        let count = |part: usize| {
            let client = edge.client();
            let mut counts = BTreeMap::new();
            for user in (part..10_000).step_by(THREADS) {
                let (variant, set) = ask(&client, &[("x-user", &user.to_string())]);
                assert_eq!(set, None);
                *counts.entry(variant).or_default() += 1;
            }
            counts
        };
        let threads: Vec<_> = (0..THREADS).map(|part| scope.spawn(move || count(part))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (variant, wanted) in [("a", 1_000), ("b", 2_500), ("c", 4_000), ("", 2_500)] {
        let seen: i32 = counts.iter().filter_map(|counts| counts.get(variant)).sum();
        assert!((seen - wanted).abs() <= 100, "{variant}: {seen} of 10,000, not {wanted}");
        if !variant.is_empty() {
            assert_eq!(exposures(&edge, variant, "share"), f64::from(seen));
            assert_eq!(exposures(&edge, variant, "segment"), 0.0);
        }
    }
    // Nothing is shared by them but the configuration.
    let replica = Edge::start(&[&origin], &text("", split));
    let salted = Edge::start(&[&origin], &text("", &split.replace("\"s\"", "\"t\"")));
    let clients = [&edge, &replica, &salted].map(Edge::client);
    let mut moved = 0;
    for user in 0..50 {
        let user = [("x-user", &*user.to_string())];
        let [here, there, anew] = clients.each_ref().map(|client| ask(client, &user).0);
        assert_eq!(here, there);
        moved += i32::from(here != anew);
    }
    assert!(moved >= 10, "another salt deals anew: {moved} of 50");
}

#[test]
fn a_share_that_grows_keeps_everybody_who_is_in_a_variant() {
    let origin = mirror();
    let split = |a: &str, b: &str| {
        let variants = format!("variants = {{ a = \"{a}\", b = \"{b}\" }}");
        text("", &format!("key = {{ header = \"x-user\" }}\n{variants}"))
    };
    let edge = Edge::start(&[&origin], &split("10%", "20%"));
    let client = edge.client();
    let all = || -> Vec<String> {
        (0..500).map(|user| ask(&client, &[("x-user", &user.to_string())]).0).collect()
    };
    let before = all();
    edge.reload_with(&split("10%", "60%")).unwrap();
    let after = all();
    for (was, is) in before.iter().zip(&after) {
        assert!(was == is || (was.is_empty() && is == "b"), "from {was:?} to {is:?}");
    }
    assert!(before.iter().zip(&after).filter(|(was, is)| was != is).count() > 100);
}

#[test]
fn a_cookie_keeps_its_client_exactly_and_is_given_once() {
    let origin = mirror();
    let edge = Edge::start(&[&origin], &text("", STICKY));
    let client = edge.client();
    let clients: Vec<_> = (0..40).map(|_| new_client(&client)).collect();
    for variant in ["a", "b"] {
        let seen = clients.iter().filter(|(mine, _)| mine == variant).count();
        // The chance of fewer is one in a hundred millions.
        assert!(seen >= 3, "{variant} was drawn {seen} times");
    }
    for _ in 0..5 {
        for (variant, cookie) in &clients {
            assert_eq!(ask(&client, &[("cookie", cookie)]), (variant.clone(), None));
        }
    }
    // Over a reload that grows one of them, nobody of the other moves.
    edge.reload_with(&text("", &STICKY.replace("a = \"50%\"", "a = \"10%\""))).unwrap();
    for (variant, cookie) in &clients {
        let (now, set) = ask(&client, &[("cookie", cookie)]);
        assert!(set.is_none() && (now == *variant || variant == "a" && now.is_empty()));
    }
    // Another salt: a cookie of before is worth nothing.
    edge.reload_with(&text("", &format!("{STICKY}\nsalt = \"2\""))).unwrap();
    assert!(ask(&client, &[("cookie", &clients[0].1)]).1.is_some());
}

#[test]
fn a_forged_or_foreign_cookie_is_replaced_and_never_forwarded() {
    let origin = mirror();
    // Everybody is in one of two, and the origin sees which.
    let edge = Edge::start(&[&origin], &text("", STICKY));
    let foreign = Edge::start(&[&origin], &text("", STICKY));
    let (_, foreign) = new_client(&foreign.client());
    let client = edge.client();
    let (variant, cookie) = new_client(&client);
    let flipped = {
        let (rest, last) = cookie.split_at(cookie.len() - 1);
        format!("{rest}{}", if last == "A" { "B" } else { "A" })
    };
    for forged in [
        foreign,
        flipped,
        "exp=".to_owned(),
        "exp=a".to_owned(),
        format!("exp={}", "A".repeat(32)),
        format!("exp={}", "x".repeat(2_000)),
    ] {
        let (now, set) = ask(&client, &[("cookie", &forged)]);
        let set = set.unwrap_or_else(|| panic!("{forged} is taken for ours"));
        let real = set.split(';').next().unwrap();
        assert_eq!(ask(&client, &[("cookie", real)]), (now, None), "after {forged}");
    }
    // Beside those of the application, which go on as they came.
    let with_others = format!("s=1; {cookie}; t=2");
    let answer = client.get("/").header("cookie", &with_others).send().assert_status(200);
    assert_eq!(answer.header("x-saw-cookie"), Some("s=1; t=2"));
    assert_eq!(answer.header("x-saw"), Some(&*variant));
    let answer = client.get("/").header("cookie", &cookie).send().assert_status(200);
    assert_eq!(answer.header("x-saw-cookie"), Some(""));
}

#[test]
fn replicas_with_a_shared_secret_know_each_other_s_cookies() {
    let origin = mirror();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "correct horse battery staple\n").unwrap();
    let shared = format!("[server]\nshared_secret = {{ file = \"{}\" }}", file.display());
    let [one, other] = [(), ()].map(|()| Edge::start(&[&origin], &text(&shared, STICKY)));
    for _ in 0..5 {
        let (variant, cookie) = new_client(&one.client());
        assert_eq!(ask(&other.client(), &[("cookie", &cookie)]), (variant, None));
    }
}

#[test]
fn what_a_client_says_of_its_variant_is_removed_on_and_off() {
    let origin = mirror();
    let h2c = "[listeners.http]\naddress = \"127.0.0.1:0\"\nh2c = true";
    let variants = "variants = { on = \"100%\", other = \"0%\" }";
    let edge = Edge::start(&[&origin], &text(h2c, variants));
    let lies = [("X-New", "other"), ("x-new", "third"), ("x_new", "other")];
    assert_eq!(ask(&edge.client(), &lies).0, "on");
    switch(&edge, "new/off");
    assert_eq!(ask(&edge.client(), &lies).0, "");
    assert_eq!(ask(&edge.client().http2(), &lies).0, "");
    let raw = origin.raw().concat().to_ascii_lowercase();
    assert!(!String::from_utf8_lossy(&raw).contains("x_new"), "gateways can't tell it apart");
    // Nor can it have ours removed by naming it.
    switch(&edge, "new/on");
    let named = [("connection", "X-New"), ("x-new", "other")];
    assert_eq!(ask(&edge.client(), &named).0, "on");
}

#[test]
fn segments_decide_before_shares_and_are_counted_apart() {
    let origin = mirror();
    let segments = r#"
        variants = { a = "100%", b = "0%" }
        [[policies.new.experiment.segments]]
        variant = false
        headers = { x-bot = true }
        [[policies.new.experiment.segments]]
        variant = "b"
        cookies = { beta = "1" }
        client_address = ["127.0.0.0/8"]
        [[policies.new.experiment.segments]]
        variant = "b"
        client_address = ["10.0.0.0/8"]
    "#;
    let edge = Edge::start(&[&origin], &text("", segments));
    let client = edge.client();
    for (headers, variant) in [
        (&[][..], "a"),
        (&[("x-bot", "1"), ("cookie", "beta=1")], ""),
        (&[("cookie", "beta=1")], "b"),
        (&[("cookie", "beta=2")], "a"),
    ] {
        assert_eq!(ask(&client, headers).0, variant, "{headers:?}");
    }
    for (variant, by, count) in
        [("a", "share", 2.0), ("a", "segment", 0.0), ("b", "share", 0.0), ("b", "segment", 1.0)]
    {
        assert_eq!(exposures(&edge, variant, by), count, "{variant} {by}");
    }
}

#[test]
fn the_edge_s_own_answers_give_the_cookie_too() {
    let answer = "[sites.a]\nhosts = [\"127.0.0.1\"]\npolicies = [\"new\"]\nrespond = { status = 200, body = \"hi\" }\n\
                  [policies.new.experiment]\nheader = \"X-New\"\n";
    let edge = Edge::start(&[], &format!("{answer}{STICKY}"));
    let first = edge.client().get("/").send().assert_status(200);
    let set = first.header("set-cookie").expect("a cookie");
    assert!(set.starts_with("exp=") && set.ends_with("; Path=/; SameSite=Lax; HttpOnly"), "{set}");
}

#[test]
fn switched_off_by_the_api_it_stays_off_over_reload_and_restart_until_it_is_reset() {
    let origin = mirror();
    let state = tempfile::tempdir().unwrap();
    let kept = format!("[server]\nstate_dir = \"{}\"", state.path().display());
    let file = text(&kept, &format!("{STICKY}\nenabled = true"));
    let mut edge = Edge::start(&[&origin], &file);
    let (variant, cookie) = new_client(&edge.client());
    let generation = edge.status()["generation"].clone();

    let answer = switch(&edge, "new/off");
    assert_eq!((&answer["kept"], &answer["experiment"]["on"]), (&json!(true), &json!(false)));
    assert_eq!(ask(&edge.client(), &[("cookie", &cookie)]), (String::new(), None));
    assert_eq!(ask(&edge.client(), &[]), (String::new(), None), "no cookie while it is off");
    assert_eq!(edge.status()["generation"], generation, "without a reload");
    let is_off = |edge: &Edge| {
        let status = &experiments(edge)["experiments"][0];
        assert_eq!(edge.status()["experiments"]["experiments"][0], *status);
        assert_eq!((&status["on"], &status["enabled_in_file"]), (&json!(false), &json!(true)));
        assert_eq!(status["file_differs"], true);
        assert!(status["switched_at"].as_str().unwrap().starts_with("20"), "{status}");
        for (metric, value) in [("on", 0.0), ("file_differs", 1.0)] {
            let name = format!("tidegate_experiment_{metric}");
            assert_eq!(edge.metric(&name, [("experiment", "new")]), value, "{metric}");
        }
        assert_eq!(ask(&edge.client(), &[("cookie", &cookie)]), (String::new(), None));
    };
    is_off(&edge);
    // Another configuration, one without it, and one with it again.
    let other = file.replace("50%", "40%");
    edge.reload_with(&other).unwrap();
    is_off(&edge);
    let without = "[sites.a]\nhosts = [\"127.0.0.1\"]\nupstream = \"api\"\n[upstreams.api]\nendpoints = [\"{0}\"]";
    edge.reload_with(&format!("{kept}\n{without}")).unwrap();
    assert_eq!(experiments(&edge)["experiments"], json!([]));
    edge.reload_with(&file).unwrap();
    is_off(&edge);
    edge.shut_down(false);
    drop(edge);

    let edge = Edge::start(&[&origin], &file);
    is_off(&edge);
    let answer = switch(&edge, "new/reset");
    assert_eq!(answer["experiment"]["on"], true);
    assert_eq!(answer["experiment"].get("switched_at"), None);
    assert_eq!(ask(&edge.client(), &[("cookie", &cookie)]), (variant, None));
    // And the other way: off in the file, on by the API.
    edge.reload_with(&file.replace("enabled = true", "enabled = false")).unwrap();
    assert_eq!(ask(&edge.client(), &[]), (String::new(), None));
    switch(&edge, "new/on");
    assert_ne!(ask(&edge.client(), &[]).0, "");
    assert_eq!(experiments(&edge)["experiments"][0]["file_differs"], true);
    edge.reload_with(&file).unwrap();
    assert_eq!(experiments(&edge)["experiments"][0]["file_differs"], false);
}

#[test]
fn what_is_switched_while_the_next_process_starts_is_not_lost() {
    let origin = Origin::answering(200);
    let probed = "health_check = { path = \"/healthz\", interval = \"1h\", timeout = \"30s\" }";
    let file = text("", FLAG).replace("[sites.a]", &format!("{probed}\n[sites.a]"));
    let old = Edge::spawn(&[&origin], &file);
    crate::assert_eventually!(origin.probes() > 0);
    let probes = origin.probes();
    origin.hang();
    let new = thread::scope(|scope| {
        let starting = scope.spawn(|| old.upgrade());
        // It has read what was switched by now, and waits for the probe before it takes over.
        crate::assert_eventually!(origin.probes() > probes);
        switch(&old, "new/off");
        origin.resume();
        starting.join().unwrap()
    });
    assert_eq!(experiments(&new)["experiments"][0]["on"], false);
    new.client().get("/").send().assert_status(200);
    assert_eq!(origin.last_request().header("x-new"), None);
}

#[test]
fn a_file_that_can_not_be_read_leaves_what_the_configuration_says_and_is_told() {
    let origin = mirror();
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("experiments.json");
    std::fs::write(&file, "{\"version\":1,\"data\":{\"new\":").unwrap();
    let text = text(&format!("[server]\nstate_dir = \"{}\"", state.path().display()), FLAG);
    let edge = Edge::start(&[&origin], &text);
    assert_eq!(ask(&edge.client(), &[]).0, "on");
    let problem = experiments(&edge)["problem"].to_string();
    assert!(problem.contains("experiments.json"), "{problem}");
    switch(&edge, "new/off");
    assert_eq!(experiments(&edge).get("problem"), None);
    assert!(state.path().join("experiments.json.unreadable").exists());
}

#[test]
fn what_can_not_be_kept_holds_and_is_told() {
    let origin = mirror();
    let state = tempfile::tempdir().unwrap();
    // A folder that is not empty can't be replaced by a file.
    let taken = state.path().join("experiments.json");
    let text = text(&format!("[server]\nstate_dir = \"{}\"", state.path().display()), FLAG);
    let edge = Edge::start(&[&origin], &text);
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    let answer = switch(&edge, "new/off");
    assert_eq!(answer["kept"], false);
    assert!(answer["problem"].to_string().contains("experiments.json"), "{answer}");
    assert_eq!(ask(&edge.client(), &[]).0, "");
}

#[test]
fn unknown_experiments_and_words_are_refused() {
    let origin = Origin::answering(200);
    let edge = Edge::start(&[&origin], &text("", FLAG));
    let admin = edge.admin();
    for (path, said) in [
        ("/v1/experiments/nwe/off", "did you mean \\\"new\\\"?"),
        ("/v1/experiments/something-else/off", "GET /v1/experiments lists them"),
        ("/v1/experiments/new/of", "/on, /off or /reset"),
        ("/v1/experiments/new", "/on, /off or /reset"),
        ("/v1/experimentsnew/off", "/on, /off or /reset"),
    ] {
        let answer = admin.post(path).send().assert_status(404);
        assert!(answer.text().contains(said), "{path}: {}", answer.text());
    }
    admin.get("/v1/experiments/new/off").send().assert_status(405);
    admin.post("/v1/experiments").send().assert_status(405);
    assert_eq!(experiments(&edge)["experiments"][0]["on"], true);
}

#[test]
fn the_command_lists_and_switches() {
    let origin = mirror();
    let edge = Edge::start(&[&origin], &text("", FLAG));
    ask(&edge.client(), &[]);
    let admin = edge.admin_address().to_owned();
    let run = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("experiment")
            .args(arguments)
            .args(["--admin", &admin])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.success(), text(&ran.stdout), text(&ran.stderr))
    };
    let (is_done, said, complained) = run(&["list"]);
    assert!(is_done, "{complained}");
    let row: Vec<_> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["new", "on", "file", "x-new", "on", "100%", "1"], "{said}");
    let (is_done, said, complained) = run(&["off", "new"]);
    assert!(
        is_done && said.starts_with("new is off; the configuration says on"),
        "{said}{complained}"
    );
    assert_eq!(ask(&edge.client(), &[]).0, "");
    let (_, said, _) = run(&["list"]);
    assert!(said.contains("file says on"), "{said}");
    let (is_done, said, _) = run(&["reset", "new"]);
    assert!(is_done && said == "new is on, as the configuration says\n", "{said}");
    assert_eq!(ask(&edge.client(), &[]).0, "on");
    let (is_done, _, complained) = run(&["off", "nwe"]);
    assert!(!is_done && complained.contains("did you mean \"new\"?"), "{complained}");
}
