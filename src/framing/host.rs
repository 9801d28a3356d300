//! Whether a text is a host with an optional port (RFC 3986, section 3.2.2; RFC 9110, section 7.2).

use std::{net::Ipv6Addr, str};

/// Whether this is `host[:port]` as a DNS name, an IPv4 address or an IPv6 address in brackets.
///
/// Stricter than the RFC, which lets a name have percent-encoded bytes and `!$&'()*+,;=~`: no such host can be looked up,
/// and one that reads a list or a path into it reads another host. User info, paths, spaces and zones are none either.
/// An empty port is none (RFC 3986, section 3.2.3).
pub fn is_valid_host(text: &[u8]) -> bool {
    let (is_host, port) = if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
        let (address, port) = rest.split_at_checked(end).unwrap_or_default();
        (is_ipv6(address), port.strip_prefix(b"]").unwrap_or_default())
    } else {
        let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
        let (name, port) = text.split_at_checked(end).unwrap_or_default();
        (is_name(name), port)
    };
    is_host && is_port(port)
}

fn is_ipv6(address: &[u8]) -> bool {
    str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Letters, digits, `-`, `_`, and single dots that don't come first.
fn is_name(name: &[u8]) -> bool {
    let mut before = b'.';
    for &byte in name {
        let is_letter = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !is_letter && (byte != b'.' || before == b'.') {
            return false;
        }
        before = byte;
    }
    !name.is_empty()
}

/// Nothing, or a colon and up to five digits that are a port.
fn is_port(port: &[u8]) -> bool {
    let Some((b':', digits)) = port.split_first() else { return port.is_empty() };
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, |port: u32, digit| port * 10 + u32::from(digit - b'0')) <= 65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_a_port_that_is_one() {
        for good in [
            "a",
            "A.Example",
            "a.example.",
            "_dmarc.a",
            "a-b",
            "a:80",
            "a:",
            "a:0",
            "a:65535",
            "192.0.2.1:8080",
            "[2001:db8::1]",
            "[::1]:443",
            "[::ffff:192.0.2.1]",
        ] {
            assert!(is_valid_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ".",
            ".a",
            "a..b",
            ":80",
            "a:65536",
            "a:123456",
            "a:8o",
            "a:80:80",
            "a:-1",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "u@a",
            "u:p@a",
            "a\\b",
            "a%41",
            "a;b",
            "[::1",
            "::1",
            "[::1]80",
            "[::1%25eth0]",
            "[v1.a]",
            "[]",
            "a[::1]",
            "ä.example",
            "a\t",
            "*",
        ] {
            assert!(!is_valid_host(bad.as_bytes()), "{bad}");
        }
    }
}
