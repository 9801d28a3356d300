//! Real HTTP over loopback, with a control that is none.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::types::{ListenAddress, SecretSource};

struct Fake {
    readiness: Mutex<Readiness>,
    outcome: Mutex<ReloadOutcome>,
    /// A reload waits for it.
    gate: Option<Notify>,
    started: AtomicUsize,
    reloaded: AtomicUsize,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            readiness: Mutex::new(Readiness::Ready),
            outcome: Mutex::new(ReloadOutcome::Taken { generation: 2 }),
            gate: None,
            started: AtomicUsize::new(0),
            reloaded: AtomicUsize::new(0),
        }
    }
}

impl Control for Fake {
    fn readiness(&self) -> Readiness {
        *self.readiness.lock().unwrap()
    }

    fn status(&self) -> Status {
        Status { version: "1.2.3".into(), generation: 7, ..Status::default() }
    }

    fn metrics(&self) -> String {
        "tidegate_up 1\n".into()
    }

    fn reload(&self, _: AdminPeer) -> BoxFuture<'_, ReloadOutcome> {
        Box::pin(async {
            self.started.fetch_add(1, Ordering::SeqCst);
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            self.reloaded.fetch_add(1, Ordering::SeqCst);
            self.outcome.lock().unwrap().clone()
        })
    }
}

struct Running {
    control: Arc<Fake>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.into() }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Running {
    fn start(control: Fake, token: Option<Token>) -> Self {
        let control = Arc::new(control);
        let server = AdminServer::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let ListenAddress::Tcp(address) = *server.address() else { panic!("not TCP") };
        assert_ne!(address.port(), 0);
        let runtime = runtime();
        runtime.spawn(server.serve(
            Arc::clone(&control) as Arc<dyn Control>,
            token,
            CancellationToken::default(),
        ));
        Self { control, address, _runtime: runtime }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request with `Connection: close` and reads all of the answer.
    fn send(&self, line: &str, headers: &str) -> Reply {
        let mut stream = self.connect();
        let head = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Reply::parse(&text)
    }

    fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), "Host: localhost\r\n")
    }
}

#[test]
fn ready_says_503_until_ready_and_while_draining() {
    let edge = Running::start(Fake::default(), None);
    for (readiness, status) in
        [(Readiness::Starting, 503), (Readiness::Ready, 200), (Readiness::Draining, 503)]
    {
        *edge.control.readiness.lock().unwrap() = readiness;
        let reply = edge.get("/ready");
        assert_eq!((reply.status, reply.body), (status, format!("{}\n", readiness.word())));
        assert_eq!(edge.get("/live").status, 200);
    }
}

#[test]
fn paths_answer_what_they_are_for() {
    let edge = Running::start(Fake::default(), None);
    let metrics = edge.get("/metrics");
    assert_eq!((metrics.status, &*metrics.body), (200, "tidegate_up 1\n"));
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    let status: Status = serde_json::from_str(&edge.get("/v1/status").body).unwrap();
    assert_eq!((&*status.version, status.generation), ("1.2.3", 7));
    let index = edge.get("/");
    for path in ["/live", "/ready", "/metrics", "/v1/status", "/v1/config/reload", "/v1/log/level"]
    {
        assert!(index.body.contains(path), "{path}");
    }
    let head = edge.send("HEAD /v1/status", "Host: localhost\r\n");
    assert_eq!((head.status, &*head.body), (200, ""));
}

#[test]
fn unknown_paths_and_methods_are_json_errors() {
    let edge = Running::start(Fake::default(), None);
    let missing = edge.get("/nothing");
    assert_eq!(missing.status, 404);
    assert!(missing.json()["error"].is_string());
    for (line, allow) in
        [("GET /v1/config/reload", "post"), ("POST /v1/status", "get, head"), ("PUT /live", "get")]
    {
        let reply = edge.send(line, "Host: localhost\r\nContent-Length: 0\r\n");
        assert_eq!(reply.status, 405, "{line}");
        assert!(reply.head.contains(&format!("allow: {allow}")), "{}", reply.head);
        assert!(reply.json()["error"].is_string());
    }
    assert_eq!(edge.control.started.load(Ordering::SeqCst), 0);
}

#[test]
fn a_reload_answers_with_its_generation_or_its_problems() {
    let edge = Running::start(Fake::default(), None);
    let reload = || edge.send("POST /v1/config/reload", "Host: localhost\r\n");
    let taken = reload();
    assert_eq!((taken.status, taken.json()), (200, json!({ "generation": 2, "changed": true })));
    *edge.control.outcome.lock().unwrap() = ReloadOutcome::Unchanged { generation: 2 };
    assert_eq!(reload().json(), json!({ "generation": 2, "changed": false }));
    let problems = json!([{ "file": "tidegate.toml", "line": 3, "message": "no upstream" }]);
    *edge.control.outcome.lock().unwrap() = ReloadOutcome::Refused { problems: problems.clone() };
    let refused = reload();
    assert_eq!((refused.status, &refused.json()["problems"]), (422, &problems));
}

#[test]
fn a_reload_goes_on_when_its_client_leaves() {
    let edge = Running::start(Fake { gate: Some(Notify::new()), ..Fake::default() }, None);
    let mut stream = edge.connect();
    stream.write_all(b"POST /v1/config/reload HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    wait_until(|| edge.control.started.load(Ordering::SeqCst) == 1);
    drop(stream);
    // The server has seen the close when it answers a later connection; then the gate opens.
    assert_eq!(edge.get("/live").status, 200);
    edge.control.gate.as_ref().unwrap().notify_one();
    wait_until(|| edge.control.reloaded.load(Ordering::SeqCst) == 1);
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < end, "it never happened");
        std::thread::yield_now();
    }
}

#[test]
fn a_token_is_asked_for_everywhere_but_at_live_and_ready() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let token = Token::open(&SecretSource::File(file.clone())).unwrap();
    let edge = Running::start(Fake::default(), Some(token));
    let with = |line: &str, token: &str| {
        edge.send(line, &format!("Host: edge.example\r\nAuthorization: Bearer {token}\r\n")).status
    };
    for line in [
        "GET /",
        "GET /metrics",
        "GET /v1/status",
        "POST /v1/config/reload",
        "PUT /v1/log/level",
        "DELETE /v1/log/level",
        "GET /nothing",
    ] {
        let reply = edge.send(line, "Host: localhost\r\n");
        assert_eq!(reply.status, 401, "{line}");
        assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
        assert_eq!(with(line, "hunter3"), 401, "{line}");
        assert_eq!(with(line, ""), 401, "{line}");
        assert_ne!(with(line, "hunter2"), 401, "{line}");
    }
    assert_eq!(edge.control.reloaded.load(Ordering::SeqCst), 1);
    for path in ["/live", "/ready"] {
        assert_eq!(edge.send(&format!("GET {path}"), "Host: 10.0.0.1\r\n").status, 200);
    }

    std::fs::write(&file, "hunter3").unwrap();
    assert_eq!((with("GET /", "hunter2"), with("GET /", "hunter3")), (401, 200));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(with("GET /", "hunter3"), 503, "a token that is gone lets nobody in");
}

#[test]
fn other_host_names_and_other_pages_are_refused_without_a_token() {
    let edge = Running::start(Fake::default(), None);
    assert_eq!(edge.send("GET /v1/status", "Host: evil.example\r\n").status, 403);
    assert_eq!(edge.send("GET /ready", "Host: evil.example\r\n").status, 200);
    let page = "Host: localhost\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n";
    for line in ["POST /v1/config/reload", "PUT /v1/log/level", "DELETE /v1/log/level"] {
        assert_eq!(edge.send(line, page).status, 403, "{line}");
    }
    assert_eq!(edge.control.started.load(Ordering::SeqCst), 0);
}

#[test]
fn a_connection_over_the_limit_is_closed_and_its_place_is_given_back() {
    let edge = Running::start(Fake::default(), None);
    let ask = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut start = [0; 12];
        stream.read_exact(&mut start).is_ok() && start.ends_with(b"200")
    };
    let mut held: Vec<_> = (0..64).map(|_| edge.connect()).collect();
    for stream in &mut held {
        assert!(ask(stream));
    }
    assert!(!ask(&mut edge.connect()), "there are 64 already");
    drop(held);
    wait_until(|| ask(&mut edge.connect()));
}

#[test]
fn a_unix_socket_is_its_users_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let address = ListenAddress::Unix(path.clone());
    drop(AdminServer::bind(&address).unwrap());
    assert!(path.exists(), "the stale socket is there");
    let server = AdminServer::bind(&address).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(AdminServer::bind(&address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);

    let runtime = runtime();
    runtime.spawn(server.serve(Arc::new(Fake::default()), None, CancellationToken::default()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(Reply::parse(&text).status, 200);

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(AdminServer::bind(&ListenAddress::Unix(file.clone())).is_err());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}
