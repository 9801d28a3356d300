//! A thousand reloads under load: no request fails, no stream ends, no memory stays behind.
//!
//! Each configuration tells its number in a header of every answer, and its endpoints are known by their name: an answer
//! whose two marks do not belong together has seen two generations.

use std::{
    collections::VecDeque,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    assert_eventually,
    harness::{
        Client, Edge, Origin, Response, Tls,
        client::{RunningLoad, WebSocket},
        origin::pattern,
    },
};

const MIB: f64 = 1_048_576.0;
/// A piece of a stream that does not come within this is a closed stream.
const PIECE: Duration = Duration::from_secs(10);
/// Reloads after which all endpoints are other ones.
const TURN: u64 = 4;
/// A new WebSocket lives for so many reloads.
const LIFE: usize = 20;

/// WebSockets opened at the same time by so many clients, one after the other: each takes a message.
fn open_web_sockets(workers: &str) {
    const CLIENTS: usize = 4;
    const EACH: usize = 500;
    let origin = Origin::builder().web_socket().start();
    let edge = Edge::spawn(&[&origin], &format!("[server]\nworkers = \"{workers}\"\n"));
    let open = |client: Client| {
        let is_whole = || {
            let mut socket = client.web_socket("/ws").expect("a new WebSocket");
            socket.send("first").is_ok()
                && socket.next(PIECE).is_ok_and(|message| message.is_some())
        };
        (0..EACH).filter(|_| !is_whole()).count()
    };
    let lost: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| open(edge.client()))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    assert_eq!(lost, 0, "of {} WebSockets with {workers} workers", CLIENTS * EACH);
}

#[test]
fn a_new_web_socket_takes_its_first_message_with_workers_of_their_own() {
    open_web_sockets("per-core");
}

#[test]
#[ignore = "fails: Pingora 0.9.1 ends about one WebSocket in a hundred at once where the runtime steals work"]
fn a_new_web_socket_takes_its_first_message_with_shared_workers() {
    open_web_sockets("shared");
}

/// How much of it.
struct Form {
    reloads: u64,
    /// Reloads until memory counts: caches and pools fill first.
    settled: u64,
    /// The most that resident memory may grow in 100 reloads.
    growth: f64,
}

#[test]
fn forty_reloads_under_load_fail_no_request_and_close_no_stream() {
    // A few reloads say little about memory; a snapshot or a socket leaked with each would still be more than this.
    soak(&Form { reloads: 40, settled: 20, growth: 40.0 * MIB });
}

#[test]
#[ignore = "slow: 1,000 reloads take two minutes"]
fn a_thousand_reloads_under_load_fail_no_request_close_no_stream_and_keep_no_memory() {
    soak(&Form { reloads: 1_000, settled: 200, growth: MIB });
}

fn soak(form: &Form) {
    let origins = Origins::start();
    let addresses: Vec<&dyn std::fmt::Display> =
        origins.0.iter().map(|origin| origin as &dyn std::fmt::Display).collect();
    let edge = Edge::spawn(&addresses, &configuration(0));
    let https = || edge.tls_client(Tls::any()).host("localhost");
    let (kept, fresh) = (edge.client(), edge.client().new_connections());
    let loads = [
        load(&kept, 4),
        load(&fresh, 2),
        load(&https(), 2),
        load(&https().new_connections(), 1),
        load(&https().http2(), 2),
    ];
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Stream::web_socket(&edge.client()));
        streams.push(Stream::events(&edge.client()));
        streams.push(Stream::download(&edge.client()));
    }
    let mut sockets = VecDeque::new();
    let mut memory = Vec::new();
    let mut times = Vec::new();
    let before = edge.status()["generation"].as_u64().expect("a number");
    for k in 1..=form.reloads {
        let start = Instant::now();
        let generation = edge.reload_with(&configuration(k)).expect("the configuration is taken");
        times.push(start.elapsed());
        assert_eq!(generation, before + k);
        if has_extra_listener(k) && !has_extra_listener(k - 1) {
            Client::to(extra_listener(&edge).expect("a new listener"))
                .get("/")
                .host("localhost")
                .send()
                .assert_status(200);
        } else if k % 10 == 0 {
            assert_eq!(extra_listener(&edge), None);
        }
        let mut socket = edge.client().web_socket("/ws").expect("a new WebSocket");
        assert_eq!(socket.echo("first"), "first", "the WebSocket of configuration {k}");
        sockets.push_back((k, socket));
        if sockets.len() > LIFE {
            let (since, socket) = sockets.pop_front().expect("a WebSocket");
            end(since, socket);
        }
        memory.push((k as f64, edge.rss() as f64));
    }
    let snapshots = edge.metric("tidegate_config_snapshots", ());
    assert!(snapshots <= 4.0, "{snapshots} snapshots are left");
    for load in loads {
        let report = load.stop().assert_all_ok();
        println!("load: {report}");
        assert!(report.total() > form.reloads / 2, "{report}");
    }
    let pieces: Vec<u64> = streams.into_iter().map(Stream::stop).collect();
    // The sockets are open still: a stream does not hold the configuration that it began under.
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
    sockets.into_iter().for_each(|(since, socket)| end(since, socket));
    origins.saw_one_generation_each();
    let growth = slope(&memory[form.settled as usize..]) * 100.0;
    times.sort_unstable();
    println!(
        "{} reloads, half of them within {:?}, the longest {:?}; pieces of streams {pieces:?}; memory {:.1} MiB, then {:.1} MiB, {:.3} MiB in 100 reloads",
        form.reloads,
        times[times.len() / 2],
        times[times.len() - 1],
        memory[form.settled as usize].1 / MIB,
        memory[memory.len() - 1].1 / MIB,
        growth / MIB,
    );
    assert!(growth < form.growth, "{:.3} MiB in 100 reloads: {memory:?}", growth / MIB);
}

/// Which endpoints a configuration has.
fn set_of(k: u64) -> u64 {
    k / TURN % 2
}

fn has_extra_listener(k: u64) -> bool {
    k % 10 >= 5
}

/// Configuration `k`. Its endpoints are named for its set, and its answers are marked with its number.
fn configuration(k: u64) -> String {
    let set = set_of(k) as usize;
    let mut text = String::from(
        "[server]\nworkers = \"per-core\"\n[reload]\nwatch = false\n\
         [listeners.http]\naddress = \"127.0.0.1:0\"\n\
         [listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\n",
    );
    let mut listeners = vec!["http", "https"];
    if has_extra_listener(k) {
        text.push_str("[listeners.extra]\naddress = \"127.0.0.1:0\"\n");
        listeners.push("extra");
    }
    let _ = write!(
        text,
        "[sites.soak]\nhosts = [\"127.0.0.1\", \"localhost\"]\nlisteners = {listeners:?}\n\
         certificate = {{ internal = true }}\npolicies = [\"mark\"]\n\
         [sites.soak.routes]\n\
         web = {{ upstream = \"web\" }}\n\
         ws = {{ path = \"/ws\", upstream = \"ws\" }}\n\
         events = {{ path = \"/events\", upstream = \"events\" }}\n\
         download = {{ path = \"/download\", upstream = \"download\" }}\n\
         [policies.mark.headers]\n\
         request = {{ set = {{ X-Generation = \"{k}\" }} }}\n\
         response = {{ set = {{ X-Generation = \"{k}\" }} }}\n\
         [upstreams.web]\nendpoints = [\"{{{}}}\", \"{{{}}}\"]\nhealth_check = {{ path = \"/healthz\" }}\n\
         [upstreams.ws]\nendpoints = [\"{{{}}}\"]\n\
         [upstreams.events]\nendpoints = [\"{{{}}}\"]\n\
         [upstreams.download]\nendpoints = [\"{{{}}}\"]\n",
        set,
        set + 2,
        set + 4,
        set + 6,
        set + 8,
    );
    text
}

/// Two sets of endpoints, one after the other of each kind: web, web, WebSockets, events, downloads.
struct Origins(Vec<Origin>);

impl Origins {
    fn start() -> Self {
        let mut origins = Vec::new();
        for kind in 0..5 {
            for set in 0..2 {
                let origin = Origin::builder().name(&set.to_string());
                origins.push(match kind {
                    0 | 1 => origin.start(),
                    2 => origin.web_socket().start(),
                    3 => origin.events(Duration::from_millis(50)).start(),
                    _ => origin.paced(1 << 40, 1_000, Duration::from_millis(20)).start(),
                });
            }
        }
        Self(origins)
    }

    /// What was asked of an endpoint bore the mark of a configuration that has it.
    fn saw_one_generation_each(&self) {
        for (i, origin) in self.0.iter().enumerate() {
            for seen in origin.recorded() {
                let k = seen.header("x-generation").expect("a mark").parse().expect("a number");
                assert_eq!(set_of(k), i as u64 % 2, "{k} asked {} of the other set", seen.path);
            }
        }
    }
}

fn load(client: &Client, clients: usize) -> RunningLoad {
    let is_of_one_generation = |response: &Response| {
        let number = |name| response.header(name).and_then(|text| text.parse::<u64>().ok());
        let (generation, set) = (number("x-generation"), number("x-origin"));
        match (generation.map(set_of), set) {
            (Some(expected), Some(set)) if expected == set => Ok(()),
            (_, set) => Err(format!("an endpoint of set {set:?} under generation {generation:?}")),
        }
    };
    // The test is of reloads, and the machine has little: reloads must not starve.
    let pause = Duration::from_millis(5);
    client.get("/").load(clients).pause(pause).check(is_of_one_generation).start()
}

fn extra_listener(edge: &Edge) -> Option<String> {
    let status = edge.status();
    let listeners = status["listeners"].as_array().expect("a list");
    let extra = listeners.iter().find(|listener| listener["name"] == "extra")?;
    extra["address"].as_str().map(str::to_owned)
}

/// Ends the WebSocket that was opened under configuration `since`.
fn end(since: u64, mut socket: WebSocket) {
    socket.send("last").unwrap_or_else(|failure| panic!("the WebSocket of {since}: {failure}"));
    let answer = socket.next(PIECE);
    let is_whole = answer.as_ref().is_ok_and(|message| {
        message.as_ref().is_some_and(|message| message.to_text().is_ok_and(|text| text == "last"))
    });
    assert!(is_whole, "the WebSocket of configuration {since}: {answer:?}");
    socket.close().expect("the other side answers the close");
}

/// A stream that is used all along by a thread of its own.
struct Stream {
    kind: &'static str,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Stream {
    /// Calls `piece` with 0, 1, 2 … until it is stopped or it fails.
    fn start(
        kind: &'static str,
        mut piece: impl FnMut(u64) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || {
            let mut pieces = 0;
            while !over.load(Ordering::SeqCst) {
                piece(pieces)?;
                pieces += 1;
            }
            Ok(pieces)
        });
        Self { kind, is_over, thread }
    }

    fn web_socket(client: &Client) -> Self {
        let mut socket = client.web_socket("/ws").expect("a WebSocket");
        Self::start("WebSocket", move |n| {
            let text = n.to_string();
            socket.send(&text).map_err(|failure| failure.to_string())?;
            let message = socket.next(PIECE).map_err(|failure| failure.to_string())?;
            let message = message.ok_or("it was closed")?;
            if message.to_text().is_ok_and(|answer| answer == text) {
                thread::sleep(Duration::from_millis(50));
                Ok(())
            } else {
                Err(format!("{message:?} instead of {n}"))
            }
        })
    }

    fn events(client: &Client) -> Self {
        let mut events = client.get("/events").events().expect("an event stream");
        Self::start("event stream", move |n| {
            let event = events.next(PIECE).map_err(|failure| failure.to_string())?;
            let event = event.ok_or("it ended")?;
            let expected = (n + 1).to_string();
            if event.id == expected {
                Ok(())
            } else {
                Err(format!("{event:?} instead of {expected}"))
            }
        })
    }

    fn download(client: &Client) -> Self {
        let mut body = client.get("/download").open().expect("a download");
        let mut offset = 0;
        Self::start("download", move |_| {
            let piece = body.next(PIECE).map_err(|failure| failure.to_string())?;
            let piece = piece.ok_or("it ended")?;
            if piece != pattern(offset, piece.len()) {
                return Err(format!("other bytes at {offset}"));
            }
            offset += piece.len() as u64;
            Ok(())
        })
    }

    /// Ends it; its pieces until then.
    #[track_caller]
    fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::SeqCst);
        match self.thread.join().expect("a thread that does not panic") {
            Ok(pieces) => pieces,
            Err(failure) => panic!("the {} failed: {failure}", self.kind),
        }
    }
}

/// The slope of the line that fits the points best, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let above: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let below: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    above / below
}
