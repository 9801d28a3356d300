//! `[listeners.<name>]`: as written, and parsed.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sent_on::{
    ListenerProtocol, ProxyFrom, RawPassthrough, RawProxyFrom, RawSendTo, RawTcp,
};
use crate::types::{
    ByteSize, Cidr, HumanDuration, KeyPath, ListenAddress, Name, Problems, defaults,
    deserialize_by_form,
};

/// `[listeners.<name>]`: a bound address with its protocols.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawListener {
    /// Where it is bound: `"[::]:443"`, `"0.0.0.0:80"`, `":8080"`, `"unix:/run/edge.sock"`. Port 0 takes a free one.
    pub address: Option<ListenAddress>,
    /// It speaks TLS. Which certificate and versions is a matter of the site.
    #[schemars(extend("default" = false))]
    pub tls: Option<bool>,
    /// Plain listeners only: also speak HTTP/2 to clients that start with its preface (prior knowledge).
    #[schemars(extend("default" = false))]
    pub h2c: Option<bool>,
    /// What a host that no site has gets: `"refuse"` (the handshake ends, or 421), `"404"`, or `{ site = "shop" }`.
    #[schemars(extend("default" = "refuse"))]
    pub unknown_host: Option<RawUnknownHost>,
    /// Plain listeners only: known hosts of TLS sites are redirected to https.
    #[schemars(extend("default" = "true where the listener is plain and no site names it"))]
    pub redirect_to_https: Option<bool>,
    /// Connections at once; more wait in the accept queue.
    #[schemars(extend("default" = defaults::CONNECTIONS_PER_LISTENER))]
    pub max_connections: Option<NonZeroU32>,
    /// Connections at once from one client network (see `client_network`); more are closed at once. Trusted proxies are not counted.
    #[schemars(extend("default" = "no limit"))]
    pub max_connections_per_client: Option<NonZeroU32>,
    /// TLS handshakes under way at once; more wait for a place, within `timeouts.handshake`.
    #[schemars(extend("default" = defaults::HANDSHAKES_PER_LISTENER))]
    pub max_handshakes: Option<NonZeroU32>,
    /// TLS handshakes under way at once from one client network; more are closed at once. Trusted proxies are not counted.
    #[schemars(extend("default" = defaults::HANDSHAKES_PER_CLIENT))]
    pub max_handshakes_per_client: Option<NonZeroU32>,
    /// What counts as one client.
    pub client_network: Option<RawClientNetwork>,
    /// Requests on one connection; then it is closed: `Connection: close` on HTTP/1.1, GOAWAY on HTTP/2.
    #[schemars(extend("default" = defaults::REQUESTS_PER_CONNECTION))]
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Streams at once on one HTTP/2 connection.
    #[schemars(extend("default" = defaults::STREAMS_PER_CONNECTION))]
    pub max_streams: Option<NonZeroU32>,
    /// The largest request head: 431 over it.
    #[schemars(extend("default" = defaults::HEAD_SIZE.to_string()))]
    pub max_head: Option<ByteSize>,
    /// Header fields of a request: 431 over it.
    #[schemars(extend("default" = defaults::HEAD_FIELDS))]
    pub max_fields: Option<NonZeroU32>,
    /// The longest request target: 414 over it.
    #[schemars(extend("default" = defaults::URI_SIZE.to_string()))]
    pub max_uri: Option<ByteSize>,
    /// Bytes a second that a request body must come with, after five seconds of waiting for it: 408 under it. The streams of one HTTP/2 connection share it. Not for WebSockets and gRPC; `"0B"` turns it off.
    #[schemars(extend("default" = defaults::BODY_RATE.to_string()))]
    pub min_body_rate: Option<ByteSize>,
    /// Bytes a second that a client must take of an answer, after five seconds of waiting for it. The streams of one HTTP/2 connection share it. Not for WebSockets, event streams and gRPC; `"0B"` turns it off.
    #[schemars(extend("default" = defaults::SEND_RATE.to_string()))]
    pub min_send_rate: Option<ByteSize>,
    /// What a client of HTTP/2 may do; the connection ends over it (GOAWAY, `ENHANCE_YOUR_CALM`).
    pub http2: Option<RawHttp2Limits>,
    /// Timeouts towards clients.
    pub timeouts: Option<RawClientTimeouts>,
    /// Whose connections begin with a PROXY header (v1 or v2), which then says who the client is: `true` for those from
    /// `server.trusted_proxies`, or `{ from = ["10.0.0.0/8"] }`. They must have one, of 107 bytes (v1) or 4 KiB (v2) at
    /// most and within `timeouts.head`; nobody else may. On a Unix socket: `true`, for all connections.
    #[schemars(extend("default" = false))]
    pub proxy_protocol: Option<RawProxyFrom>,
    /// TLS listeners only: server names whose connections are sent on to an upstream as they are, TLS and all. A client's first message
    /// may then have 16 KiB, and must come within `timeouts.handshake`.
    pub passthrough: BTreeMap<Name, RawPassthrough>,
    /// The listener speaks no HTTP: each connection is sent on to an endpoint as TCP. `{ upstream = "pg" }`, or
    /// `{ endpoints = ["10.0.0.5:5432"] }`.
    pub tcp: Option<RawTcp>,
}

/// What counts as one client, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawClientNetwork {
    /// Bits of an IPv4 address.
    #[schemars(extend("default" = defaults::CLIENT_PREFIX_IPV4))]
    pub ipv4: Option<u8>,
    /// Bits of an IPv6 address.
    #[schemars(extend("default" = defaults::CLIENT_PREFIX_IPV6))]
    pub ipv6: Option<u8>,
}

/// What a client of HTTP/2 may do, as written. What a limit counts grows again by a tenth of it each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "keys of a listener's limits begin so")]
pub struct RawHttp2Limits {
    /// Streams that it resets (rapid reset).
    #[schemars(extend("default" = defaults::HTTP2_RESETS))]
    pub max_resets: Option<NonZeroU32>,
    /// SETTINGS frames.
    #[schemars(extend("default" = defaults::HTTP2_SETTINGS))]
    pub max_settings: Option<NonZeroU32>,
    /// PING, `WINDOW_UPDATE`, PRIORITY and unknown frames. Each frame of an answer allows four more.
    #[schemars(extend("default" = defaults::HTTP2_CONTROL_FRAMES))]
    pub max_control_frames: Option<NonZeroU32>,
    /// Streams in the life of a connection whose answers it took no byte of for `timeouts.write_stall` (no window). It grows again by none.
    #[schemars(extend("default" = defaults::HTTP2_STALLED_STREAMS))]
    pub max_stalled_streams: Option<NonZeroU32>,
}

/// What an unknown host gets, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawUnknownHost {
    /// `"refuse"` or `"404"`.
    Word(UnknownHostWord),
    /// A default site.
    Site(RawDefaultSite),
}

deserialize_by_form!(
    RawUnknownHost,
    "\"refuse\", \"404\" or { site = \"…\" }",
    { text => Word, table => Site }
);

/// What an unknown host gets, where it is no site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum UnknownHostWord {
    /// The TLS handshake ends with `unrecognized_name`; a request gets 421.
    #[serde(rename = "refuse")]
    Refuse,
    /// 404.
    #[serde(rename = "404")]
    NotFound,
}

/// `{ site = "…" }`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDefaultSite {
    /// The name of the site.
    pub site: Name,
}

/// Timeouts towards clients, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawClientTimeouts {
    /// The TLS handshake.
    #[schemars(extend("default" = defaults::TLS_HANDSHAKE.to_string()))]
    pub handshake: Option<HumanDuration>,
    /// A whole request head, from its first byte: 408 after it.
    #[schemars(extend("default" = defaults::HEAD_DEADLINE.to_string()))]
    pub head: Option<HumanDuration>,
    /// Silence inside a request body: 408 after it, on HTTP/2 the stream is reset.
    #[schemars(extend("default" = defaults::CLIENT_BODY_IDLE.to_string()))]
    pub body_idle: Option<HumanDuration>,
    /// A client that takes no bytes of an answer.
    #[schemars(extend("default" = defaults::WRITE_STALL.to_string()))]
    pub write_stall: Option<HumanDuration>,
    /// A connection without a request, HTTP/1.1 and HTTP/2.
    #[schemars(extend("default" = defaults::CLIENT_KEEP_ALIVE.to_string()))]
    pub keep_alive: Option<HumanDuration>,
    /// The life of a connection. After it the next answer says `Connection: close`; HTTP/2 gets GOAWAY, and its streams are served to their end.
    #[schemars(extend("default" = "no limit"))]
    pub connection_age: Option<HumanDuration>,
}

/// A listener with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands in the configuration.
    pub path: KeyPath,
    /// Where it is bound.
    pub address: ListenAddress,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// Whose connections begin with a PROXY header.
    pub proxy_from: ProxyFrom,
    /// What an unknown host gets.
    pub unknown_host: UnknownHost,
    /// Known hosts of TLS sites are redirected. `None`: where no site names the listener.
    pub redirect_to_https: Option<bool>,
    /// Its limits.
    pub limits: ListenerLimits,
}

/// What an unknown host gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownHost {
    /// The handshake ends, or 421.
    Refuse,
    /// 404.
    NotFound,
    /// A site answers.
    Site(Name),
}

/// Limits and timeouts of a listener: these change without its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections at once.
    pub max_connections: u32,
    /// Connections at once from one client network.
    pub max_connections_per_client: Option<u32>,
    /// TLS handshakes under way at once.
    pub max_handshakes: u32,
    /// TLS handshakes under way at once from one client network.
    pub max_handshakes_per_client: u32,
    /// Bits of an IPv4 and of an IPv6 address that make one client.
    pub client_prefix: (u8, u8),
    /// Requests on one connection.
    pub max_requests_per_connection: u32,
    /// Streams at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// What a client of HTTP/2 may do.
    pub http2: Http2Limits,
    /// Bytes a second of a request body; 0 is no limit.
    pub min_body_rate: u64,
    /// Bytes a second of an answer; 0 is no limit.
    pub min_send_rate: u64,
    /// Bytes of a request head.
    pub max_head_bytes: u64,
    /// Fields of a request head.
    pub max_fields: u32,
    /// Bytes of a request target.
    pub max_uri_bytes: u64,
    /// The TLS handshake.
    pub handshake: Duration,
    /// A whole request head.
    pub head: Duration,
    /// Silence inside a request body.
    pub body_idle: Duration,
    /// A client that takes no bytes.
    pub write_stall: Duration,
    /// A connection without a request.
    pub keep_alive: Duration,
    /// The life of a connection.
    pub connection_age: Option<Duration>,
}

/// What a client of HTTP/2 may do before its connection ends: counts that grow again by a tenth each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Streams that it resets.
    pub max_resets: u32,
    /// SETTINGS frames.
    pub max_settings: u32,
    /// Other frames that carry no request.
    pub max_control_frames: u32,
    /// Streams whose answers it does not take; it does not grow again.
    pub max_stalled_streams: u32,
}

impl RawHttp2Limits {
    fn parse(self) -> Http2Limits {
        Http2Limits {
            max_resets: self.max_resets.unwrap_or(defaults::HTTP2_RESETS).get(),
            max_settings: self.max_settings.unwrap_or(defaults::HTTP2_SETTINGS).get(),
            max_control_frames: self
                .max_control_frames
                .unwrap_or(defaults::HTTP2_CONTROL_FRAMES)
                .get(),
            max_stalled_streams: self
                .max_stalled_streams
                .unwrap_or(defaults::HTTP2_STALLED_STREAMS)
                .get(),
        }
    }
}

impl RawListener {
    /// Fills in the defaults and checks what a key alone can't say. `upstream` finds the upstream of connections that are sent on.
    pub fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        trusted_proxies: &[Cidr],
        mut upstream: impl FnMut(&RawSendTo<'_>, &KeyPath, &mut Problems) -> Option<Name>,
        problems: &mut Problems,
    ) -> Option<ListenerConfig> {
        let tls = self.tls.unwrap_or(false);
        let protocol = self.parse_protocol(name, path, &mut upstream, problems);
        let proxy_from = self.parse_proxy_from(path, trusted_proxies, problems);
        if self.address.is_none() {
            problems
                .error(path, "the listener has no address")
                .at_key()
                .help("add `address = \"[::]:443\"`");
        }
        for (key, is_set) in [
            ("h2c", self.h2c == Some(true)),
            ("redirect_to_https", self.redirect_to_https == Some(true)),
        ] {
            if tls && is_set && self.tcp.is_none() {
                problems
                    .error(
                        &path.key(key),
                        format!("`{key}` is for plain listeners; this one speaks TLS"),
                    )
                    .at_key();
            }
        }
        let timeouts = self.timeouts.unwrap_or_default();
        let network = self.client_network.unwrap_or_default();
        let limits = ListenerLimits {
            max_connections: self
                .max_connections
                .unwrap_or(defaults::CONNECTIONS_PER_LISTENER)
                .get(),
            max_connections_per_client: self.max_connections_per_client.map(NonZeroU32::get),
            max_handshakes: self.max_handshakes.unwrap_or(defaults::HANDSHAKES_PER_LISTENER).get(),
            max_handshakes_per_client: self
                .max_handshakes_per_client
                .unwrap_or(defaults::HANDSHAKES_PER_CLIENT)
                .get(),
            client_prefix: (
                network.ipv4.unwrap_or(defaults::CLIENT_PREFIX_IPV4),
                network.ipv6.unwrap_or(defaults::CLIENT_PREFIX_IPV6),
            ),
            http2: self.http2.unwrap_or_default().parse(),
            min_body_rate: self.min_body_rate.unwrap_or(defaults::BODY_RATE).0,
            min_send_rate: self.min_send_rate.unwrap_or(defaults::SEND_RATE).0,
            max_requests_per_connection: self
                .max_requests_per_connection
                .unwrap_or(defaults::REQUESTS_PER_CONNECTION)
                .get(),
            max_streams: self.max_streams.unwrap_or(defaults::STREAMS_PER_CONNECTION).get(),
            max_head_bytes: self.max_head.unwrap_or(defaults::HEAD_SIZE).0,
            max_fields: self.max_fields.unwrap_or(defaults::HEAD_FIELDS).get(),
            max_uri_bytes: self.max_uri.unwrap_or(defaults::URI_SIZE).0,
            handshake: timeouts.handshake.unwrap_or(defaults::TLS_HANDSHAKE).0,
            head: timeouts.head.unwrap_or(defaults::HEAD_DEADLINE).0,
            body_idle: timeouts.body_idle.unwrap_or(defaults::CLIENT_BODY_IDLE).0,
            write_stall: timeouts.write_stall.unwrap_or(defaults::WRITE_STALL).0,
            keep_alive: timeouts.keep_alive.unwrap_or(defaults::CLIENT_KEEP_ALIVE).0,
            connection_age: timeouts.connection_age.map(|age| age.0),
        };
        for (key, bits, most) in
            [("ipv4", limits.client_prefix.0, 32), ("ipv6", limits.client_prefix.1, 128)]
        {
            if !(1..=most).contains(&bits) {
                problems
                    .error(
                        &path.key("client_network").key(key),
                        "there is no network of so many bits",
                    )
                    .help(format!("write a number from 1 to {most}"));
            }
        }
        for (key, value) in [("max_head", limits.max_head_bytes), ("max_uri", limits.max_uri_bytes)]
        {
            // Pingora's own ceiling on a head is a constant of 1 MiB.
            if !(256..=(1 << 20)).contains(&value) {
                problems
                    .error(&path.key(key), "the limit is out of range")
                    .help("write a size from 256B to 1MiB");
            }
        }
        if limits.max_fields > 256 {
            problems
                .error(&path.key("max_fields"), "the limit is out of range")
                .help("write a number from 1 to 256");
        }
        for (key, value) in [
            ("handshake", limits.handshake),
            ("head", limits.head),
            ("body_idle", limits.body_idle),
            ("write_stall", limits.write_stall),
            ("keep_alive", limits.keep_alive),
            ("connection_age", limits.connection_age.unwrap_or(Duration::MAX)),
        ] {
            if value.is_zero() {
                problems
                    .error(
                        &path.key("timeouts").key(key),
                        "a timeout of zero would end every connection",
                    )
                    .help("leave the key out for the default");
            }
        }
        Some(ListenerConfig {
            name: name.clone(),
            path: path.clone(),
            address: self.address.clone()?,
            protocol: protocol?,
            proxy_from,
            unknown_host: match &self.unknown_host {
                None | Some(RawUnknownHost::Word(UnknownHostWord::Refuse)) => UnknownHost::Refuse,
                Some(RawUnknownHost::Word(UnknownHostWord::NotFound)) => UnknownHost::NotFound,
                Some(RawUnknownHost::Site(site)) => UnknownHost::Site(site.site.clone()),
            },
            redirect_to_https: self.redirect_to_https,
            limits,
        })
    }
}
