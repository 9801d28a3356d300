//! Connections to endpoints that begin with a PROXY header, which names the client.
//!
//! Place: `upstream_peer`, for upstreams that say so. What the header says holds for the whole connection: the pool keeps it
//! apart from those of other clients, and a client whose requests follow one another on one connection finds it again.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr as PingoraAddress, stream::Stream},
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result};

use super::{context::RequestContext, upgrade::connect_error};
use crate::{
    types::{EndpointAddress, ProxyHeader, ProxyVersion},
    upstream::{self, EndpointStream},
};

/// The header for a request: the client as logs and limits know it.
pub(super) fn opening(ctx: &RequestContext, version: ProxyVersion) -> Bytes {
    let connection = ctx.connection.as_deref();
    let peer = connection.and_then(|connection| connection.client);
    let source = match (ctx.client.address, peer) {
        // Told by a trusted proxy, which does not say the port.
        (Some(address), peer) if peer.is_none_or(|peer| peer.ip() != address) => {
            Some(SocketAddr::new(address, 0))
        }
        (_, peer) => peer,
    };
    let destination = connection.and_then(|connection| connection.local);
    ProxyHeader::between(source, destination).encode(version).into()
}

/// Makes `peer` one whose connections begin with `opening` and carry nobody else's requests.
pub(super) fn prepare(peer: &mut HttpPeer, opening: Bytes) {
    set_apart(peer, &opening);
    peer.options.custom_l4 = Some(Arc::new(Announced { opening }));
}

/// Connections with another opening are not this peer's.
pub(super) fn set_apart(peer: &mut HttpPeer, opening: &[u8]) {
    let mut hasher = DefaultHasher::new();
    peer.group_key.hash(&mut hasher);
    opening.hash(&mut hasher);
    peer.group_key = hasher.finish();
}

/// Connects, and writes the header.
#[derive(Debug)]
struct Announced {
    opening: Bytes,
}

#[async_trait]
impl Connect for Announced {
    async fn connect(&self, address: &PingoraAddress) -> Result<Stream> {
        Ok(match connect(address, &self.opening).await? {
            EndpointStream::Tcp(stream) => stream.into(),
            EndpointStream::Unix(stream) => stream.into(),
        })
    }
}

/// A connection to what Pingora calls `address`.
pub(super) async fn connect(address: &PingoraAddress, opening: &[u8]) -> Result<EndpointStream> {
    let address = match address {
        PingoraAddress::Inet(address) => EndpointAddress::Ip(*address),
        PingoraAddress::Unix(address) => EndpointAddress::Unix(
            address.as_pathname().ok_or_else(|| Error::new_up(ErrorType::ConnectError))?.into(),
        ),
    };
    upstream::connect(&address, opening).await.map_err(|error| connect_error(&error))
}
