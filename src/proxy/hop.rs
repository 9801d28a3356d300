//! A connection as forwarding headers name it: made once for all of its requests.

use std::{fmt::Write as _, net::IpAddr};

use http::HeaderValue;

/// What this connection adds to the lists of hops.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    /// The other end; `None` on a Unix socket.
    pub(super) peer: Option<IpAddr>,
    /// Its address, for `X-Forwarded-For`.
    pub(super) address: HeaderValue,
    /// `for` and `proto` of `Forwarded`.
    pub(super) element: Box<str>,
    /// `http` or `https`.
    pub(super) proto: HeaderValue,
    /// The port that the client connected to.
    pub(super) port: Option<HeaderValue>,
}

impl Hop {
    /// The hop from `peer` to our `port`.
    pub(super) fn new(peer: Option<IpAddr>, is_tls: bool, port: Option<u16>) -> Self {
        let proto = if is_tls { "https" } else { "http" };
        let address = peer.and_then(|peer| HeaderValue::from_str(&peer.to_string()).ok());
        let mut element = String::new();
        push_for(&mut element, peer);
        element.push_str(";proto=");
        element.push_str(proto);
        Self {
            peer,
            address: address.unwrap_or(HeaderValue::from_static("unknown")),
            element: element.into(),
            proto: HeaderValue::from_static(proto),
            port: port.map(HeaderValue::from),
        }
    }
}

/// Appends `for=` with its address; those of IPv6 are quoted (RFC 7239, section 6).
pub(super) fn push_for(line: &mut String, address: Option<IpAddr>) {
    let written = match address {
        None => line.write_str("for=unknown"),
        Some(IpAddr::V4(address)) => write!(line, "for={address}"),
        Some(IpAddr::V6(address)) => write!(line, "for=\"[{address}]\""),
    };
    debug_assert!(written.is_ok(), "writing to a String never fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_named_as_each_header_wants_them() {
        let hop = |peer: Option<&str>, is_tls| {
            let hop = Hop::new(peer.map(|peer| peer.parse().unwrap()), is_tls, Some(443));
            (hop.address.to_str().unwrap().to_owned(), hop.element.to_string())
        };
        let pair = |address: &str, element: &str| (address.to_owned(), element.to_owned());
        assert_eq!(hop(Some("192.0.2.1"), true), pair("192.0.2.1", "for=192.0.2.1;proto=https"));
        assert_eq!(
            hop(Some("2001:db8::1"), false),
            pair("2001:db8::1", "for=\"[2001:db8::1]\";proto=http")
        );
        assert_eq!(hop(None, false), pair("unknown", "for=unknown;proto=http"));
    }
}
