//! The admin listener's socket and connections.
//!
//! HTTP/1.1 only. Bounds: 64 connections (more are closed at once), 10 s for a request head or an idle connection, 64
//! KiB of head, one minute a connection. Dropping the future of [`AdminServer::serve`] closes the listener and every
//! connection; its token ends it in order, when another process answers on the socket.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Control, Token,
    handle::{Context, handle},
};
use crate::{
    listener::{BoundAddress, SocketSet, bind_unix},
    telemetry::audit::AdminPeer,
    types::ListenAddress,
};

const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD_BYTES: usize = 64 << 10;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// After it, a connection takes no new request.
const MAX_AGE: Duration = Duration::from_mins(1);
/// And what is under way has so long to end: a reload may wait for probes.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Pause after an accept that failed (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A Unix socket belongs to its user alone.
const SOCKET_MODE: u32 = 0o600;

/// A bound admin listener.
#[derive(Debug)]
pub struct AdminServer {
    listener: Listener,
    address: ListenAddress,
}

#[derive(Debug)]
enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl AdminServer {
    /// Binds the address. Port 0 takes a free one. A Unix socket belongs to its user alone (mode 0600); one that
    /// nobody listens on any more is replaced.
    ///
    /// # Errors
    /// What the system says; a path that is no socket, or a socket in use, is `AddrInUse`.
    pub fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = ListenAddress::Tcp(listener.local_addr()?);
                Ok(Self { listener: Listener::Tcp(listener), address })
            }
            ListenAddress::Unix(path) => {
                let listener = bind_unix(path, SOCKET_MODE)?;
                Ok(Self { listener: Listener::Unix(listener), address: address.clone() })
            }
        }
    }

    /// Takes sockets that are bound already.
    ///
    /// # Errors
    /// There is none.
    pub fn adopt(set: SocketSet) -> io::Result<Self> {
        let bound = set.address().clone();
        let address = bound.to_listen_address();
        let socket = set.into_first().ok_or(io::ErrorKind::InvalidInput)?;
        let listener = match bound {
            BoundAddress::Tcp(_) => Listener::Tcp(socket.into()),
            BoundAddress::Unix(_) => Listener::Unix(socket.into()),
        };
        Ok(Self { listener, address })
    }

    /// Another handle of its socket, for the process after this one.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub fn try_clone_socket(&self) -> io::Result<OwnedFd> {
        match &self.listener {
            Listener::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            Listener::Unix(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }

    /// Where it is bound, with the port that the system chose.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Answers until it is dropped, or until `left`: then it accepts no more and returns when its connections have ended.
    /// `token` is what requests must carry, where one is configured. Needs a Tokio runtime.
    ///
    /// # Errors
    /// The socket can't be registered with the runtime.
    pub async fn serve(
        self,
        control: Arc<dyn Control>,
        token: Option<Token>,
        left: CancellationToken,
    ) -> io::Result<()> {
        let context = Arc::new(Context { control, token });
        let mut connections = JoinSet::new();
        match self.listener {
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                while let Some(accepted) = left.run_until_cancelled(listener.accept()).await {
                    let accepted =
                        accepted.map(|(stream, address)| (stream, AdminPeer::Tcp(address)));
                    take(accepted, &mut connections, &context, &left).await;
                }
            }
            Listener::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                while let Some(accepted) = left.run_until_cancelled(listener.accept()).await {
                    let accepted = accepted.map(|(stream, _)| (stream, AdminPeer::UnixSocket));
                    take(accepted, &mut connections, &context, &left).await;
                }
            }
        }
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// Starts to answer a connection, where there is room for it.
async fn take<S>(
    accepted: io::Result<(S, AdminPeer)>,
    connections: &mut JoinSet<()>,
    context: &Arc<Context>,
    left: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Those that ended make room.
    while connections.try_join_next().is_some() {}
    match accepted {
        Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
            connections.spawn(answer(stream, Arc::clone(context), peer, left.clone()));
        }
        Ok(_) => tracing::debug!("admin connection closed: there are too many"),
        Err(error) => {
            tracing::warn!(%error, "admin connection can't be accepted");
            time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Answers the requests of one connection.
async fn answer<S>(stream: S, context: Arc<Context>, peer: AdminPeer, left: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, Infallible>(handle(request, &context, peer).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = time::timeout(MAX_AGE, left.cancelled()) => {
            connection.as_mut().graceful_shutdown();
            time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection failed");
    }
}
