//! What a request says about the endpoint it would have: the hash of its key, where its upstream asks for one.
//!
//! Place: `admit`, before the first pick. Only what an upstream asks for is read; a retry keeps it.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, header::COOKIE};
use pingora_proxy::Session;

use super::context::RequestContext;
use crate::{
    types::ClientNetwork,
    upstream::{HashKey, Upstream, UpstreamConfig},
};

/// Reads it from the request.
pub(super) fn read(session: &Session, ctx: &mut RequestContext) {
    let Some(upstream) = upstream_of(ctx) else { return };
    let Some(hash) = &upstream.config().hash else { return };
    let header = session.req_header();
    let query = header.uri.query().unwrap_or_default();
    let client = ctx.client.address;
    ctx.tries.wish.hash = hash_of(&hash.key, &header.headers, &ctx.path, query, client);
}

/// The same for a connection that is sent on: nothing is known of it but its client.
pub(super) fn hash_of_client(config: &UpstreamConfig, client: Option<IpAddr>) -> Option<u64> {
    let hash = config.hash.as_ref()?;
    hash_of(&hash.key, &HeaderMap::new(), "", "", client)
        .filter(|_| hash.key == HashKey::ClientAddress)
}

/// The request's upstream, while it has its snapshot.
fn upstream_of(ctx: &RequestContext) -> Option<&Upstream> {
    ctx.tries
        .upstream
        .and_then(|index| ctx.snapshot.as_ref()?.upstreams.get(index))
        .map(|one| &**one)
}

/// The hash of a request's key. An empty value is none.
fn hash_of(
    key: &HashKey,
    headers: &HeaderMap,
    path: &str,
    query: &str,
    client: Option<IpAddr>,
) -> Option<u64> {
    let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| HashKey::hash(bytes));
    match key {
        HashKey::Header(name) => some(headers.get(name)?.as_bytes()),
        HashKey::Cookie(name) => some(cookie(headers, name)?.as_bytes()),
        HashKey::Query(name) => {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let (_, value): (_, Cow<'_, str>) = pairs.find(|(key, _)| key == name)?;
            some(value.as_bytes())
        }
        HashKey::Path => some(path.as_bytes()),
        HashKey::ClientAddress => {
            Some(HashKey::hash(&ClientNetwork::of(client?).number().to_be_bytes()))
        }
    }
}

/// The value of the first cookie of this name.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(cookie::Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
        .and_then(|cookie| cookie.value_raw())
}
