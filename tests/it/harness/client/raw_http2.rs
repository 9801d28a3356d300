//! HTTP/2 frame by frame, for what no library would send. Heads use the static table of HPACK only.

use std::time::{Duration, Instant};

use super::{
    failure::{Failure, FailureKind},
    raw::Raw,
    tls::Tls,
};

/// Kinds of frames (RFC 9113, section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of `RST_STREAM` and GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let from = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(from..from + 4)?.try_into().ok()?))
    }
}

/// A connection on which frames are written and read.
pub struct RawHttp2 {
    raw: Raw,
    host: String,
    scheme: u8,
    next_stream: u32,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl RawHttp2 {
    /// With prior knowledge.
    #[track_caller]
    pub fn connect(address: impl std::fmt::Display, host: &str) -> Self {
        Self::greeted(Raw::connect(address), host, 0x86, &[])
    }

    /// With prior knowledge and these settings.
    #[track_caller]
    pub fn connect_with(
        address: impl std::fmt::Display,
        host: &str,
        settings: &[(u16, u32)],
    ) -> Self {
        Self::greeted(Raw::connect(address), host, 0x86, settings)
    }

    /// Over TLS.
    ///
    /// # Errors
    /// No handshake.
    pub fn connect_tls(address: impl std::fmt::Display, host: &str) -> Result<Self, Failure> {
        let tls = Tls::any().server_name(host).alpn(&["h2"]);
        Ok(Self::greeted(Raw::connect_tls(address, &tls)?, host, 0x87, &[]))
    }

    fn greeted(mut raw: Raw, host: &str, scheme: u8, settings: &[(u16, u32)]) -> Self {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        bytes.extend(frame(kind::SETTINGS, 0, 0, &payload));
        raw.send(bytes);
        Self { raw, host: host.to_owned(), scheme, next_stream: 1 }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.raw.try_send(bytes)
    }

    /// Writes a frame.
    #[track_caller]
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.raw.send(frame(kind, flags, stream, payload));
        self
    }

    /// A head in HPACK.
    pub fn head(&self, method: &str, path: &str) -> Vec<u8> {
        let literal = |name: u8, value: &str| {
            let mut bytes = vec![name, u8::try_from(value.len()).expect("a short value")];
            bytes.extend(value.as_bytes());
            bytes
        };
        // Literals without indexing, with names of the static table: :method 2, :path 4, :authority 1.
        let mut head = vec![self.scheme];
        head.extend(literal(2, method));
        head.extend(literal(4, path));
        head.extend(literal(1, &self.host));
        head
    }

    /// The number of the next stream.
    pub fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// Sends a request without a body; gives its stream.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> u32 {
        let (head, stream) = (self.head("GET", path), self.stream());
        self.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head);
        stream
    }

    /// Sends the head of a request whose body is still to come; gives its stream.
    #[track_caller]
    pub fn post(&mut self, path: &str) -> u32 {
        let (head, stream) = (self.head("POST", path), self.stream());
        self.send(kind::HEADERS, flag::END_HEADERS, stream, &head);
        stream
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// As [`Raw::read_exactly`].
    pub fn next(&mut self, limit: Duration) -> Result<Frame, Failure> {
        let head = self.raw.read_exactly(9, limit)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.raw.read_exactly(length, limit)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame of this kind on this stream comes.
    ///
    /// # Errors
    /// As [`Raw::read_exactly`].
    pub fn wait_for(&mut self, kind: u8, stream: u32, limit: Duration) -> Result<Frame, Failure> {
        let end = Instant::now() + limit;
        loop {
            let frame = self.next(end.saturating_duration_since(Instant::now()))?;
            if frame.kind == kind && frame.stream == stream {
                return Ok(frame);
            }
        }
    }

    /// Reads to the end of the connection; gives the code of the last GOAWAY.
    ///
    /// # Errors
    /// It is still open after `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<Option<u32>, Failure> {
        let end = Instant::now() + limit;
        let mut code = None;
        loop {
            match self.next(end.saturating_duration_since(Instant::now())) {
                Ok(frame) if frame.kind == kind::GOAWAY => code = frame.code(),
                Ok(_) => {}
                Err(failure) if failure.kind == FailureKind::Timeout => return Err(failure),
                Err(_) => return Ok(code),
            }
        }
    }
}
