//! pebble-challtestsrv, for its DNS answers only: what pebble asks when it validates.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};
use serde_json::{Value, json};

use super::process::{Port, Process, StartError};
use crate::harness::Client;

/// How often another port is tried when somebody took ours.
const TRIES: usize = 5;
/// How long an answer over loopback may take before it is asked for again.
const PATIENCE: Duration = Duration::from_millis(200);
/// A name that only the server under start was told of.
const PROBE: &str = "probe.harness.test.";

/// A name server that knows every name: its address is 127.0.0.1, and it has no IPv6 address.
pub struct ChallengeDns {
    process: Process,
    dns: Port,
    management: Port,
}

impl ChallengeDns {
    pub(super) fn start(directory: &std::path::Path) -> Self {
        for _ in 0..TRIES {
            let (dns, management) = (Port::tcp_and_udp(), Port::tcp());
            let mut command = Command::new("pebble-challtestsrv");
            command.arg("-dns01").arg(dns.address.to_string());
            command.arg("-management").arg(management.address.to_string());
            for off in ["-http01", "-https01", "-tlsalpn01", "-defaultIPv6"] {
                command.args([off, ""]);
            }
            let process = Process::start("pebble-challtestsrv", &mut command, directory);
            let mut server = Self { process, dns, management };
            match server.wait_ready() {
                Ok(()) => return server,
                Err(StartError::Taken) => {}
                Err(StartError::Failed(why)) => panic!("{why}"),
            }
        }
        panic!("pebble-challtestsrv found its ports taken {TRIES} times");
    }

    /// It serves when it answers with what only it was told: its port could be another server's.
    fn wait_ready(&mut self) -> Result<(), StartError> {
        let token = format!("{}", self.management.address);
        let (dns, client) = (self.dns.address, Client::to(self.management.address));
        let probe = json!({ "host": PROBE, "value": token });
        self.process.wait_ready(|| {
            let told = client.post("/set-txt").body(probe.to_string()).try_send();
            told.is_ok_and(|answer| answer.status == 200)
                && text_records(dns, PROBE).is_some_and(|records| records.contains(&token))
        })
    }

    /// Where it answers, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.dns.address
    }

    /// The IPv4 addresses of a name, instead of 127.0.0.1.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        self.tell("/add-a", &json!({ "host": absolute(name), "addresses": addresses }));
    }

    /// A TXT record, beside those that a name has already.
    pub fn add_text(&self, name: &str, value: &str) {
        self.tell("/set-txt", &json!({ "host": absolute(name), "value": value }));
    }

    /// Takes the TXT records of a name away.
    pub fn clear_text(&self, name: &str) {
        self.tell("/clear-txt", &json!({ "host": absolute(name) }));
    }

    /// The CAA records of a name: pairs of tag and value, such as `("issue", "ca.test")`.
    pub fn set_caa(&self, name: &str, policies: &[(&str, &str)]) {
        let policies: Vec<Value> =
            policies.iter().map(|(tag, value)| json!({ "tag": tag, "value": value })).collect();
        self.tell("/add-caa", &json!({ "host": absolute(name), "policies": policies }));
    }

    /// Answers SERVFAIL to whatever is asked of a name.
    pub fn fail(&self, name: &str) {
        self.tell("/set-servfail", &json!({ "host": absolute(name) }));
    }

    /// Ends what [`Self::fail`] began.
    pub fn recover(&self, name: &str) {
        self.tell("/clear-servfail", &json!({ "host": absolute(name) }));
    }

    /// What is found under a name, of type TXT; `None` where no answer came.
    pub fn text_records(&self, name: &str) -> Option<Vec<String>> {
        text_records(self.address(), &absolute(name))
    }

    pub(super) fn said(&self) -> String {
        self.process.said()
    }

    fn tell(&self, path: &str, what: &Value) {
        let client = Client::to(self.management.address);
        client.post(path).body(what.to_string()).send().assert_status(200);
    }
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn text_records(server: SocketAddr, name: &str) -> Option<Vec<String>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::TXT));
    socket.send_to(&query.to_vec().expect("a message"), server).ok()?;
    let mut answer = [0; 4_096];
    let length = socket.recv(&mut answer).ok()?;
    let answer = Message::from_vec(&answer[..length]).ok()?;
    let texts = answer.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(text) => Some(text.to_string()),
        _ => None,
    });
    Some(texts.collect())
}
