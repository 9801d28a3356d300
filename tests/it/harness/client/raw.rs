//! A client that sends bytes, for what no HTTP library would send.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;

use super::{
    failure::{Failure, FailureKind},
    tls::{Handshake, Tls},
};

/// A connection that bytes are written to and read from.
pub struct Raw {
    stream: Stream,
    /// Read and not yet handed out.
    pending: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Raw {
    /// Connects to `127.0.0.1:port` or `unix:/path`.
    ///
    /// # Panics
    /// When it can't.
    #[track_caller]
    pub fn connect(address: impl std::fmt::Display) -> Self {
        Self::try_connect(address).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Connects to `127.0.0.1:port` or `unix:/path`.
    ///
    /// # Errors
    /// [`FailureKind::Connect`].
    pub fn try_connect(address: impl std::fmt::Display) -> Result<Self, Failure> {
        let address = address.to_string();
        let failed = |error| Failure::new(FailureKind::Connect, format!("{address}: {error}"));
        let stream = if let Some(path) = address.strip_prefix("unix:") {
            Stream::Unix(UnixStream::connect(path).map_err(failed)?)
        } else {
            let stream = TcpStream::connect(&address).map_err(failed)?;
            // It fails on a connection that is reset already; reading will say so.
            let _ = stream.set_nodelay(true);
            Stream::Tcp(stream)
        };
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// [`FailureKind::Connect`] or [`FailureKind::Tls`].
    pub fn connect_tls(address: impl std::fmt::Display, tls: &Tls) -> Result<Self, Failure> {
        Self::connect_tls_after(address, b"", tls)
    }

    /// Connects, sends these bytes and shakes hands.
    ///
    /// # Errors
    /// [`FailureKind::Connect`] or [`FailureKind::Tls`].
    pub fn connect_tls_after(
        address: impl std::fmt::Display,
        first: &[u8],
        tls: &Tls,
    ) -> Result<Self, Failure> {
        let address = address.to_string();
        let mut raw = Self::try_connect(&address)?;
        raw.try_send(first).map_err(|error| Failure::new(FailureKind::Connect, error))?;
        let Stream::Tcp(mut socket) = raw.stream else {
            return Err(Failure::new(FailureKind::Connect, "TLS is for TCP here"));
        };
        let mut connection = tls.connection(&address);
        while connection.is_handshaking() {
            connection
                .complete_io(&mut socket)
                .map_err(|error| Failure::new(FailureKind::Tls, error))?;
        }
        let stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket)));
        Ok(Self { stream, pending: Vec::new() })
    }

    /// What the TLS handshake came to.
    pub fn handshake(&self) -> Option<Handshake> {
        match &self.stream {
            Stream::Tls(stream) => Some(Handshake::of(&stream.conn)),
            _ => None,
        }
    }

    /// Its own address, as the server sees it.
    pub fn local_address(&self) -> String {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().expect("an address").to_string(),
            Stream::Tls(stream) => stream.sock.local_addr().expect("an address").to_string(),
            Stream::Unix(_) => "unix:".to_owned(),
        }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// When the connection is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the connection takes bytes");
        self
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection is gone, or takes no more bytes for 10 s.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let limit = Some(Duration::from_secs(10));
        match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_write_timeout(limit)?;
                stream.write_all(bytes.as_ref())
            }
            Stream::Unix(stream) => {
                stream.set_write_timeout(limit)?;
                stream.write_all(bytes.as_ref())
            }
            Stream::Tls(stream) => {
                stream.sock.set_write_timeout(limit)?;
                stream.write_all(bytes.as_ref())?;
                stream.flush()
            }
        }
    }

    /// Reads what comes within `limit`: `None` at the end, an error for a reset or when nothing came.
    fn read_some(&mut self, limit: Duration) -> std::io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 64 << 10];
        // Zero would mean "for ever".
        let limit = Some(limit.max(Duration::from_millis(1)));
        let read = match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.read(&mut buffer)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.read(&mut buffer)
            }
            Stream::Tls(stream) => {
                stream.sock.set_read_timeout(limit)?;
                stream.read(&mut buffer)
            }
        };
        match read {
            Ok(0) => Ok(None),
            Ok(n) => {
                buffer.truncate(n);
                Ok(Some(buffer))
            }
            // A TLS peer that closes without saying so.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads until `end` is there and returns all up to and with it.
    ///
    /// # Errors
    /// [`FailureKind::Closed`], [`FailureKind::Reset`] or [`FailureKind::Timeout`], with what came so far in its text.
    pub fn read_until(&mut self, end: &[u8], limit: Duration) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.pending.windows(end.len()).position(|window| window == end) {
                return Ok(self.pending.drain(..at + end.len()).collect());
            }
            self.more(deadline)?;
        }
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// As [`Self::read_until`].
    pub fn read_exactly(&mut self, n: usize, limit: Duration) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + limit;
        while self.pending.len() < n {
            self.more(deadline)?;
        }
        Ok(self.pending.drain(..n).collect())
    }

    /// Reads a head: up to the empty line.
    ///
    /// # Errors
    /// As [`Self::read_until`].
    pub fn read_head(&mut self, limit: Duration) -> Result<String, Failure> {
        self.read_until(b"\r\n\r\n", limit).map(|head| String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads until the server closes.
    ///
    /// # Errors
    /// [`FailureKind::Reset`], or [`FailureKind::Timeout`] when it is still open after `limit`.
    pub fn read_to_end(&mut self, limit: Duration) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.more(deadline) {
                Ok(()) => {}
                Err(failure) if failure.kind == FailureKind::Closed => {
                    return Ok(std::mem::take(&mut self.pending));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether the server closes or resets the connection within `limit`. What comes before is kept.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.more(deadline) {
                Ok(()) => {}
                Err(failure) => return failure.kind != FailureKind::Timeout,
            }
        }
    }

    fn more(&mut self, deadline: Instant) -> Result<(), Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let so_far = |raw: &Self| {
            let shown = &raw.pending[..raw.pending.len().min(2_000)];
            String::from_utf8_lossy(shown).into_owned()
        };
        if left.is_zero() {
            return Err(Failure::new(FailureKind::Timeout, format!("came: {:?}", so_far(self))));
        }
        match self.read_some(left) {
            Ok(Some(bytes)) => {
                self.pending.extend_from_slice(&bytes);
                Ok(())
            }
            Ok(None) => Err(Failure::new(FailureKind::Closed, format!("came: {:?}", so_far(self)))),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => FailureKind::Timeout,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => FailureKind::Reset,
                    _ => FailureKind::Tls,
                };
                Err(Failure::new(kind, format!("{error}; came: {:?}", so_far(self))))
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) -> &mut Self {
        match &mut self.stream {
            Stream::Tcp(stream) => drop(stream.shutdown(Shutdown::Write)),
            Stream::Unix(stream) => drop(stream.shutdown(Shutdown::Write)),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
        self
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        if let Stream::Tcp(stream) = &self.stream {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
