//! What tokio and Pingora ask of a connection.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ClientStream, Spoken, closing::Closing};
use crate::{
    framing::Fault,
    listener::{http2_refusals::Refusal, refusal::Refused},
    telemetry::metrics::LimitReached,
};

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Counts and logs the streams that the HTTP/2 code refuses before a hook sees them.
    fn saw_frames(&mut self, result: &Poll<io::Result<usize>>, slices: &[io::IoSlice<'_>]) {
        let Poll::Ready(Ok(mut left)) = *result else { return };
        for slice in slices {
            let part = left.min(slice.len());
            left -= part;
            let mut bytes = slice.get(..part).unwrap_or_default();
            while let Some(refusal) = self.sent.next_refusal(&mut bytes) {
                let fault = Fault::Http2;
                self.metrics.head_refused(fault);
                let status = match refusal {
                    Refusal::Answer => 400,
                    Refusal::Reset => 0,
                };
                let took = Duration::ZERO;
                self.log(&Refused { fault, status, protocol: "HTTP/2.0", head: b"", took });
            }
        }
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
    /// On HTTP/1.1 a read into no room waits for the next message, see [`next_message`](super::next_message).
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever reads has nothing to write for now.
        this.io.send(cx);
        if buf.remaining() == 0 && this.spoken == Spoken::Http1 {
            return this.poll_next(cx);
        }
        this.poll_message(cx, buf)
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
        match this.spoken {
            Spoken::Http1 => this.saw_written(&result, bytes),
            Spoken::Http2 => this.saw_frames(&result, &[io::IoSlice::new(bytes)]),
        }
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
        if this.spoken == Spoken::Http2 {
            this.saw_frames(&result, slices);
        }
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
