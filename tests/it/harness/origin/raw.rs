//! An origin that answers with given bytes, for what no HTTP library would send.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::lock;
use crate::harness::{block_on, spawn};

/// Bytes remembered of one connection.
const MOST_BYTES: usize = 4 << 20;

/// What a raw origin does after a request's head has come.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes bytes.
    Write(Bytes),
    /// Waits.
    Pause(Duration),
    /// Reads until so many bytes have come after the head.
    ReadBody(usize),
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// A server that plays [`Step`]s after each request head and remembers every byte that came.
pub struct RawOrigin {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl RawOrigin {
    /// Answers each request with these bytes and keeps the connection.
    pub fn answering(bytes: impl Into<Bytes>) -> Self {
        Self::playing(vec![Step::Write(bytes.into())])
    }

    /// Plays these steps after each request head.
    pub fn playing(steps: Vec<Step>) -> Self {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let task = spawn({
            let connections = Arc::clone(&connections);
            async move {
                let mut tasks = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let number = {
                        let mut all = lock(&connections);
                        all.push(Vec::new());
                        all.len() - 1
                    };
                    let record = Record { connections: Arc::clone(&connections), number };
                    let steps = steps.clone();
                    tasks.spawn(async move { drop(play(stream, &steps, record).await) });
                }
            }
        });
        Self { address, connections, task }
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The bytes of each connection, in the order in which they were taken.
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.connections).clone()
    }

    /// All bytes of all connections as text.
    pub fn received_text(&self) -> String {
        String::from_utf8_lossy(&self.received().concat()).into_owned()
    }

    /// Connections ever taken.
    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }
}

impl fmt::Display for RawOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the bytes of one connection are remembered.
struct Record {
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    number: usize,
}

impl Record {
    fn add(&self, bytes: &[u8]) {
        let mut all = lock(&self.connections);
        let mine = &mut all[self.number];
        let room = MOST_BYTES.saturating_sub(mine.len());
        mine.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

async fn play(mut stream: TcpStream, steps: &[Step], record: Record) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending = Vec::new();
    loop {
        // A head ends with an empty line; what follows it belongs to a body or to the next head.
        let end = loop {
            if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if read(&mut stream, &mut pending, &record).await? == 0 {
                return Ok(());
            }
        };
        pending.drain(..end);
        for step in steps {
            match step {
                Step::Write(bytes) => stream.write_all(bytes).await?,
                Step::Pause(time) => tokio::time::sleep(*time).await,
                Step::ReadBody(length) => {
                    while pending.len() < *length {
                        if read(&mut stream, &mut pending, &record).await? == 0 {
                            return Ok(());
                        }
                    }
                    pending.drain(..length);
                }
                Step::Close => return Ok(()),
                Step::Reset => {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                    return Ok(());
                }
            }
        }
    }
}

async fn read(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    record: &Record,
) -> std::io::Result<usize> {
    let before = pending.len();
    let n = stream.read_buf(pending).await?;
    record.add(&pending[before..]);
    Ok(n)
}
