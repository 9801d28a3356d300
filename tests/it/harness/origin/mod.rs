//! Origins: real servers in the test process, behind the edge or asked directly.
//!
//! [`Origin`] speaks HTTP/1.1 and HTTP/2, plain or over TLS, on TCP or a Unix socket; it counts and records what it
//! sees, and can be made slow, unhealthy, silent or unreachable while it runs. `/healthz` is apart: it is counted by
//! [`Origin::probes`] and never by [`Origin::requests`]. [`RawOrigin`] answers with given bytes; [`RecordingOrigin`]
//! takes requests apart by itself.

mod builder;
mod grpc;
mod listening;
mod raw;
mod recorded;
mod recording;
mod service;
mod tcp;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub use builder::Builder;
pub use grpc::{EchoMessage, SERVICE as GRPC_SERVICE};
pub(super) use listening::reserve;
pub use raw::{RawOrigin, Step};
pub use recorded::{Recorded, hex};
pub use recording::{RecordingOrigin, Reply, Seen};
pub use service::pattern;
pub use tcp::{Play, TcpOrigin};

use super::{
    Certificate,
    runtime::{block_on, spawn},
};
use builder::Options;
use listening::Listening;
use recorded::Records;

/// Where an origin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP on loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A server in the test process. It ends when it is dropped.
pub struct Origin {
    shared: Arc<Shared>,
    address: Address,
    accepting: Mutex<Option<Accepting>>,
    /// Holds the port while the origin is stopped, so that nobody else gets it.
    reserved: Mutex<Option<socket2::Socket>>,
}

/// The task that takes connections. It ends, with them, when `_stop` is dropped.
struct Accepting {
    _stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What the tasks of an origin share.
struct Shared {
    options: Options,
    status: Mutex<StatusCode>,
    delay: Mutex<Duration>,
    is_healthy: AtomicBool,
    is_hanging: watch::Sender<bool>,
    is_resetting: AtomicBool,
    /// One of so many requests fails; none where it is 0.
    failing: AtomicU64,
    /// So that no two origins fail the same ones.
    failing_seed: u64,
    failed: AtomicU64,
    /// Grows with each [`Origin::stop`]: web sockets, which outlive their connection's task, end then.
    stops: watch::Sender<u64>,
    requests: AtomicU64,
    probes: AtomicU64,
    connections: AtomicU64,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    records: Records,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    handshakes: Mutex<Vec<Handshake>>,
}

/// A TLS handshake that ended well.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// It went on with an earlier session.
    pub is_resumed: bool,
    /// The name that was asked for.
    pub server_name: Option<String>,
    /// The client's certificate, DER.
    pub client: Option<Vec<u8>>,
}

impl Handshake {
    fn of(connection: &ServerConnection) -> Self {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: connection.server_name().map(ToOwned::to_owned),
            client: leaf.map(|leaf| leaf.to_vec()),
        }
    }
}

impl Origin {
    /// An origin that answers everything with this status.
    pub fn answering(status: u16) -> Self {
        Self::builder().status(status).start()
    }

    /// An origin to be described.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(options: Options, tls: Option<Arc<ServerConfig>>) -> Self {
        let shared = Arc::new(Shared {
            status: Mutex::new(options.status),
            delay: Mutex::new(options.delay),
            is_healthy: AtomicBool::new(true),
            is_hanging: watch::Sender::new(false),
            is_resetting: AtomicBool::new(options.reset_before_head),
            failing: AtomicU64::new(0),
            failing_seed: fastrand::u64(..),
            failed: AtomicU64::new(0),
            stops: watch::Sender::new(0),
            requests: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            records: Records::default(),
            tls: Mutex::new(tls),
            handshakes: Mutex::default(),
            options,
        });
        let listening = block_on(async {
            match &shared.options.unix {
                Some(path) => Listening::unix(path),
                None => Listening::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            }
        });
        let address = listening.address();
        let origin =
            Self { shared, address, accepting: Mutex::new(None), reserved: Mutex::new(None) };
        origin.accept(listening);
        origin
    }

    fn accept(&self, listening: Listening) {
        let (stop, stopped) = oneshot::channel();
        let task = spawn(listening.accept(Arc::clone(&self.shared), stopped));
        *lock(&self.accepting) = Some(Accepting { _stop: stop, task });
    }

    /// Its address, as an endpoint is written: `127.0.0.1:port` or `unix:/path`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// Requests, their heads counted, `/healthz` apart.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests for `/healthz`.
    pub fn probes(&self) -> u64 {
        self.shared.probes.load(Ordering::SeqCst)
    }

    /// Connections ever taken.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Its TLS handshakes, first to last.
    pub fn handshakes(&self) -> Vec<Handshake> {
        lock(&self.shared.handshakes).clone()
    }

    /// Shakes hands with another certificate from now on.
    pub fn set_certificate(&self, certificate: &Certificate) {
        *lock(&self.shared.tls) = Some(self.shared.options.tls.config(certificate));
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests that were answered at the same time.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }

    /// The last request that began.
    ///
    /// # Panics
    /// When there was none.
    pub fn last_request(&self) -> Recorded {
        self.shared.records.last().unwrap_or_else(|| panic!("{self} has seen no request"))
    }

    /// The last requests, oldest first; the origin remembers 1,000.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.records.all()
    }

    /// Changes the status of its answers.
    pub fn set_status(&self, status: u16) {
        *lock(&self.shared.status) = StatusCode::from_u16(status).expect("a status");
    }

    /// Fails one of `n` requests with a 500, evenly over time and not by turns; none with 0.
    pub fn set_failing(&self, n: u64) {
        self.shared.failing.store(n, Ordering::SeqCst);
    }

    /// Requests that it has failed by [`Self::set_failing`].
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// Changes the time it waits before an answer.
    pub fn set_delay(&self, delay: Duration) {
        *lock(&self.shared.delay) = delay;
    }

    /// Makes `/healthz` answer 200 or 503.
    pub fn set_healthy(&self, is_healthy: bool) {
        self.shared.is_healthy.store(is_healthy, Ordering::SeqCst);
    }

    /// Makes it reset every connection once a request's first bytes are there.
    pub fn set_resetting(&self, is_resetting: bool) {
        self.shared.is_resetting.store(is_resetting, Ordering::SeqCst);
    }

    /// Makes it take connections and requests and answer none, `/healthz` neither.
    pub fn hang(&self) {
        self.shared.is_hanging.send_replace(true);
    }

    /// Ends [`Self::hang`]: what waits is answered.
    pub fn resume(&self) {
        self.shared.is_hanging.send_replace(false);
    }

    /// Closes its connections and refuses new ones, until [`Self::restart`]. Its port stays its own.
    pub fn stop(&self) {
        let Some(Accepting { _stop: stop, task }) = lock(&self.accepting).take() else { return };
        drop(stop);
        // The listener and the connections are gone when the task is.
        block_on(task).expect("a task that does not panic");
        self.shared.stops.send_modify(|n| *n += 1);
        match &self.address {
            Address::Tcp(address) => *lock(&self.reserved) = Some(listening::reserve(*address)),
            Address::Unix(path) => drop(std::fs::remove_file(path)),
        }
    }

    /// Listens again where it did before [`Self::stop`].
    pub fn restart(&self) {
        self.stop();
        let reserved = lock(&self.reserved).take();
        let listening = block_on(async {
            match (&self.address, reserved) {
                (Address::Tcp(_), Some(socket)) => Listening::on(socket),
                (Address::Tcp(address), None) => Listening::tcp(*address),
                (Address::Unix(path), _) => Listening::unix(path),
            }
        });
        self.accept(listening);
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stops.send_modify(|n| *n += 1);
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A test that panicked with a lock held must not hide its message behind another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
