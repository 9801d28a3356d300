//! Who may ask: the token, the host name, the page that a request comes from.
//!
//! Without a token the listener is on loopback or a Unix socket. A browser on the same machine can be led there by a
//! page whose host name resolves to 127.0.0.1 (DNS rebinding), so a request over TCP must then name a loopback host.
//! A page of another site can send a POST without reading the answer, so these are refused by what the browser says
//! about their origin.

use std::net::IpAddr;

use http::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, HOST, ORIGIN},
    uri::Authority,
};

use super::token::{Token, TokenError};

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The token is missing or wrong (401).
    Token,
    /// The token can't be read, so nobody can have the right one (503).
    NoToken(TokenError),
    /// The host is not a name of this machine (403).
    Host,
    /// A page of another site sent it (403).
    CrossSite,
}

/// Decides on a request for anything but `/live` and `/ready`. `is_unix`: it came over a Unix socket, whose
/// permissions decided already.
pub(super) fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    token: Option<&Token>,
    is_unix: bool,
) -> Result<(), Refused> {
    match token {
        Some(token) => {
            let expected = token.current().map_err(Refused::NoToken)?;
            let is_right = bearer(headers).is_some_and(|given| expected.matches(given));
            if !is_right {
                return Err(Refused::Token);
            }
        }
        None if is_unix => {}
        None => {
            if !names_loopback(uri, headers) {
                return Err(Refused::Host);
            }
        }
    }
    if *method != Method::GET && *method != Method::HEAD && is_cross_site(headers) {
        return Err(Refused::CrossSite);
    }
    Ok(())
}

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether every host that the request names is loopback, and there is one.
fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let is_loopback = |text: &str| {
        text.parse::<Authority>().is_ok_and(|authority| {
            !authority.as_str().contains('@') && is_loopback_host(authority.host())
        })
    };
    host.to_str().is_ok_and(is_loopback)
        && uri.authority().is_none_or(|it| is_loopback(it.as_str()))
}

fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    // RFC 6761, section 6.3: names under localhost are loopback.
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether the browser says that the page is of another site (Fetch Metadata; RFC 6454, section 7). Clients that are
/// no browsers say nothing.
fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let host = headers.get(HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let origin = origin.as_bytes();
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), value.parse().unwrap())
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn only_hosts_of_this_machine_pass_without_a_token() {
        for (host, passes) in [
            ("localhost", true),
            ("LocalHost:9180", true),
            ("edge.localhost:9180", true),
            ("localhost.", true),
            ("127.0.0.1:9180", true),
            ("127.8.9.1", true),
            ("[::1]:9180", true),
            ("[::ffff:127.0.0.1]", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("localhost@evil.example", false),
            ("evil.example@localhost", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("", false),
        ] {
            let headers = headers(&[("host", host)]);
            let result = check(&Method::GET, &Uri::from_static("/"), &headers, None, false);
            assert_eq!(result.is_ok(), passes, "{host:?}");
            assert!(check(&Method::GET, &Uri::from_static("/"), &headers, None, true).is_ok());
        }
        let get = |uri, headers: &HeaderMap| {
            check(&Method::GET, &Uri::from_static(uri), headers, None, false).is_ok()
        };
        assert!(!get("/", &HeaderMap::new()));
        let mut two = headers(&[("host", "localhost")]);
        two.append(HOST, "evil.example".parse().unwrap());
        assert!(!get("/", &two));
        assert!(!get("http://evil.example/", &headers(&[("host", "localhost")])));
    }

    #[test]
    fn pages_of_other_sites_cannot_post() {
        for (list, passes) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "none")][..], true),
            (&[("sec-fetch-site", "cross-site")][..], false),
            (&[("sec-fetch-site", "same-site")][..], false),
            (&[("origin", "http://localhost:9180")][..], true),
            (&[("origin", "http://localhost:80")][..], false),
            (&[("origin", "https://evil.example")][..], false),
            (&[("origin", "null")][..], false),
        ] {
            let mut headers = headers(list);
            headers.insert(HOST, "localhost:9180".parse().unwrap());
            let check = |method| check(&method, &Uri::from_static("/"), &headers, None, false);
            assert_eq!(check(Method::POST).is_ok(), passes, "{list:?}");
            assert!(check(Method::GET).is_ok());
        }
    }

    #[test]
    fn a_bearer_token_is_taken_from_its_header() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(bearer(&headers), token.map(str::as_bytes), "{value}");
        }
    }
}
