//! Reading HTTP/1.1: each message is followed from its first byte to its last, and Pingora gets only what was judged.
//!
//! A head goes to Pingora when all of it is there and in order; a body as far as it is in order. What comes behind the end
//! of a message waits here until the answer is out. So Pingora never has a byte of two messages at once, and a message
//! that is broken is never followed by another on its connection.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::ClientStream;
use crate::{
    framing::{Body, Fault, HeadLimits, RequestHead, Whole},
    listener::refusal::{self, Refused},
    telemetry::metrics::LimitReached,
};

/// Bytes that are read and dropped after a refusal, so that the client can read the answer before a reset.
const LINGER_BYTES: usize = 256 << 10;
/// How long that goes on.
const LINGER: Duration = Duration::from_millis(500);
/// How much room there is for each read of a head that did not come at once.
const HEAD_ROOM: usize = 4 << 10;

/// Where the reading side of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A head is awaited or arriving.
    Head,
    /// A body is arriving.
    Body(Body),
    /// The message has ended, and the answer to it is under way.
    Ended,
    /// Bytes pass unread: HTTP/2 and WebSockets.
    Open,
    /// An answer to a broken head is being written from this place on.
    Refusing { fault: Fault, written: usize },
    /// The body is broken. Pingora is told once, and answers.
    Broken(Fault),
    /// The answer is written; what the client still sends is dropped.
    Lingering { left: usize },
    /// Nothing more is read.
    Closed,
}

impl<S> ClientStream<S> {
    /// Answers a broken head. `head` is what came of it.
    fn refuse(&mut self, fault: Fault, head: &[u8]) {
        self.metrics.head_refused(fault);
        let took = self.head_began.map(|began| began.elapsed()).unwrap_or_default();
        let status = refusal::status(fault);
        self.log(&Refused { fault, status, protocol: "HTTP/1.1", head, took });
        self.read_timer.disarm();
        self.reading = Reading::Refusing { fault, written: 0 };
    }

    /// Writes the line of a refused request.
    pub(super) fn log(&self, refused: &Refused<'_>) {
        if let Some(log) = refusal::access_log(self.info.ending(), &self.access_log) {
            refusal::log(&log, &self.info, refused);
        }
    }

    /// A head is whole: says how many of `bytes`, which begin with it, belong to its message and may go to Pingora.
    fn begin(&mut self, whole: Whole<Body>, bytes: &[u8]) -> Result<usize, Fault> {
        let Whole { length, mut body } = whole;
        let judged = body.judge(bytes.get(length..).unwrap_or_default());
        if let Some(fault) = judged.fault {
            return Err(fault);
        }
        self.read_timer.disarm();
        self.head_began = None;
        self.info.head_is_done();
        self.reading = if body.has_ended() { Reading::Ended } else { Reading::Body(body) };
        Ok(length + judged.taken)
    }

    fn judge_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let limits = self.info.limits();
        let limits = HeadLimits {
            max_bytes: limits.max_head_bytes,
            max_fields: limits.max_fields,
            max_target_bytes: limits.max_uri_bytes,
        };
        match self.head.judge(bytes, &limits)? {
            Some(whole) => self.begin(whole, bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Judges more of a body: says how many of `bytes` may go to Pingora. The state says what comes behind them.
    fn judge_body(&mut self, mut body: Body, bytes: &[u8]) -> usize {
        let judged = body.judge(bytes);
        self.reading = match judged.fault {
            Some(fault) => {
                self.metrics.head_refused(fault);
                self.info.broke(fault);
                Reading::Broken(fault)
            }
            None if body.has_ended() => Reading::Ended,
            None => Reading::Body(body),
        };
        judged.taken
    }

    /// Gives Pingora what was held and judged.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.judged.min(buf.remaining());
        buf.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.judged -= length;
        if self.held.is_empty() {
            // No buffer is held while a connection is idle.
            self.held = BytesMut::new();
        }
    }

    /// Keeps the bytes behind `keep`, which were read into `buf` from `before` on.
    fn hold_back(&mut self, buf: &mut ReadBuf<'_>, before: usize, keep: usize) {
        self.held.extend_from_slice(buf.filled().get(before + keep..).unwrap_or_default());
        buf.set_filled(before + keep);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Waits for the next message: ready when its head is there, as an error when none comes. While it waits the connection
    /// costs no buffer.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.judged > 0 {
            return Poll::Ready(Ok(()));
        }
        let mut room = [MaybeUninit::uninit(); HEAD_ROOM];
        let mut buf = ReadBuf::uninit(&mut room);
        ready!(self.poll_message(cx, &mut buf))?;
        let given = buf.filled();
        if given.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut held = BytesMut::with_capacity(given.len() + self.held.len());
        held.extend_from_slice(given);
        held.extend_from_slice(&self.held);
        self.held = held;
        self.judged += given.len();
        Poll::Ready(Ok(()))
    }

    /// Reads for Pingora.
    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reading == Reading::Ended {
            if self.info.is_web_socket() {
                self.reading = Reading::Open;
                self.judged = self.held.len();
            } else if self.info.awaits_head() {
                self.reading = Reading::Head;
                self.head = RequestHead::default();
                self.is_reused = true;
                self.read_timer.disarm();
            }
        }
        if self.judged > 0 {
            self.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        match self.reading {
            Reading::Open => {
                if self.web_socket_is_closed(cx) {
                    self.reading = Reading::Closed;
                    return Poll::Ready(Ok(()));
                }
                Pin::new(&mut self.io).poll_read(cx, buf)
            }
            Reading::Head => self.poll_head(cx, buf),
            Reading::Body(body) => self.poll_body(body, cx, buf),
            Reading::Ended => self.poll_ended(cx, buf),
            Reading::Broken(fault) => {
                self.read_timer.disarm();
                self.read_timer.arm(LINGER);
                self.reading = Reading::Lingering { left: LINGER_BYTES };
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault.label())))
            }
            Reading::Refusing { .. } | Reading::Lingering { .. } => self.poll_refusal(cx),
            Reading::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Reads a head, or the wait for one.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.held.is_empty() {
            // Nearly all heads come at once: they stay where they were read.
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) else {
                return self.poll_wait(cx);
            };
            read?;
            let new = buf.filled().get(before..).unwrap_or_default();
            if new.is_empty() {
                self.reading = Reading::Closed;
                return Poll::Ready(Ok(()));
            }
            self.read_timer.disarm();
            match self.judge_head(new) {
                Ok(Some(length)) => {
                    self.hold_back(buf, before, length);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {
                    self.hold_back(buf, before, 0);
                    self.begin_deadline();
                }
                Err(fault) => {
                    self.refuse(fault, new);
                    buf.set_filled(before);
                    return self.poll_refusal(cx);
                }
            }
        } else if self.head_began.is_none() {
            // It came behind another message.
            if let Some(done) = self.judge_held(cx, buf) {
                return done;
            }
            self.begin_deadline();
        }
        loop {
            self.held.reserve(HEAD_ROOM);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held) {
                Poll::Pending => return self.poll_wait(cx),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => {
                    self.reading = Reading::Closed;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {
                    if let Some(done) = self.judge_held(cx, buf) {
                        return done;
                    }
                }
            }
        }
    }

    /// Judges a head that is held; `None` while more of it must come.
    fn judge_held(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        let held = std::mem::take(&mut self.held);
        let judged = self.judge_head(&held);
        if let Err(fault) = judged {
            self.refuse(fault, &held);
            return Some(self.poll_refusal(cx));
        }
        self.held = held;
        self.judged = judged.ok().flatten()?;
        self.hand_over(buf);
        Some(Poll::Ready(Ok(())))
    }

    /// From here on the deadline of the whole head runs.
    fn begin_deadline(&mut self) {
        self.head_began = Some(Instant::now());
        self.read_timer.disarm();
        self.read_timer.arm(self.info.limits().head);
    }

    /// Nothing came: the deadlines of a head, or of the silence before it.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.head_began.is_some() {
            if self.read_timer.has_run_out(cx) {
                let held = std::mem::take(&mut self.held);
                self.refuse(Fault::Timeout, &held);
                return self.poll_refusal(cx);
            }
            return Poll::Pending;
        }
        let limits = self.info.limits();
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

    /// Reads a body.
    fn poll_body(
        &mut self,
        body: Body,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.info.awaits_head() {
            // Pingora is done with a message that has not ended: what comes is no head.
            self.reading = Reading::Closed;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if new.is_empty() {
            self.reading = Reading::Closed;
            return Poll::Ready(Ok(()));
        }
        let taken = self.judge_body(body, new);
        if matches!(self.reading, Reading::Broken(_)) {
            buf.set_filled(before + taken);
            if taken == 0 {
                return self.poll_message(cx, buf);
            }
        } else {
            self.hold_back(buf, before, taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Pingora asks whether the client is still there. What comes waits for its turn.
    fn poll_ended(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.reading = Reading::Closed;
            return Poll::Ready(Ok(()));
        }
        self.hold_back(buf, before, 0);
        Poll::Pending
    }

    /// Writes the answer to a broken head and lets the client read it. Ends with an end of file for Pingora.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.reading {
                Reading::Refusing { fault, written } => {
                    self.read_timer.arm(self.info.limits().write_stall);
                    let rest = refusal::answer(fault).get(written..).unwrap_or_default();
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
                            self.reading = Reading::Refusing { fault, written: written + more };
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
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
