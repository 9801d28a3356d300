//! Sockets of origins: binding, accepting, one task a connection.

use std::{
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Version, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Address, Handshake, Shared,
    builder::Protocol,
    lock,
    service::{Ended, answer},
};

/// A bound socket.
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds a port without listening: connections to it are refused, and nobody else gets it.
pub(in crate::harness) fn reserve(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).expect("the port that was ours");
    socket
}

impl Listening {
    pub(super) fn tcp(address: SocketAddr) -> Self {
        Self::on(reserve(address))
    }

    /// Starts to listen on a bound socket.
    pub(super) fn on(socket: Socket) -> Self {
        socket.listen(1_024).expect("a listening socket");
        socket.set_nonblocking(true).expect("an option");
        Self::Tcp(TcpListener::from_std(socket.into()).expect("a listener"))
    }

    pub(super) fn unix(path: &Path) -> Self {
        Self::Unix(UnixListener::bind(path).expect("a Unix socket"))
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr().expect("an address")),
            Self::Unix(listener) => {
                let address = listener.local_addr().expect("an address");
                Address::Unix(address.as_pathname().expect("a path").to_owned())
            }
        }
    }

    /// Takes connections until it is stopped. When it returns, all of them have ended.
    pub(super) async fn accept(self, shared: Arc<Shared>, stopped: oneshot::Receiver<()>) {
        let mut connections = JoinSet::new();
        tokio::select! {
            () = self.accept_into(&mut connections, &shared) => {}
            _ = stopped => {}
        }
        drop(self);
        connections.shutdown().await;
    }

    async fn accept_into(&self, connections: &mut JoinSet<()>, shared: &Arc<Shared>) {
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = match self {
                Self::Tcp(listener) => {
                    listener.accept().await.map(|(stream, _)| Stream::Tcp(stream))
                }
                Self::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| Stream::Unix(stream))
                }
            };
            match accepted {
                Ok(stream) => {
                    let shared = Arc::clone(shared);
                    connections.spawn(async move { serve(stream, shared).await });
                }
                // Out of descriptors: what is open goes on.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Counts an open connection for as long as it lives.
pub(super) struct Open(Arc<Shared>);

impl Open {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: Stream, shared: Arc<Shared>) {
    let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    let _open = Open::of(&shared);
    if shared.is_resetting.load(Ordering::SeqCst) {
        return reset(stream).await;
    }
    let tls = lock(&shared.tls).clone();
    match (stream, tls) {
        (Stream::Tcp(stream), None) => {
            let _ = stream.set_nodelay(true);
            speak(stream, number, shared).await;
        }
        (Stream::Unix(stream), None) => speak(stream, number, shared).await,
        (Stream::Tcp(stream), Some(tls)) => {
            let _ = stream.set_nodelay(true);
            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                lock(&shared.handshakes).push(Handshake::of(stream.get_ref().1));
                speak(stream, number, shared).await;
            }
        }
        (Stream::Unix(stream), Some(tls)) => {
            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                lock(&shared.handshakes).push(Handshake::of(stream.get_ref().1));
                speak(stream, number, shared).await;
            }
        }
    }
}

/// Waits for the first byte, leaves it unread and resets.
async fn reset(stream: Stream) {
    match stream {
        Stream::Tcp(stream) => {
            let _ = stream.peek(&mut [0]).await;
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Stream::Unix(stream) => {
            let _ = stream.readable().await;
        }
    }
}

/// What the requests of one connection tell its task.
pub(super) struct Activity {
    since: Mutex<Instant>,
    in_flight: AtomicU64,
    changed: Notify,
}

impl Activity {
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        *lock(&self.since) = Instant::now();
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Returns when nothing has been asked for `limit`.
    async fn idle(&self, limit: Duration) {
        loop {
            let idle = lock(&self.since).elapsed();
            if self.in_flight.load(Ordering::SeqCst) > 0 {
                self.changed.notified().await;
            } else if idle >= limit {
                return;
            } else {
                tokio::time::sleep(limit.saturating_sub(idle)).await;
            }
        }
    }
}

async fn speak<S>(stream: S, number: u64, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity {
        since: Mutex::new(Instant::now()),
        in_flight: AtomicU64::new(0),
        changed: Notify::new(),
    });
    let finish = Arc::new(Notify::new());
    let served = Arc::new(AtomicU64::new(0));
    let service = service_fn({
        let (shared, activity, finish) = (shared.clone(), activity.clone(), finish.clone());
        move |request: Request<Incoming>| {
            let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
            let count = served.fetch_add(1, Ordering::SeqCst) + 1;
            let is_last = shared.options.requests_per_connection.is_some_and(|most| count >= most);
            let is_http2 = request.version() == Version::HTTP_2;
            if is_last && is_http2 {
                finish.notify_one();
            }
            async move {
                activity.begin();
                let mut answered = answer(&shared, number, request).await;
                activity.end();
                if let (Ok(response), true, false) = (&mut answered, is_last, is_http2) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answered.map_err(|Ended| Closing)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    match shared.options.protocol {
        Protocol::Either => {}
        Protocol::Http1 => builder = builder.http1_only(),
        Protocol::Http2 => builder = builder.http2_only(),
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new());
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let idle = async {
        match shared.options.keep_alive {
            Some(limit) => activity.idle(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = idle => {}
        () = finish.notified() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// The service closes the connection in place of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the origin closes the connection")]
struct Closing;
