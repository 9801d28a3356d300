//! The address of a name server, as people write it: `"10.0.0.2"`, `"127.0.0.1:5353"`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A name server by address: port 53 unless one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameServer(pub SocketAddr);

impl FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = || text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
        let alone = || text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53));
        with_port().or_else(alone).map(Self).ok_or_else(|| {
            format!(
                "\"{text}\" is not the address of a name server; write it as \"10.0.0.2\" or \"127.0.0.1:5353\""
            )
        })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for NameServer {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "name server".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "examples": ["10.0.0.2", "127.0.0.1:5353"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_have_port_53_unless_one_is_written() {
        for (text, address) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
        ] {
            assert_eq!(text.parse::<NameServer>().unwrap().to_string(), address);
        }
        for text in ["", "ns.example.com", "10.0.0.2:0", "10.0.0.2:x", ":53"] {
            assert!(text.parse::<NameServer>().is_err(), "{text}");
        }
    }
}
