//! Sockets: bound with the options that every accepted connection inherits.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::types::{ListenAddress, defaults};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4096;
/// Bytes that wait in the kernel to be sent, for each connection. Without it they grow to megabytes, and the kernel asks for
/// more only when a third of them is gone: a slow client would look like one that takes nothing, and hold the memory.
const UNSENT_BYTES: u32 = 128 << 10;

/// A bound socket.
#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Where a listener is bound, with the port that the system chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Binds `count` sockets to one address: one for all workers, or one for each (`SO_REUSEPORT`).
///
/// `beside_own`: a listener of ours that is about to end has an address that overlaps with this one.
///
/// # Errors
/// The address is taken, not ours, or not allowed. A Unix socket that nobody answers on is replaced.
pub(super) fn bind(
    address: &ListenAddress,
    count: usize,
    beside_own: bool,
) -> io::Result<(Vec<BoundSocket>, BoundAddress)> {
    match address {
        ListenAddress::Unix(path) => {
            let socket = bind_unix(path)?;
            // One socket: each worker gets a handle of it.
            let mut sockets = vec![BoundSocket::Unix(socket.try_clone()?)];
            for _ in 1..count {
                sockets.push(BoundSocket::Unix(socket.try_clone()?));
            }
            Ok((sockets, BoundAddress::Unix(path.clone())))
        }
        ListenAddress::Tcp(address) => {
            let first = bind_tcp(*address, beside_own)?;
            let bound = first.local_addr()?;
            let mut sockets = vec![BoundSocket::Tcp(first)];
            for _ in 1..count {
                sockets.push(BoundSocket::Tcp(bind_tcp(bound, true)?));
            }
            Ok((sockets, BoundAddress::Tcp(bound)))
        }
    }
}

/// Binds and listens. Sockets may share an address only with others of ours: the first one takes it for itself, so that a
/// second edge on the same port fails at its start instead of taking half of the connections.
fn bind_tcp(address: SocketAddr, shares: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares)?;
    // Linux hands these options on to accepted connections (tcp(7), socket(7)): no system call for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(defaults::TCP_KEEP_ALIVE.0))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Those that follow may join it now: the other workers' sockets, and a wider or narrower address at a reload.
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// Whether a connection could be meant for either of two TCP addresses: one port, and the same address or all addresses.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip() == narrow.ip()
            || wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (covers(one, other) || covers(other, one))
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers on this socket",
            ));
        }
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    SockRef::from(&socket).set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        let (sockets, BoundAddress::Tcp(address)) =
            bind(&"127.0.0.1:0".parse().unwrap(), 1, false).unwrap()
        else {
            panic!("a TCP address")
        };
        let [BoundSocket::Tcp(listener)] = sockets.as_slice() else { panic!("one socket") };
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), defaults::TCP_KEEP_ALIVE.0);
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }

    #[test]
    fn a_socket_file_that_nobody_answers_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let address: ListenAddress = format!("unix:{}", path.display()).parse().unwrap();
        let first = bind(&address, 1, false).unwrap();
        assert_eq!(bind(&address, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists());
        bind(&address, 2, false).unwrap();
    }

    fn tcp(
        address: &str,
        count: usize,
        beside_own: bool,
    ) -> io::Result<(Vec<BoundSocket>, SocketAddr)> {
        let (sockets, bound) = bind(&address.parse().unwrap(), count, beside_own)?;
        let BoundAddress::Tcp(bound) = bound else { panic!("a TCP address") };
        Ok((sockets, bound))
    }

    #[test]
    fn each_worker_has_a_socket_that_gets_connections() {
        let (sockets, address) = tcp("127.0.0.1:0", 3, false).unwrap();
        let _clients: Vec<_> =
            (0..200).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for socket in &sockets {
            let BoundSocket::Tcp(listener) = socket else { panic!("a TCP socket") };
            listener.accept().unwrap();
        }
        assert_eq!(sockets.len(), 3);
    }

    #[test]
    fn an_address_that_is_taken_is_refused_however_many_sockets_it_has() {
        for count in [1, 3] {
            let (_sockets, address) = tcp("127.0.0.1:0", count, false).unwrap();
            let port = address.port();
            for other in
                [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!(":{port}")]
            {
                for again in [1, 3] {
                    let refused = tcp(&other, again, false).unwrap_err();
                    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{count} {other} {again}");
                    tcp(&other, again, true).unwrap();
                }
            }
        }
    }

    #[test]
    fn addresses_overlap_where_a_connection_could_be_meant_for_both() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(one, other), overlap(other, one));
            overlap(one, other)
        };
        assert!(overlap("127.0.0.1:80", "0.0.0.0:80") && overlap("127.0.0.1:80", "[::]:80"));
        assert!(overlap("0.0.0.0:80", "[::]:80") && overlap("[::1]:80", "[::]:80"));
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(
            !overlap("127.0.0.1:80", "127.0.0.1:81") && !overlap("127.0.0.1:80", "127.0.0.2:80")
        );
        assert!(!overlap("[::1]:80", "0.0.0.0:80"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
    }
}
