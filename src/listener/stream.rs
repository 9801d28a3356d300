//! A client's connection as Pingora reads and writes it: our own I/O type over TCP, Unix sockets and TLS.
//!
//! Place: between the socket and Pingora's session. It holds no read buffer. On HTTP/1.1 it watches heads arrive (limits,
//! deadline, idle time) and can answer 408, 414 and 431 before Pingora sees a request; on every protocol it ends a
//! connection whose client takes no bytes. It looks at no content.

use std::{
    fmt, io,
    os::fd::RawFd,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, l4::socket::SocketAddr as PingoraAddr,
    raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    head::{Breach, Head, Progress},
    web_socket::{CLOSE_SERVICE_RESTART, Frames},
};
use crate::{
    proxy::{ConnectionInfo, Ending},
    telemetry::metrics::{HeadRefused, LimitReached, ListenerMetrics},
};

/// Bytes that are read and dropped after a refusal, so that the client can read the answer before a reset.
const LINGER_BYTES: usize = 256 << 10;
/// How long that goes on.
const LINGER: Duration = Duration::from_millis(500);

/// The end of a head.
const HEAD_END: &[u8] = b"\r\n\r\n";

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
}

/// A client's connection.
pub(super) struct ClientStream<S> {
    io: S,
    fd: RawFd,
    info: Arc<ConnectionInfo>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    ssl_digest: Option<Arc<SslDigest>>,
    spoken: Spoken,
    established: SystemTime,
    replay: Bytes,
    reading: Reading,
    head: Head,
    /// Between two requests, not before the first.
    is_reused: bool,
    read_timer: Timer,
    write_timer: Timer,
    /// Ready when connections between two requests end.
    idle_ends: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Made when the connection becomes a WebSocket.
    web_socket: Option<Box<WebSocket>>,
    metrics: Arc<ListenerMetrics>,
}

/// A WebSocket that may have to be closed by us.
struct WebSocket {
    /// How many bytes of [`HEAD_END`] have been written last; all of them once the 101 is out.
    head_end: usize,
    /// The frames on their way to the client.
    frames: Frames,
    /// Ready when WebSockets end.
    ends: Pin<Box<WaitForCancellationFutureOwned>>,
    closing: Closing,
}

impl WebSocket {
    fn new(ending: &Ending) -> Self {
        let ends = Box::pin(ending.streams.child_token().cancelled_owned());
        Self { head_end: 0, frames: Frames::default(), ends, closing: Closing::No }
    }
}

/// How far the closing of a WebSocket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// It is not closed.
    No,
    /// Its turn in the spread is awaited, by the read timer.
    Waiting,
    /// The close frame is written from this byte on, as soon as no frame is under way.
    Writing(usize),
    /// It is written.
    Done,
}

/// Where the reading side of an HTTP/1.1 connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// A head is awaited or arriving.
    Head,
    /// A request is under way: bytes pass.
    Request,
    /// An answer to a broken head is being written from this place on.
    Refusing { breach: Breach, written: usize },
    /// It is written; what the client still sends is dropped.
    Lingering { left: usize },
    /// Nothing more is read.
    Closed,
}

/// A timer that is made when it is first needed and then used again.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
}

impl Timer {
    fn arm(&mut self, after: Duration) {
        if self.is_armed {
            return;
        }
        let deadline = Instant::now() + after;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
        self.is_armed = true;
    }

    fn disarm(&mut self) {
        self.is_armed = false;
    }

    /// Whether it has run out; registers the task otherwise.
    fn has_run_out(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_armed && self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl<S> ClientStream<S> {
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
            io: parts.io,
            fd: parts.fd,
            info: parts.info,
            spoken: parts.spoken,
            established: SystemTime::now(),
            replay: parts.replay,
            reading: if parts.spoken == Spoken::Http1 { Reading::Head } else { Reading::Request },
            head: Head::default(),
            is_reused: false,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            idle_ends,
            web_socket: None,
            metrics: parts.metrics,
        })
    }

    fn refuse(&mut self, breach: Breach) {
        self.metrics.head_refused(match breach {
            Breach::TargetTooLong => HeadRefused::UriTooLong,
            Breach::TooLarge => HeadRefused::TooLarge,
            Breach::TooManyFields => HeadRefused::TooManyFields,
            Breach::TooSlow => HeadRefused::Timeout,
            Breach::Malformed => HeadRefused::Malformed,
        });
        self.read_timer.disarm();
        self.reading = Reading::Refusing { breach, written: 0 };
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Bytes from the socket, or those that were read before.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.replay.len().min(buf.remaining());
        if let Some(part) = self.replay.get(..length) {
            buf.put_slice(part);
        }
        self.replay.advance(length);
        Poll::Ready(Ok(()))
    }

    /// Reads a head, or the wait for one.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.poll_bytes(cx, buf) {
            Poll::Ready(Ok(())) => {
                let limits = *self.info.limits();
                let new = buf.filled().get(before..).unwrap_or_default();
                if new.is_empty() {
                    self.reading = Reading::Closed;
                    return Poll::Ready(Ok(()));
                }
                if !self.head.has_begun() {
                    self.read_timer.disarm();
                }
                match self.head.feed(new, &limits) {
                    Progress::Incomplete => {
                        // From here on the deadline of the whole head runs; it is armed once.
                        self.read_timer.arm(limits.head);
                        Poll::Ready(Ok(()))
                    }
                    Progress::Complete => {
                        self.read_timer.disarm();
                        self.info.head_is_done();
                        self.reading = Reading::Request;
                        Poll::Ready(Ok(()))
                    }
                    Progress::Over(breach) => {
                        buf.set_filled(before);
                        self.refuse(breach);
                        self.poll_refusal(cx)
                    }
                }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_wait(cx),
        }
    }

    /// Nothing came: the deadlines of a head, or of the silence before it.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let limits = self.info.limits();
        if self.head.has_begun() {
            if self.read_timer.has_run_out(cx) {
                self.refuse(Breach::TooSlow);
                return self.poll_refusal(cx);
            }
            return Poll::Pending;
        }
        let idle =
            if self.is_reused { limits.keep_alive } else { limits.head.min(limits.keep_alive) };
        self.read_timer.arm(idle);
        // A connection between two requests ends with its listener; a new one still gets its first answer.
        let is_drained = self.is_reused && self.idle_ends.as_mut().poll(cx).is_ready();
        let is_silent = self.read_timer.has_run_out(cx);
        if is_silent {
            self.metrics.limit_reached(LimitReached::KeepAlive);
        }
        if is_drained || is_silent {
            self.reading = Reading::Closed;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Writes the answer to a broken head and lets the client read it. Ends with an end of file for Pingora.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.reading {
                Reading::Refusing { breach, written } => {
                    self.read_timer.arm(self.info.limits().write_stall);
                    let rest = breach.answer().get(written..).unwrap_or_default();
                    if rest.is_empty() {
                        if Pin::new(&mut self.io).poll_flush(cx).is_pending()
                            && !self.read_timer.has_run_out(cx)
                        {
                            return Poll::Pending;
                        }
                        // The other end may be gone; there is nothing left to do about it.
                        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
                        self.read_timer.disarm();
                        self.read_timer.arm(LINGER);
                        self.reading = Reading::Lingering { left: LINGER_BYTES };
                        continue;
                    }
                    match Pin::new(&mut self.io).poll_write(cx, rest) {
                        Poll::Ready(Ok(more)) if more > 0 => {
                            self.reading = Reading::Refusing { breach, written: written + more };
                        }
                        Poll::Pending if !self.read_timer.has_run_out(cx) => return Poll::Pending,
                        Poll::Ready(_) | Poll::Pending => self.reading = Reading::Closed,
                    }
                }
                Reading::Lingering { left } => {
                    let mut scratch = [0; 4096];
                    let mut buf = ReadBuf::new(&mut scratch);
                    match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                        Poll::Ready(Ok(()))
                            if !buf.filled().is_empty() && left > buf.filled().len() =>
                        {
                            self.reading = Reading::Lingering { left: left - buf.filled().len() };
                        }
                        Poll::Pending if !self.read_timer.has_run_out(cx) => return Poll::Pending,
                        Poll::Ready(_) | Poll::Pending => self.reading = Reading::Closed,
                    }
                }
                Reading::Closed | Reading::Head | Reading::Request => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Whether the edge has closed this WebSocket; while it has not, the task is told when it must.
    fn web_socket_is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.info.is_web_socket() {
            return false;
        }
        let ending = self.info.ending();
        let socket = self.web_socket.get_or_insert_with(|| Box::new(WebSocket::new(ending)));
        if socket.closing == Closing::No && socket.ends.as_mut().poll(cx).is_ready() {
            let spread = ending.spread_millis.load(Ordering::Acquire);
            self.read_timer.disarm();
            self.read_timer.arm(Duration::from_millis(fastrand::u64(0..=spread)));
            socket.closing = Closing::Waiting;
        }
        if socket.closing == Closing::Waiting && self.read_timer.has_run_out(cx) {
            self.read_timer.disarm();
            socket.closing = Closing::Writing(0);
        }
        while let Closing::Writing(written) = socket.closing {
            // In the middle of the endpoint's frame: the write that ends it wakes nobody here, the next read looks again.
            if written == 0 && (socket.head_end < HEAD_END.len() || !socket.frames.is_between()) {
                return false;
            }
            let rest = CLOSE_SERVICE_RESTART.get(written..).unwrap_or_default();
            if rest.is_empty() {
                let _ = Pin::new(&mut self.io).poll_flush(cx);
                socket.closing = Closing::Done;
                break;
            }
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(more)) if more > 0 => {
                    socket.closing = Closing::Writing(written + more);
                }
                Poll::Ready(_) => socket.closing = Closing::Done,
                Poll::Pending => return false,
            }
        }
        socket.closing == Closing::Done
    }

    /// Follows what goes to the client of a WebSocket: after the head of the 101, frames.
    fn saw_written(&mut self, result: &Poll<io::Result<usize>>, bytes: &[u8]) {
        let Poll::Ready(Ok(length)) = result else { return };
        if self.web_socket.is_none() && !self.info.is_web_socket() {
            return;
        }
        let ending = self.info.ending();
        let socket = self.web_socket.get_or_insert_with(|| Box::new(WebSocket::new(ending)));
        let mut written = bytes.get(..*length).unwrap_or_default();
        while socket.head_end < HEAD_END.len()
            && let Some((first, rest)) = written.split_first()
        {
            let is_next = HEAD_END.get(socket.head_end) == Some(first);
            socket.head_end =
                if is_next { socket.head_end + 1 } else { usize::from(*first == b'\r') };
            written = rest;
        }
        socket.frames.feed(written);
    }

    /// Ends a write that makes no progress for too long.
    fn stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer.disarm();
            return result;
        }
        self.write_timer.arm(self.info.limits().write_stall);
        if self.write_timer.has_run_out(cx) {
            self.metrics.limit_reached(LimitReached::WriteStall);
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes no bytes",
            )));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.reading == Reading::Request
            && this.spoken == Spoken::Http1
            && this.info.awaits_head()
        {
            this.reading = Reading::Head;
            this.head = Head::default();
            this.is_reused = true;
            this.read_timer.disarm();
        }
        match this.reading {
            Reading::Request => {
                if this.web_socket_is_closed(cx) {
                    this.reading = Reading::Closed;
                    return Poll::Ready(Ok(()));
                }
                this.poll_bytes(cx, buf)
            }
            Reading::Head => this.poll_head(cx, buf),
            Reading::Refusing { .. } | Reading::Lingering { .. } => {
                ready!(this.poll_refusal(cx))?;
                Poll::Ready(Ok(()))
            }
            Reading::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.web_socket.as_ref().is_some_and(|socket| socket.closing == Closing::Done) {
            // Nothing may follow our close frame; the endpoint's last frames are dropped.
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.saw_written(&result, bytes);
        this.stalled(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.web_socket.is_some() {
            // One slice at a time: frames are followed there.
            let first =
                slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return Pin::new(this).poll_write(cx, first);
        }
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.stalled(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_flush(cx);
        this.stalled(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_shutdown(cx);
        this.stalled(cx, result)
    }
}

impl<S> fmt::Debug for ClientStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream")
            .field("info", &self.info)
            .field("spoken", &self.spoken)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Shutdown for ClientStream<S> {
    async fn shutdown(&mut self) {
        // The other end may be gone already.
        drop(tokio::io::AsyncWriteExt::shutdown(self).await);
    }
}

impl<S> UniqueID for ClientStream<S> {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl<S> Ssl for ClientStream<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl_digest.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        // On a plain connection too: the preface was seen, and Pingora's own look at it has no deadline.
        (self.spoken == Spoken::Http2).then_some(ALPN::H2)
    }
}

#[async_trait]
impl<S: Send> Peek for ClientStream<S> {}

impl<S> GetTimingDigest for ClientStream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl<S> GetProxyDigest for ClientStream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.proxy_digest.clone())
    }
}

impl<S> GetSocketDigest for ClientStream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}
