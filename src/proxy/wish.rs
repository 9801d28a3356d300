//! What a request says about the endpoint it would have: the hash of its key, and its sticky cookie.
//!
//! Place: `admit`, before the first pick, and the head of the answer. Only what an upstream asks for is read; a retry keeps it. The
//! sticky cookie ends here: endpoints don't see it, all else of `Cookie` goes on as it came.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header::SET_COOKIE};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{context::RequestContext, endpoint::upstream_of};
use crate::{
    policy::{HashKey, RequestHead},
    types::ClientNetwork,
    upstream::{Picked, StickyValue, UpstreamConfig, Wish},
};

/// Reads it from the request for its upstream, and takes the sticky cookie out; returns what was wished before.
pub(super) fn read(session: &mut Session, ctx: &mut RequestContext) -> Wish {
    let Some(config) = upstream_of(ctx).map(|upstream| upstream.config()) else {
        return Wish::default();
    };
    let header = session.req_header();
    let hash = config.hash.as_ref().and_then(|hash| {
        let query = header.uri.query();
        hash.key.of(&header.headers, &ctx.path, query, ctx.client.address, HashKey::hash)
    });
    let sticky = config
        .sticky
        .as_ref()
        .and_then(|sticky| RequestHead(session.req_header_mut()).take_cookie(&sticky.cookie))
        .and_then(|value| StickyValue::parse(&value));
    let network = ctx.client.address.map(ClientNetwork::of);
    std::mem::replace(&mut ctx.tries.wish, Wish { hash, sticky, network, ..Wish::default() })
}

/// Tells the client the cookie of the endpoint that answered, where it has another or none.
pub(super) fn set_cookie(response: &mut ResponseHeader, ctx: &RequestContext) {
    let Some(value) = ctx.tries.picked.as_ref().and_then(Picked::sticky) else { return };
    if ctx.tries.wish.sticky == Some(value) {
        return;
    }
    let Some(sticky) = upstream_of(ctx).and_then(|one| one.config().sticky.as_ref()) else {
        return;
    };
    if let Ok(line) = HeaderValue::from_str(&sticky.set_cookie(&value.encode(), ctx.is_tls())) {
        // The value is valid by its type.
        drop(response.append_header(SET_COOKIE, line));
    }
}

/// The same for a connection that is sent on: nothing is known of it but its client.
pub(super) fn hash_of_client(config: &UpstreamConfig, client: Option<IpAddr>) -> Option<u64> {
    let hash = config.hash.as_ref().filter(|hash| hash.key == HashKey::ClientAddress)?;
    hash.key.of(&HeaderMap::new(), "", None, client, HashKey::hash)
}
