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
/// # Errors
/// The address is taken, not ours, or not allowed. A Unix socket that nobody answers on is replaced.
pub(super) fn bind(
    address: &ListenAddress,
    count: usize,
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
            let first = bind_tcp(*address, count > 1)?;
            let bound = first.local_addr()?;
            let mut sockets = vec![BoundSocket::Tcp(first)];
            for _ in 1..count {
                sockets.push(BoundSocket::Tcp(bind_tcp(bound, true)?));
            }
            Ok((sockets, BoundAddress::Tcp(bound)))
        }
    }
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Linux hands these options on to accepted connections (tcp(7), socket(7)): no system call for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(defaults::TCP_KEEP_ALIVE.0))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
            bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap()
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
    }

    #[test]
    fn a_socket_file_that_nobody_answers_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let address: ListenAddress = format!("unix:{}", path.display()).parse().unwrap();
        let first = bind(&address, 1).unwrap();
        assert_eq!(bind(&address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists());
        bind(&address, 2).unwrap();
    }

    #[test]
    fn one_port_can_have_a_socket_for_each_worker() {
        let (sockets, _) = bind(&"127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
    }
}
