//! Connections to endpoints of HTTP/1.1 whose answers are judged before Pingora reads them.
//!
//! Place: around the connection that Pingora makes, above TLS. Pingora takes answers that can be read in two ways
//! (`Content-Length` with `Transfer-Encoding`, bare LF, white space before a colon) and shows them mended: no hook can
//! tell. Here a head goes on when all of it is in order, a body as far as it is in order; from the first fault on, the
//! connection only fails ([`MalformedAnswer`]), so that it is never used again.
//!
//! How Pingora comes to use them: `judged_connector.rs`.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use pingora_error::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::gates::OpenConnection;
use crate::framing::{Body, Fault, ResponseBody, ResponseHead};

/// How much room there is for each read of a head that did not come at once.
const HEAD_ROOM: usize = 4 << 10;
/// Bytes that one read takes at most. Pingora keeps eight reads for a client that is slow, and would take 64 KiB with each.
const PART: u64 = 32 << 10;
/// Informational heads before the answer. A hundred are no answer.
const MAX_INFORMATIONAL: u8 = 32;

/// An endpoint's answer that can't be read, or in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is malformed: {}", .0.label())]
pub struct MalformedAnswer(pub Fault);

impl MalformedAnswer {
    /// The malformed answer behind an error of Pingora, where there is one.
    pub fn of(error: &Error) -> Option<Self> {
        error.root_cause().downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
    }
}

/// A connection to an endpoint.
pub(super) struct JudgedStream<S = Stream> {
    io: S,
    /// Its place among the connections of the upstream.
    counted: Option<OpenConnection>,
    reading: Reading,
    head: ResponseHead,
    /// Whether the present answer is to a `HEAD`.
    is_for_head: bool,
    informational: u8,
    /// A head that is not whole, or what was judged of it and did not fit.
    held: BytesMut,
    /// So many bytes of it, from the start, may go to Pingora.
    judged: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// No request is under way: what comes has no right to, and Pingora gives the connection up.
    Idle,
    /// An answer's head is awaited or arriving.
    Head,
    /// Its body is arriving.
    Body(Body),
    /// The answer has ended.
    Ended,
    /// It has ended, and more came: this connection is of no use.
    Spent,
    /// The head of a 101 has come, and has not gone on.
    Switched,
    /// Bytes pass unread, after 101.
    Open,
    /// The answer is malformed.
    Broken(Fault),
}

impl<S> JudgedStream<S> {
    pub(super) fn new(io: S, counted: Option<OpenConnection>) -> Self {
        Self {
            io,
            counted,
            reading: Reading::Idle,
            head: ResponseHead::default(),
            is_for_head: false,
            informational: 0,
            held: BytesMut::new(),
            judged: 0,
        }
    }

    /// A request goes out: an answer is awaited. Pingora writes a head from its first byte, in one piece.
    fn saw_request(&mut self, bytes: &[u8]) {
        if self.reading == Reading::Idle {
            self.reading = Reading::Head;
            self.head = ResponseHead::default();
            self.is_for_head = bytes.starts_with(b"HEAD ");
            self.informational = 0;
        }
    }

    /// Judges bytes that came: says how many from the start may go to Pingora. The state says what comes behind them; a
    /// head that is not whole is not among them.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let is_head = self.reading == Reading::Head;
        let taken = self.follow(bytes);
        // Nothing of the answer has gone on: the client gets 502 in its place.
        if is_head && matches!(self.reading, Reading::Broken(_)) { 0 } else { taken }
    }

    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            match &mut self.reading {
                Reading::Head => match self.head.judge(rest, self.is_for_head) {
                    Ok(None) => return taken,
                    Ok(Some(whole)) => {
                        taken += whole.length;
                        self.head = ResponseHead::default();
                        self.reading = self.behind(whole.body);
                    }
                    Err(fault) => self.reading = Reading::Broken(fault),
                },
                Reading::Body(body) => {
                    let judged = body.judge(rest);
                    taken += judged.taken;
                    match judged.fault {
                        Some(fault) => self.reading = Reading::Broken(fault),
                        None if body.has_ended() => self.reading = Reading::Ended,
                        None => return taken,
                    }
                }
                Reading::Ended => {
                    if !rest.is_empty() {
                        self.reading = Reading::Spent;
                    }
                    return taken;
                }
                Reading::Switched | Reading::Open | Reading::Idle => return bytes.len(),
                Reading::Spent | Reading::Broken(_) => return taken,
            }
        }
    }

    /// What comes behind a head.
    fn behind(&mut self, body: ResponseBody) -> Reading {
        match body {
            ResponseBody::Head if self.informational == MAX_INFORMATIONAL => {
                Reading::Broken(Fault::StartLine)
            }
            ResponseBody::Head => {
                self.informational += 1;
                Reading::Head
            }
            ResponseBody::Protocol => Reading::Switched,
            ResponseBody::Body(body) => Reading::Body(body),
        }
    }

    /// Whether the present bytes end the head of a 101. True once.
    fn has_switched(&mut self) -> bool {
        let has = self.reading == Reading::Switched;
        if has {
            self.reading = Reading::Open;
        }
        has
    }

    /// Gives Pingora what was held and judged.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.judged.min(buf.remaining());
        buf.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.judged -= length;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }
}

/// Lets everything else of the request go first. A 101 that is there before Pingora has taken note of the request's end would
/// make it take that end for the end of what was switched to, and close it.
fn yield_once(cx: &Context<'_>) -> Poll<io::Result<()>> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<S: AsyncRead + Unpin> AsyncRead for JudgedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.judged > 0 {
                this.hand_over(buf);
                return Poll::Ready(Ok(()));
            }
            match this.reading {
                Reading::Broken(fault) => {
                    return Poll::Ready(Err(io::Error::other(MalformedAnswer(fault))));
                }
                Reading::Spent => return Poll::Ready(Ok(())),
                // Pingora reads behind an answer only to see whether the connection may be used again.
                Reading::Ended => this.reading = Reading::Idle,
                Reading::Idle
                | Reading::Head
                | Reading::Body(_)
                | Reading::Switched
                | Reading::Open => {}
            }
            if this.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut (&mut this.io).take(PART)).poll_read(cx, buf))?;
                let new = buf.filled().get(before..).unwrap_or_default();
                if new.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let taken = this.judge(new);
                if this.reading == Reading::Head {
                    this.held.extend_from_slice(new.get(taken..).unwrap_or_default());
                }
                if this.has_switched() {
                    this.held.extend_from_slice(new.get(..taken).unwrap_or_default());
                    this.judged = taken;
                    buf.set_filled(before);
                    return yield_once(cx);
                }
                buf.set_filled(before + taken);
                if taken > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.held.reserve(HEAD_ROOM);
                if ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.held))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                let mut held = std::mem::take(&mut this.held);
                this.judged = this.judge(&held);
                if this.reading != Reading::Head {
                    held.truncate(this.judged);
                }
                this.held = held;
                if this.has_switched() {
                    return yield_once(cx);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for JudgedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.saw_request(bytes);
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(first) = slices.iter().find(|slice| !slice.is_empty()) {
            this.saw_request(first);
        }
        Pin::new(&mut this.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for JudgedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgedStream")
            .field("reading", &self.reading)
            .field("counted", &self.counted.is_some())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for JudgedStream {
    async fn shutdown(&mut self) {
        self.io.shutdown().await;
    }
}

impl UniqueID for JudgedStream {
    fn id(&self) -> UniqueIDType {
        self.io.id()
    }
}

impl Ssl for JudgedStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.selected_alpn_proto()
    }
}

#[async_trait]
impl Peek for JudgedStream {}

impl GetTimingDigest for JudgedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.io.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.io.get_write_pending_time()
    }
}

impl GetProxyDigest for JudgedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_proxy_digest()
    }
}

impl GetSocketDigest for JudgedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An endpoint whose bytes come in pieces.
    #[derive(Debug)]
    struct Pieces(VecDeque<Vec<u8>>);

    impl Pieces {
        fn of(text: &[u8], size: usize) -> Self {
            Self(text.chunks(size).map(<[u8]>::to_vec).collect())
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// All that Pingora gets of an answer, and how it ends.
    async fn read(
        request: &str,
        text: &[u8],
        size: usize,
        room: usize,
    ) -> (Vec<u8>, Option<Fault>) {
        let mut stream = JudgedStream::new(Pieces::of(text, size), None);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let mut buf = vec![0; room];
        loop {
            match stream.read(&mut buf).await {
                Ok(0) => return (all, None),
                Ok(n) => all.extend_from_slice(&buf[..n]),
                Err(error) => {
                    let MalformedAnswer(fault) = *error.get_ref().unwrap().downcast_ref().unwrap();
                    return (all, Some(fault));
                }
            }
        }
    }

    #[tokio::test]
    async fn an_answer_passes_unchanged_however_it_is_cut() {
        let get = "GET / HTTP/1.1\r\n\r\n";
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nuntil it closes\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\nHTTP no more\n\0\r",
        ] {
            for (size, room) in [(1, 100), (2, 1), (7, 3), (1_000, 5), (1_000, 1_000), (30, 40)] {
                let whole = (text.as_bytes().to_vec(), None);
                assert_eq!(
                    read(get, text.as_bytes(), size, room).await,
                    whole,
                    "{text} {size} {room}"
                );
            }
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let read = read("HEAD / HTTP/1.1\r\n\r\n", head.as_bytes(), 9, 50).await;
        assert_eq!(read, (head.as_bytes().to_vec(), None));
    }

    #[test]
    fn what_was_switched_to_begins_when_all_else_had_its_turn() {
        let text = b"HTTP/1.1 101 Switching\r\n\r\nhello";
        for size in [9, text.len()] {
            let mut stream = JudgedStream::new(Pieces::of(text, size), None);
            stream.saw_request(b"GET / HTTP/1.1\r\n\r\n");
            let mut context = Context::from_waker(Waker::noop());
            let mut room = [0; 100];
            let mut buf = ReadBuf::new(&mut room);
            let mut stream = Pin::new(&mut stream);
            assert!(stream.as_mut().poll_read(&mut context, &mut buf).is_pending());
            assert!(buf.filled().is_empty());
            assert!(stream.as_mut().poll_read(&mut context, &mut buf).is_ready());
            assert_eq!(&buf.filled()[..26], &text[..26]);
        }
    }

    #[tokio::test]
    async fn nothing_behind_a_fault_or_an_end_gets_through() {
        let get = "GET / HTTP/1.1\r\n\r\n";
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bad = format!("{head}2\r\nok\r\nx\r\n");
        for (size, room) in [(1, 100), (3, 7)] {
            let (passed, fault) = read(get, bad.as_bytes(), size, room).await;
            assert_eq!((passed, fault), (format!("{head}2\r\nok\r\n").into(), Some(Fault::Chunk)));
            let (passed, fault) = read(get, b"HTTP/1.1 200 OK\nA: b\n\n", size, room).await;
            assert_eq!((passed, fault), (Vec::new(), Some(Fault::LineEnd)));
        }
        // With the fault in hand, nothing of the answer goes on.
        assert_eq!(read(get, bad.as_bytes(), 1_000, 1_000).await, (Vec::new(), Some(Fault::Chunk)));
        let more = "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(read(get, more.as_bytes(), 1_000, 1_000).await.0, more.as_bytes()[..19]);
    }

    #[tokio::test]
    async fn a_connection_that_is_kept_takes_another_request() {
        let (near, mut endpoint) = tokio::io::duplex(1_000);
        let mut stream = JudgedStream::new(near, None);
        for method in ["GET", "HEAD", "GET"] {
            let request = format!("{method} / HTTP/1.1\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let body = if method == "HEAD" { "" } else { "ok" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
            endpoint.write_all(answer.as_bytes()).await.unwrap();
            let mut read = vec![0; answer.len()];
            stream.read_exact(&mut read).await.unwrap();
            // Pingora looks whether it is still there before it keeps it.
            tokio::select! {
                biased;
                end = stream.read(&mut read) => panic!("{end:?}"),
                () = std::future::ready(()) => {}
            }
        }
    }
}
