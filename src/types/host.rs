//! Host names of sites: exact, or with a star for the first label.

use std::{fmt, net::IpAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A host name or `*.` and a host name (the star covers one label, as in certificates: RFC 6125, section 6.4.3).
///
/// Lower case, without a trailing dot and without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `shop.example.com`, `localhost`, `192.0.2.7` or `[2001:db8::1]`.
    Exact(Box<str>),
    /// `*.example.com`, kept as `example.com`.
    Wildcard(Box<str>),
}

/// Why a text is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a host name: {reason}")]
pub struct HostError {
    text: String,
    reason: &'static str,
}

impl HostPattern {
    /// Whether the lower-case host name `host` (no port) is covered.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == &**parent),
        }
    }

    /// Whether a public certificate authority could certify this name.
    ///
    /// Names under special-use domains (RFC 6761, RFC 9476 and `.internal`) and addresses are not public.
    pub fn is_public(&self) -> bool {
        let (Self::Exact(name) | Self::Wildcard(name)) = self;
        let name: &str = name;
        let last = name.rsplit('.').next().unwrap_or(name);
        let special = [
            "localhost",
            "test",
            "internal",
            "local",
            "invalid",
            "example",
            "onion",
            "alt",
            "arpa",
            "lan",
            "home",
        ];
        let address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
        name.contains('.') && !address && !special.contains(&last)
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 bytes (RFC 1035, section 2.3.4)");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("a label is empty");
        }
        if label.len() > 63 {
            return Err("a label is longer than 63 bytes (RFC 1035, section 2.3.4)");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(
                "labels have letters, digits and \"-\" (write other scripts as punycode, \"xn--…\")",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a label starts or ends with \"-\"");
        }
    }
    Ok(())
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let error = |reason| HostError { text: text.to_owned(), reason };
        let lower = text.to_ascii_lowercase();
        if let Some(inner) = lower.strip_prefix('[') {
            let address =
                inner.strip_suffix(']').and_then(|a| a.parse::<std::net::Ipv6Addr>().ok());
            let address = address.ok_or_else(|| {
                error("the brackets hold no IPv6 address (and no port belongs here)")
            })?;
            return Ok(Self::Exact(format!("[{address}]").into()));
        }
        if lower.contains(':') {
            return Err(error(
                "no scheme or port belongs here (the listener has the port); write IPv6 in brackets",
            ));
        }
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if let Some(parent) = name.strip_prefix("*.") {
            check_name(parent).map_err(error)?;
            return Ok(Self::Wildcard(parent.into()));
        }
        if name.contains('*') {
            return Err(error("a star stands alone as the first label: \"*.example.com\""));
        }
        check_name(name).map_err(error)?;
        Ok(Self::Exact(name.into()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a host name such as \"shop.example.com\"")
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for HostPattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "host".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "examples": ["shop.example.com", "*.shop.example.com"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_covers_one_label() {
        let star = pattern("*.Example.com");
        assert!(star.matches("a.example.com"));
        for host in ["example.com", "a.b.example.com", ".example.com", "xexample.com"] {
            assert!(!star.matches(host), "{host}");
        }
        assert_eq!(star.to_string(), "*.example.com");
    }

    #[test]
    fn odd_names_are_refused() {
        for bad in [
            "",
            "a..b",
            "a b",
            "*",
            "a.*.b",
            "*a.b",
            "http://x",
            "x:80",
            "-a.b",
            "[::1]:80",
            "ä.de",
            "*.",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!(pattern("[2001:DB8::1]").to_string(), "[2001:db8::1]");
        assert_eq!(pattern("Example.COM.").to_string(), "example.com");
    }

    #[test]
    fn public_names_are_told_from_private_ones() {
        assert!(pattern("shop.example.com").is_public());
        for private in [
            "localhost",
            "a.localhost",
            "a.test",
            "a.internal",
            "10.0.0.1",
            "[::1]",
            "printer",
            "x.local",
        ] {
            assert!(!pattern(private).is_public(), "{private}");
        }
    }
}
