//! A name server on loopback that says what a test tells it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::{block_on, spawn};

/// A DNS server over UDP. Names that it was not told of do not exist.
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    /// Times to live and records, by name (no dot at its end) and type.
    records: HashMap<(String, RecordType), (u32, Vec<RData>)>,
    mood: Mood,
    queries: HashMap<(String, RecordType), usize>,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it was told.
    #[default]
    Well,
    /// With SERVFAIL.
    Failing,
    /// Not at all.
    Silent,
}

impl NameServer {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let socket = block_on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = socket.local_addr().expect("an address");
        let zone: Arc<Mutex<Zone>> = Arc::default();
        let told = Arc::clone(&zone);
        let task = spawn(async move {
            let mut query = [0; 4_096];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let answer = told.lock().unwrap().answer(&query[..length]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self { address, zone, task }
    }

    /// The addresses of a host; none at all: the name is there, and has no addresses.
    pub fn host(&self, name: &str, time_to_live: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address"));
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv4);
        let data = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        self.set(name, RecordType::A, time_to_live, v4.into_iter().map(data).collect());
        self.set(name, RecordType::AAAA, time_to_live, v6.into_iter().map(data).collect());
    }

    /// The SRV records of a service: priority, weight, port, target.
    pub fn service(&self, name: &str, time_to_live: u32, records: &[(u16, u16, u16, &str)]) {
        let data = |&(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).expect("a name")))
        };
        self.set(name, RecordType::SRV, time_to_live, records.iter().map(data).collect());
    }

    fn set(&self, name: &str, kind: RecordType, time_to_live: u32, records: Vec<RData>) {
        let key = (name.to_owned(), kind);
        self.zone.lock().unwrap().records.insert(key, (time_to_live, records));
    }

    /// Forgets a name: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        self.zone.lock().unwrap().records.retain(|(known, _), _| known != name);
    }

    /// How it answers from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.zone.lock().unwrap().mood = mood;
    }

    /// How often it was asked for a record of a name.
    pub fn queries(&self, name: &str, kind: RecordType) -> usize {
        let key = (name.to_owned(), kind);
        self.zone.lock().unwrap().queries.get(&key).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for NameServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).ok()?;
        let question = query.queries.first()?.clone();
        let name = question.name().to_ascii().to_ascii_lowercase();
        let key = (name.trim_end_matches('.').to_owned(), question.query_type());
        *self.queries.entry(key.clone()).or_default() += 1;
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        match self.mood {
            Mood::Silent => return None,
            Mood::Failing => answer.metadata.response_code = ResponseCode::ServFail,
            Mood::Well => match self.records.get(&key) {
                Some((time_to_live, records)) => {
                    for data in records {
                        let name = question.name().clone();
                        answer.add_answer(Record::from_rdata(name, *time_to_live, data.clone()));
                    }
                }
                None if self.records.keys().any(|(name, _)| *name == key.0) => {}
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            },
        }
        Some(answer.to_vec().expect("a message"))
    }
}
