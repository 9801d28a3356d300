//! The hand-over between two processes: what is open ends in order, what fails changes nothing, nothing is left behind.

use std::{
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Client, Edge, FailureKind, Launch, Origin, block_on, client::Sent},
};

/// The end of a drain, under whatever load the machine has.
const EXIT: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(20);

/// A site that answers with `word`, on the listener `http`.
fn saying(word: &str) -> String {
    format!(
        "[server]\ndrain = \"6s\"\nlame_duck = \"0s\"\n[sites.a]\nhosts = [\"localhost\", \"127.0.0.1\"]\nrespond = {{ body = \"{word}\" }}\n"
    )
}

fn said(client: &Client) -> String {
    client.get("/").send().assert_status(200).text()
}

#[test]
fn what_is_open_across_an_upgrade_ends_in_order() {
    let slow = Origin::builder().delay(Duration::from_secs(2)).start();
    let sockets = Origin::builder().web_socket().start();
    // Two seconds of bytes.
    let download = Origin::builder().paced(40_000, 1_000, Duration::from_millis(50)).start();
    let mut old = Edge::spawn(
        &[&slow, &sockets, &download],
        r#"
        [server]
        drain = "12s"
        [listeners.http]
        address = "127.0.0.1:0"
        h2c = true
        [sites.test]
        hosts = ["127.0.0.1"]
        endpoints = ["{0}"]
        [sites.test.routes.socket]
        path = "/socket"
        endpoints = ["{1}"]
        [sites.test.routes.download]
        path = "/download"
        endpoints = ["{2}"]
        [sites.test.routes.quick]
        path = "/quick"
        respond = { body = "quick" }
        "#,
    );
    let client = old.client();
    let kept = old.client();
    kept.get("/quick").send().assert_status(200);
    let mut socket = client.web_socket("/socket").unwrap();
    assert_eq!(socket.echo("before"), "before");
    let mut body = client.get("/download").open().unwrap();
    let waiting = thread::spawn({
        let client = old.client();
        move || client.get("/").send()
    });
    let (http2, end) = block_on(old.client().http2().open_http2()).unwrap();
    let stream = crate::harness::spawn({
        let http2 = http2.clone();
        async move { http2.get("/").await }
    });
    assert_eventually!(slow.in_flight() == 2);

    let new = old.upgrade();
    // Whoever was connected gets one more answer, and is told to come again.
    let last = kept.get("/quick").send().assert_status(200);
    assert_eq!(last.header("connection"), Some("close"));
    let fresh = kept.get("/quick").send().assert_status(200);
    assert_ne!(fresh.header("connection"), Some("close"), "the new process answers");
    assert_eq!(socket.echo("after"), "after");
    let waited = waiting.join().unwrap().assert_status(200);
    assert_eq!(waited.header("connection"), Some("close"));
    assert_eq!(block_on(stream).unwrap().unwrap(), Sent::Answered(200), "a stream that was open");
    assert_eq!(block_on(http2.get("/quick")).unwrap(), Sent::NotTaken, "GOAWAY has come");
    drop(http2);
    block_on(end.reason()).expect("GOAWAY with NO_ERROR, then the end");
    let mut length = 0;
    while let Some(piece) = body.next(SOON).unwrap() {
        length += piece.len();
    }
    assert_eq!(length, 40_000);
    // RFC 6455's registry: 1012, service restart. It comes in the last third of the drain.
    assert_eq!(socket.wait_closed(EXIT).unwrap(), Some(1012));
    let exit = old.wait_exit(EXIT).expect("the old process ends");
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert_eq!(new.client().web_socket("/socket").unwrap().echo("again"), "again");
}

#[test]
fn every_socket_is_accepted_on_whatever_the_number_of_threads() {
    let threads = |workers: &str, threads: u32| {
        let text = saying(&format!("{workers} {threads}"));
        text.replace(
            "[server]\n",
            &format!("[server]\nworkers = \"{workers}\"\nthreads = {threads}\n"),
        )
    };
    let mut edge = Edge::spawn(&[], &threads("per-core", 3));
    for (workers, number) in
        [("per-core", 1), ("shared", 2), ("per-core", 4), ("per-core", 2), ("shared", 1)]
    {
        edge.write_config(&threads(workers, number));
        let next = edge.upgrade();
        let exit = edge.wait_exit(EXIT).expect("the old process ends");
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        // The kernel spreads them over the three sockets: one that nobody accepts on would keep a third of them.
        let answers = next.client().new_connections().get("/").times(60);
        let answers = answers.all_status(200);
        assert!(answers.iter().all(|answer| answer.text() == format!("{workers} {number}")));
        edge = next;
    }
}

#[test]
fn a_signal_alone_changes_nothing_and_an_upgrade_needs_none() {
    let mut old = Edge::spawn(&[], &saying("old"));
    old.signal("QUIT");
    assert_eventually!(old.logs().contains("waiting for a process that is started with --upgrade"));
    // However long it takes: the edge serves.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(said(&old.client()), "old");
    assert_eq!(old.reload_with(&saying("reloaded")), Ok(2));
    old.write_config(&saying("new"));
    let mut new = old.upgrade();
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert_eq!(said(&new.client()), "new");
    // And again, without the signal.
    new.write_config(&saying("newer"));
    let newer = new.upgrade();
    assert_eq!(new.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert_eq!(said(&newer.client()), "newer");
}

#[test]
#[ignore = "slow: the old process waits for half a minute"]
fn a_signal_that_no_process_follows_is_said_so() {
    let old = Edge::spawn(&[], &saying("old"));
    old.signal("QUIT");
    assert_eventually!(old.logs().contains("no new process came"), within EXIT);
    assert_eq!(said(&old.client()), "old");
}

#[test]
fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let mut old = Edge::spawn(&[], &saying("old"));
    let load = old.client().get("/").load(2).pause(Duration::from_millis(2)).start();
    let new = old.client().new_connections();
    let load2 = new.get("/").load(2).pause(Duration::from_millis(2)).start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let listeners = format!(
        "{}[listeners.http]\naddress = \"127.0.0.1:0\"\n[listeners.other]\naddress = \"127.0.0.1:{port}\"\n",
        saying("never")
    );
    for (what, text, says) in [
        ("no TOML", "[sites".to_owned(), "the configuration is refused"),
        ("unknown key", saying("x") + "responds = 1\n", "the configuration is refused"),
        // This one fails when it has the sockets already.
        ("address taken", listeners, "the address can't be bound"),
    ] {
        let before = load.completed() + load2.completed();
        old.write_config(&text);
        let Err(error) = old.try_upgrade(Launch::default()) else { panic!("{what}: it started") };
        assert!(error.contains("exit status: 1") && error.contains(says), "{what}: {error}");
        assert_eventually!(load.completed() + load2.completed() > before + 20, within SOON);
    }
    load.stop().assert_all_ok();
    load2.stop().assert_all_ok();
    assert_eventually!(old.logs().contains("no hand-over: serving on"));
    old.admin().get("/ready").send().assert_status(200);
    // It can still be upgraded.
    old.write_config(&saying("new"));
    let new = old.upgrade();
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert_eq!(said(&new.client()), "new");
}

/// A process that speaks to the hand-over socket by hand.
struct Asking(UnixStream);

impl Asking {
    fn connect(edge: &Edge) -> Self {
        let stream = UnixStream::connect(edge.path("state/hand-over.sock")).unwrap();
        stream.set_read_timeout(Some(EXIT + SOON)).unwrap();
        Self(stream)
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `word` has come. Sockets that come with it are closed, since nobody asks for them.
    fn hear(&mut self, word: &str) {
        let mut heard = String::new();
        while !heard.contains(word) {
            let mut buffer = [0; 4096];
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "the end instead of {word}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }
}

const ASK: &str = r#"{"says":"ask","version":1,"release":"9"}"#;

#[test]
fn a_process_that_asks_and_goes_away_changes_nothing() {
    let old = Edge::spawn(&[], &saying("old"));
    let mode = std::fs::metadata(old.path("state/hand-over.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let silent = Asking::connect(&old);
    assert_eq!(old.reload_with(&saying("reloaded")), Ok(2), "it has not asked yet");
    drop(silent);
    Asking::connect(&old).say("{}");
    let mut later = Asking::connect(&old);
    later.say(&ASK.replace("\"version\":1", "\"version\":2"));
    later.hear("refused");
    // It has the sockets, and crashes.
    let mut crashing = Asking::connect(&old);
    crashing.say(ASK);
    crashing.hear("offer");
    drop(crashing);
    assert_eq!(said(&old.client().new_connections()), "reloaded");
    assert_eq!(old.reload_with(&saying("again")), Ok(3));
    old.admin().get("/ready").send().assert_status(200);
}

#[test]
#[ignore = "slow: the old process waits for a minute"]
fn a_process_that_takes_the_sockets_and_hangs_is_given_up() {
    let old = Edge::spawn(&[], &saying("old"));
    let mut hanging = Asking::connect(&old);
    hanging.say(ASK);
    hanging.hear("offer");
    assert_eq!(said(&old.client().new_connections()), "old");
    hanging.hear("gave-up");
    assert_eq!(old.reload_with(&saying("reloaded")), Ok(2));
    assert_eq!(said(&old.client().new_connections()), "reloaded");
}

#[test]
fn without_an_edge_that_runs_there_is_nothing_to_take_over() {
    let mut old = Edge::spawn(&[], &saying("old"));
    assert_eq!(old.signal_and_wait("TERM", EXIT).code, Some(0));
    assert!(!old.path("state/hand-over.sock").exists());
    let Err(error) = old.try_upgrade(Launch::default()) else { panic!("it started") };
    assert!(error.contains("exit status: 1") && error.contains("no edge answers on"), "{error}");
}

#[test]
fn a_start_that_fails_leaves_no_hand_over_socket() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let state = tempfile::tempdir().unwrap();
    let text = saying("never")
        .replace("[server]\n", &format!("[server]\nstate_dir = \"{}\"\n", state.path().display()));
    let address = taken.local_addr().unwrap();
    let text = format!("{text}[listeners.http]\naddress = \"{address}\"\n");
    assert_eq!(Edge::run_to_end(&[], &text, EXIT).code, Some(1));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn an_edge_that_ends_hands_nothing_over() {
    let old = Edge::spawn(&[], &saying("old").replace("\"0s\"", "\"6s\""));
    old.signal("TERM");
    assert_eventually!(old.logs().contains("draining"));
    let Err(error) = old.try_upgrade(Launch::default()) else { panic!("it started") };
    assert!(error.contains("hands nothing over: it is ending"), "{error}");
}

#[test]
fn unix_sockets_and_the_admin_listener_go_over_and_the_files_stay() {
    let text = |word: &str| {
        format!(
            "{}[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n[listeners.local]\naddress = \"unix:{{dir}}/edge.sock\"\n[listeners.http]\naddress = \"127.0.0.1:0\"\n",
            saying(word)
        )
    };
    let mut old = Edge::spawn(&[], &text("old"));
    let local = Client::to(old.address("local"));
    let file = old.path("edge.sock");
    assert_eq!(said(&local), "old");
    let uptime = |edge: &Edge| edge.status()["started"].as_str().unwrap().to_owned();
    let started = uptime(&old);
    old.write_config(&text("new"));
    let mut new = old.upgrade();
    assert_eq!(new.address("local"), old.address("local"));
    // The admin listener is the new one's before the old one has drained.
    assert_ne!(uptime(&old), started, "the same path, another process");
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert!(file.exists() && new.path("admin.sock").exists());
    assert!(new.path("state/hand-over.sock").exists());
    assert_eq!(said(&local), "new");
    new.admin().get("/ready").send().assert_status(200);
    assert_eq!(new.signal_and_wait("TERM", EXIT).code, Some(0));
    assert!(!file.exists() && !new.path("state/hand-over.sock").exists(), "the last one cleans up");
}

#[test]
fn listeners_that_the_new_configuration_has_not_are_closed_and_new_ones_are_bound() {
    let listeners = |word: &str, names: &[&str]| {
        names.iter().fold(saying(word), |text, name| {
            text + &format!("[listeners.{name}]\naddress = \"127.0.0.1:0\"\n")
        })
    };
    let mut old = Edge::spawn(&[], &listeners("old", &["http", "gone"]));
    let (http, gone) = (old.address("http"), old.address("gone"));
    assert_eq!(said(&Client::to(&gone)), "old");
    let load = Client::to(&http).get("/").load(2).pause(Duration::from_millis(2)).start();
    old.write_config(&listeners("new", &["http", "added"]));
    let new = old.upgrade();
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert_eq!(new.address("http"), http);
    assert_eq!(said(&Client::to(new.address("added"))), "new");
    let refused = Client::to(&gone).get("/").try_send().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Connect);
    load.stop().assert_all_ok();
}

#[test]
fn a_service_managers_stop_after_an_upgrade_cuts_nothing() {
    let origin = Origin::builder().delay(Duration::from_secs(3)).start();
    let mut old = Edge::spawn(&[&origin], "[server]\ndrain = \"20s\"\n");
    let client = old.client();
    let waiting = thread::spawn(move || client.get("/").send());
    assert_eventually!(origin.in_flight() == 1);
    let _new = old.upgrade();
    // Both are told; the old one is draining already.
    old.signal("TERM");
    assert_eventually!(old.logs().contains("draining already"));
    waiting.join().unwrap().assert_status(200);
    let start = Instant::now();
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    assert!(start.elapsed() < SOON, "nobody was left to wait for");
}

#[test]
fn an_edge_that_can_not_have_a_hand_over_socket_serves_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let _other = UnixListener::bind(state.join("hand-over.sock")).unwrap();
    let text = saying("here")
        .replace("[server]\n", &format!("[server]\nstate_dir = \"{}\"\n", state.display()));
    let edge = Edge::spawn(&[], &text);
    assert_eq!(said(&edge.client()), "here");
    assert!(edge.logs().contains("there can be no upgrade"), "{}", edge.logs());
    edge.signal("QUIT");
    assert_eventually!(edge.logs().contains("there is no upgrade without a hand-over socket"));
    assert_eq!(said(&edge.client()), "here");
}
