//! Attackers: clients that cost the edge as much as they can for little of their own, until they are dropped.
//!
//! They are paced: the test shares its cores with the edge, and what is measured is the edge, not who gets the processor.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{
    block_on,
    client::raw_http2::{flag, frame, kind},
};

const HOST: &str = "127.0.0.1";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// A kind of flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    SlowHeads,
    SlowBodies,
    SlowReaders,
    LargeHeads,
    Idle,
    Handshakes,
    RapidReset,
    Continuation,
}

/// A flood that goes on until this is dropped.
pub struct Attack {
    tasks: Option<JoinSet<()>>,
    connected: Arc<AtomicU64>,
}

impl Flood {
    pub const ALL: [Self; 8] = [
        Self::SlowHeads,
        Self::SlowBodies,
        Self::SlowReaders,
        Self::LargeHeads,
        Self::Idle,
        Self::Handshakes,
        Self::RapidReset,
        Self::Continuation,
    ];

    /// How many attackers there are: few in the short form.
    pub fn attackers(self, is_long: bool) -> usize {
        let (long, short) = match self {
            Self::Idle => (10_000, 1_000),
            Self::SlowHeads => (2_000, 200),
            Self::SlowBodies => (500, 50),
            Self::SlowReaders => (100, 20),
            Self::Handshakes => (1_000, 300),
            Self::LargeHeads | Self::RapidReset | Self::Continuation => (8, 4),
        };
        if is_long { long } else { short }
    }

    /// Which listener it is for.
    pub fn listener(self) -> &'static str {
        match self {
            Self::Handshakes => "https",
            _ => "http",
        }
    }

    /// Starts it; ready when all attackers have connected once.
    pub fn start(self, address: &str, attackers: usize) -> Attack {
        let address: SocketAddr = address.parse().expect("an address");
        let connected = Arc::new(AtomicU64::new(0));
        let tasks = block_on(async {
            let mut tasks = JoinSet::new();
            for number in 0..attackers {
                let connected = Arc::clone(&connected);
                tasks.spawn(async move {
                    // A few hundred at a time: the queue of the kernel is not what is flooded.
                    sleep(Duration::from_micros(300) * u32::try_from(number).unwrap_or(0)).await;
                    let mut is_first = true;
                    loop {
                        if let Ok(mut stream) = self.connect(address).await {
                            if is_first {
                                connected.fetch_add(1, Ordering::SeqCst);
                                is_first = false;
                            }
                            drop(self.attack(&mut stream).await);
                        }
                        sleep(self.pause()).await;
                    }
                });
            }
            tasks
        });
        Attack { tasks: Some(tasks), connected }
    }

    /// Between two connections of one attacker.
    fn pause(self) -> Duration {
        match self {
            Self::LargeHeads | Self::RapidReset | Self::Continuation => Duration::from_millis(50),
            _ => Duration::from_secs(1),
        }
    }

    async fn connect(self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self == Self::SlowReaders {
            // Its own buffers would take what it does not read.
            socket.set_recv_buffer_size(4_096)?;
        }
        if self == Self::Handshakes {
            // Handshakes are limited by client: the flood comes from elsewhere. Binding is slow with thousands.
            socket.bind(SocketAddr::from(([127, 0, 0, 9], 0)))?;
        }
        timeout(Duration::from_secs(5), socket.connect(address)).await?
    }

    /// One connection, to its end.
    async fn attack(self, stream: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Self::SlowHeads => {
                let start = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n");
                stream.write_all(start.as_bytes()).await?;
                trickle(stream, b"X-Slow: 1\r\n").await
            }
            Self::SlowBodies => {
                let head =
                    format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                trickle(stream, b"x").await
            }
            Self::SlowReaders => {
                let head = format!("GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut piece = [0; 100];
                while stream.read(&mut piece).await? > 0 {
                    sleep(Duration::from_millis(500)).await;
                }
                Ok(())
            }
            Self::LargeHeads => {
                let line = format!("X-Flood: {}\r\n", "x".repeat(500));
                let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}", line.repeat(200));
                stream.write_all(head.as_bytes()).await?;
                to_end(stream).await
            }
            Self::Idle => {
                // Not new, but between two requests: that is the larger of the two.
                let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                to_end(stream).await
            }
            Self::Handshakes => to_end(stream).await,
            Self::RapidReset => {
                let mut bytes = PREFACE.to_vec();
                let head = head();
                for number in 0..500 {
                    let stream = 2 * number + 1;
                    let flags = flag::END_HEADERS | flag::END_STREAM;
                    bytes.extend(frame(kind::HEADERS, flags, stream, &head));
                    bytes.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                }
                stream.write_all(&bytes).await?;
                to_end(stream).await
            }
            Self::Continuation => {
                let mut bytes = PREFACE.to_vec();
                bytes.extend(frame(kind::HEADERS, flag::END_STREAM, 1, &head()));
                for _ in 0..2_000 {
                    bytes.extend(frame(kind::CONTINUATION, 0, 1, &[]));
                }
                stream.write_all(&bytes).await?;
                to_end(stream).await
            }
        }
    }
}

impl Attack {
    /// Attackers that have had a connection.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::SeqCst)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        if let Some(mut tasks) = self.tasks.take() {
            block_on(tasks.shutdown());
        }
    }
}

/// A piece a second, for as long as it is taken.
async fn trickle(stream: &mut TcpStream, piece: &[u8]) -> std::io::Result<()> {
    let mut answer = [0; 512];
    loop {
        match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(read) => drop(read?),
            Err(_) => stream.write_all(piece).await?,
        }
    }
}

async fn to_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 512];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

/// `GET /` in HPACK.
fn head() -> Vec<u8> {
    let mut head = vec![0x82, 0x84, 0x86, 0x01, 9];
    head.extend(HOST.as_bytes());
    head
}
