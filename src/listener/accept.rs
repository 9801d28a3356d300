//! Accept loops: one task for each socket; one task for each connection.
//!
//! Place: first on the path of a request. What is decided here: whether there is room for the connection, and what it
//! speaks. A connection's task ends with the connection, with its listener's drain limit, or with the edge.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use pingora_core::server::ShutdownWatch;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Notify,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Choosers, Serve,
    handshake::{Greeted, Shaken, shake},
    peeked::{ClientSocket, Peeked},
    preface::sniff,
    proxy_header,
    socket::BoundSocket,
    stream::{ClientStream, Parts, Spoken},
};
use crate::{
    config::{ListenerConfig, ListenerProtocol},
    proxy::{Arrival, ConnectionInfo, Ending, TlsFacts, send_on},
    snapshot::Tunnel,
    telemetry::metrics::{ConnectionRefused, HandshakeFailure, ListenerMetrics, OpenConnection},
    types::{Name, ProxyHeader},
};

/// The pause after an accept that failed for want of something (file descriptors, memory): it doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Bytes of a client's first message that are remembered where it may have to be sent on. Those of today have two kilobytes.
const MAX_CLIENT_HELLO: usize = 16 << 10;

/// What all sockets of one listener share.
pub(super) struct Gate {
    pub(super) config: ArcSwap<ListenerConfig>,
    /// Its name, which connections share: they follow it when it changes.
    name: Arc<ArcSwap<Name>>,
    pub(super) metrics: ArcSwap<ListenerMetrics>,
    choosers: Choosers,
    /// No more connections are taken.
    pub(super) stopped: CancellationToken,
    /// And what waits in the kernel is taken by another process.
    pub(super) is_left: AtomicBool,
    /// How its connections end.
    pub(super) ending: Arc<Ending>,
    /// True with the announcement of the end, in Pingora's form: HTTP/2 gets GOAWAY.
    pub(super) shutdown: ShutdownWatch,
    /// The same for connections that come after the announcement: they get at least their first request served.
    pub(super) late_shutdown: ShutdownWatch,
    pub(super) open: AtomicUsize,
    freed: Notify,
    by_client: Mutex<HashMap<IpAddr, u32>>,
}

impl Gate {
    pub(super) fn new(
        config: ListenerConfig,
        metrics: Arc<ListenerMetrics>,
        choosers: Choosers,
        shutdown: ShutdownWatch,
        late_shutdown: ShutdownWatch,
    ) -> Self {
        Self {
            name: Arc::new(ArcSwap::from_pointee(config.name.clone())),
            config: ArcSwap::from_pointee(config),
            metrics: ArcSwap::new(metrics),
            choosers,
            stopped: CancellationToken::new(),
            is_left: AtomicBool::new(false),
            ending: Arc::default(),
            shutdown,
            late_shutdown,
            open: AtomicUsize::new(0),
            freed: Notify::new(),
            by_client: Mutex::default(),
        }
    }

    /// Takes changed settings; loops that wait for room look again.
    pub(super) fn change(&self, config: ListenerConfig, metrics: Arc<ListenerMetrics>) {
        self.name.store(Arc::new(config.name.clone()));
        self.config.store(Arc::new(config));
        self.metrics.store(metrics);
        self.freed.notify_waiters();
    }

    /// A listener that is gone and has no connection serves nothing: its last snapshot is let go.
    fn let_go_if_empty(&self) {
        if self.stopped.is_cancelled() && self.open.load(Ordering::Acquire) == 0 {
            self.ending.last.store(None);
        }
    }

    /// Waits until there is room for one more connection.
    async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that a place that is freed in between is not missed.
            freed.as_mut().enable();
            if self.open.load(Ordering::Acquire)
                < self.config.load().limits.max_connections as usize
            {
                return;
            }
            freed.await;
        }
    }

    /// A place for a connection from `client`, or the reason why there is none.
    fn admit(self: &Arc<Self>, client: Option<SocketAddr>) -> Result<Place, ConnectionRefused> {
        // Whoever is announced by a PROXY header is counted when it has come.
        let is_announced = self.config.load().proxy_from.includes(client);
        let counted = if is_announced { None } else { self.count(client)? };
        self.open.fetch_add(1, Ordering::AcqRel);
        Ok(Place { gate: self.clone(), counted, _open: self.metrics.load().accepted() })
    }

    /// Counts a connection against its client's limit: under which address, if under any.
    fn count(&self, client: Option<SocketAddr>) -> Result<Option<IpAddr>, ConnectionRefused> {
        let limit = self.config.load().limits.max_connections_per_client;
        let (Some(limit), Some(address)) = (limit, client) else { return Ok(None) };
        if (self.choosers.trusted)(address.ip()) {
            return Ok(None);
        }
        let network = client_network(address.ip());
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_client.entry(network).or_insert(0);
        if *count >= limit {
            return Err(ConnectionRefused::ClientLimit);
        }
        *count += 1;
        Ok(Some(network))
    }

    /// What the present configuration has for this listener, or the last one for a listener that is gone.
    fn tunnel(&self, listener: &Name) -> Option<Arc<Tunnel>> {
        match self.ending.last.load_full() {
            Some(last) => last.tunnel_of(listener),
            None => (self.choosers.tunnel)(listener),
        }
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which one household has to itself.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// A connection's place among those that are open.
struct Place {
    gate: Arc<Gate>,
    counted: Option<IpAddr>,
    _open: OpenConnection,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::AcqRel);
        self.gate.let_go_if_empty();
        self.gate.freed.notify_waiters();
        if let Some(network) = self.counted {
            let mut by_client = self.gate.by_client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = by_client.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    by_client.remove(&network);
                }
            }
        }
    }
}

/// Accepts on one socket until the listener stops; then what waits in the kernel is still taken, unless another process
/// has the socket too.
pub(super) async fn accept(socket: BoundSocket, gate: Arc<Gate>, engine: Arc<dyn Serve>) {
    let ended = match socket {
        BoundSocket::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(listener) => {
                accept_loop(listener, &gate, &engine).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
        BoundSocket::Unix(socket) => match UnixListener::from_std(socket) {
            Ok(listener) => {
                accept_loop(listener, &gate, &engine).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    gate.let_go_if_empty();
    if let Err(error) = ended {
        warn!(listener = %gate.config.load().name, %error, "a socket can't be used");
    }
}

/// A socket that connections come from.
trait Incoming: Send + Sync {
    type Stream: ClientSocket;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Accepted)>> + Send;

    /// A connection that waits in the kernel, asked for past the runtime, which may not know of it yet.
    fn next_now(&self) -> io::Result<(Self::Stream, Accepted)>;
}

impl Incoming for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Accepted)> {
        let (stream, client) = self.accept().await?;
        let (fd, local) = (stream.as_raw_fd(), stream.local_addr().ok());
        Ok((stream, Accepted { fd, client: Some(client), local }))
    }

    fn next_now(&self) -> io::Result<(TcpStream, Accepted)> {
        let (socket, client) = SockRef::from(self).accept()?;
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket.into())?;
        let (fd, local) = (stream.as_raw_fd(), stream.local_addr().ok());
        Ok((stream, Accepted { fd, client: client.as_socket(), local }))
    }
}

impl Incoming for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Accepted)> {
        let (stream, _) = self.accept().await?;
        let fd = stream.as_raw_fd();
        Ok((stream, Accepted { fd, client: None, local: None }))
    }

    fn next_now(&self) -> io::Result<(UnixStream, Accepted)> {
        let (socket, _) = SockRef::from(self).accept()?;
        socket.set_nonblocking(true)?;
        let stream = UnixStream::from_std(socket.into())?;
        let fd = stream.as_raw_fd();
        Ok((stream, Accepted { fd, client: None, local: None }))
    }
}

/// A connection as the kernel gives it.
#[derive(Clone, Copy)]
struct Accepted {
    fd: RawFd,
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

async fn accept_loop(listener: impl Incoming, gate: &Arc<Gate>, engine: &Arc<dyn Serve>) {
    let mut pause = PAUSE.0;
    // When a failure was logged last: once a second is enough for each socket.
    let mut told: Option<Instant> = None;
    loop {
        let next = async {
            gate.room().await;
            listener.next().await
        };
        let accepted = tokio::select! {
            biased;
            () = gate.stopped.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, accepted)) => {
                pause = PAUSE.0;
                take(stream, accepted, gate, engine);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                let now = Instant::now();
                if told.is_none_or(|told| now.duration_since(told) >= PAUSE.1) {
                    warn!(listener = %gate.config.load().name, %error, "accepting pauses");
                    told = Some(now);
                }
                gate.metrics.load().refused(ConnectionRefused::Socket);
                tokio::select! {
                    () = gate.stopped.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    if gate.is_left.load(Ordering::Acquire) {
        return;
    }
    // Clients whose connections wait in the kernel did nothing wrong.
    loop {
        match listener.next_now() {
            Ok((stream, accepted)) => take(stream, accepted, gate, engine),
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

/// The client was gone before it was accepted; the next one is not concerned.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Starts the task of one connection, if there is a place for it.
fn take<S: ClientSocket>(stream: S, accepted: Accepted, gate: &Arc<Gate>, engine: &Arc<dyn Serve>) {
    let mut place = match gate.admit(accepted.client) {
        Ok(place) => place,
        Err(reason) => {
            gate.metrics.load().refused(reason);
            return;
        }
    };
    let engine = engine.clone();
    tokio::spawn(async move {
        let gate = place.gate.clone();
        // A token of its own: many connections that wait on one would share its lock.
        let ended = gate.ending.all.child_token();
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = connection(stream, accepted, &mut place, &gate, &*engine) => {}
        }
        drop(place);
    });
}

/// One connection, from its first byte to its last.
async fn connection<S: ClientSocket>(
    stream: S,
    mut accepted: Accepted,
    place: &mut Place,
    gate: &Gate,
    engine: &dyn Serve,
) {
    let config = gate.config.load_full();
    let metrics = gate.metrics.load_full();
    let mut stream = Peeked::new(stream);
    if config.proxy_from.includes(accepted.client) {
        match proxy_header::read_within(config.limits.head, &mut stream).await {
            Ok(ProxyHeader::Relayed { source, destination }) => {
                (accepted.client, accepted.local) = (Some(source), Some(destination));
                match gate.count(accepted.client) {
                    Ok(counted) => place.counted = counted,
                    Err(reason) => return metrics.refused(reason),
                }
            }
            // The address is the balancer's, which is nobody's client.
            Ok(ProxyHeader::Unknown | ProxyHeader::Local) => {}
            Err(error) => {
                debug!(listener = %config.name, %error, "no PROXY header");
                return metrics.refused(ConnectionRefused::ProxyHeader);
            }
        }
    }
    let ConnectionEnds { client, local } = ends(accepted);
    if !config.protocol.is_http() {
        // The listener may have changed since its settings were looked at.
        let Some(tunnel) = gate.tunnel(&config.name) else { return };
        let arrival = Arrival { client, local, server_name: None, opening: Vec::new() };
        return Box::pin(send_on(stream, arrival, tunnel, &gate.ending)).await;
    }
    let access_log = gate.choosers.access_log.clone();
    let info = |tls: Option<TlsFacts>| {
        Arc::new(ConnectionInfo::new(
            gate.name.clone(),
            client,
            local,
            tls,
            config.limits,
            gate.ending.clone(),
        ))
    };
    if config.protocol.is_tls() {
        let choose = |name: Option<&str>, local: Option<IpAddr>| match gate.ending.last.load_full()
        {
            Some(last) => last.tls_for(&config.name, name, local),
            None => (gate.choosers.tls)(&config.name, name, local),
        };
        if !config.protocol.passthrough().is_empty() {
            stream.remember(MAX_CLIENT_HELLO);
        }
        let address = local.map(|local| local.ip());
        let shaken = match timeout(config.limits.handshake, shake(stream, address, &choose)).await {
            Ok(Ok(Greeted::Shaken(shaken))) => *shaken,
            Ok(Ok(Greeted::SentOn { client: mut stream, server_name, tunnel })) => {
                let opening = stream.forget();
                let arrival = Arrival { client, local, server_name, opening };
                return Box::pin(send_on(stream, arrival, tunnel, &gate.ending)).await;
            }
            Ok(Err(reason)) => {
                debug!(listener = %config.name, reason = reason.label(), "handshake failed");
                return metrics.handshake_failed(reason);
            }
            Err(_) => return metrics.handshake_failed(HandshakeFailure::Timeout),
        };
        let Shaken { mut stream, facts, digest, version, is_http2 } = shaken;
        metrics.handshake(version);
        let (spoken, replay) = if is_http2 {
            // Pingora waits for the preface without a limit.
            match timeout(config.limits.head, sniff(&mut stream)).await {
                Ok(Ok((Spoken::Http2, replay))) => (Spoken::Http2, replay),
                Ok(Ok((Spoken::Http1, _)) | Err(_)) | Err(_) => return,
            }
        } else {
            (Spoken::Http1, Bytes::new())
        };
        let info = info(Some(facts));
        let parts = Parts {
            io: stream,
            fd: accepted.fd,
            info,
            spoken,
            ssl: Some(digest),
            replay,
            metrics,
            access_log,
        };
        return serve(parts, gate, engine).await;
    }
    let (spoken, replay) = if matches!(config.protocol, ListenerProtocol::Http { h2c: true }) {
        match timeout(config.limits.head, sniff(&mut stream)).await {
            Ok(Ok(found)) => found,
            // Nothing came, or not enough of it.
            Ok(Err(_)) | Err(_) => return,
        }
    } else {
        (Spoken::Http1, Bytes::new())
    };
    serve(
        Parts {
            io: stream,
            fd: accepted.fd,
            info: info(None),
            spoken,
            ssl: None,
            replay,
            metrics,
            access_log,
        },
        gate,
        engine,
    )
    .await;
}

struct ConnectionEnds {
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

/// Both ends, IPv4 as IPv4 also where the socket is `[::]`.
fn ends(accepted: Accepted) -> ConnectionEnds {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    ConnectionEnds { client: accepted.client.map(canonical), local: accepted.local.map(canonical) }
}

async fn serve<S>(parts: Parts<S>, gate: &Gate, engine: &dyn Serve)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let is_late = gate.ending.announced.load(Ordering::Acquire);
    let shutdown = if is_late { &gate.late_shutdown } else { &gate.shutdown };
    match ClientStream::new(parts) {
        Ok(stream) => engine.serve(Box::new(stream), shutdown).await,
        Err(error) => warn!(%error, "a connection can't be served"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_of_ipv6_counts_as_one() {
        let network = |text: &str| client_network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:aaaa::1"), network("2001:db8:1:2:bbbb::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
