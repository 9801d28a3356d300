//! A client's connection whose pace is watched: answers that are taken too slowly, floods of HTTP/2 frames.
//!
//! Place: below `stream`, above the socket or its TLS. It changes no byte that passes. A flood ends with GOAWAY
//! (`ENHANCE_YOUR_CALM`) where a frame may stand, and what still comes is dropped for a moment, so that the client can read
//! that; from there on Pingora sees the end of the connection.

use std::{
    io,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tracing::debug;

use super::{
    calm::{Calm, GOAWAY},
    send_pace::SendPace,
    stream::Spoken,
};
use crate::{
    proxy::ConnectionInfo,
    telemetry::metrics::{LimitReached, ListenerMetrics},
};

/// Bytes that are dropped after a flood was ended.
const LINGER_BYTES: usize = 256 << 10;
/// How long that goes on.
const LINGER: Duration = Duration::from_millis(500);

/// A socket, or its TLS, that is watched.
pub(super) struct Guarded<S> {
    io: S,
    info: Arc<ConnectionInfo>,
    metrics: Arc<ListenerMetrics>,
    pace: SendPace,
    /// HTTP/2 only.
    calm: Option<Box<Calm>>,
    /// The connection was ended by us; what comes is dropped until then.
    over: Option<Over>,
}

struct Over {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    pub(super) fn new(
        io: S,
        info: Arc<ConnectionInfo>,
        metrics: Arc<ListenerMetrics>,
        spoken: Spoken,
    ) -> Self {
        let calm =
            (spoken == Spoken::Http2).then(|| Box::new(Calm::new(info.limits(), Instant::now())));
        Self { io, info, metrics, pace: SendPace::default(), calm, over: None }
    }

    fn reached(&self, limit: LimitReached) {
        self.metrics.limit_reached(limit);
        debug!(client = ?self.info.client, reason = limit.label(), "a limit ended a connection");
    }

    fn end(&mut self, cx: &mut Context<'_>, limit: LimitReached) {
        self.reached(limit);
        if self.calm.as_ref().is_some_and(|calm| calm.is_between_written()) {
            // The end does not wait for a client that takes nothing.
            let _ = Pin::new(&mut self.io).poll_write(cx, &GOAWAY);
        }
        let _ = Pin::new(&mut self.io).poll_flush(cx);
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        let until = Box::pin(tokio::time::sleep(LINGER));
        self.over = Some(Over { until, bytes_left: LINGER_BYTES });
    }

    /// Drops what still comes; then the end of the connection.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(over) = &mut self.over else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; 4096];
        while over.bytes_left > 0 {
            if over.until.as_mut().poll(cx).is_ready() {
                break;
            }
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
            over.bytes_left = over.bytes_left.saturating_sub(buf.filled().len());
        }
        over.bytes_left = 0;
        Poll::Ready(Ok(()))
    }

    /// Follows a write: how fast it went, and on HTTP/2 what was written.
    fn followed(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
        slices: &[impl Deref<Target = [u8]>],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(Ok(written)) = result else {
            if result.is_pending() {
                self.pace.is_blocked();
            }
            return result;
        };
        let rate = self.info.limits().min_send_rate;
        if !self.pace.took(written, rate) && !self.info.is_web_socket() {
            self.reached(LimitReached::SendRate);
            let slow = "the client takes bytes too slowly";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, slow)));
        }
        let Some(calm) = &mut self.calm else { return result };
        let (metrics, info) = (&self.metrics, &self.info);
        let count = |limit: LimitReached| {
            metrics.limit_reached(limit);
            debug!(client = ?info.client, reason = limit.label(), "a limit of HTTP/2 was reached");
        };
        let (mut left, mut over) = (written, None);
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            left -= part.len();
            over = over.or(calm.saw_written(part, Instant::now, count));
        }
        if let Some(limit) = over {
            self.end(cx, limit);
            // The reading side must find that out.
            cx.waker().wake_by_ref();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.over.is_some() {
            return this.poll_over(cx);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let Some(calm) = &mut this.calm else { return Poll::Ready(Ok(())) };
        let new = buf.filled().get(before..).unwrap_or_default();
        match calm.saw_read(new, Instant::now) {
            None => Poll::Ready(Ok(())),
            Some(limit) => {
                buf.set_filled(before);
                this.end(cx, limit);
                this.poll_over(cx)
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.over.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.followed(cx, result, &[bytes])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.over.is_some() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.followed(cx, result, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.over.is_some() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut this.io).poll_flush(cx).map_ok(|()| 0);
        this.followed(cx, result, &[] as &[&[u8]]).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
