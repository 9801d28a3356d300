//! Connections to endpoints that Pingora does not make: probes, connections that begin with a PROXY header, TCP that is sent on.
//!
//! Timeouts are the caller's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::types::{EndpointAddress, defaults};

/// A connection to an endpoint.
#[derive(Debug)]
pub enum EndpointStream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// Connects to an endpoint (never a host name) and writes `opening` as the first bytes.
///
/// # Errors
/// It does not answer, or closes at once.
pub async fn connect(address: &EndpointAddress, opening: &[u8]) -> io::Result<EndpointStream> {
    let mut stream = match address {
        EndpointAddress::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            let options = SockRef::from(&stream);
            // Where the system refuses an option, the connection still works.
            drop(options.set_tcp_nodelay(true));
            let keep_alive = TcpKeepalive::new().with_time(defaults::TCP_KEEP_ALIVE.0);
            drop(options.set_tcp_keepalive(&keep_alive));
            EndpointStream::Tcp(stream)
        }
        EndpointAddress::Unix(path) => EndpointStream::Unix(UnixStream::connect(path).await?),
        EndpointAddress::Dns(..) | EndpointAddress::Srv(_) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a host name"));
        }
    };
    if !opening.is_empty() {
        stream.write_all(opening).await?;
    }
    Ok(stream)
}

/// Whether a connection could not be made for want of something of our own: file descriptors, ports, memory. That says
/// nothing of the endpoint.
pub fn is_own_failure(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM)
    )
}

impl AsFd for EndpointStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for EndpointStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
