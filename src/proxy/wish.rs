//! What a request says about the endpoint it would have: the hash of its key, and its sticky cookie.
//!
//! Place: `admit`, before the first pick, and the head of the answer. Only what an upstream asks for is read; a retry keeps it. The
//! sticky cookie ends here: endpoints don't see it, all else of `Cookie` goes on as it came.

use std::{borrow::Cow, net::IpAddr};

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{context::RequestContext, endpoint::upstream_of};
use crate::{
    types::ClientNetwork,
    upstream::{HashKey, Picked, StickyValue, UpstreamConfig, Wish},
};

/// Reads it from the request for its upstream, and takes the sticky cookie out; returns what was wished before.
pub(super) fn read(session: &mut Session, ctx: &mut RequestContext) -> Wish {
    let Some(config) = upstream_of(ctx).map(|upstream| upstream.config()) else {
        return Wish::default();
    };
    let header = session.req_header();
    let hash = config.hash.as_ref().and_then(|hash| {
        let query = header.uri.query().unwrap_or_default();
        hash_of(&hash.key, &header.headers, &ctx.path, query, ctx.client.address)
    });
    let sticky = config
        .sticky
        .as_ref()
        .and_then(|sticky| take_cookie(session.req_header_mut(), &sticky.cookie))
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
    hash_of(&hash.key, &HeaderMap::new(), "", "", client)
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

/// Takes every cookie of this name out of the request, and returns the value of the first. All other bytes stay as they are; a line
/// without another cookie goes.
pub(super) fn take_cookie(request: &mut RequestHeader, name: &str) -> Option<String> {
    let lines = request.headers.get_all(COOKIE);
    let is_ours = |part: &&[u8]| {
        let part = part.trim_ascii_start();
        part.strip_prefix(name.as_bytes())
            .and_then(|rest| rest.trim_ascii_start().split_first())
            .is_some_and(|(first, _)| *first == b'=')
    };
    let mut value = None;
    let mut kept: Vec<HeaderValue> = Vec::new();
    let mut is_changed = false;
    for line in lines {
        let parts = || line.as_bytes().split(|byte| *byte == b';');
        let Some(ours) = parts().find(is_ours) else {
            kept.push(line.clone());
            continue;
        };
        is_changed = true;
        let text = ours.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default().trim_ascii();
        value = value.or_else(|| std::str::from_utf8(text).ok().map(ToOwned::to_owned));
        let rest = parts().filter(|part| !is_ours(part)).collect::<Vec<_>>().join(&b';');
        let rest = rest.trim_ascii_start();
        if !rest.is_empty() {
            kept.extend(HeaderValue::from_bytes(rest));
        }
    }
    if is_changed {
        request.remove_header(&COOKIE);
        for line in kept {
            // The value is valid by its type.
            drop(request.append_header(COOKIE, line));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookie_is_taken_and_the_others_stay_as_they_came() {
        for (lines, value, left) in [
            (&["n=v"][..], Some("v"), &[][..]),
            (&["a=1; n=v; b=2"], Some("v"), &["a=1; b=2"]),
            (&["n=v; a=1"], Some("v"), &["a=1"]),
            (&["a=1;n=v"], Some("v"), &["a=1"]),
            (&["a=1", "n=v", "b=2"], Some("v"), &["a=1", "b=2"]),
            (&["n=v; a=1; n=w", "n=x"], Some("v"), &["a=1"]),
            (&["n = v"], Some("v"), &[]),
            (&["n="], Some(""), &[]),
            (&["nn=v; N=w; n; m=n=v"], None, &["nn=v; N=w; n; m=n=v"]),
            (&["a=\"x;  y\";; c"], None, &["a=\"x;  y\";; c"]),
            (&[], None, &[]),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for line in lines {
                request.append_header(COOKIE, *line).unwrap();
            }
            assert_eq!(take_cookie(&mut request, "n").as_deref(), value, "{lines:?}");
            let rest: Vec<&[u8]> =
                request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            let left: Vec<&[u8]> = left.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(rest, left, "{lines:?}");
        }
    }

    #[test]
    fn keys_are_read_from_their_place() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "ada".parse().unwrap());
        headers.insert("x-empty", "".parse().unwrap());
        headers.insert(COOKIE, "a=1; u=ada".parse().unwrap());
        let hash = |key: HashKey| {
            let client = Some("2001:db8::1".parse().unwrap());
            hash_of(&key, &headers, "/ada", "a=1&u=%61da", client)
        };
        let ada = Some(HashKey::hash(b"ada"));
        assert_eq!(hash(HashKey::Header("x-user".parse().unwrap())), ada);
        assert_eq!(hash(HashKey::Cookie("u".to_owned())), ada);
        assert_eq!(hash(HashKey::Query("u".to_owned())), ada);
        assert_eq!(hash(HashKey::Path), Some(HashKey::hash(b"/ada")));
        let neighbour = Some("2001:db8::2".parse().unwrap());
        let key = HashKey::ClientAddress;
        assert_eq!(hash(key.clone()), hash_of(&key, &headers, "", "", neighbour));
        for none in [
            HashKey::Header("x-empty".parse().unwrap()),
            HashKey::Header("x-other".parse().unwrap()),
            HashKey::Cookie("v".to_owned()),
            HashKey::Query("v".to_owned()),
        ] {
            assert_eq!(hash(none.clone()), None, "{none:?}");
        }
        assert_eq!(hash_of(&key, &headers, "", "", None), None);
    }
}
