//! Reading: heads and the wait for them with their limits, then whatever belongs to the request.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ClientStream;
use crate::{
    listener::head::{Breach, Progress},
    telemetry::metrics::HeadRefused,
};

/// Bytes that are read and dropped after a refusal, so that the client can read the answer before a reset.
const LINGER_BYTES: usize = 256 << 10;
/// How long that goes on.
const LINGER: Duration = Duration::from_millis(500);

/// Where the reading side of an HTTP/1.1 connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
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

impl<S> ClientStream<S> {
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
    pub(super) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        if is_drained || self.read_timer.has_run_out(cx) {
            self.reading = Reading::Closed;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Writes the answer to a broken head and lets the client read it. Ends with an end of file for Pingora.
    pub(super) fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
}
