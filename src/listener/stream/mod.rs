//! A client's connection as Pingora reads and writes it: our own I/O type over TCP, Unix sockets and TLS.
//!
//! Place: between the socket and Pingora's session. It holds no read buffer while a connection is idle. On HTTP/1.1 it
//! follows each message (`reading`): what is malformed, too large or too slow is answered before Pingora sees it. On
//! every protocol it ends a connection whose client takes no bytes.

mod closing;
mod reading;
mod timer;
mod traits;

use std::{
    future::poll_fn,
    os::fd::{BorrowedFd, RawFd},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::{
    SocketDigest, Stream, l4::socket::SocketAddr as PingoraAddr, raw_connect::ProxyDigest,
    tls::SslDigest,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::{closing::WebSocket, reading::Reading, timer::Timer};
use super::{AccessLogs, gathered::Gathered, http2_refusals::SentFrames};
use crate::{framing::RequestHead, proxy::ConnectionInfo, telemetry::metrics::ListenerMetrics};

/// What the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.1 (and 1.0).
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a [`ClientStream`] is made of.
pub(super) struct Parts<S> {
    pub(super) io: S,
    pub(super) fd: RawFd,
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) spoken: Spoken,
    pub(super) ssl: Option<SslDigest>,
    /// Bytes that were read already.
    pub(super) replay: Bytes,
    pub(super) metrics: Arc<ListenerMetrics>,
    pub(super) access_log: AccessLogs,
}

/// A client's connection.
pub(super) struct ClientStream<S> {
    io: Gathered<S>,
    fd: RawFd,
    info: Arc<ConnectionInfo>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    ssl_digest: Option<Arc<SslDigest>>,
    spoken: Spoken,
    established: SystemTime,
    reading: Reading,
    head: RequestHead,
    /// When the head began that is held, which is not whole yet.
    head_began: Option<Instant>,
    /// Bytes that were read and not handed out: a head that is not whole, or what came behind a message.
    held: BytesMut,
    /// So many of them, from the start, may go to Pingora.
    judged: usize,
    /// Between two requests, not before the first.
    is_reused: bool,
    read_timer: Timer,
    write_timer: Timer,
    /// Ready when connections between two requests end.
    idle_ends: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Made when the connection becomes a WebSocket.
    web_socket: Option<Box<WebSocket>>,
    /// Follows what goes out on HTTP/2.
    sent: SentFrames,
    metrics: Arc<ListenerMetrics>,
    access_log: AccessLogs,
}

impl<S> Drop for ClientStream<S> {
    fn drop(&mut self) {
        if self.info.is_broken_off() {
            #[expect(unsafe_code, reason = "the socket is known by its number only")]
            // SAFETY: `io` owns the socket with this number, and is dropped after this.
            let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
            // A socket that is closed with no time to linger resets. Where it can't be, the client is gone.
            drop(SockRef::from(&socket).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    /// A connection for Pingora.
    ///
    /// # Errors
    /// Never in practice, see [`ConnectionInfo::into_proxy_digest`].
    pub(super) fn new(parts: Parts<S>) -> pingora_error::Result<Self> {
        let socket_digest = SocketDigest::from_raw_fd(parts.fd);
        // The cells are new: setting them can't fail.
        drop(socket_digest.peer_addr.set(parts.info.client.map(PingoraAddr::Inet)));
        drop(socket_digest.local_addr.set(parts.info.local.map(PingoraAddr::Inet)));
        // A token of its own: many connections that wait on one would share its lock.
        let idle_ends = Box::pin(parts.info.ending().idle.child_token().cancelled_owned());
        Ok(Self {
            proxy_digest: Arc::new(parts.info.into_proxy_digest()?),
            socket_digest: Arc::new(socket_digest),
            ssl_digest: parts.ssl.map(Arc::new),
            io: Gathered::new(parts.io, parts.spoken == Spoken::Http1),
            fd: parts.fd,
            info: parts.info,
            spoken: parts.spoken,
            established: SystemTime::now(),
            reading: if parts.spoken == Spoken::Http1 { Reading::Head } else { Reading::Open },
            head: RequestHead::default(),
            head_began: None,
            judged: if parts.spoken == Spoken::Http1 { 0 } else { parts.replay.len() },
            held: BytesMut::from(parts.replay),
            is_reused: false,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            idle_ends,
            web_socket: None,
            sent: SentFrames::default(),
            metrics: parts.metrics,
            access_log: parts.access_log,
        })
    }
}

/// Waits on a connection of HTTP/1.1 until the next request's head is there, or false where none comes: nothing that
/// serves a request needs to exist before that.
pub async fn next_message(stream: &mut Stream) -> bool {
    let mut stream = Pin::new(stream);
    poll_fn(|cx| stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut []))).await.is_ok()
}
