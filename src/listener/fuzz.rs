//! A door for `tests/fuzz`: a client's first message from bytes alone. Not for other use.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{accept::MAX_CLIENT_HELLO, handshake::greet, peeked::Peeked};

/// What a first message comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name asked for.
    pub server_name: Option<Box<str>>,
    /// What whoever it is sent on to would get.
    pub remembered: Vec<u8>,
}

/// Reads a first message of TLS that comes in pieces of at most `piece` bytes. `None` where it is none.
pub fn client_hello(bytes: &[u8], piece: usize) -> Option<Hello> {
    let mut stream = Peeked::new(Pieces { bytes, piece });
    stream.remember(MAX_CLIENT_HELLO);
    // Nothing here waits.
    let (mut start, server_name) = greet(stream).now_or_never()?.ok()?;
    Some(Hello { server_name, remembered: start.io.forget() })
}

/// A client that sends these bytes, takes everything, and is gone.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(buf.remaining()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at_checked(length).unwrap_or_default();
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
