//! Accept loops: one task for each socket; one task for each connection.
//!
//! Place: first on the path of a request. What is decided here: whether there is room for the connection, and what it
//! speaks. A connection's task ends with the connection, with its listener's drain limit, or with the edge.

use std::{
    future::ready,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::{
        Arc,
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
    guarded::Guarded,
    handshake::{Greeted, Shaken, shake},
    handshakes::Handshakes,
    networks::{Counted, Networks, client_network},
    peeked::{ClientSocket, Peeked},
    preface::sniff,
    proxy_header, refusal,
    socket::BoundSocket,
    stream::{ClientStream, Parts, Spoken},
};
use crate::{
    config::{ListenerConfig, ListenerLimits, ListenerProtocol},
    proxy::{Arrival, ConnectionInfo, Ending, TlsFacts, send_on},
    snapshot::Tunnel,
    telemetry::metrics::{
        ConnectionRefused, HandshakeFailure, HeadRefused, ListenerMetrics, OpenConnection,
    },
    types::{Name, ProxyHeader},
};

/// The pause after an accept that failed for want of something (file descriptors, memory): it doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Bytes of a client's first message that are remembered where it may have to be sent on. Those of today have two kilobytes.
pub(super) const MAX_CLIENT_HELLO: usize = 16 << 10;

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
    /// Its accept loops. After its end each still takes what waits in the kernel.
    loops: AtomicUsize,
    freed: Notify,
    by_client: Arc<Networks>,
    handshakes: Handshakes,
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
            loops: AtomicUsize::new(0),
            freed: Notify::new(),
            by_client: Arc::default(),
            handshakes: Handshakes::default(),
        }
    }

    /// Takes changed settings; loops that wait for room look again.
    pub(super) fn change(&self, config: ListenerConfig, metrics: Arc<ListenerMetrics>) {
        self.name.store(Arc::new(config.name.clone()));
        self.config.store(Arc::new(config));
        self.metrics.store(metrics);
        self.freed.notify_waiters();
        self.handshakes.look_again();
    }

    /// How much a listener that ends has left: connections, and accept loops that still take some.
    pub(super) fn left(&self) -> usize {
        let is_stopped = self.stopped.is_cancelled();
        let loops = if is_stopped { self.loops.load(Ordering::Acquire) } else { 0 };
        self.open.load(Ordering::Acquire) + loops
    }

    /// A listener that is gone and has no connection serves nothing: its last snapshot is let go.
    fn let_go_if_empty(&self) {
        if self.stopped.is_cancelled() && self.left() == 0 {
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

    /// Counts a connection against the limit of its client's network, where there is one.
    fn count(&self, client: Option<SocketAddr>) -> Result<Option<Counted>, ConnectionRefused> {
        let limits = self.config.load().limits;
        match (limits.max_connections_per_client, self.counted_as(client, &limits)) {
            (Some(most), Some(network)) => self
                .by_client
                .add(network, most)
                .map(Some)
                .map_err(|_| ConnectionRefused::ClientLimit),
            _ => Ok(None),
        }
    }

    /// What the present configuration has for this listener, or the last one for a listener that is gone.
    fn tunnel(&self, listener: &Name) -> Option<Arc<Tunnel>> {
        match self.ending.last.load_full() {
            Some(last) => last.tunnel_of(listener),
            None => (self.choosers.tunnel)(listener),
        }
    }

    /// A place for the handshake of a client; `None` for one that is not counted.
    fn admit_handshake(
        &self,
        client: Option<SocketAddr>,
        limits: &ListenerLimits,
    ) -> Result<Option<Counted>, ConnectionRefused> {
        let Some(network) = self.counted_as(client, limits) else { return Ok(None) };
        let counted = self.handshakes.by_network.add(network, limits.max_handshakes_per_client);
        counted.map(Some).map_err(|_| ConnectionRefused::HandshakeLimit)
    }

    /// The network that a client belongs to; `None` for trusted proxies and Unix sockets, which are not counted.
    fn counted_as(&self, client: Option<SocketAddr>, limits: &ListenerLimits) -> Option<IpAddr> {
        let address = client?.ip();
        (!(self.choosers.trusted)(address)).then(|| client_network(address, limits.client_prefix))
    }
}

/// A connection's place among those that are open.
struct Place {
    gate: Arc<Gate>,
    /// Where its client's network is counted.
    counted: Option<Counted>,
    _open: OpenConnection,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::AcqRel);
        self.gate.let_go_if_empty();
        self.gate.freed.notify_waiters();
    }
}

/// Accepts on one socket until the listener stops; then what waits in the kernel is still taken, unless another process
/// has the socket too.
pub(super) async fn accept(socket: BoundSocket, gate: Arc<Gate>, engine: Arc<dyn Serve>) {
    gate.loops.fetch_add(1, Ordering::AcqRel);
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
    gate.loops.fetch_sub(1, Ordering::AcqRel);
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // File descriptors come back as connections end; all of them have, when the drain is over.
            Err(_) => {
                gate.metrics.load().refused(ConnectionRefused::Socket);
                tokio::select! {
                    () = gate.ending.all.cancelled() => return,
                    () = tokio::time::sleep(PAUSE.0) => {}
                }
            }
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
            debug!(client = ?accepted.client, reason = reason.label(), "connection refused");
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

/// One connection, from its first byte to its last. What its opening needs is freed before the rest begins.
async fn connection<S: ClientSocket>(
    stream: S,
    accepted: Accepted,
    place: &mut Place,
    gate: &Gate,
    engine: &dyn Serve,
) {
    if let Some(opened) = Box::pin(open(stream, accepted, place, gate, engine)).await {
        opened.await;
    }
}

/// The rest of a connection's life.
type Opened<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What comes before the first request: PROXY header, handshake, the protocol that is spoken. `None` where it ends there.
async fn open<'a, S: ClientSocket>(
    stream: S,
    mut accepted: Accepted,
    place: &mut Place,
    gate: &'a Gate,
    engine: &'a dyn Serve,
) -> Option<Opened<'a>> {
    let config = gate.config.load_full();
    let metrics = gate.metrics.load_full();
    let mut stream = Peeked::new(stream);
    if config.proxy_from.includes(accepted.client) {
        match proxy_header::read_within(config.limits.head, &mut stream).await {
            Ok(ProxyHeader::Relayed { source, destination }) => {
                (accepted.client, accepted.local) = (Some(source), Some(destination));
                match gate.count(accepted.client) {
                    Ok(counted) => place.counted = counted,
                    Err(reason) => {
                        metrics.refused(reason);
                        return None;
                    }
                }
            }
            // The address is the balancer's, which is nobody's client.
            Ok(ProxyHeader::Unknown | ProxyHeader::Local) => {}
            Err(error) => {
                debug!(listener = %config.name, %error, "no PROXY header");
                metrics.refused(ConnectionRefused::ProxyHeader);
                let log = refusal::access_log(&gate.ending, &gate.choosers.access_log);
                if let Some(log) = log {
                    refusal::log_proxy_header(&log, &config.name, accepted.client);
                }
                return None;
            }
        }
    }
    let ConnectionEnds { client, local } = ends(accepted);
    if !config.protocol.is_http() {
        // The listener may have changed since its settings were looked at.
        let tunnel = gate.tunnel(&config.name)?;
        let arrival = Arrival { client, local, server_name: None, opening: Vec::new() };
        return Some(Box::pin(send_on(stream, arrival, tunnel, &gate.ending)));
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
            metrics.clone(),
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
        let counted = match gate.admit_handshake(client, &config.limits) {
            Ok(counted) => counted,
            Err(reason) => {
                debug!(?client, reason = reason.label(), "connection refused");
                metrics.refused(reason);
                return None;
            }
        };
        let shaking = async {
            let _place = gate.handshakes.place(config.limits.max_handshakes).await;
            shake(stream, address, &choose, &gate.choosers.challenges).await
        };
        let shaken = timeout(config.limits.handshake, shaking).await;
        drop(counted);
        let shaken = match shaken {
            Ok(Ok(Greeted::Shaken(shaken))) => *shaken,
            Ok(Ok(Greeted::SentOn { client: mut stream, server_name, tunnel })) => {
                let opening = stream.forget();
                let arrival = Arrival { client, local, server_name, opening };
                return Some(Box::pin(send_on(stream, arrival, tunnel, &gate.ending)));
            }
            Ok(Ok(Greeted::Validated)) => {
                debug!(listener = %config.name, ?client, "an authority validated a name");
                return None;
            }
            Ok(Err(reason)) => {
                debug!(listener = %config.name, reason = reason.label(), "handshake failed");
                metrics.handshake_failed(reason);
                return None;
            }
            Err(_) => {
                debug!(listener = %config.name, reason = "timeout", "handshake failed");
                metrics.handshake_failed(HandshakeFailure::Timeout);
                return None;
            }
        };
        let Shaken { mut stream, facts, digest, version, is_http2 } = shaken;
        metrics.handshake(version);
        let (spoken, replay) = if is_http2 {
            // Pingora waits for the preface without a limit.
            match timeout(config.limits.head, sniff(&mut stream)).await {
                Ok(Ok((Spoken::Http2, replay))) => (Spoken::Http2, replay),
                Ok(Ok((Spoken::Http1, _)) | Err(_)) => return None,
                Err(_) => {
                    metrics.head_refused(HeadRefused::Timeout);
                    return None;
                }
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
        return Some(serve(parts, gate, engine));
    }
    let (spoken, replay) = if matches!(config.protocol, ListenerProtocol::Http { h2c: true }) {
        match timeout(config.limits.head, sniff(&mut stream)).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => return None,
            // Nothing came, or not enough of it.
            Err(_) => {
                metrics.head_refused(HeadRefused::Timeout);
                return None;
            }
        }
    } else {
        (Spoken::Http1, Bytes::new())
    };
    Some(serve(
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
    ))
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

/// Has the connection served. No `async fn`: its state would be part of every connection's.
fn serve<'a, S>(parts: Parts<S>, gate: &'a Gate, engine: &'a dyn Serve) -> Opened<'a>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let is_late = gate.ending.announced.load(Ordering::Acquire);
    let shutdown = if is_late { &gate.late_shutdown } else { &gate.shutdown };
    let Parts { io, fd, info, spoken, ssl, replay, metrics, access_log } = parts;
    let io = Guarded::new(io, info.clone(), metrics.clone(), spoken);
    match ClientStream::new(Parts { io, fd, info, spoken, ssl, replay, metrics, access_log }) {
        Ok(stream) => engine.serve(Box::new(stream), shutdown),
        Err(error) => {
            warn!(%error, "a connection can't be served");
            Box::pin(ready(()))
        }
    }
}
