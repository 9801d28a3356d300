//! The header of the PROXY protocol, versions 1 and 2: whose connection this is, said in its first bytes.
//!
//! Pure: the listener reads it (`listener/proxy_header.rs`), connections to endpoints begin with it (`upstream/connect.rs`).
//! The specification is `doc/proxy-protocol.txt` of `HAProxy`; the numbers of sections below are its own. Parsing is the
//! crate ppp's. What is done before it: bounds, whole headers only (ppp takes some partial ones of version 1 for broken),
//! and `LOCAL` and `UNKNOWN`, whose addresses are not looked at.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// The longest header of version 1, its end of line included (section 2.1).
const MAX_V1: usize = 107;
/// The longest header of version 2 that is taken. Senders should stay below 536 bytes (section 2.2); balancers of clouds add
/// extensions.
const MAX_V2: usize = 4_096;
/// The part of version 2 that says how long the rest is.
const FIXED_V2: usize = 16;
/// What version 1 begins with.
const SIGNATURE_V1: &[u8] = b"PROXY ";

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Somebody's connection.
    Relayed {
        /// Where it comes from.
        source: SocketAddr,
        /// Where it went to.
        destination: SocketAddr,
    },
    /// Somebody's connection, from nowhere that an address can say.
    Unknown,
    /// The sender's own connection: a health check.
    Local,
}

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderProgress {
    /// What is here may begin one; more is needed.
    Partial,
    /// It is whole.
    Whole {
        /// What it says.
        header: ProxyHeader,
        /// Its bytes; what follows is not part of it.
        length: usize,
    },
    /// It is none, or one that breaks the rules.
    Malformed,
}

impl ProxyHeader {
    /// Reads a header at the start of `bytes`. Never `Partial` for more than 4 KiB.
    pub fn parse(bytes: &[u8]) -> HeaderProgress {
        let parsed = if begins_with(bytes, v2::PROTOCOL_PREFIX) {
            parse_v2(bytes)
        } else if begins_with(bytes, SIGNATURE_V1) {
            parse_v1(bytes)
        } else {
            None
        };
        parsed.unwrap_or(HeaderProgress::Malformed)
    }

    /// The header of a connection from `source` to `destination`, as far as they are known.
    pub fn between(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Self {
        match (source, destination) {
            (Some(source), Some(destination)) => Self::Relayed { source, destination },
            _ => Self::Unknown,
        }
    }

    /// Its bytes. Addresses of two families are both written as IPv6.
    pub fn encode(self, version: ProxyVersion) -> Vec<u8> {
        match version {
            ProxyVersion::V1 => self.encode_v1().into_bytes(),
            ProxyVersion::V2 => self.encode_v2(),
        }
    }

    fn encode_v1(self) -> String {
        let Self::Relayed { source, destination } = self else {
            return "PROXY UNKNOWN\r\n".to_owned();
        };
        let (from, to) = one_family(source.ip(), destination.ip());
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
    }

    fn encode_v2(self) -> Vec<u8> {
        const LOCAL: u8 = 0x20;
        const PROXY: u8 = 0x21;
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        let Self::Relayed { source, destination } = self else {
            bytes.push(if self == Self::Local { LOCAL } else { PROXY });
            bytes.extend([0, 0, 0]);
            return bytes;
        };
        bytes.push(PROXY);
        match one_family(source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([0x11, 0, 12]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (from, to) => {
                bytes.extend([0x21, 0, 36]);
                bytes.extend(mapped(from));
                bytes.extend(mapped(to));
            }
        }
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes
    }
}

/// Both as IPv4 where they are, else both as IPv6.
fn one_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    match (from.to_canonical(), to.to_canonical()) {
        (IpAddr::V4(from), IpAddr::V6(to)) => (from.to_ipv6_mapped().into(), to.into()),
        (IpAddr::V6(from), IpAddr::V4(to)) => (from.into(), to.to_ipv6_mapped().into()),
        same => same,
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Whether `bytes` begin with `signature`, as far as they go.
fn begins_with(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// `None` for what breaks the rules.
fn parse_v1(bytes: &[u8]) -> Option<HeaderProgress> {
    let window = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        let may_go_on =
            window.len() < MAX_V1 && window.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r'));
        return may_go_on.then_some(HeaderProgress::Partial);
    };
    let length = end + 2;
    let text = window.get(..end)?;
    let header = if text == b"PROXY UNKNOWN" || text.starts_with(b"PROXY UNKNOWN ") {
        // Whatever else stands on the line is ignored (section 2.1).
        ProxyHeader::Unknown
    } else {
        // Rust reads "+80" as a number.
        if text.contains(&b'+') {
            return None;
        }
        let relayed = |source: (IpAddr, u16), destination: (IpAddr, u16)| ProxyHeader::Relayed {
            source: source.into(),
            destination: destination.into(),
        };
        match v1::Header::try_from(window.get(..length)?).ok()?.addresses {
            v1::Addresses::Unknown => ProxyHeader::Unknown,
            v1::Addresses::Tcp4(v4) => relayed(
                (v4.source_address.into(), v4.source_port),
                (v4.destination_address.into(), v4.destination_port),
            ),
            v1::Addresses::Tcp6(v6) => relayed(
                (v6.source_address.into(), v6.source_port),
                (v6.destination_address.into(), v6.destination_port),
            ),
        }
    };
    Some(HeaderProgress::Whole { header, length })
}

/// `None` for what breaks the rules.
fn parse_v2(bytes: &[u8]) -> Option<HeaderProgress> {
    let Some(&[version_and_command, _, high, low]) = bytes.get(FIXED_V2 - 4..FIXED_V2) else {
        return Some(HeaderProgress::Partial);
    };
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || length > MAX_V2 {
        return None;
    }
    let Some(whole) = bytes.get(..length) else { return Some(HeaderProgress::Partial) };
    let header = if matches!(version_and_command, 0x20) {
        // The block of addresses is dropped, whatever it says (section 2.2).
        ProxyHeader::Local
    } else {
        let parsed = v2::Header::try_from(whole).ok()?;
        if parsed.tlvs().any(|extension| extension.is_err()) {
            return None;
        }
        let is_stream = parsed.protocol == v2::Protocol::Stream;
        match parsed.addresses {
            v2::Addresses::IPv4(v4) if is_stream => ProxyHeader::Relayed {
                source: (v4.source_address, v4.source_port).into(),
                destination: (v4.destination_address, v4.destination_port).into(),
            },
            v2::Addresses::IPv6(v6) if is_stream => ProxyHeader::Relayed {
                source: (v6.source_address, v6.source_port).into(),
                destination: (v6.destination_address, v6.destination_port).into(),
            },
            _ => ProxyHeader::Unknown,
        }
    };
    Some(HeaderProgress::Whole { header, length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relayed(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Relayed {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// A header of version 2 with any fields.
    fn binary(command: u8, family: u8, length: usize, rest: &[u8]) -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const INET: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];

    fn whole() -> Vec<(Vec<u8>, ProxyHeader)> {
        let four = relayed("192.0.2.7:4660", "10.0.0.1:443");
        let six = relayed("[2001:db8::7]:1", "[2001:db8::1]:65535");
        let mut extended = INET.to_vec();
        extended.extend([0x04, 0, 3, 1, 2, 3, 0x02, 0, 1, b'x']);
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::Unknown),
            (b"PROXY UNKNOWN a b c d e f g\r\n".to_vec(), ProxyHeader::Unknown),
            (binary(0x21, 0x11, 12, &INET), four),
            (binary(0x21, 0x11, extended.len(), &extended), four),
            (binary(0x20, 0x00, 0, &[]), ProxyHeader::Local),
            // An address block of LOCAL is dropped, also one that is too short for its family.
            (binary(0x20, 0x11, 12, &INET), ProxyHeader::Local),
            (binary(0x20, 0x21, 3, &[1, 2, 3]), ProxyHeader::Local),
            (binary(0x21, 0x00, 0, &[]), ProxyHeader::Unknown),
            (binary(0x21, 0x31, 216, &[b'u'; 216]), ProxyHeader::Unknown),
            (binary(0x21, 0x12, 12, &INET), ProxyHeader::Unknown),
        ]
    }

    #[test]
    fn headers_are_read_however_they_arrive_and_not_a_byte_further() {
        for (bytes, header) in whole() {
            for end in 0..bytes.len() {
                let part = &bytes[..end];
                assert_eq!(ProxyHeader::parse(part), HeaderProgress::Partial, "{part:?}");
            }
            let mut more = bytes.clone();
            more.extend(b"\r\nPROXY GET / HTTP/1.1\r\n");
            let found = HeaderProgress::Whole { header, length: bytes.len() };
            assert_eq!(ProxyHeader::parse(&bytes), found, "{bytes:?}");
            assert_eq!(ProxyHeader::parse(&more), found, "{bytes:?}");
        }
    }

    #[test]
    fn what_breaks_the_rules_is_malformed() {
        let lines = [
            "PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443 \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +4660 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 04660 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4660 65536\r\n",
            "PROXY TCP4 192.0.2.007 10.0.0.1 1 2\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n",
            "proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXYTCP4",
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET",
            "\u{16}\u{3}\u{1}",
        ];
        for line in lines {
            assert_eq!(ProxyHeader::parse(line.as_bytes()), HeaderProgress::Malformed, "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        assert_eq!(ProxyHeader::parse(long.as_bytes()), HeaderProgress::Malformed);
        let mut broken_extension = INET.to_vec();
        broken_extension.extend([0x04, 0, 9, 1]);
        for bytes in [
            binary(0x11, 0x11, 12, &INET),             // version 1 in binary
            binary(0x22, 0x11, 12, &INET),             // an unknown command
            binary(0x21, 0x41, 12, &INET),             // an unknown family
            binary(0x21, 0x13, 12, &INET),             // an unknown protocol
            binary(0x21, 0x21, 12, &INET),             // too short for its family
            binary(0x21, 0x11, MAX_V2, &[]),           // longer than is taken
            binary(0x20, 0x00, 65_535, &[]),           // as long as can be
            binary(0x21, 0x11, 16, &broken_extension), // an extension that is not there
        ] {
            assert_eq!(ProxyHeader::parse(&bytes), HeaderProgress::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn two_families_become_one() {
        let mixed = relayed("192.0.2.7:1", "[2001:db8::1]:2");
        let text = mixed.encode(ProxyVersion::V1);
        assert_eq!(text, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n");
        let both = relayed("[::ffff:192.0.2.7]:1", "10.0.0.1:2").encode(ProxyVersion::V1);
        assert_eq!(both, b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n");
        assert_eq!(ProxyHeader::Local.encode(ProxyVersion::V2), binary(0x20, 0, 0, &[]));
        assert_eq!(ProxyHeader::Unknown.encode(ProxyVersion::V2), binary(0x21, 0, 0, &[]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr) {
            let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
            let (source, destination) = (plain(source), plain(destination));
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = ProxyHeader::Relayed { source, destination };
                let bytes = header.encode(version);
                let HeaderProgress::Whole { header, length } = ProxyHeader::parse(&bytes) else {
                    panic!("{bytes:?}");
                };
                prop_assert_eq!(length, bytes.len());
                let ProxyHeader::Relayed { source: from, destination: to } = header else {
                    panic!("{header:?}");
                };
                let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
                prop_assert_eq!(canonical(from), canonical(source));
                prop_assert_eq!(canonical(to), canonical(destination));
            }
        }

        #[test]
        fn no_bytes_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            prefix in prop::sample::select(vec![&b""[..], b"PROXY ", v2::PROTOCOL_PREFIX])
        ) {
            let mut all = prefix.to_vec();
            all.extend(bytes);
            if let HeaderProgress::Whole { length, .. } = ProxyHeader::parse(&all) {
                prop_assert!(length <= all.len());
            }
        }
    }
}
