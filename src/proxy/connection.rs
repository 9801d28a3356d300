//! What is known of a client's connection: made by the listener, read by every request on it.
//!
//! It travels as user data of Pingora's proxy digest, the one door from an I/O type of ours to the request hooks.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use pingora_core::protocols::{Digest, raw_connect::ProxyDigest};
use pingora_http::ResponseHeader;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{hop::Hop, life::Life};
use crate::{
    config::ListenerLimits,
    framing::Fault,
    snapshot::Snapshot,
    telemetry::metrics::{LimitReached, ListenerMetrics},
    tls::{ClientCertificate, PolicyIdentity},
    types::Name,
};

/// A client's connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The listener that took it; it may be renamed.
    listener: Arc<ArcSwap<Name>>,
    /// The other end; `None` on a Unix socket.
    pub client: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// It speaks TLS.
    pub is_tls: bool,
    /// As its requests' forwarding headers name it.
    pub(super) hop: Hop,
    /// What its handshake settled.
    pub tls: Option<TlsFacts>,
    limits: ListenerLimits,
    /// Whether the next byte belongs to a request head; HTTP/1.1 only.
    awaits_head: AtomicBool,
    /// Whether it carries a WebSocket.
    is_web_socket: AtomicBool,
    /// Whether it ends with a reset.
    is_broken_off: AtomicBool,
    /// What is wrong with the body of its last request.
    fault: OnceLock<Fault>,
    ending: Arc<Ending>,
    metrics: Arc<ListenerMetrics>,
    /// What it has done so far.
    pub life: Life,
}

/// How the connections of a listener come to their end, step by step. Each step stays.
#[derive(Default)]
pub struct Ending {
    /// Answers say `Connection: close`, HTTP/2 gets GOAWAY. Idle connections stay, so that no request meets a close.
    pub announced: AtomicBool,
    /// What a listener that is gone still serves. It is let go with [`Self::all`].
    pub last: ArcSwapOption<Snapshot>,
    /// Connections between two requests are closed.
    pub idle: CancellationToken,
    /// WebSockets are closed with 1012 (service restart), spread over [`Self::spread_millis`].
    pub streams: CancellationToken,
    /// Over how many milliseconds the closing of WebSockets is spread, so that clients don't all come back at once.
    pub spread_millis: AtomicU64,
    /// Everything ends.
    pub all: CancellationToken,
}

/// What a handshake settled.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// The policy that the connection was made under.
    pub policy: Arc<PolicyIdentity>,
    /// The name asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// The version, as `TLSv1.3`.
    pub version: &'static str,
    /// The certificate that the client showed and that was found good.
    pub client: Option<Arc<ClientCertificate>>,
}

impl Ending {
    /// Ends everything that is left.
    pub fn end_all(&self) {
        self.all.cancel();
        self.last.store(None);
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("announced", &self.announced).finish_non_exhaustive()
    }
}

impl ConnectionInfo {
    /// A new connection that awaits a head.
    pub fn new(
        listener: Arc<ArcSwap<Name>>,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
        tls: Option<TlsFacts>,
        limits: ListenerLimits,
        ending: Arc<Ending>,
        metrics: Arc<ListenerMetrics>,
    ) -> Self {
        Self {
            listener,
            client,
            local,
            is_tls: tls.is_some(),
            hop: Hop::new(
                client.map(|address| address.ip()),
                tls.is_some(),
                local.map(|address| address.port()),
            ),
            tls,
            limits,
            awaits_head: AtomicBool::new(true),
            is_web_socket: AtomicBool::new(false),
            is_broken_off: AtomicBool::new(false),
            fault: OnceLock::new(),
            ending,
            metrics,
            life: Life::default(),
        }
    }

    /// Counts a limit that ended the connection, or one of its requests.
    pub fn limit_reached(&self, limit: LimitReached) {
        self.metrics.limit_reached(limit);
        debug!(client = ?self.client, reason = limit.label(), "a limit was reached");
    }

    /// Whether it has been there for as long as it may.
    pub fn is_old(&self) -> bool {
        self.limits.connection_age.is_some_and(|most| self.life.age() >= most)
    }

    /// The name of its listener.
    pub fn listener(&self) -> Arc<Name> {
        self.listener.load_full()
    }

    /// The limits of its listener when it was made.
    pub fn limits(&self) -> &ListenerLimits {
        &self.limits
    }

    /// Whether it should end after the present request.
    pub fn is_draining(&self) -> bool {
        self.ending.announced.load(Ordering::Acquire)
    }

    /// How it comes to its end.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    /// It has become a WebSocket.
    pub fn became_web_socket(&self) {
        self.is_web_socket.store(true, Ordering::Release);
    }

    /// Whether it carries a WebSocket.
    pub fn is_web_socket(&self) -> bool {
        self.is_web_socket.load(Ordering::Acquire)
    }

    /// It ends with a reset, so that the client does not take what came for all.
    pub fn break_off(&self) {
        self.is_broken_off.store(true, Ordering::Release);
    }

    /// Whether it ends with a reset.
    pub fn is_broken_off(&self) -> bool {
        self.is_broken_off.load(Ordering::Acquire)
    }

    /// The body of its request is broken: nothing can be read from it any more.
    pub fn broke(&self, fault: Fault) {
        // It breaks once.
        let _ = self.fault.set(fault);
    }

    /// What is wrong with the body of its request, where something is.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// The last byte of a head has come: what follows is no head.
    pub fn head_is_done(&self) {
        self.awaits_head.store(false, Ordering::Release);
    }

    /// A request has ended: the next byte begins a head.
    pub fn awaiting_head(&self) {
        self.awaits_head.store(true, Ordering::Release);
    }

    /// Whether the next byte belongs to a head.
    pub fn awaits_head(&self) -> bool {
        self.awaits_head.load(Ordering::Acquire)
    }

    /// As Pingora carries it.
    ///
    /// # Errors
    /// Never in practice: the head that Pingora wants beside it is a constant.
    pub fn into_proxy_digest(self: &Arc<Self>) -> pingora_error::Result<ProxyDigest> {
        let head = Box::new(ResponseHeader::build(200, Some(0))?);
        let user_data: Box<dyn Any + Send + Sync> = Box::new(self.clone());
        Ok(ProxyDigest::new(head, Some(user_data)))
    }

    /// The connection behind a request's digest.
    pub fn of(digest: &Digest) -> Option<&Arc<Self>> {
        digest.proxy_digest.as_deref().and_then(Self::of_proxy_digest)
    }

    /// The connection behind a stream's digest.
    pub fn of_proxy_digest(digest: &ProxyDigest) -> Option<&Arc<Self>> {
        digest.user_data.as_ref()?.downcast_ref::<Arc<Self>>()
    }
}
