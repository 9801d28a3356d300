//! A connection whose first bytes are looked at before it is known who gets them.
//!
//! Place: directly on the socket. What a look took too much of is put back and read again ([`Peeked::put_back`]); while a name is
//! looked for, what is read is remembered ([`Peeked::remember`]), so that all of it can be sent on. Afterwards it holds nothing.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's socket.
pub(super) trait ClientSocket:
    AsyncRead + AsyncWrite + AsFd + Unpin + Send + Sync + 'static
{
}
impl<S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + Sync + 'static> ClientSocket for S {}

/// A connection whose first bytes are looked at.
pub(super) struct Peeked<S> {
    io: S,
    /// Read already, and to be read again.
    ahead: Bytes,
    seen: Option<Box<Seen>>,
}

/// What was read since it is remembered.
struct Seen {
    bytes: Vec<u8>,
    most: usize,
}

impl<S> Peeked<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, ahead: Bytes::new(), seen: None }
    }

    /// The next reads give these bytes. Nothing else may be put back that is not read yet.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty(), "one look at a time");
        self.ahead = bytes;
    }

    /// Remembers what is read from now on. The read after `most` bytes fails with [`io::ErrorKind::QuotaExceeded`].
    pub(super) fn remember(&mut self, most: usize) {
        self.seen = Some(Box::new(Seen { bytes: Vec::new(), most }));
    }

    /// Remembers no longer, and gives what was remembered.
    pub(super) fn forget(&mut self) -> Vec<u8> {
        self.seen.take().map(|seen| seen.bytes).unwrap_or_default()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peeked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.as_ref().is_some_and(|seen| seen.bytes.len() >= seen.most) {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let before = buf.filled().len();
        let read = if this.ahead.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let length = this.ahead.len().min(buf.remaining());
            buf.put_slice(this.ahead.get(..length).unwrap_or_default());
            this.ahead.advance(length);
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
            Poll::Ready(Ok(()))
        };
        if let Some(seen) = &mut this.seen {
            seen.bytes.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Peeked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
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

impl<S: AsFd> AsFd for Peeked<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_is_put_back_is_read_first_and_what_is_read_is_remembered() {
        let mut stream = Peeked::new(&b"world and more"[..]);
        stream.put_back(Bytes::from_static(b"hello, "));
        stream.remember(12);
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        let mut more = [0; 9];
        stream.read_exact(&mut more).await.unwrap();
        assert_eq!((&first, &more), (b"hel", b"lo, world"));
        let error = stream.read(&mut more).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(stream.forget(), b"hello, world");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" and more");
        assert!(stream.forget().is_empty());
    }
}
