//! Connections to endpoints that become WebSockets: their reads begin a moment late.
//!
//! Pingora tells its upstream half that a request has no body by a message, and reads the answer at the same time. Where
//! a 101 is there before the message was looked at, the message is taken for the end of the WebSocket, which is closed
//! at once (pingora-proxy 0.9.1, `proxy_handle_upstream`). It happens with fast endpoints on a busy machine. Here the
//! first reads of a connection are put off until the task has looked at everything else that is ready.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{
    connectors::l4::Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::announce;
use crate::upstream;

/// Reads that are put off: those of a TLS handshake, and the one of the answer's head.
const LATE_READS: u32 = 64;
/// Sets these connections apart from those that carry requests.
const GROUP: u64 = 0x7765_6273_6f63_6b65;

/// The socket of a connection that Pingora does not see the socket of.
#[derive(Clone, Debug, Default)]
pub(super) struct Socket(Arc<Mutex<Option<OwnedFd>>>);

impl Socket {
    /// A second descriptor of it, once; `None` before there is a connection, or where there are no descriptors left.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        self.slot().take()
    }

    // Held for a few instructions.
    fn slot(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `peer` one for a WebSocket, whose connection begins with `opening`; returns where its socket will be.
pub(super) fn prepare(peer: &mut HttpPeer, opening: Bytes) -> Socket {
    let socket = Socket::default();
    announce::set_apart(peer, &opening);
    peer.options.custom_l4 = Some(Arc::new(LateReads { opening, socket: socket.clone() }));
    peer.group_key ^= GROUP;
    // An endpoint that refuses the upgrade leaves a connection that nothing else may use.
    peer.options.idle_timeout = Some(std::time::Duration::from_millis(1));
    socket
}

/// Connects, and puts the first reads off.
#[derive(Debug)]
struct LateReads {
    opening: Bytes,
    socket: Socket,
}

#[async_trait]
impl Connect for LateReads {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let stream = announce::connect(address, &self.opening).await?;
        *self.socket.slot() = stream.as_fd().try_clone_to_owned().ok();
        let late = Late { stream, reads_left: LATE_READS, is_put_off: false };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(late))))
    }
}

/// The error of a connection that was not made, as Pingora would have it.
pub(super) fn connect_error(error: &io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ if upstream::is_own_failure(error) => ErrorType::SocketError,
        _ => ErrorType::ConnectError,
    };
    Error::explain(kind, error.to_string()).into_up()
}

/// A socket whose first reads are put off by one turn each.
#[derive(Debug)]
struct Late<S> {
    stream: S,
    reads_left: u32,
    is_put_off: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Late<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reads_left > 0 && !self.is_put_off {
            self.is_put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.reads_left = self.reads_left.saturating_sub(1);
            self.is_put_off = false;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Late<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket for Late<S> {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        // They were set when it was connected.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_read_gives_way_once_and_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"ab").await.unwrap();
        let mut late = Late { stream: far, reads_left: 1, is_put_off: false };
        let mut buf = [0; 1];
        let gave_way = tokio::select! {
            biased;
            _ = late.read(&mut buf) => false,
            () = std::future::ready(()) => true,
        };
        assert!(gave_way, "what is ready beside the read goes first");
        assert_eq!(late.read(&mut buf).await.unwrap(), 1);
        assert_eq!(&buf, b"a");
        // From now on reads are as they always are.
        tokio::select! {
            biased;
            read = late.read(&mut buf) => assert_eq!(read.unwrap(), 1),
            () = std::future::ready(()) => panic!("put off again"),
        }
    }
}
