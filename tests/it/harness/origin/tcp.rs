//! An origin that speaks no HTTP, or HTTP behind a PROXY header: for connections that are sent on as they are.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
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

/// What version 2 of the PROXY protocol begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a TCP origin does with a connection.
#[derive(Clone, Debug)]
pub enum Play {
    /// Sends everything back, and ends when the client ends.
    Echo,
    /// Reads until the client ends, then sends this and ends.
    AnswerAtEnd(Bytes),
    /// Sends this at once and ends its side; reads on.
    Greet(Bytes),
    /// Sends so many bytes at once, then resets the connection when the first byte has come.
    Reset(Bytes),
    /// Answers each head of HTTP/1.1, behind the PROXY header if there is one.
    Http(Bytes),
    /// Says nothing and never ends.
    Silence,
}

/// A server that remembers every byte of every connection.
pub struct TcpOrigin {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TcpOrigin {
    /// Sends everything back.
    pub fn echoing() -> Self {
        Self::playing(Play::Echo)
    }

    /// Does this with each connection.
    pub fn playing(play: Play) -> Self {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let open = Arc::new(AtomicUsize::new(0));
        let task = spawn({
            let (connections, open) = (Arc::clone(&connections), Arc::clone(&open));
            async move {
                let mut tasks = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let number = {
                        let mut all = lock(&connections);
                        all.push(Vec::new());
                        all.len() - 1
                    };
                    let record = Record { connections: Arc::clone(&connections), number };
                    let play = play.clone();
                    open.fetch_add(1, Ordering::SeqCst);
                    let open = Arc::clone(&open);
                    tasks.spawn(async move {
                        drop(perform(stream, &play, &record).await);
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self { address, connections, open, task }
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The bytes of each connection, in the order in which they were taken.
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.connections).clone()
    }

    /// Connections ever taken.
    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl fmt::Display for TcpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for TcpOrigin {
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
        lock(&self.connections)[self.number].extend_from_slice(bytes);
    }
}

async fn perform(mut stream: TcpStream, play: &Play, record: &Record) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    match play {
        Play::Greet(bytes) => {
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
        }
        Play::Reset(bytes) => stream.write_all(bytes).await?,
        _ => {}
    }
    let mut pending = Vec::new();
    let mut is_announced = false;
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        record.add(&buffer[..n]);
        match play {
            Play::Echo => stream.write_all(&buffer[..n]).await?,
            Play::Reset(_) => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Play::Http(answer) => {
                pending.extend_from_slice(&buffer[..n]);
                if !is_announced {
                    match header_length(&pending) {
                        Some(length) => drop(pending.drain(..length)),
                        None => continue,
                    }
                    is_announced = true;
                }
                while let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
                    pending.drain(..at + 4);
                    stream.write_all(answer).await?;
                }
            }
            Play::AnswerAtEnd(_) | Play::Greet(_) | Play::Silence => {}
        }
    }
    match play {
        Play::AnswerAtEnd(bytes) => stream.write_all(bytes).await?,
        Play::Silence => std::future::pending().await,
        _ => {}
    }
    stream.shutdown().await
}

/// The length of the PROXY header, 0 where there is none; `None` while it is not whole.
fn header_length(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(SIGNATURE) {
        let length = 16 + usize::from(u16::from_be_bytes(bytes.get(14..16)?.try_into().ok()?));
        return (bytes.len() >= length).then_some(length);
    }
    if bytes.starts_with(b"PROXY ") {
        return bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
    }
    Some(0)
}
