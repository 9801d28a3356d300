//! An upgrade under load: nobody who asks may notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    assert_eventually,
    harness::{
        Client, Edge, Origin, Tls, block_on,
        client::{RunningLoad, Sent},
        spawn,
    },
};

/// The end of a drain, under whatever load the machine has.
const EXIT: Duration = Duration::from_mins(1);
/// A client's pause between two requests: what it sends is not to be all that the machine does.
const PAUSE: Duration = Duration::from_millis(2);

/// The configuration of release `n`.
fn release(n: usize) -> String {
    format!(
        r#"
        [server]
        drain = "9s"
        workers = "{}"
        threads = {}
        [listeners.http]
        address = "127.0.0.1:0"
        h2c = true
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        [policies.release.headers]
        response = {{ set = {{ X-Release = "{n}" }} }}
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http", "https"]
        policies = ["release"]
        endpoints = ["{{0}}", "{{1}}"]
        "#,
        if n % 2 == 1 { "per-core" } else { "shared" },
        1 + n % 3,
    )
}

/// HTTP/2 clients that do what browsers do: a request that the server did not take goes on a new connection.
struct Http2Load {
    answered: Arc<AtomicU64>,
    again: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Http2Load {
    fn start(client: &Client, clients: usize) -> Self {
        let mut load = Self {
            answered: Arc::default(),
            again: Arc::default(),
            connections: Arc::default(),
            is_over: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..clients {
            let client = client.clone();
            let answered = load.answered.clone();
            let (again, connections) = (load.again.clone(), load.connections.clone());
            let is_over = load.is_over.clone();
            load.clients.push(spawn(async move {
                loop {
                    let (http2, end) =
                        client.open_http2().await.map_err(|failure| failure.to_string())?;
                    connections.fetch_add(1, Ordering::SeqCst);
                    loop {
                        if is_over.load(Ordering::SeqCst) {
                            return Ok(());
                        }
                        match http2.get("/").await.map_err(|failure| failure.to_string())? {
                            Sent::Answered(200) => {
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            Sent::Answered(status) => return Err(format!("status {status}")),
                            Sent::NotTaken => break,
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    again.fetch_add(1, Ordering::SeqCst);
                    drop(http2);
                    // GOAWAY with NO_ERROR, then the end.
                    end.reason().await.map_err(|error| format!("the connection ended: {error}"))?;
                }
            }));
        }
        load
    }

    fn stop(self) -> (u64, u64, u64) {
        self.is_over.store(true, Ordering::SeqCst);
        for client in self.clients {
            block_on(client).expect("a client that did not panic").unwrap();
        }
        let count = |counter: Arc<AtomicU64>| counter.load(Ordering::SeqCst);
        (count(self.answered), count(self.again), count(self.connections))
    }
}

/// Upgrades `upgrades` times while clients of five kinds send at least `requests` requests in all.
fn upgrade_under_load(requests: u64, upgrades: usize) {
    let origins = [Origin::answering(200), Origin::answering(200)];
    let mut edge = Edge::spawn(&[&origins[0], &origins[1]], &release(0));
    let tls = || edge.tls_client(Tls::any()).host("localhost");
    let kinds: [(&str, RunningLoad); 4] = [
        ("plain, new", edge.client().new_connections().get("/").load(3).pause(PAUSE).start()),
        ("plain, kept", edge.client().get("/").load(4).pause(PAUSE).start()),
        ("TLS, new", tls().new_connections().get("/").load(2).pause(PAUSE).start()),
        ("TLS, kept", tls().get("/").load(4).pause(PAUSE).start()),
    ];
    let http2 = [Http2Load::start(&edge.client().http2(), 2), Http2Load::start(&tls().http2(), 2)];
    let http2_clients = 4;
    let completed = || {
        kinds.iter().map(|(_, load)| load.completed()).sum::<u64>()
            + http2.iter().map(|load| load.answered.load(Ordering::SeqCst)).sum::<u64>()
    };
    let share = requests / (upgrades as u64 + 1);
    let patience = Duration::from_secs(20 + requests / 50);
    for n in 1..=upgrades {
        assert_eventually!(completed() >= share * n as u64, within patience);
        edge.write_config(&release(n));
        // The words of the manual: the signal, then the new process. The order does not matter.
        if n % 2 == 1 {
            edge.signal("QUIT");
        }
        let next = edge.upgrade();
        let exit = edge.wait_exit(EXIT).expect("the old process ends");
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        let fresh = next.client().get("/").send().assert_status(200);
        assert_eq!(fresh.header("x-release"), Some(n.to_string().as_str()));
        edge = next;
    }
    assert_eventually!(completed() >= requests, within patience);
    for (kind, load) in kinds {
        let report = load.stop().assert_all_ok();
        println!("{kind}: {report}");
    }
    for (kind, load) in ["HTTP/2, plain", "HTTP/2, TLS"].into_iter().zip(http2) {
        let (answered, again, connections) = load.stop();
        println!("{kind}: {answered} answered, {again} sent again, {connections} connections");
        // Each connection ended by GOAWAY, once at each upgrade.
        assert_eq!(connections, (http2_clients / 2) * (upgrades as u64 + 1));
        assert!(again <= connections, "{again} of {connections}");
    }
    assert_eq!(edge.signal_and_wait("TERM", EXIT).code, Some(0));
}

#[test]
fn upgrades_under_load_are_not_noticed() {
    upgrade_under_load(1_500, 2);
}

#[test]
#[ignore = "slow: three upgrades and ten thousand requests, about a minute"]
fn upgrades_under_load_of_ten_thousand_requests_are_not_noticed() {
    upgrade_under_load(12_000, 3);
}
