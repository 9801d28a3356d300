//! What a new connection to an endpoint with TLS costs, ours and Pingora's side by side. For docs/adr/0016.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use pingora_core::{
    connectors::{
        ConnectorOptions, TransportConnector,
        http::custom::{Connection, Connector},
    },
    protocols::{ALPN, Stream},
    upstreams::peer::HttpPeer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    JudgedConnector, RawUpstream, Timeouts, UpstreamProtocol, endpoint::Endpoint, judge_answers,
    peer::PeerTemplate, test_origin::TlsOrigin, tls::TlsFiles,
};
use crate::types::{EndpointAddress, KeyPath, Problems};

const CONNECTIONS: u32 = 500;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

enum Way {
    Pingora(TransportConnector),
    Ours(Box<JudgedConnector>),
}

impl Way {
    async fn connect(&self, mut peer: Box<HttpPeer>) -> Stream {
        match self {
            Self::Pingora(connector) => {
                peer.options.alpn = ALPN::H1;
                connector.new_stream(&*peer).await.unwrap()
            }
            Self::Ours(connector) => {
                assert!(judge_answers(&mut peer, true));
                match connector.get_http_session(&*peer).await.unwrap().0 {
                    Connection::Stream(stream) => stream,
                    Connection::Session(()) => unreachable!("it has no sessions"),
                }
            }
        }
    }
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

fn peer(tls: &str, address: &str) -> Box<HttpPeer> {
    let text = format!("endpoints = [\"{address}\"]\nprotocol = \"auto\"\n{tls}");
    let raw: RawUpstream = toml::from_str(&text).unwrap();
    let config = raw.parse(&"web".parse().unwrap(), &KeyPath::root(), &mut Problems::new());
    let settings = config.tls.as_ref().unwrap();
    let loaded = TlsFiles::read(settings).load(UpstreamProtocol::Auto).unwrap();
    let address: EndpointAddress = address.parse().unwrap();
    let endpoint = Endpoint::new(config.name.clone(), address.clone());
    let template = PeerTemplate::new(&config, Some(&loaded), &address, Some("app.test")).unwrap();
    template.peer(&endpoint, &Timeouts::default(), false)
}

/// CPU of this thread and time, each for one connection with one request.
async fn cost(way: &Way, peer: &HttpPeer, connections: u32) -> (Duration, Duration) {
    let (began, cpu_before) = (Instant::now(), cpu());
    for _ in 0..connections {
        let mut stream = way.connect(Box::new(peer.clone())).await;
        stream.write_all(REQUEST).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    (cpu().saturating_sub(cpu_before) / connections, began.elapsed() / connections)
}

/// On a thread of its own, so that its work is not counted.
fn origin(client: rcgen::Certificate) -> (String, TlsOrigin, tokio::runtime::Runtime) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (tell, told) = mpsc::channel();
    runtime.spawn(async move {
        let origin = TlsOrigin::asking(&["app.test"], Some(client.der().clone())).await;
        tell.send(origin).unwrap();
    });
    let origin = told.recv().unwrap();
    (origin.address.to_string(), origin, runtime)
}

fn measure(connections: u32) -> [(Duration, Duration); 2] {
    let folder = tempfile::tempdir().unwrap();
    let client = rcgen::generate_simple_self_signed(["edge.test".to_owned()]).unwrap();
    let (chain, key) = (folder.path().join("edge.pem"), folder.path().join("edge.key"));
    std::fs::write(&chain, client.cert.pem()).unwrap();
    std::fs::write(&key, client.signing_key.serialize_pem()).unwrap();
    let (address, origin, _runtime) = origin(client.cert);
    let ca = origin.write_ca(folder.path());
    let tls = format!(
        "tls = {{ ca = \"{ca}\", client_certificate = {{ chain = \"{}\", key = \"{}\" }} }}",
        chain.display(),
        key.display()
    );
    crate::tls::install_provider();
    let peer = peer(&tls, &address);
    let pingoras = Way::Pingora(TransportConnector::new(None));
    let ours = Way::Ours(Box::new(JudgedConnector::new(ConnectorOptions::new(1))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for way in [&pingoras, &ours] {
            cost(way, &peer, connections / 10).await; // warm
        }
        [cost(&pingoras, &peer, connections).await, cost(&ours, &peer, connections).await]
    })
}

#[test]
fn both_ways_connect() {
    measure(10);
}

#[test]
#[ignore = "a measurement"]
fn a_new_connection_costs_less_by_ours() {
    let [pingoras, ours] = measure(CONNECTIONS);
    for (way, (cpu, time)) in [("Pingora's", pingoras), ("ours", ours)] {
        println!("{way}: {cpu:?} CPU, {time:?} for each of {CONNECTIONS} connections");
    }
    assert!(ours.0 < pingoras.0);
}
