//! The client: as many exchanges at once as it may have, as fast as they are answered (closed loop) or at a fixed rate
//! (open loop).
//!
//! In the open loop every request has a time at which it is to start, whether or not earlier ones are answered, and its
//! latency counts from then: a proxy that stalls pays for all requests that had to wait (no coordinated omission).
//! Everything runs on the caller's thread.

mod connect;
mod http1;
mod http2;
mod pace;
mod shared;

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use rustls_pki_types::CertificateDer;
use tokio::{task::JoinSet, time::timeout};

use crate::measure::{Meter, Usage};
use connect::Connector;
use http1::Http1;
use shared::Shared;

/// How long requests that are under way at the end may still take.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 16;

/// How requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http1Tls,
    Http2,
    /// A connection for each request.
    Handshake(Handshake),
}

/// What begins each of many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// All of it, by X25519.
    Full,
    /// With the session of an earlier one.
    Resumed,
    /// All of it, by X25519MLKEM768.
    Hybrid,
}

/// When a request is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as the one before is answered.
    Closed,
    /// So many a second, evenly.
    Open { per_second: f64 },
}

/// One measurement.
pub(crate) struct Load {
    pub(crate) target: SocketAddr,
    pub(crate) protocol: Protocol,
    /// The certificate that is expected, where TLS is spoken.
    pub(crate) trusted: Option<CertificateDer<'static>>,
    pub(crate) pace: Pace,
    /// Requests at once.
    pub(crate) concurrency: u32,
    /// Time before the window that counts.
    pub(crate) warm_up: Duration,
    /// Time that counts.
    pub(crate) window: Duration,
}

/// What came of it, within the window.
pub(crate) struct Outcome {
    /// Answered by 200 with the whole body.
    pub(crate) answered: u64,
    /// Not so; also those that were still under way at the end.
    pub(crate) failed: u64,
    /// What went wrong last.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    /// Nanoseconds from the intended start to the last byte.
    pub(crate) latency: Histogram<u64>,
    pub(crate) usage: Usage,
    pub(crate) memory_mib: f64,
}

impl Load {
    /// One request, to see whether anything answers.
    pub(crate) async fn try_one(&self) -> Result<()> {
        let connector = Connector::new(self)?;
        let mut client = Http1::new(connector.connect().await?.stream);
        client.exchange(false).await?;
        Ok(())
    }

    /// Runs it within a `LocalSet`.
    ///
    /// # Errors
    /// The target does not let us connect. Requests that fail are counted.
    pub(crate) async fn run(&self, meter: &Meter) -> Result<Outcome> {
        let shared = Rc::new(Shared::new(self.pace)?);
        let mut clients = JoinSet::new();
        let connectors = self.connect(&shared, &mut clients).await?;

        let pacer = shared.begin();
        tokio::time::sleep(self.warm_up).await;
        let first = shared.open_window();
        let before = meter.read();
        tokio::time::sleep(self.window).await;
        let after = meter.read();
        let last = shared.close_window();
        // Before the connections are closed; in the open loop it would hold up what is under way.
        let busy_memory = matches!(self.pace, Pace::Closed).then(|| meter.memory_mib());

        let ended = timeout(LAST_ANSWERS, async { while clients.join_next().await.is_some() {} });
        // What has not ended by now counts as failed below.
        drop(ended.await);
        clients.shutdown().await;
        drop(pacer);
        let totals = shared.totals();
        let resumed: u64 = connectors.iter().map(|connector| connector.resumed()).sum();
        let failure = match self.protocol {
            // The first handshake of each client is a full one.
            Protocol::Handshake(Handshake::Resumed) if resumed * 10 < totals.answered * 9 => {
                Some(format!("{resumed} of {} sessions were resumed", totals.answered))
            }
            _ => totals.failure,
        };
        Ok(Outcome {
            answered: last.answered - first.answered,
            failed: totals.failed,
            failure,
            seconds: (last.at - first.at).as_secs_f64(),
            latency: totals.latency,
            usage: meter.used(before, after),
            memory_mib: busy_memory.unwrap_or_else(|| meter.memory_mib()),
        })
    }

    /// Makes all connections, and a client for each exchange that there may be at once; they wait for the begin.
    async fn connect(
        &self,
        shared: &Rc<Shared>,
        clients: &mut JoinSet<()>,
    ) -> Result<Vec<Rc<Connector>>> {
        let connector = Rc::new(Connector::new(self)?);
        let mut connectors = vec![connector.clone()];
        let refused = || format!("can't connect to {}", self.target);
        match self.protocol {
            Protocol::Http1 | Protocol::Http1Tls => {
                for _ in 0..self.concurrency {
                    let stream = connector.connect().await.with_context(refused)?.stream;
                    let client = Http1::new(stream);
                    clients.spawn_local(http1::keep(client, connector.clone(), shared.clone()));
                }
            }
            Protocol::Http2 => {
                for first in (0..self.concurrency).step_by(STREAMS as usize) {
                    let streams = STREAMS.min(self.concurrency - first);
                    let stream = connector.connect().await.with_context(refused)?.stream;
                    let sender = http2::connect(stream).await.with_context(refused)?;
                    for _ in 0..streams {
                        clients.spawn_local(http2::keep(sender.clone(), shared.clone()));
                    }
                }
            }
            Protocol::Handshake { .. } => {
                for _ in 0..self.concurrency {
                    // Each keeps its own sessions: a store that all share holds fewer than there are clients.
                    let connector = Rc::new(Connector::new(self)?);
                    clients.spawn_local(http1::reconnect(connector.clone(), shared.clone()));
                    connectors.push(connector);
                }
            }
        }
        Ok(connectors)
    }
}
