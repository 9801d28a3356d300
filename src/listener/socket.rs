//! Sockets: bound, or taken over bound, with the options that every accepted connection inherits.

use std::{
    fmt, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
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

impl BoundSocket {
    /// Another handle of the same socket: it has the same accept queue, which lives as long as any handle of it.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub struct SocketSet {
    pub(super) sockets: Vec<BoundSocket>,
    pub(super) address: BoundAddress,
    /// Somebody else bound them: a start that fails leaves a Unix socket's file alone.
    pub(super) is_inherited: bool,
    /// The edge that has them at their end removes the file of a Unix socket.
    pub(super) owns_file: bool,
}

impl SocketSet {
    /// Where they are bound.
    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// Whether somebody else bound them.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// The first of them: a listener that has a single accept loop uses no more.
    pub fn into_first(self) -> Option<OwnedFd> {
        self.sockets.into_iter().next().map(|socket| match socket {
            BoundSocket::Tcp(socket) => socket.into(),
            BoundSocket::Unix(socket) => socket.into(),
        })
    }
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

impl BoundAddress {
    /// As a configuration says it.
    pub fn to_listen_address(&self) -> ListenAddress {
        match self {
            Self::Tcp(address) => ListenAddress::Tcp(*address),
            Self::Unix(path) => ListenAddress::Unix(path.clone()),
        }
    }
}

/// Binds `count` sockets to one address: one for all workers, or one for each (`SO_REUSEPORT`). A Unix socket is always
/// one.
///
/// `beside_own`: a listener of ours that is about to end has an address that overlaps with this one.
///
/// # Errors
/// The address is taken, not ours, or not allowed. A Unix socket that nobody answers on is replaced.
pub(super) fn bind(
    address: &ListenAddress,
    count: usize,
    beside_own: bool,
) -> io::Result<SocketSet> {
    let (sockets, address) = match address {
        ListenAddress::Unix(path) => {
            // Clients of the edge's group may connect.
            let socket = bind_unix(path, 0o660)?;
            (vec![BoundSocket::Unix(socket)], BoundAddress::Unix(path.clone()))
        }
        ListenAddress::Tcp(address) => {
            let first = bind_tcp(*address, beside_own)?;
            let bound = first.local_addr()?;
            let mut sockets = vec![BoundSocket::Tcp(first)];
            for _ in 1..count {
                sockets.push(BoundSocket::Tcp(bind_tcp(bound, true)?));
            }
            (sockets, BoundAddress::Tcp(bound))
        }
    };
    Ok(SocketSet { sockets, address, is_inherited: false, owns_file: true })
}

/// Where a listening socket that came from another process is bound.
///
/// # Errors
/// It is no stream socket that listens, or has no address that a configuration could name.
pub(super) fn address_of(socket: &OwnedFd) -> io::Result<BoundAddress> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let socket = SockRef::from(socket);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(wrong("it is no stream socket that listens"));
    }
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(BoundAddress::Tcp(address)),
        (None, Some(path)) => Ok(BoundAddress::Unix(path.to_owned())),
        (None, None) => Err(wrong("it has neither an IP address nor a path")),
    }
}

/// A socket from another process, with our options: that process may have been another version, or not Tidegate.
pub(super) fn adopt(socket: OwnedFd, address: &BoundAddress) -> io::Result<BoundSocket> {
    let options = SockRef::from(&socket);
    options.set_nonblocking(true)?;
    match address {
        BoundAddress::Tcp(_) => {
            set_inherited_options(&options)?;
            Ok(BoundSocket::Tcp(socket.into()))
        }
        BoundAddress::Unix(_) => Ok(BoundSocket::Unix(socket.into())),
    }
}

/// Linux hands these options on to accepted connections (tcp(7), socket(7)): no system call for each of them.
fn set_inherited_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(defaults::TCP_KEEP_ALIVE.0))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
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
    set_inherited_options(&SockRef::from(&socket))?;
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

/// Binds a Unix socket that listens; its file has `mode` before anybody can connect. One that nobody answers on is
/// replaced.
///
/// # Errors
/// What the system says; a path that is no socket, or a socket in use, is `AddrInUse`.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        let taken = |what| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
        if !metadata.file_type().is_socket() {
            return taken("the path is not a socket");
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return taken("another process answers on this socket");
        }
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        let (sockets, address) = tcp("127.0.0.1:0", 1, false).unwrap();
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
        let set = bind(&address.parse().unwrap(), count, beside_own)?;
        let BoundAddress::Tcp(bound) = set.address else { panic!("a TCP address") };
        Ok((set.sockets, bound))
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
    fn a_socket_from_elsewhere_gets_our_options_and_only_listeners_are_taken() {
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = plain.local_addr().unwrap();
        let socket = OwnedFd::from(plain);
        let address = address_of(&socket).unwrap();
        assert_eq!(address, BoundAddress::Tcp(here));
        let adopted = adopt(socket, &address).unwrap();
        assert!(SockRef::from(&adopted).tcp_nodelay().unwrap());
        assert!(SockRef::from(&adopted).nonblocking().unwrap());
        let client = std::net::TcpStream::connect(here).unwrap();
        assert!(address_of(&OwnedFd::from(client)).is_err());
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(address_of(&OwnedFd::from(datagrams)).is_err());
        let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(address_of(&OwnedFd::from(pair)).is_err());
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
