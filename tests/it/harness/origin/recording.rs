//! An origin that takes requests apart with a parser of its own, byte by byte as they came, and answers with given bytes.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use tokio_rustls::TlsAcceptor;

use super::lock;
use crate::harness::{block_on, spawn};

/// A request as its bytes stood on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Its head with the empty line at its end.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    /// Names in lower case, values as they came.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Its body without chunks, as far as it came.
    pub body: Vec<u8>,
    /// Whether its end was there.
    pub is_whole: bool,
}

impl Seen {
    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }
}

/// What is answered to a request.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    /// More, once it is asked for.
    pub later: Option<(Arc<Notify>, Vec<u8>)>,
    /// Close the connection behind it.
    pub closes: bool,
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// What came, by all connections.
#[derive(Default)]
struct Records {
    seen: Vec<Seen>,
    /// The bytes of each connection.
    raw: Vec<Vec<u8>>,
}

/// A server of HTTP/1.1 that believes nothing.
pub struct RecordingOrigin {
    address: SocketAddr,
    records: Arc<Mutex<Records>>,
    task: JoinHandle<()>,
}

impl RecordingOrigin {
    /// Answers `200` with two bytes.
    pub fn start() -> Self {
        Self::answering(|_| Reply {
            bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            ..Reply::default()
        })
    }

    /// Answers each whole request with bytes.
    pub fn answering(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listening(None, answer)
    }

    /// The same over TLS.
    pub fn answering_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listening(Some(TlsAcceptor::from(config)), answer)
    }

    fn listening(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let records: Arc<Mutex<Records>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let task = spawn({
            let records = Arc::clone(&records);
            async move {
                let mut tasks = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let connection = {
                        let mut records = lock(&records);
                        records.raw.push(Vec::new());
                        records.raw.len() - 1
                    };
                    let (records, answer) = (Arc::clone(&records), Arc::clone(&answer));
                    let tls = tls.clone();
                    tasks.spawn(async move {
                        drop(stream.set_nodelay(true));
                        let stream: Box<dyn Io> = match tls {
                            None => Box::new(stream),
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => Box::new(stream),
                                Err(_) => return,
                            },
                        };
                        let mut reader =
                            Reader { stream, pending: Vec::new(), connection, records };
                        drop(serve(&mut reader, &*answer).await);
                    });
                }
            }
        });
        Self { address, records, task }
    }

    /// All requests so far whose head was whole.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.records).seen.clone()
    }

    /// Those whose target has this text in it.
    pub fn seen_at(&self, text: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.target.contains(text)).collect()
    }

    /// The bytes of each connection.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        lock(&self.records).raw.clone()
    }
}

impl fmt::Display for RecordingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for RecordingOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The end of a connection, or bytes that are no request.
struct Over;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Reader {
    stream: Box<dyn Io>,
    /// Read, and not yet taken.
    pending: Vec<u8>,
    connection: usize,
    records: Arc<Mutex<Records>>,
}

impl Reader {
    async fn more(&mut self) -> Result<(), Over> {
        let before = self.pending.len();
        match self.stream.read_buf(&mut self.pending).await {
            Ok(0) | Err(_) => Err(Over),
            Ok(_) => {
                let mut records = lock(&self.records);
                records.raw[self.connection].extend_from_slice(&self.pending[before..]);
                Ok(())
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.stream.write_all(bytes).await.map_err(|_| Over)?;
        self.stream.flush().await.map_err(|_| Over)
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Over> {
        while self.pending.len() < length {
            self.more().await?;
        }
        Ok(self.pending.drain(..length).collect())
    }

    async fn head(&mut self) -> Result<Seen, Over> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 200];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&self.pending) {
                Ok(httparse::Status::Complete(length)) => {
                    let fields = request.headers.iter();
                    let seen = Seen {
                        connection: self.connection,
                        head: self.pending[..length].to_vec(),
                        method: request.method.unwrap_or_default().to_owned(),
                        target: request.path.unwrap_or_default().to_owned(),
                        fields: fields
                            .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
                            .collect(),
                        ..Seen::default()
                    };
                    self.pending.drain(..length);
                    return Ok(seen);
                }
                Ok(httparse::Status::Partial) => self.more().await?,
                Err(_) => return Err(Over),
            }
        }
    }

    /// Reads the body of a request, and remembers how far it came.
    async fn body(&mut self, number: usize, seen: &Seen) -> Result<(), Over> {
        let length = seen.values("content-length").first().map(|value| {
            std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        });
        if seen.values("transfer-encoding").is_empty() {
            let mut left = length.unwrap_or(0);
            while left > 0 {
                let part = left.min(self.pending.len().max(1));
                let part = self.take(part).await?;
                left -= part.len();
                lock(&self.records).seen[number].body.extend(part);
            }
        } else {
            loop {
                let (line, size) = loop {
                    match httparse::parse_chunk_size(&self.pending) {
                        Ok(httparse::Status::Complete(found)) => break found,
                        Ok(httparse::Status::Partial) => self.more().await?,
                        Err(_) => return Err(Over),
                    }
                };
                self.take(line).await?;
                let data = self.take(size as usize).await?;
                lock(&self.records).seen[number].body.extend(data);
                if self.take(2).await? != b"\r\n" {
                    return Err(Over);
                }
                if size == 0 {
                    break;
                }
            }
        }
        lock(&self.records).seen[number].is_whole = true;
        Ok(())
    }
}

async fn serve(reader: &mut Reader, answer: &Answer) -> Result<(), Over> {
    loop {
        let seen = reader.head().await?;
        let number = {
            let mut records = lock(&reader.records);
            records.seen.push(seen.clone());
            records.seen.len() - 1
        };
        reader.body(number, &seen).await?;
        let reply = {
            let seen = lock(&reader.records).seen[number].clone();
            answer(&seen)
        };
        reader.write(&reply.bytes).await?;
        if let Some((asked, bytes)) = reply.later {
            asked.notified().await;
            reader.write(&bytes).await?;
        }
        if reply.closes {
            return Ok(());
        }
    }
}
