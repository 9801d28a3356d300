//! Who the client is, behind trusted proxies too.
//!
//! Place: first thing of a request. Forwarding headers are believed only from `trusted_proxies`, and read from the right
//! to the first address that is not trusted: what stands left of it could have been written by anyone.

use std::net::IpAddr;

use http::{HeaderMap, header::FORWARDED};

use super::forward::X_FORWARDED_FOR;
use crate::types::Cidr;

/// The client as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientAddress {
    /// The client's address; `None` on a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy, so that its forwarding headers go on.
    pub(super) from_trusted: bool,
}

fn is_trusted(address: IpAddr, trusted: &[Cidr]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// Finds the client of a request whose connection comes from `peer`.
pub(super) fn find(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[Cidr]) -> ClientAddress {
    let peer = peer.map(|address| address.to_canonical());
    let Some(peer) = peer.filter(|address| is_trusted(*address, trusted)) else {
        return ClientAddress { address: peer, from_trusted: false };
    };
    let hops = if headers.contains_key(X_FORWARDED_FOR) {
        hops_of_x_forwarded_for(headers)
    } else {
        hops_of_forwarded(headers)
    };
    let mut client = peer;
    for hop in hops {
        // A hop that is not an address ("unknown", rubbish) ends what can be believed.
        let Some(hop) = hop else { break };
        client = hop;
        if !is_trusted(hop, trusted) {
            break;
        }
    }
    ClientAddress { address: Some(client), from_trusted: true }
}

/// Whether `Forwarded` names the same hops as `X-Forwarded-For`.
///
/// A trusted proxy that writes only the latter may pass on the client's own `Forwarded`, which is then not to be believed.
pub(super) fn lists_agree(headers: &HeaderMap) -> bool {
    hops_of_forwarded(headers) == hops_of_x_forwarded_for(headers)
}

/// From the right; `None` is a hop that is no address.
fn hops_of_x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    lines
        .flat_map(|line| line.to_str().unwrap_or_default().rsplit(','))
        .map(|hop| parse_hop(hop.trim()))
        .collect()
}

/// From the right; `None` is a hop that is no address.
fn hops_of_forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).iter().rev();
    lines.flat_map(|line| forwarded_hops(line.to_str().unwrap_or_default())).collect()
}

/// The addresses of one `Forwarded` line from the right (RFC 7239, section 4).
fn forwarded_hops(line: &str) -> Vec<Option<IpAddr>> {
    rfc7239::parse(line)
        .rev()
        .map(|node| match node.ok()?.forwarded_for?.name {
            rfc7239::NodeName::Ip(address) => Some(address.to_canonical()),
            _ => None,
        })
        .collect()
}

/// An address, with a port or without, as proxies write it into `X-Forwarded-For`.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .or_else(|_| text.parse::<std::net::SocketAddr>().map(|address| address.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, lines: &[(&'static str, &str)]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<Cidr> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        let client = find(Some(peer.parse().unwrap()), &headers, &trusted);
        (client.address.unwrap().to_string(), client.from_trusted)
    }

    #[test]
    fn headers_are_read_from_the_right_to_the_first_untrusted_address() {
        for (peer, lines, client) in [
            ("192.0.2.1", &[("x-forwarded-for", "1.2.3.4")][..], "192.0.2.1"),
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "1.2.3.4")][..], "1.2.3.4"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.2.3.4")][..], "1.2.3.4"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.9")][..], "1.2.3.4"),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")][..],
                "1.2.3.4",
            ),
            ("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, rubbish, 10.0.0.9")][..], "10.0.0.9"),
            ("10.0.0.1", &[("x-forwarded-for", "1.2.3.4:5678")][..], "1.2.3.4"),
            ("10.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:80")][..], "2001:db8::1"),
            ("10.0.0.1", &[("x-forwarded-for", "10.0.0.2, 10.0.0.3")][..], "10.0.0.2"),
            (
                "10.0.0.1",
                &[("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:1\";proto=https")][..],
                "2001:db8::7",
            ),
            (
                "10.0.0.1",
                &[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "1.2.3.4")][..],
                "1.2.3.4",
            ),
            ("10.0.0.1", &[("forwarded", "for=unknown")][..], "10.0.0.1"),
            ("::ffff:10.0.0.1", &[("x-forwarded-for", "1.2.3.4")][..], "1.2.3.4"),
        ] {
            assert_eq!(found(peer, lines).0, client, "{peer} {lines:?}");
        }
        assert!(!found("192.0.2.1", &[]).1 && found("10.0.0.1", &[]).1);
    }
}
