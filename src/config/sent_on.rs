//! What a listener speaks, and whose PROXY headers it believes: as written, and parsed.
//!
//! A listener speaks HTTP, HTTP over TLS (and may send some server names on as they are), or nothing: then it sends every
//! connection on as TCP. [`ListenerProtocol`] holds what belongs to each, so that what belongs to another can't be set.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listener::RawListener;
use crate::{
    types::{Cidr, HostPattern, KeyPath, ListenAddress, Name, Problems, deserialize_by_form},
    upstream::RawEndpoint,
};

/// `proxy_protocol` of a listener, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawProxyFrom {
    /// From `server.trusted_proxies`, or from nobody.
    Switch(bool),
    /// From networks of its own.
    Table(RawProxyFromTable),
}

deserialize_by_form!(
    RawProxyFrom,
    "true, false, or { from = [\"10.0.0.0/8\"] }",
    { bool => Switch, table => Table }
);

/// `proxy_protocol` of a listener as a table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProxyFromTable {
    /// Networks whose connections begin with a PROXY header. Their `X-Forwarded-*` headers are not believed: that is `server.trusted_proxies`.
    pub from: Vec<Cidr>,
}

/// `[listeners.<name>.passthrough.<name>]`: server names whose TLS connections are sent on as they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawPassthrough {
    /// The names, as clients ask for them (SNI): `"db.example.com"`, `"*.raw.example.com"` (a star covers one label).
    pub hosts: Vec<HostPattern>,
    /// The upstream that gets the connections. Either this or `endpoints`.
    pub upstream: Option<Name>,
    /// The endpoints that get them, where no other place needs the upstream.
    pub endpoints: Option<Vec<RawEndpoint>>,
}

/// `tcp` of a listener: where its connections go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTcp {
    /// The upstream that gets the connections. Either this or `endpoints`.
    pub upstream: Option<Name>,
    /// The endpoints that get them, where no other place needs the upstream.
    pub endpoints: Option<Vec<RawEndpoint>>,
}

/// Where connections are sent on to, as written.
#[derive(Debug)]
pub struct RawSendTo<'a> {
    /// By the name of an upstream,
    pub upstream: Option<&'a Name>,
    /// or to endpoints of its own,
    pub endpoints: Option<&'a [RawEndpoint]>,
    /// whose upstream would have this name.
    pub implicit: String,
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP.
    Http {
        /// Also HTTP/2, to clients that start with its preface.
        h2c: bool,
    },
    /// HTTP over TLS.
    Https {
        /// Server names that are sent on as they are, sorted by name.
        passthrough: Vec<PassthroughConfig>,
    },
    /// Nothing: connections are sent on to the upstream of this name.
    Tcp(Name),
}

/// Server names that are sent on as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// Its name.
    pub name: Name,
    /// The names that clients ask for.
    pub hosts: Vec<HostPattern>,
    /// The upstream that gets the connections.
    pub upstream: Name,
}

/// Whose connections begin with a PROXY header.
///
/// Whoever is listed must send one, nobody else may: a listener that guessed could be told lies by every client of a
/// listed proxy that sends none (the specification forbids to guess, section 2). What others send is never looked at
/// as a header; to HTTP and TLS it is a malformed start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyFrom {
    /// Nobody's.
    #[default]
    Nobody,
    /// Those from these networks.
    Networks(Arc<[Cidr]>),
    /// All of them: a Unix socket, whose file says who may connect.
    Everybody,
}

impl ProxyFrom {
    /// Whether a connection from `client` (`None` on a Unix socket) begins with a header.
    pub fn includes(&self, client: Option<SocketAddr>) -> bool {
        match (self, client) {
            (Self::Nobody, _) | (Self::Networks(_), None) => false,
            (Self::Networks(networks), Some(client)) => {
                networks.iter().any(|network| network.contains(client.ip()))
            }
            (Self::Everybody, _) => true,
        }
    }
}

impl ListenerProtocol {
    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Https { .. })
    }

    /// Whether it speaks HTTP, so that sites can be on it.
    pub fn is_http(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// The names that it sends on as they are.
    pub fn passthrough(&self) -> &[PassthroughConfig] {
        match self {
            Self::Https { passthrough } => passthrough,
            Self::Http { .. } | Self::Tcp(_) => &[],
        }
    }
}

impl RawListener {
    /// What it speaks. `None` where what belongs to it is wrong.
    pub(super) fn parse_protocol(
        &self,
        name: &Name,
        path: &KeyPath,
        upstream: &mut impl FnMut(&RawSendTo<'_>, &KeyPath, &mut Problems) -> Option<Name>,
        problems: &mut Problems,
    ) -> Option<ListenerProtocol> {
        let is_tls = self.tls == Some(true);
        if let Some(tcp) = &self.tcp {
            self.refuse_keys_of_http(path, problems);
            let to = RawSendTo {
                upstream: tcp.upstream.as_ref(),
                endpoints: tcp.endpoints.as_deref(),
                implicit: name.to_string(),
            };
            return upstream(&to, &path.key("tcp"), problems).map(ListenerProtocol::Tcp);
        }
        if !is_tls {
            if !self.passthrough.is_empty() {
                problems
                    .error(
                        &path.key("passthrough"),
                        "the server name stands in TLS, and this listener is plain",
                    )
                    .at_key()
                    .help("add `tls = true`, or send all connections on with `tcp = { upstream = \"…\" }`");
            }
            return Some(ListenerProtocol::Http { h2c: self.h2c.unwrap_or(false) });
        }
        let mut passthrough = Vec::with_capacity(self.passthrough.len());
        let mut first_with: BTreeMap<&HostPattern, KeyPath> = BTreeMap::new();
        for (key, raw) in &self.passthrough {
            let path = path.key("passthrough").key(key);
            let hosts = path.key("hosts");
            if raw.hosts.is_empty() {
                problems
                    .error(&path, "no server name is listed")
                    .at_key()
                    .help("add `hosts = [\"db.example.com\"]`");
            }
            for (index, host) in raw.hosts.iter().enumerate() {
                let at = hosts.index(index);
                if let Some(first) = first_with.get(host) {
                    problems
                        .error(&at, format!("the host {host} is sent on already"))
                        .related(first.clone(), "first here");
                } else {
                    first_with.insert(host, at);
                }
            }
            let to = RawSendTo {
                upstream: raw.upstream.as_ref(),
                endpoints: raw.endpoints.as_deref(),
                implicit: format!("{name}.{key}"),
            };
            passthrough.extend(upstream(&to, &path, problems).map(|upstream| PassthroughConfig {
                name: key.clone(),
                hosts: raw.hosts.clone(),
                upstream,
            }));
        }
        Some(ListenerProtocol::Https { passthrough })
    }

    /// A listener that sends TCP on looks at nothing, so that nothing of these would have an effect.
    fn refuse_keys_of_http(&self, path: &KeyPath, problems: &mut Problems) {
        let timeouts = self.timeouts.unwrap_or_default();
        let in_timeouts = path.key("timeouts");
        for (at, is_set) in [
            (path.key("tls"), self.tls == Some(true)),
            (path.key("h2c"), self.h2c == Some(true)),
            (path.key("passthrough"), !self.passthrough.is_empty()),
            (path.key("unknown_host"), self.unknown_host.is_some()),
            (path.key("redirect_to_https"), self.redirect_to_https == Some(true)),
            (path.key("max_requests_per_connection"), self.max_requests_per_connection.is_some()),
            (path.key("max_streams"), self.max_streams.is_some()),
            (path.key("max_head"), self.max_head.is_some()),
            (path.key("max_fields"), self.max_fields.is_some()),
            (path.key("max_uri"), self.max_uri.is_some()),
            (in_timeouts.key("handshake"), timeouts.handshake.is_some()),
            (in_timeouts.key("body_idle"), timeouts.body_idle.is_some()),
            (in_timeouts.key("write_stall"), timeouts.write_stall.is_some()),
            (in_timeouts.key("keep_alive"), timeouts.keep_alive.is_some()),
        ] {
            if is_set {
                problems
                    .error(
                        &at,
                        "the listener sends TCP on and looks at nothing: this would have no effect",
                    )
                    .at_key()
                    .related(path.key("tcp"), "sent on by this");
            }
        }
    }

    pub(super) fn parse_proxy_from(
        &self,
        path: &KeyPath,
        trusted_proxies: &[Cidr],
        problems: &mut Problems,
    ) -> ProxyFrom {
        let path = path.key("proxy_protocol");
        let is_unix = matches!(self.address, Some(ListenAddress::Unix(_)));
        match &self.proxy_protocol {
            None | Some(RawProxyFrom::Switch(false)) => ProxyFrom::Nobody,
            Some(RawProxyFrom::Switch(true)) if is_unix => ProxyFrom::Everybody,
            Some(RawProxyFrom::Switch(true)) => {
                if trusted_proxies.is_empty() {
                    problems
                        .error(&path, "there are no trusted proxies, so that nobody's PROXY header would be believed")
                        .help("list them in `server.trusted_proxies`, or write `{ from = [\"10.0.0.0/8\"] }`");
                }
                ProxyFrom::Networks(trusted_proxies.into())
            }
            Some(RawProxyFrom::Table(_)) if is_unix => {
                problems
                    .error(&path.key("from"), "on a Unix socket connections have no address")
                    .help("write `proxy_protocol = true`: who may open the socket is believed");
                ProxyFrom::Everybody
            }
            Some(RawProxyFrom::Table(table)) => {
                if table.from.is_empty() {
                    problems
                        .error(
                            &path.key("from"),
                            "the list is empty, so that nobody's PROXY header would be believed",
                        )
                        .help("write `proxy_protocol = false` if that is meant");
                }
                ProxyFrom::Networks(table.from.as_slice().into())
            }
        }
    }
}
