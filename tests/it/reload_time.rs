//! How long it takes from a changed file to the changed behaviour, and that each bad change is told once.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{Edge, Origin},
    reload::mount,
};

/// A file event is taken for lost after this.
const TAKEN: Duration = Duration::from_secs(15);

fn answering(word: &str) -> String {
    format!("[sites.a]\nhosts = [\"127.0.0.1\"]\nrespond = {{ body = \"{word}\" }}\n")
}

/// The time until the edge answers with `word`, after `change`.
fn until_said(edge: &Edge, word: &str, change: impl FnOnce()) -> Duration {
    let client = edge.client();
    let start = Instant::now();
    change();
    while client.get("/").send().assert_status(200).text() != word {
        assert!(start.elapsed() < TAKEN, "{word} is not said");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn refused(edge: &Edge) -> f64 {
    edge.metric("tidegate_config_reloads_total", [("result", "refused")])
}

/// Rewrites the file with one mistake after the other.
fn rewrite_badly(times: u32) {
    let edge = Edge::spawn(&[], &answering("good"));
    let before = edge.status()["generation"].as_u64();
    for n in 1..=times {
        edge.write_config(&format!("{}bad_{n} = 7\n", answering("bad")));
        assert_eventually!(refused(&edge) == f64::from(n), within TAKEN);
        let status = edge.status();
        assert_eq!(status["configuration"]["in_sync"], false);
        assert_eq!(status["generation"].as_u64(), before);
        assert_eq!(status["configuration"]["last_reload"]["result"], "refused");
        assert_eq!(edge.client().get("/").send().text(), "good");
    }
    // The same text again is not another event: neither now nor at the next poll.
    edge.write_config(&format!("{}bad_{times} = 7\n", answering("bad")));
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(refused(&edge), f64::from(times));
    let told = edge.logs().matches("configuration refused").count();
    assert_eq!(told, times as usize, "each is told once");
    assert_eq!(edge.metric("tidegate_config_reloads_total", [("result", "taken")]), 0.0);
    // The good one is taken by itself, and once.
    let time = until_said(&edge, "better", || edge.write_config(&answering("better")));
    println!("{times} bad texts, each told once; the good one in force after {time:?}");
    assert_eq!(edge.metric("tidegate_config_reloads_total", [("result", "taken")]), 1.0);
    assert_eventually!(edge.status()["configuration"]["in_sync"] == true);
    assert_eq!(edge.metric("tidegate_config_in_sync", ()), 1.0);
}

#[test]
fn each_of_six_bad_texts_is_told_once_and_changes_nothing() {
    rewrite_badly(6);
}

#[test]
#[ignore = "slow: each of the 50 texts must be still before it is looked at"]
fn each_of_fifty_bad_texts_is_told_once_and_changes_nothing() {
    rewrite_badly(50);
}

/// A bad text and then the one that is in force already: nothing new, and in sync again.
#[test]
fn taking_a_mistake_back_is_in_sync_again() {
    let edge = Edge::start(&[], &answering("good"));
    edge.write_config("[sites");
    assert_eventually!(edge.status()["configuration"]["in_sync"] == false, within TAKEN);
    edge.write_config(&answering("good"));
    assert_eventually!(edge.status()["configuration"]["in_sync"] == true, within TAKEN);
    assert_eq!(refused(&edge), 1.0);
}

/// Times of `rounds` changes in each of the three ways that files change.
fn change_by_the_watcher(rounds: usize) -> Vec<Duration> {
    let edge = Edge::spawn(&[], &answering("first"));
    let mounted = tempfile::tempdir().expect("a directory");
    mount(mounted.path(), "v0", &answering("first"));
    let main = format!("include = [\"{}/site.toml\"]\n", mounted.path().display());
    let linked = Edge::spawn(&[], &main);
    let mut times = Vec::new();
    for n in 0..rounds {
        let (written, renamed, swapped) =
            (format!("written {n}"), format!("renamed {n}"), format!("swapped {n}"));
        times.push(until_said(&edge, &written, || edge.write_config(&answering(&written))));
        times.push(until_said(&edge, &renamed, || edge.replace_config(&answering(&renamed))));
        times.push(until_said(&linked, &swapped, || {
            mount(mounted.path(), &format!("v{}", n + 1), &answering(&swapped));
        }));
        let _ = fs::remove_dir_all(mounted.path().join(format!("..v{n}")));
    }
    println!("from a write, a rename and a swapped link to the answer: {times:?}");
    times
}

#[test]
fn a_changed_file_is_in_force_within_a_second() {
    // Three ways, two rounds; one time may be spoilt by what else runs here.
    let times = change_by_the_watcher(2);
    let slow = times.iter().filter(|time| **time >= Duration::from_secs(1)).count();
    assert!(slow <= 1, "{times:?}");
    // Earlier than this, a file that is still being written would be taken.
    assert!(times.iter().all(|time| *time >= Duration::from_millis(250)), "{times:?}");
}

#[test]
#[ignore = "slow: every one of the times counts, with nothing beside it"]
fn each_changed_file_is_in_force_within_a_second() {
    let times = change_by_the_watcher(20);
    assert!(times.iter().all(|time| *time < Duration::from_secs(1)), "{times:?}");
}

/// Times from SIGHUP to the answer, with an endpoint that is new each time and never answers its probe: the warm-up.
fn hang_up(rounds: usize, warm_up: Duration) -> Vec<Duration> {
    let silent = [Origin::answering(200), Origin::answering(200)];
    silent.iter().for_each(Origin::hang);
    let text = |n: usize, word: &str| {
        format!(
            "[reload]\nwatch = false\nwarm_up = \"{}ms\"\n{}[upstreams.new]\n\
             endpoints = [\"{{{}}}\"]\nhealth_check = {{ path = \"/healthz\", timeout = \"{}s\" }}\n\
             [sites.b]\nhosts = [\"b.test\"]\nupstream = \"new\"\n",
            warm_up.as_millis(),
            answering(word),
            n % 2,
            n + 2,
        )
    };
    let edge = Edge::spawn(&[&silent[0], &silent[1]], &text(0, "first"));
    let times = (1..=rounds)
        .map(|n| {
            let word = format!("round {n}");
            edge.write_config(&text(n, &word));
            until_said(&edge, &word, || edge.signal("HUP"))
        })
        .collect();
    println!("from SIGHUP to the answer, with a warm-up of {warm_up:?}: {times:?}");
    times
}

#[test]
fn a_hangup_is_in_force_within_fifty_milliseconds_and_the_warm_up() {
    let warm_up = Duration::from_millis(200);
    let times = hang_up(7, warm_up);
    // The endpoints were waited for …
    assert!(times.iter().all(|time| *time >= warm_up), "{times:?}");
    // … and the rest is short, where nothing else has the processor.
    assert!(median(times.clone()) < warm_up + Duration::from_millis(50), "{times:?}");
}

#[test]
fn a_warm_up_of_zero_waits_for_nothing() {
    let times = hang_up(7, Duration::ZERO);
    assert!(median(times.clone()) < Duration::from_millis(50), "{times:?}");
}
