//! A real DNS server: Knot (Debian package `knot`), which is told its zones and takes signed updates.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tempfile::TempDir;

/// Starting it, on a machine that is busy.
const START: Duration = Duration::from_mins(1);

/// The secret of the key `edge` (hmac-sha256), which may update all zones.
pub const EDGE_SECRET: &str = "ZWRnZS1lZGdlLWVkZ2UtZWRnZS1lZGdlLWVkZ2UtZWQ=";
/// The secret of the key `narrow` (hmac-sha512), which may update the name `only` of a zone.
pub const NARROW_SECRET: &str = "bmFycm93LW5hcnJvdy1uYXJyb3ctbmFycm93LW5hcnI=";

/// A running `knotd`, killed when dropped.
pub struct Knot {
    address: SocketAddr,
    process: Child,
    folder: TempDir,
}

impl Knot {
    /// The primary of zones: each with its records beside SOA, NS (`ns`) and the address of that, 127.0.0.1.
    pub fn primary(zones: &[(&str, &str)]) -> Self {
        let mut config = String::from("zone:\n");
        for (zone, _) in zones {
            writeln!(
                config,
                "  - domain: {zone}\n    file: {zone}.zone\n    acl: [edge, narrow, copies]"
            )
            .unwrap();
        }
        let files = zones.iter().map(|(zone, records)| {
            let text = format!(
                "$ORIGIN {zone}.\n$TTL 1\n@ SOA ns hostmaster 1 1 1 3600 1\n@ NS ns\nns A 127.0.0.1\n{records}\n"
            );
            (format!("{zone}.zone"), text)
        });
        Self::start(&config, &files.collect::<Vec<_>>())
    }

    /// A secondary of another one's zone, which looks for changes every two seconds, with no notice of them.
    pub fn secondary(of: &Self, zone: &str) -> Self {
        let address = of.address;
        Self::start(
            &format!(
                "remote:\n  - id: primary\n    address: {}@{}\n\
                 zone:\n  - domain: {zone}\n    master: primary\n    acl: copies\n\
                 \x20   refresh-min-interval: 2\n    refresh-max-interval: 2\n",
                address.ip(),
                address.port()
            ),
            &[],
        )
    }

    fn start(zones: &str, files: &[(String, String)]) -> Self {
        let deadline = Instant::now() + START;
        let mut said = String::new();
        for _ in 0..5 {
            let folder = tempfile::tempdir().expect("a folder");
            for (file, text) in files {
                fs::write(folder.path().join(file), text).expect("a zone file");
            }
            let address = free_address();
            let log = fs::File::create(folder.path().join("log")).expect("a log");
            let config = folder.path().join("knot.conf");
            fs::write(&config, server(folder.path(), address) + zones).expect("a configuration");
            let process = Command::new(sbin("knotd"))
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("knotd, of the Debian package `knot`");
            let mut knot = Self { address, process, folder };
            if knot.is_ready(zones, deadline) {
                return knot;
            }
            // Another process was faster to take the port, or something is wrong with the configuration.
            said = knot.log();
        }
        panic!("knotd does not start: {said}");
    }

    /// Whether it answers for all of its zones; `false` when it has ended.
    fn is_ready(&mut self, zones: &str, deadline: Instant) -> bool {
        let zones: Vec<_> =
            zones.lines().filter_map(|line| line.trim().strip_prefix("- domain: ")).collect();
        while Instant::now() < deadline {
            if self.process.try_wait().expect("its state").is_some() {
                return false;
            }
            let is_there = |zone: &&str| {
                self.ask(zone, RecordType::SOA).is_some_and(|answer| !answer.answers.is_empty())
            };
            if zones.iter().all(is_there) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Where it answers, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket of `knotc`.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("knot.sock")
    }

    /// The texts of a name's TXT records, in order.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let answer = self.ask(name, RecordType::TXT).expect("an answer");
        assert!(
            matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
            "{answer}"
        );
        let text = |data: &RData| match data {
            RData::TXT(text) => Some(String::from_utf8(text.txt_data.concat()).expect("text")),
            _ => None,
        };
        let mut texts: Vec<_> =
            answer.answers.iter().filter_map(|record| text(&record.data)).collect();
        texts.sort();
        texts
    }

    /// The time to live of a name's TXT records.
    pub fn time_to_live(&self, name: &str) -> Option<u32> {
        let answer = self.ask(name, RecordType::TXT)?;
        answer.answers.first().map(|record| record.ttl)
    }

    fn ask(&self, name: &str, kind: RecordType) -> Option<Message> {
        let mut question = Message::query();
        let mut name = Name::from_ascii(name).expect("a name");
        name.set_fqdn(true);
        question.add_query(Query::query(name, kind));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        socket.connect(self.address).ok()?;
        socket.send(&question.to_vec().ok()?).ok()?;
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).ok()?;
        Message::from_vec(&answer[..length]).ok()
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server(folder: &Path, address: SocketAddr) -> String {
    let (ip, port, folder) = (address.ip(), address.port(), folder.display());
    format!(
        "server:\n    rundir: \"{folder}\"\n    listen: {ip}@{port}\n    udp-workers: 1\n    tcp-workers: 1\n\
         \x20   background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n    storage: \"{folder}\"\n    journal-db-max-size: 16M\n\
         key:\n  - id: edge\n    algorithm: hmac-sha256\n    secret: {EDGE_SECRET}\n\
         \x20 - id: narrow\n    algorithm: hmac-sha512\n    secret: {NARROW_SECRET}\n\
         acl:\n  - id: edge\n    key: edge\n    action: update\n\
         \x20 - id: narrow\n    key: narrow\n    action: update\n    update-owner: name\n\
         \x20   update-owner-match: equal\n    update-owner-name: [only]\n\
         \x20 - id: copies\n    address: 127.0.0.1\n    action: transfer\n\
         template:\n  - id: default\n    storage: \"{folder}\"\n    zonefile-sync: -1\n"
    )
}

/// A port that nobody has by TCP, nor by UDP, now.
fn free_address() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = tcp.local_addr().expect("its address");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// A server's program: its folder is not on everyone's path.
pub fn sbin(program: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(program);
    if path.exists() { path } else { program.into() }
}
