//! Makes the connections of HTTP/1.1 to endpoints, so that their answers are judged (`judged.rs`).
//!
//! Pingora has no door for an I/O type of ours on this side but its connector for custom protocols, which may also give it a
//! connection to speak HTTP/1.1 on, with TLS of our own (`secured.rs`). [`judge_answers`] marks a peer for it; peers without the mark
//! go the usual way. So go those that are offered HTTP/2 too: the first that takes HTTP/1.1 in its place is connected to anew,
//! with the mark.

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora_core::{
    connectors::{
        ConnectorOptions, TransportConnector,
        http::custom::{Connection, Connector},
    },
    protocols::{ALPN, Stream, tls::CustomALPN},
    upstreams::peer::{HttpPeer, Peer, Scheme},
};
use pingora_error::{Error, ErrorType, Result};

use super::{carried::Carried, judged::JudgedStream, secured::Security};

/// The mark of a peer. It is never sent: the connector offers HTTP/1.1 in its place.
const MARK: &[u8] = b"judged";

/// Marks a peer of HTTP/1.1, so that its answers are judged; says whether it is one. Others stay as they are: HTTP/2, and
/// those that are offered both. Of the latter `took_http1` says that they are known to take HTTP/1.1.
pub fn judge_answers(peer: &mut HttpPeer, took_http1: bool) -> bool {
    let is_http1 = match peer.options.alpn {
        ALPN::H1 => true,
        ALPN::H2H1 => took_http1,
        _ => false,
    };
    if is_http1 {
        peer.options.alpn = ALPN::Custom(CustomALPN::new(MARK.to_vec()));
    }
    is_http1
}

/// Makes connections to marked peers.
pub struct JudgedConnector {
    transport: TransportConnector,
}

impl JudgedConnector {
    /// A connector with these settings. It keeps no connections: Pingora's own pool does.
    pub fn new(mut options: ConnectorOptions) -> Self {
        options.keepalive_pool_size = 1;
        Self { transport: TransportConnector::new(Some(options)) }
    }

    /// A connection above TLS, within the time that connecting may take.
    async fn secured(&self, mut peer: HttpPeer, security: Option<Arc<Security>>) -> Result<Stream> {
        // A peer with TLS is never connected to without.
        let security = security.ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        peer.scheme = Scheme::HTTP;
        let connecting = async { security.connect(self.transport.new_stream(&peer).await?).await };
        let Some(limit) = peer.options.total_connection_timeout else { return connecting.await };
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
            let within = format!("no TLS within {limit:?}");
            Err(Error::explain(ErrorType::ConnectTimedout, within).into_up())
        })
    }
}

#[async_trait]
impl Connector for JudgedConnector {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<()>, bool)> {
        let peer: &dyn Any = peer;
        // The engine has no other kind.
        let peer = peer.downcast_ref::<HttpPeer>();
        let mut peer = peer.ok_or_else(|| Error::new_in(ErrorType::InternalError))?.clone();
        peer.options.alpn = ALPN::H1;
        let Carried { security, connections } = Carried::of(&peer);
        let counted = match connections.map(|connections| connections.open()).transpose() {
            Ok(counted) => counted,
            Err(error) => {
                return Err(Error::because(ErrorType::ConnectError, "a limit", error).into_up());
            }
        };
        let stream = if peer.is_tls() {
            self.secured(peer, security).await?
        } else {
            self.transport.new_stream(&peer).await?
        };
        let stream = JudgedStream::new(stream, counted);
        Ok((Connection::Stream(Box::new(stream)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<()> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        _session: (),
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
    }
}
