//! What a service manager is told (`Type=notify`), and the sockets that it passes (socket activation).

use std::{
    net::TcpListener,
    os::unix::net::{UnixDatagram, UnixListener},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    assert_eventually,
    harness::{Client, Edge, Launch},
};

const EXIT: Duration = Duration::from_mins(1);
/// A message that is to come.
const SOON: Duration = Duration::from_secs(20);

const SITE: &str = r#"
[server]
drain = "3s"
lame_duck = "0s"
[sites.a]
hosts = ["localhost", "127.0.0.1"]
respond = { body = "a" }
"#;

/// The service manager's end of `NOTIFY_SOCKET`.
struct Notified {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Notified {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { folder, socket }
    }

    fn launch(&self) -> Launch {
        Launch::default().environment("NOTIFY_SOCKET", self.folder.path().join("notify").display())
    }

    /// The next message's lines.
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let manager = Notified::new();
    let mut edge = Edge::launch(&[], SITE, manager.launch());
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving, generation 1"]);
    edge.write_config(&SITE.replace("\"a\" }", "\"b\" }"));
    edge.signal("HUP");
    let reloading = manager.next();
    assert_eq!(reloading[0], "RELOADING=1");
    // Type=notify-reload compares it with its own clock.
    let micros: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!(micros > 0);
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving, generation 2"]);
    // A refused one ends too, and the service is as it was.
    assert!(edge.reload_with("[sites").is_err());
    let mut messages = [manager.next(), manager.next()].concat();
    messages.retain(|line| !line.starts_with("MONOTONIC_USEC="));
    assert_eq!(messages, ["RELOADING=1", "READY=1", "STATUS=serving, generation 2"]);
    edge.signal("TERM");
    let mut last = manager.next();
    while last.first().map(String::as_str) != Some("STOPPING=1") {
        // The watcher may have seen the broken file too.
        last = manager.next();
    }
    assert_eq!(edge.wait_exit(EXIT).expect("the process ends").code, Some(0));
}

#[test]
fn an_upgrade_names_the_new_process_and_is_no_stop() {
    let manager = Notified::new();
    let mut old = Edge::launch(&[], SITE, manager.launch());
    assert_eq!(manager.next()[0], "READY=1");
    old.signal("QUIT");
    assert_eq!(manager.next(), ["STATUS=waiting for a new process"]);
    let new = old.try_upgrade(manager.launch()).unwrap();
    assert_eq!(old.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    let main = format!("MAINPID={}", new.pid());
    // First the old one, which the manager believes; then the new one for itself.
    assert_eq!(
        manager.next(),
        [main.clone(), format!("STATUS=handed over to process {}", new.pid())]
    );
    assert_eq!(manager.next(), [main, "READY=1".into(), "STATUS=serving, generation 1".into()]);
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "nothing of a stop");
}

#[test]
fn sockets_of_the_service_manager_are_used_by_address_and_by_name() {
    let by_address = TcpListener::bind("127.0.0.1:0").unwrap();
    let by_name = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [&by_address, &by_name, &admin].map(|socket| socket.local_addr().unwrap());
    let text = format!(
        "{SITE}[listeners.http]\naddress = \"{}\"\n[listeners.named]\naddress = \"127.0.0.1:1\"\n",
        addresses[0]
    );
    let launch = Launch::default()
        .socket(by_address.try_clone().unwrap(), "unknown")
        .socket(by_name.try_clone().unwrap(), "named")
        .socket(admin.try_clone().unwrap(), "admin")
        .socket(unused, "spare");
    // What waits at a socket before the edge runs is served when it does.
    let early = std::thread::spawn(move || Client::to(addresses[0]).get("/").send());
    let mut edge = Edge::launch(&[], &text, launch);
    early.join().unwrap().assert_status(200);
    assert_eq!(edge.address("named"), addresses[1].to_string());
    Client::to(addresses[1]).get("/").send().assert_status(200);
    Client::to(addresses[2]).get("/live").send().assert_status(200);
    assert_eventually!(edge.logs().contains("no listener has this socket"));

    // They are the same ones after an upgrade, to a process that was not activated.
    let mut new = edge.upgrade();
    assert_eq!(edge.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    Client::to(addresses[1]).get("/").send().assert_status(200);
    assert_eq!(new.signal_and_wait("TERM", EXIT).code, Some(0));
    // The manager's own handle lives on: clients wait instead of being refused.
    std::net::TcpStream::connect(addresses[0]).unwrap();
}

#[test]
fn a_unix_socket_of_the_service_manager_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let text = format!("{SITE}[listeners.http]\naddress = \"unix:{}\"\n", path.display());
    let mut edge = Edge::launch(&[], &text, Launch::default().socket(socket, "edge.socket"));
    edge.client().get("/").send().assert_status(200);
    let mut new = edge.upgrade();
    assert_eq!(edge.wait_exit(EXIT).expect("the old process ends").code, Some(0));
    new.client().get("/").send().assert_status(200);
    assert_eq!(new.signal_and_wait("TERM", EXIT).code, Some(0));
    assert!(path.exists());
}

#[test]
fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("{SITE}[listeners.http]\naddress = \"{}\"\n", socket.local_addr().unwrap());
    // LISTEN_PID is another process's: this edge binds for itself, and here it can't.
    let launch = Launch::default().environment("LISTEN_PID", 1).environment("LISTEN_FDS", 1);
    let exit = Edge::run_launch_to_end(&[], &text, launch, EXIT);
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("can't be bound"), "{}", exit.log);
}
