//! A connection that is sent on as it is: an endpoint is found for it, then bytes pass.
//!
//! Place: instead of Pingora, for listeners that speak no HTTP and for server names that are passed through. Balancing, health,
//! the breaker, tries and counts are those of upstreams. It holds its generation until an endpoint has taken it; then only the endpoint
//! and its counters, so that a reload changes nothing for it.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use http::Method;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

use super::{
    connection::Ending,
    pump::{PumpEnd, pump},
    wish,
};
use crate::{
    snapshot::Tunnel,
    telemetry::{
        AccessLog, TunnelEntry,
        metrics::{OpenTunnel, TunnelEnd, TunnelMetrics},
    },
    types::{ClientNetwork, Name, ProxyHeader},
    upstream::{
        Again, Endpoint, EndpointStream, FailedTry, Fault, InFlight, NotAgain, OpenConnection,
        TryFailure, Wish, connect, is_own_failure,
    },
};

/// What is known of a connection that is sent on.
#[derive(Debug)]
pub struct Arrival {
    /// The other end; `None` on a Unix socket.
    pub client: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The name asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// What was read of the client's bytes.
    pub opening: Vec<u8>,
}

/// Sends a connection on, from its first byte to its last.
pub async fn send_on<S>(mut client: S, arrival: Arrival, tunnel: Arc<Tunnel>, ending: &Ending)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let Arrival { client: source, local, server_name, opening } = arrival;
    let mut record = Record::new(&tunnel, source, server_name);
    let config = tunnel.upstream.config();
    let idle = config.timeouts.stream_idle;
    let header =
        config.proxy_protocol.map(|version| ProxyHeader::between(source, local).encode(version));
    let (mut endpoint, _in_flight, _counted) =
        match take_endpoint(&tunnel, &header.unwrap_or_default(), &mut record).await {
            Ok(taken) => taken,
            Err(end) => {
                record.end = end;
                reset(&client);
                return;
            }
        };
    drop(tunnel);
    let Record { bytes_in, bytes_out, metrics, .. } = &mut record;
    let passing = pump(
        &mut client,
        &mut endpoint,
        opening,
        idle,
        |bytes| {
            *bytes_in += bytes;
            metrics.received(bytes);
        },
        |bytes| {
            *bytes_out += bytes;
            metrics.sent(bytes);
        },
    );
    let end = tokio::select! {
        biased;
        () = drained(ending) => TunnelEnd::Drained,
        end = passing => match end {
            PumpEnd::Closed => TunnelEnd::Closed,
            PumpEnd::Idle => TunnelEnd::Idle,
            PumpEnd::ClientBroke => TunnelEnd::ClientReset,
            PumpEnd::EndpointBroke => TunnelEnd::EndpointReset,
        },
    };
    record.end = end;
    match end {
        // An orderly end would make the other side believe that it has everything.
        TunnelEnd::ClientReset => reset(&endpoint),
        TunnelEnd::EndpointReset => reset(&client),
        _ => {}
    }
}

/// A connection to an endpoint. Nothing of the client's was sent to one that did not take it, so that another may be tried.
async fn take_endpoint(
    tunnel: &Tunnel,
    header: &[u8],
    record: &mut Record,
) -> Result<(EndpointStream, InFlight, OpenConnection), TunnelEnd> {
    let config = tunnel.upstream.config();
    let counted = tunnel.upstream.open_connection().map_err(|_| TunnelEnd::ConnectionLimit)?;
    let mut wish = Wish {
        network: record.client.map(|client| ClientNetwork::of(client.ip())),
        hash: wish::hash_of_client(config, record.client.map(|client| client.ip())),
        ..Wish::default()
    };
    let mut probe =
        tunnel.upstream.pass(wish.network, Instant::now).map_err(|_| TunnelEnd::BreakerOpen)?;
    tunnel.upstream.count_request(wish.network, Instant::now());
    loop {
        let mut picked = tunnel.upstream.pick(&wish).map_err(|_| TunnelEnd::NoEndpoint)?;
        picked.probes(probe.take());
        wish.tried.add(picked.endpoint());
        record.tries += 1;
        record.endpoint = Some(Arc::clone(picked.endpoint()));
        let connecting = connect(picked.endpoint().address(), header);
        let end = match timeout(config.timeouts.connect, connecting).await {
            Ok(Ok(stream)) => {
                record.connected = Some(record.began.elapsed());
                return Ok((stream, picked.into_in_flight(), counted));
            }
            Ok(Err(error)) if is_own_failure(&error) => TunnelEnd::NoResources,
            Ok(Err(_)) => TunnelEnd::ConnectFailed,
            Err(_) => TunnelEnd::ConnectTimeout,
        };
        // What we lack says nothing of the endpoint.
        if end != TunnelEnd::NoResources {
            picked.failed(Fault::Connect);
        }
        drop(picked);
        let failed = FailedTry {
            failure: TryFailure::Connect,
            method: &Method::CONNECT,
            was_sent: false,
            is_answered: false,
            can_replay: true,
            tries: record.tries,
            left: None,
        };
        let budget = || tunnel.upstream.takes_retry(wish.network, Instant::now());
        match config.retries.again(&failed, budget, |limit| fastrand::u64(0..=limit)) {
            Again::Yes { elsewhere_at_once: true, .. } => {}
            Again::Yes { pause, .. } => sleep(pause).await,
            Again::No(not_again) => {
                if not_again == NotAgain::Budget {
                    tunnel.retries.refused_retry();
                }
                return Err(end);
            }
        }
        // A breaker that has opened meanwhile wants no retries, and a half-open one lets first tries through only.
        if !matches!(tunnel.upstream.pass(None, Instant::now), Ok(None)) {
            return Err(end);
        }
        tunnel.retries.retried();
    }
}

/// Resolves when this connection's turn has come to end with its listener or with the edge.
async fn drained(ending: &Ending) {
    // A token of its own: many connections that wait on one would share its lock.
    ending.streams.child_token().cancelled().await;
    let spread = ending.spread_millis.load(Ordering::Acquire);
    sleep(Duration::from_millis(fastrand::u64(0..=spread))).await;
}

/// Closing will reset the connection. On a Unix socket it closes as always.
fn reset(stream: &impl AsFd) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

/// What is remembered of a connection; counted and logged when it is dropped, whatever ended its task.
struct Record {
    began: Instant,
    time: SystemTime,
    client: Option<SocketAddr>,
    listener: Name,
    passthrough: Option<Name>,
    upstream: Name,
    server_name: Option<Box<str>>,
    endpoint: Option<Arc<Endpoint>>,
    tries: u32,
    connected: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    end: TunnelEnd,
    metrics: Arc<TunnelMetrics>,
    access_log: Option<Arc<AccessLog>>,
    _open: OpenTunnel,
}

impl Record {
    fn new(tunnel: &Tunnel, client: Option<SocketAddr>, server_name: Option<Box<str>>) -> Self {
        Self {
            began: Instant::now(),
            time: SystemTime::now(),
            client,
            listener: tunnel.listener.clone(),
            passthrough: tunnel.passthrough.clone(),
            upstream: tunnel.upstream.config().name.clone(),
            server_name,
            endpoint: None,
            tries: 0,
            connected: None,
            bytes_in: 0,
            bytes_out: 0,
            // A task that is dropped ends with the edge.
            end: TunnelEnd::Drained,
            metrics: Arc::clone(&tunnel.metrics),
            access_log: tunnel.access_log.clone(),
            _open: tunnel.metrics.opened(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        self.metrics.ended(self.end, duration);
        let Some(log) = &self.access_log else { return };
        log.write_tunnel(&TunnelEntry {
            time: self.time,
            kind: if self.passthrough.is_some() { "passthrough" } else { "tcp" },
            client: self.client.map(|client| client.ip()),
            listener: &self.listener,
            passthrough: self.passthrough.as_deref(),
            server_name: self.server_name.as_deref(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration,
            connect_duration: self.connected,
            upstream: &self.upstream,
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.address()),
            tries: self.tries,
            end: self.end.label(),
        });
    }
}
