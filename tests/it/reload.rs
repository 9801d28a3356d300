//! A changed configuration on a running edge: taken whole and at once, or refused and said so.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Tls, edge::write_file},
};

/// Long enough for the settle time, the poll and a slow machine.
const TAKEN: Duration = Duration::from_secs(15);

/// A site that answers with `word` from the edge and marks endpoint answers with it.
fn answering(word: &str) -> String {
    format!(
        "[sites.a]\nhosts = [\"127.0.0.1\", \"localhost\"]\nrespond = {{ body = \"{word}\" }}\n"
    )
}

fn said(edge: &Edge) -> String {
    edge.client().get("/").send().assert_status(200).text()
}

#[test]
fn a_reload_by_the_api_is_in_force_when_it_is_answered() {
    let edge = Edge::start(&[], &answering("one"));
    let before = edge.status()["generation"].as_u64().unwrap();
    for word in ["two", "three"] {
        let generation = edge.reload_with(&answering(word)).unwrap();
        assert_eq!(said(&edge), word);
        assert_eq!(edge.status()["generation"], generation);
        assert!(generation > before);
    }
    assert!(edge.metric("tidegate_config_reloads_total", [("result", "taken")]) >= 2.0);
    assert_eq!(edge.status()["configuration"]["in_sync"], true);
}

#[test]
fn a_file_that_is_written_or_renamed_into_place_is_taken_by_itself() {
    let edge = Edge::start(&[], &answering("one"));
    edge.write_config(&answering("written"));
    assert_eventually!(said(&edge) == "written", within TAKEN);
    edge.replace_config(&answering("renamed"));
    assert_eventually!(said(&edge) == "renamed", within TAKEN);
    // The watcher follows the new file, not the old one.
    edge.write_config(&answering("written again"));
    assert_eventually!(said(&edge) == "written again", within TAKEN);
}

#[test]
fn a_file_that_is_still_being_written_is_not_taken() {
    let edge = Edge::start(&[], &answering("one"));
    let before = edge.status()["generation"].as_u64().unwrap();
    let whole = edge.completed(&answering("two"));
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    // Each write is whole in itself, and the next one comes sooner than the settle time.
    for n in 0..20 {
        fs::write(edge.config_path(), whole.replace("two", &format!("part {n}"))).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    // A machine that stopped for long enough has made a pause that counts as the end.
    if longest < Duration::from_millis(200) {
        assert_eq!((said(&edge).as_str(), &edge.status()["generation"]), ("one", &before.into()));
    }
    fs::write(edge.config_path(), &whole).unwrap();
    assert_eventually!(said(&edge) == "two", within TAKEN);
}

/// Makes the links of a mounted `ConfigMap`: the file → `..data`/file, `..data` → a directory.
pub fn mount(directory: &Path, version: &str, text: &str) {
    write_file(directory, &format!("..{version}/site.toml"), text);
    let new = directory.join("..data_tmp");
    symlink(format!("..{version}"), &new).unwrap();
    fs::rename(new, directory.join("..data")).unwrap();
    let file = directory.join("site.toml");
    if fs::symlink_metadata(&file).is_err() {
        symlink("..data/site.toml", file).unwrap();
    }
}

#[test]
fn the_link_swap_of_a_mounted_config_map_is_seen() {
    let mounted = tempfile::tempdir().unwrap();
    mount(mounted.path(), "v1", &answering("one"));
    // An include stands before any table; the harness adds what is missing after it.
    let main = format!("include = [\"{}/site.toml\"]\n", mounted.path().display());
    let edge = Edge::start(&[], &main);
    assert_eq!(said(&edge), "one");
    mount(mounted.path(), "v2", &answering("two"));
    assert_eventually!(said(&edge) == "two", within TAKEN);
    mount(mounted.path(), "v3", &answering("three"));
    assert_eventually!(said(&edge) == "three", within TAKEN);
}

#[test]
fn a_new_included_file_is_seen() {
    let edge = Edge::start(&[], &answering("one"));
    let directory = edge.path("sites");
    write_file(
        &directory,
        "b.toml",
        "[sites.b]\nhosts = [\"b.test\"]\nrespond = { body = \"b\" }\n",
    );
    edge.reload_with(&format!("include = [\"sites/*.toml\"]\n{}", answering("one"))).unwrap();
    let asked = |host: &str| edge.client().get("/").host(host).send().status;
    assert_eq!((asked("b.test"), asked("c.test")), (200, 421));
    write_file(
        &directory,
        "c.toml",
        "[sites.c]\nhosts = [\"c.test\"]\nrespond = { body = \"c\" }\n",
    );
    assert_eventually!(asked("c.test") == 200, within TAKEN);
    fs::remove_file(directory.join("b.toml")).unwrap();
    assert_eventually!(asked("b.test") == 421, within TAKEN);
}

#[test]
fn a_refused_configuration_changes_nothing_and_is_told_with_its_place() {
    let origin = Origin::answering(200);
    let good = "[sites.a]\nhosts = [\"127.0.0.1\"]\nendpoints = [\"{0}\"]\n";
    let edge = Edge::start(&[&origin], good);
    let before = edge.status()["generation"].as_u64().unwrap();
    let load = edge.client().get("/").load(2).start();
    for (broken, told) in [
        ("[sites.a", "tidegate.toml"),
        (
            "[sites.a]\nhosts = [\"a.test\"]\nupstream = \"shpo\"\n[upstreams.shop]\nendpoints = [\"{0}\"]\n",
            "shop",
        ),
        ("[sites.a]\nhosts = [\"a.test\"]\nendpoint = [\"{0}\"]\n", "endpoints"),
        (
            "[sites.a]\nhosts = [\"a.test\"]\nendpoints = [\"{0}\"]\n[sites.b]\nhosts = [\"a.test\"]\nendpoints = [\"{0}\"]\n",
            "a.test",
        ),
        (
            "[sites.a]\nhosts = [\"a.test\"]\ncertificate = { chain = \"/nothing.pem\", key = \"/nothing.key\" }\nendpoints = [\"{0}\"]\n",
            "nothing.pem",
        ),
    ] {
        let refused = edge.reload_with(broken).unwrap_err();
        assert!(refused.contains(told), "{broken}: {refused}");
        let status = edge.status();
        assert_eq!(status["generation"], before, "{broken}");
        assert_eq!(status["configuration"]["in_sync"], false, "{broken}");
        assert_eq!(status["configuration"]["last_reload"]["result"], "refused", "{broken}");
    }
    assert!(edge.metric("tidegate_config_reloads_total", [("result", "refused")]) >= 5.0);
    assert!(edge.metric_if_any("tidegate_config_in_sync", ()) == Some(0.0));
    load.stop().assert_all_ok();
    edge.reload_with(good).unwrap();
    assert_eq!(edge.status()["configuration"]["in_sync"], true);
}

#[test]
fn an_emptied_file_is_refused() {
    let edge = Edge::start(&[], &answering("one"));
    fs::write(edge.config_path(), "").unwrap();
    assert!(edge.reload().is_err());
    assert_eq!(said(&edge), "one");
}

#[test]
fn what_a_reload_can_not_change_is_refused_by_name() {
    let edge = Edge::start(&[], &answering("one"));
    let refused =
        edge.reload_with(&format!("[server]\nthreads = 7\n{}", answering("two"))).unwrap_err();
    assert!(refused.contains("threads"), "{refused}");
    assert_eq!(said(&edge), "one");
}

#[test]
fn no_request_sees_two_generations_and_none_fails() {
    let (one, two) = (Origin::builder().name("1").start(), Origin::builder().name("2").start());
    // The endpoint's own mark and the policy's must be of the same generation.
    let text = |n: usize| {
        format!(
            "[sites.a]\nhosts = [\"127.0.0.1\"]\nendpoints = [\"{{{}}}\"]\npolicies = [\"mark\"]\n\
             [policies.mark.headers]\nrequest = {{ set = {{ X-Generation = \"{n}\" }} }}\n\
             response = {{ set = {{ X-Generation = \"{n}\" }} }}\n",
            n - 1
        )
    };
    let edge = Edge::start(&[&one, &two], &text(1));
    let load = edge
        .client()
        .get("/")
        .load(8)
        .check(|response| {
            let (origin, generation) =
                (response.header("x-origin"), response.header("x-generation"));
            if origin.is_some() && origin == generation {
                Ok(())
            } else {
                Err(format!("endpoint {origin:?} with the policy of {generation:?}"))
            }
        })
        .start();
    for n in 0..20 {
        edge.reload_with(&text(2 - n % 2)).unwrap();
    }
    let report = load.stop().assert_all_ok();
    assert!(report.total() > 50, "{report}");
    for (origin, name) in [(&one, "1"), (&two, "2")] {
        assert!(origin.requests() > 0);
        assert!(origin.recorded().iter().all(|seen| seen.header("x-generation") == Some(name)));
    }
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
}

#[test]
fn listeners_come_and_go_without_touching_the_others() {
    let edge = Edge::start(&[], &answering("one"));
    let kept = edge.address("http");
    let client = edge.client();
    client.get("/").send().assert_status(200);
    let two = format!(
        "[listeners.http]\naddress = \"127.0.0.1:0\"\n[listeners.second]\naddress = \"127.0.0.1:0\"\n{}",
        answering("two")
    );
    edge.reload_with(&two).unwrap();
    assert_eq!(edge.address("http"), kept);
    assert_eq!(client.get("/").send().text(), "two");
    let second = crate::harness::Client::to(edge.address("second"));
    second.get("/").send().assert_status(200);
    edge.reload_with(&answering("three")).unwrap();
    assert_eventually!(second.clone().get("/").try_send().is_err());
    assert_eq!(client.get("/").send().text(), "three");
}

#[test]
fn connections_and_streams_live_through_a_reload() {
    let (events, plain) =
        (Origin::builder().events(Duration::from_millis(100)).start(), Origin::answering(200));
    let text = |n: usize| {
        format!(
            "[sites.a]\nhosts = [\"127.0.0.1\"]\n[sites.a.routes]\n\
             events = {{ path = \"/events\", endpoints = [\"{{0}}\"] }}\n\
             rest = {{ endpoints = [\"{{1}}\"], timeouts = {{ first_byte = \"{n}s\" }} }}\n"
        )
    };
    let edge = Edge::start(&[&events, &plain], &text(10));
    let client = edge.client();
    client.get("/").send().assert_status(200);
    let mut stream = client.get("/events").events().unwrap();
    stream.next(TAKEN).unwrap().expect("an event");
    for n in 11..14 {
        edge.reload_with(&text(n)).unwrap();
        client.get("/").send().assert_status(200);
    }
    stream.next(TAKEN).unwrap().expect("an event of the old stream");
    assert_eq!(plain.connections(), 1, "the upstream's connections stay");
    // The stream's endpoint is taken away; the stream stays.
    edge.reload_with("[sites.a]\nhosts = [\"127.0.0.1\"]\nendpoints = [\"{1}\"]\n").unwrap();
    for _ in 0..3 {
        stream.next(TAKEN).unwrap().expect("an event of the old stream");
    }
}

#[test]
fn a_changed_certificate_file_is_served_after_a_reload_of_the_same_text() {
    let authority = crate::harness::Authority::new("reload");
    let directory = tempfile::tempdir().unwrap();
    let first = authority.issue(&["a.test"]);
    let (chain, key) = first.write_to(directory.path(), "a");
    let text = format!(
        "[sites.a]\nhosts = [\"a.test\"]\nrespond = {{ body = \"a\" }}\ncertificate = {{ chain = \"{}\", key = \"{}\" }}\n",
        chain.display(),
        key.display()
    );
    let edge = Edge::start(&[], &text);
    let tls = Tls::trusting(authority.pem()).server_name("a.test");
    assert_eq!(tls.handshake(&edge.address("https")).unwrap().leaf, first.der.to_vec());
    let second = authority.issue(&["a.test"]);
    second.write_to(directory.path(), "a");
    edge.reload().unwrap();
    assert_eq!(tls.handshake(&edge.address("https")).unwrap().leaf, second.der.to_vec());
}

#[test]
fn a_hangup_reloads_the_process_and_a_refusal_does_not_end_it() {
    let edge = Edge::spawn(&[], &format!("[reload]\nwatch = false\n{}", answering("one")));
    assert_eq!(said(&edge), "one");
    edge.write_config(&format!("[reload]\nwatch = false\n{}", answering("two")));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(said(&edge), "one", "the files are not watched");
    edge.signal("HUP");
    assert_eventually!(said(&edge) == "two", within TAKEN);
    edge.write_config("[sites");
    edge.signal("HUP");
    assert_eventually!(edge.status()["configuration"]["in_sync"] == false, within TAKEN);
    assert_eq!(said(&edge), "two");
    assert!(edge.logs().contains("refused"), "{}", edge.logs());
}

#[test]
fn a_broken_file_at_start_serves_the_last_good_one_unless_told_to_be_strict() {
    let mut edge = Edge::spawn(&[], &answering("good"));
    let state = edge.path("state");
    assert_eq!(said(&edge), "good");
    assert_eventually!(fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some()));
    edge.signal("TERM");
    edge.wait_exit(Duration::from_secs(40)).expect("the edge ends");
    // The text is wrong, or what it names is not there.
    for broken in [
        "hosts = 7\n",
        "hosts = [\"a.test\"]\nrespond = { status = 200, file = \"not-there.html\" }\n",
    ] {
        let again = Edge::spawn(
            &[],
            &format!("[server]\nstate_dir = \"{}\"\n[sites.a]\n{broken}", state.display()),
        );
        assert_eq!(said(&again), "good", "{broken}");
        assert_eq!(again.status()["configuration"]["in_sync"], false);
    }
    let fresh = Edge::run_to_end(&[], "[sites.a]\nhosts = 7\n", Duration::from_secs(20));
    assert!(fresh.code.is_some_and(|code| code != 0), "{fresh:?}");
    assert!(fresh.log.contains("tidegate.toml:2"), "{fresh:?}");
}
