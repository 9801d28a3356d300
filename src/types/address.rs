//! Addresses: where a listener is bound, where an endpoint is reached.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an address: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl AddressError {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.to_owned(), reason }
    }
}

/// Where a listener is bound: `"0.0.0.0:80"`, `"[::]:443"`, `":8080"` (all addresses) or `"unix:/run/edge.sock"`.
///
/// Port 0 asks the system for a free port; the bound port is reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// TCP. `[::]` also takes IPv4.
    Tcp(SocketAddr),
    /// A Unix socket by absolute path.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(text, path).map(|path| Self::Unix(path.to_owned()));
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = port
                .parse()
                .map_err(|_| AddressError::new(text, "the port is a number up to 65535"))?;
            return Ok(Self::Tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port
                .parse()
                .map_err(|_| AddressError::new(text, "the port is a number up to 65535"))?;
            return Ok(Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            AddressError::new(
                text,
                "write it as \"0.0.0.0:80\", \"[::]:443\", \":8080\" or \"unix:/run/edge.sock\"",
            )
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where an endpoint is reached: `"10.0.0.11:8080"`, `"[2001:db8::1]:80"`, `"app.internal:8080"`,
/// `"srv:_http._tcp.app.internal"` or `"unix:/run/app.sock"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A host name (lower case) that discovery resolves, and a port.
    Dns(Arc<str>, u16),
    /// The name of a service (lower case) whose SRV records discovery resolves.
    Srv(Arc<str>),
    /// A Unix socket by absolute path.
    Unix(Arc<Path>),
}

impl FromStr for EndpointAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(text, path).map(|path| Self::Unix(Arc::from(path)));
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return service_name(text, name).map(Self::Srv);
        }
        if text.contains("://") {
            return Err(AddressError::new(
                text,
                "no scheme belongs here; TLS to the endpoint is the upstream's `tls`",
            ));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(AddressError::new(text, "port 0 can't be reached"))
            } else {
                Ok(Self::Ip(address))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| {
            AddressError::new(
                text,
                "the port is missing; write it as \"10.0.0.11:8080\" or \"app.internal:8080\"",
            )
        })?;
        let port: u16 = port
            .parse()
            .map_err(|_| AddressError::new(text, "the port is a number from 1 to 65535"))?;
        if port == 0 {
            return Err(AddressError::new(text, "port 0 can't be reached"));
        }
        match host.parse::<super::HostPattern>() {
            Ok(super::HostPattern::Exact(name)) if !name.starts_with('[') => {
                Ok(Self::Dns(Arc::from(&*name), port))
            }
            _ => Err(AddressError::new(
                text,
                "write it as \"10.0.0.11:8080\", \"app.internal:8080\" or \"unix:/run/app.sock\"",
            )),
        }
    }
}

/// `_service._protocol.name` (RFC 2782).
fn service_name(text: &str, name: &str) -> Result<Arc<str>, AddressError> {
    let bad = || {
        AddressError::new(text, "a service is written as \"srv:_http._tcp.app.internal\", no port")
    };
    let mut labels = name.splitn(3, '.');
    for _ in 0..2 {
        let label = labels.next().and_then(|label| label.strip_prefix('_')).ok_or_else(bad)?;
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if label.is_empty() || label.len() > 62 || !label.bytes().all(is_good) {
            return Err(bad());
        }
    }
    match labels.next().ok_or_else(bad)?.parse::<super::HostPattern>() {
        // 253 bytes are the longest name (RFC 1035, section 2.3.4, without the lengths).
        Ok(super::HostPattern::Exact(host)) if !host.starts_with('[') && name.len() <= 253 => {
            Ok(Arc::from(name.to_ascii_lowercase().trim_end_matches('.')))
        }
        _ => Err(bad()),
    }
}

fn unix_path<'a>(text: &str, path: &'a str) -> Result<&'a Path, AddressError> {
    // sun_path holds 108 bytes with its terminator: unix(7).
    if path.len() > 107 {
        return Err(AddressError::new(text, "the path of a Unix socket has at most 107 bytes"));
    }
    let path = Path::new(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(AddressError::new(text, "the path of a Unix socket is absolute"))
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Dns(host, port) => write!(f, "{host}:{port}"),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

macro_rules! as_text {
    ($type:ty, $name:literal, $expecting:literal, $examples:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::text::deserialize(deserializer, $expecting)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "examples": $examples })
            }
        }
    };
}

as_text!(
    ListenAddress,
    "listen address",
    "an address such as \"[::]:443\"",
    ["[::]:443", ":8080", "unix:/run/edge.sock"]
);
as_text!(
    EndpointAddress,
    "endpoint address",
    "an address such as \"10.0.0.11:8080\"",
    ["10.0.0.11:8080", "app.internal:8080", "srv:_http._tcp.app.internal", "unix:/run/app.sock"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "10.0.0.11:8080",
            "[2001:db8::1]:80",
            "app.internal:8080",
            "srv:_http._tcp.app.internal",
            "unix:/run/app.sock",
        ] {
            assert_eq!(text.parse::<EndpointAddress>().unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:80", "[::]:443", "unix:/run/edge.sock", "127.0.0.1:0"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        assert_eq!(":8080".parse::<ListenAddress>().unwrap().to_string(), "[::]:8080");
    }

    #[test]
    fn odd_addresses_are_refused() {
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "http://a:80",
            "a:99999",
            "a b:80",
            "unix:relative",
            "*.a:80",
            "srv:",
            "srv:app.internal",
            "srv:_http._tcp",
            "srv:_http.app.internal",
            "srv:_http._tcp.app.internal:80",
            "srv:_http._tcp.*.internal",
            "srv:_._tcp.a",
            "srv:_a b._tcp.a",
            ":80",
        ] {
            assert!(bad.parse::<EndpointAddress>().is_err(), "{bad}");
        }
        for bad in ["", "80", "example.com:80", "unix:x", "1.2.3.4"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }
}
