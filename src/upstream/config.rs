//! `[upstreams.<name>]`, parsed: every default filled in, `like` and `upstream_defaults` resolved.

use std::{sync::Arc, time::Duration};

use super::hash_config::HashConfig;
use super::raw::{
    Balance, HealthCheckKind, RawEndpoint, RawHealthCheck, RawHealthCheckTable, RawProxyProtocol,
    RawStatuses, RawTimeouts, RawUpstream, UpstreamProtocol,
};
use super::{
    eligibility_config::EligibilityConfig,
    fights,
    limits_config::LimitsConfig,
    outlier::{OutlierConfig, RawOutlierDetection},
    retries_config::Retries,
    tls_config::UpstreamTlsConfig,
};
use crate::limit::BreakerConfig;
use crate::types::{
    EndpointAddress, KeyPath, Name, Problems, ProxyVersion, StickyCookie, defaults,
};

/// The highest weight of an endpoint.
pub(super) const MAX_WEIGHT: u32 = 1_000;

/// The most tries a request can have at one upstream.
pub const MAX_TRIES: u32 = 4;
/// Upstreams that a request may be tried at: its own, and that of a fallback.
const UPSTREAMS_OF_A_REQUEST: u32 = 2;
/// The most tries a request can have.
pub const MAX_TRIES_OF_A_REQUEST: u32 = UPSTREAMS_OF_A_REQUEST * MAX_TRIES;
/// How often an endpoint may be connected to in one try: again where it speaks another protocol than was thought.
pub const MAX_CONNECTS_OF_A_TRY: u32 = 2;

/// An upstream with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands in the configuration.
    pub path: KeyPath,
    /// Its endpoints, none twice.
    pub endpoints: Vec<EndpointConfig>,
    /// How a request finds its endpoint.
    pub balance: Balance,
    /// The key of a request, for consistent hashing.
    pub hash: Option<HashConfig>,
    /// The cookie that keeps a client at one endpoint.
    pub sticky: Option<StickyCookie>,
    /// The protocol spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// TLS to the endpoints.
    pub tls: Option<UpstreamTlsConfig>,
    /// The active health check.
    pub health_check: Option<HealthCheckConfig>,
    /// Who gets requests.
    pub eligibility: EligibilityConfig,
    /// Ejection learned from traffic.
    pub outlier_detection: Option<OutlierConfig>,
    /// Timeouts; a route may set its own.
    pub timeouts: Timeouts,
    /// When a request is tried again; a route may set its own.
    pub retries: Arc<Retries>,
    /// How much it is given at once.
    pub limits: LimitsConfig,
    /// Whether and when nothing is asked of it.
    pub breaker: Option<BreakerConfig>,
    /// The Host header sent instead of the client's.
    pub host: Option<String>,
    /// How long an unused connection stays in the pool.
    pub pool_idle: Duration,
    /// The PROXY header that connections begin with.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// An endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointConfig {
    /// Where it is reached.
    pub address: EndpointAddress,
    /// Its share; 0 takes it out.
    pub weight: u32,
    /// Lower ones go first.
    pub priority: u32,
    /// Where it stands.
    pub zone: Option<Name>,
}

impl EndpointConfig {
    fn of(raw: &RawEndpoint) -> Self {
        match raw {
            RawEndpoint::Address(address) => {
                Self { address: address.clone(), weight: 1, priority: 0, zone: None }
            }
            RawEndpoint::Table(table) => Self {
                address: table.address.clone(),
                weight: table.weight.unwrap_or(1),
                priority: table.priority.unwrap_or(0),
                zone: table.zone.clone(),
            },
        }
    }
}

/// An active health check with every default filled in. Two equal ones share their probes' state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheckConfig {
    /// What a probe does.
    pub kind: HealthCheckKind,
    /// The path asked for (`http` only).
    pub path: String,
    /// The Host header of the probe.
    pub host: Option<String>,
    /// Healthy statuses, as inclusive ranges.
    pub expect_status: Vec<(u16, u16)>,
    /// Text the body must contain.
    pub expect_body: Option<String>,
    /// The service asked about (`grpc` only); empty for the whole server.
    pub grpc_service: String,
    /// Between two probes.
    pub interval: Duration,
    /// Of one probe.
    pub timeout: Duration,
    /// Good probes in a row.
    pub healthy_after: u32,
    /// Failed probes in a row.
    pub unhealthy_after: u32,
    /// Another port to probe.
    pub port: Option<u16>,
}

/// Timeouts towards endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// Connecting, TLS included.
    pub connect: Duration,
    /// To the first byte of the answer.
    pub first_byte: Duration,
    /// Silence inside an answer.
    pub idle: Duration,
    /// Silence on a long-lived stream.
    pub stream_idle: Duration,
    /// The whole exchange.
    pub total: Option<Duration>,
}

impl RawTimeouts {
    /// This one's values, then `base`'s.
    pub fn over(self, base: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.map_or(base.connect, |d| d.0),
            first_byte: self.first_byte.map_or(base.first_byte, |d| d.0),
            idle: self.idle.map_or(base.idle, |d| d.0),
            stream_idle: self.stream_idle.map_or(base.stream_idle, |d| d.0),
            total: self.total.map_or(base.total, |d| Some(d.0)),
        }
    }

    /// This one's keys, then `base`'s.
    pub fn or(self, base: Self) -> Self {
        Self {
            connect: self.connect.or(base.connect),
            first_byte: self.first_byte.or(base.first_byte),
            idle: self.idle.or(base.idle),
            stream_idle: self.stream_idle.or(base.stream_idle),
            total: self.total.or(base.total),
        }
    }

    /// Reports zero durations, which would end every request.
    pub fn check(self, path: &KeyPath, problems: &mut Problems) {
        let all = [
            ("connect", self.connect),
            ("first_byte", self.first_byte),
            ("idle", self.idle),
            ("stream_idle", self.stream_idle),
            ("total", self.total),
        ];
        for (key, value) in all {
            if value.is_some_and(|d| d.0.is_zero()) {
                problems
                    .error(&path.key(key), "a timeout of zero would end every request")
                    .help("leave the key out for the default");
            }
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: defaults::UPSTREAM_CONNECT.0,
            first_byte: defaults::UPSTREAM_FIRST_BYTE.0,
            idle: defaults::UPSTREAM_IDLE.0,
            stream_idle: defaults::STREAM_IDLE.0,
            total: None,
        }
    }
}

impl RawUpstream {
    /// This one's keys, then `base`'s; what is written in tables is taken key by key.
    /// `endpoints` is inherited only where `with_endpoints` (by `like`, not from the defaults).
    pub fn or(&self, base: &Self, with_endpoints: bool) -> Self {
        let inherited = if with_endpoints { base.endpoints.clone() } else { None };
        Self {
            endpoints: self.endpoints.clone().or(inherited),
            like: self.like.clone(),
            balance: self.balance.or(base.balance),
            // An inherited key goes with its balance.
            hash: match (&self.hash, self.balance) {
                (None, Some(other)) if other != Balance::ConsistentHash => None,
                (mine, _) => mine.clone().or_else(|| base.hash.clone()),
            },
            sticky: self.sticky.clone().or_else(|| base.sticky.clone()),
            protocol: self.protocol.or(base.protocol),
            tls: match (&self.tls, &base.tls) {
                (Some(mine), Some(theirs)) => Some(mine.or(theirs)),
                (mine, theirs) => mine.clone().or_else(|| theirs.clone()),
            },
            health_check: match (&self.health_check, &base.health_check) {
                (Some(RawHealthCheck::Table(mine)), Some(RawHealthCheck::Table(theirs))) => {
                    Some(RawHealthCheck::Table(mine.or(theirs)))
                }
                (mine, theirs) => mine.clone().or_else(|| theirs.clone()),
            },
            outlier_detection: RawOutlierDetection::or(
                self.outlier_detection.as_ref(),
                base.outlier_detection.as_ref(),
            ),
            slow_start: self.slow_start.or(base.slow_start),
            panic_threshold: self.panic_threshold.or(base.panic_threshold),
            when_none_healthy: self.when_none_healthy.or(base.when_none_healthy),
            stable_min: self.stable_min.or(base.stable_min),
            zone_threshold: self.zone_threshold.or(base.zone_threshold),
            timeouts: match (self.timeouts, base.timeouts) {
                (Some(mine), Some(theirs)) => Some(mine.or(theirs)),
                (mine, theirs) => mine.or(theirs),
            },
            retries: match (&self.retries, &base.retries) {
                (Some(mine), Some(theirs)) => Some(mine.or(theirs)),
                (mine, theirs) => mine.clone().or_else(|| theirs.clone()),
            },
            limits: self
                .limits
                .map(|mine| mine.or(base.limits.unwrap_or_default()))
                .or(base.limits),
            breaker: match (self.breaker, base.breaker) {
                (Some(mine), Some(theirs)) => Some(mine.or(theirs)),
                (mine, theirs) => mine.or(theirs),
            },
            host: self.host.clone().or_else(|| base.host.clone()),
            pool_idle: self.pool_idle.or(base.pool_idle),
            proxy_protocol: self.proxy_protocol.or(base.proxy_protocol),
        }
    }

    /// Fills in the defaults and checks what a key alone can't say.
    /// `self` already holds what `like` and `upstream_defaults` give; `path` is where problems point to.
    pub fn parse(&self, name: &Name, path: &KeyPath, problems: &mut Problems) -> UpstreamConfig {
        let endpoints = self.parse_endpoints(path, problems);
        let tls = self.tls.as_ref().and_then(|tls| tls.parse(name, &path.key("tls"), problems));
        let protocol = self.protocol.unwrap_or_default();
        if protocol == UpstreamProtocol::Auto && tls.is_none() {
            problems
                .error(&path.key("protocol"), "`auto` chooses by ALPN, which needs TLS")
                .help("add `tls = true`, or write \"http1\" or \"http2\"");
        }
        let timeouts = self.timeouts.unwrap_or_default();
        timeouts.check(&path.key("timeouts"), problems);
        let retries = self.retries.clone().unwrap_or_default();
        retries.check(&path.key("retries"), problems);
        let host = self.host.clone().filter(|host| host != "keep");
        if let Some(host) = &host
            && http::HeaderValue::from_str(host).is_err()
        {
            problems
                .error(&path.key("host"), "this is not a Host header value")
                .help("write \"keep\" or a host name");
        }
        let config = UpstreamConfig {
            name: name.clone(),
            path: path.clone(),
            endpoints,
            balance: self.balance.unwrap_or_default(),
            hash: self.parse_hash(path, problems),
            sticky: self.parse_sticky(path, problems),
            protocol,
            tls,
            health_check: self.parse_health_check(
                protocol != UpstreamProtocol::Http1,
                path,
                problems,
            ),
            eligibility: EligibilityConfig::of(self),
            outlier_detection: RawOutlierDetection::parse(
                self.outlier_detection.as_ref(),
                &path.key("outlier_detection"),
                problems,
            ),
            timeouts: timeouts.over(Timeouts::default()),
            retries: Arc::new(retries.over(&Retries::default())),
            limits: self.limits.unwrap_or_default().parse(protocol, &path.key("limits"), problems),
            breaker: self.breaker.and_then(|raw| raw.parse(&path.key("breaker"), problems)),
            host,
            pool_idle: self.pool_idle.unwrap_or(defaults::POOL_IDLE).0,
            proxy_protocol: match self.proxy_protocol {
                None | Some(RawProxyProtocol::Off) => None,
                Some(RawProxyProtocol::V1) => Some(ProxyVersion::V1),
                Some(RawProxyProtocol::V2) => Some(ProxyVersion::V2),
            },
        };
        fights::warn(&config, problems);
        config
    }

    fn parse_endpoints(&self, path: &KeyPath, problems: &mut Problems) -> Vec<EndpointConfig> {
        let path = path.key("endpoints");
        let Some(raw) = &self.endpoints else {
            problems
                .error(path.parent().unwrap_or(&path), "no endpoints")
                .at_key()
                .help("add `endpoints = [\"10.0.0.11:8080\"]`");
            return Vec::new();
        };
        if raw.is_empty() {
            problems
                .error(&path, "the list of endpoints is empty")
                .help("add an address such as \"10.0.0.11:8080\"");
        }
        let mut endpoints: Vec<EndpointConfig> = Vec::with_capacity(raw.len());
        let mut seen = std::collections::HashMap::new();
        for (i, endpoint) in raw.iter().enumerate() {
            let EndpointConfig { address, weight, priority, zone } = EndpointConfig::of(endpoint);
            if let (EndpointAddress::Srv(_), RawEndpoint::Table(table)) = (&address, endpoint)
                && table.weight.is_some()
            {
                problems
                    .error(&path.index(i).key("weight"), "SRV records have weights of their own")
                    .at_key()
                    .help("leave `weight` out");
            }
            if weight > MAX_WEIGHT {
                problems.error(
                    &path.index(i).key("weight"),
                    format!("the weight {weight} is over {MAX_WEIGHT}"),
                );
            }
            if let Some(first) = seen.insert(address.clone(), i) {
                problems
                    .error(&path.index(i), format!("the endpoint {address} stands here twice"))
                    .help("give it a weight instead")
                    .related(path.index(first), "first here");
                continue;
            }
            endpoints.push(EndpointConfig { address, weight, priority, zone });
        }
        if !endpoints.is_empty() && endpoints.iter().all(|e| e.weight == 0) {
            problems.error(&path, "every endpoint has the weight 0, so that none gets a request");
        }
        endpoints
    }

    fn parse_health_check(
        &self,
        may_be_http2: bool,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<HealthCheckConfig> {
        let path = path.key("health_check");
        let table = match self.health_check.as_ref()? {
            RawHealthCheck::Switch(false) => return None,
            RawHealthCheck::Switch(true) => RawHealthCheckTable::default(),
            RawHealthCheck::Table(table) => table.clone(),
        };
        let kind = table.kind.unwrap_or(if table.path.is_some() {
            HealthCheckKind::Http
        } else if table.grpc.is_some() {
            HealthCheckKind::Grpc
        } else {
            HealthCheckKind::Tcp
        });
        table.report_useless(kind, &path, problems);
        if kind == HealthCheckKind::Grpc && !may_be_http2 {
            problems
                .error(&path, "gRPC needs HTTP/2, and this upstream speaks HTTP/1.1")
                .at_key()
                .help("write `protocol = \"http2\"`, or \"auto\" with `tls`");
        }
        let url_path = table.path.clone().unwrap_or_else(|| "/".to_owned());
        if !url_path.starts_with('/') || url_path.parse::<http::uri::PathAndQuery>().is_err() {
            problems
                .error(&path.key("path"), format!("\"{url_path}\" is not a path"))
                .help("a path starts with \"/\"");
        }
        let mut expect_status = Vec::new();
        match &table.expect_status {
            None => expect_status.push((200, 399)),
            Some(raw) => raw.parse_into(&path.key("expect_status"), &mut expect_status, problems),
        }
        let interval = table.interval.unwrap_or(defaults::HEALTH_INTERVAL);
        let timeout = table.timeout.unwrap_or(defaults::HEALTH_TIMEOUT);
        if interval.0 < Duration::from_millis(50) {
            problems.error(
                &path.key("interval"),
                format!("probes every {interval} are too many; at least 50ms"),
            );
        }
        if timeout.0.is_zero() {
            problems.error(&path.key("timeout"), "a timeout of zero fails every probe");
        }
        Some(HealthCheckConfig {
            kind,
            path: url_path,
            host: table.host.clone(),
            expect_status,
            expect_body: table.expect_body.clone(),
            grpc_service: table.grpc.and_then(|grpc| grpc.service).unwrap_or_default(),
            interval: interval.0,
            timeout: timeout.0,
            healthy_after: table.healthy_after.unwrap_or(defaults::HEALTHY_AFTER).get(),
            unhealthy_after: table.unhealthy_after.unwrap_or(defaults::UNHEALTHY_AFTER).get(),
            port: table.port,
        })
    }
}

impl HealthCheckConfig {
    /// One that only connects, and shakes hands where the upstream has TLS.
    pub(super) fn connecting(timeout: Duration) -> Self {
        Self {
            kind: HealthCheckKind::Tcp,
            path: "/".to_owned(),
            host: None,
            expect_status: Vec::new(),
            expect_body: None,
            grpc_service: String::new(),
            interval: defaults::HEALTH_INTERVAL.0,
            timeout,
            healthy_after: 1,
            unhealthy_after: 1,
            port: None,
        }
    }
}

impl RawHealthCheckTable {
    /// Reports keys that the kind has no use for.
    fn report_useless(&self, kind: HealthCheckKind, path: &KeyPath, problems: &mut Problems) {
        let asks_http = kind == HealthCheckKind::Http;
        let is_tcp = kind == HealthCheckKind::Tcp;
        for (key, is_set, is_useful) in [
            ("path", self.path.is_some(), asks_http),
            ("host", self.host.is_some(), !is_tcp),
            ("expect_status", self.expect_status.is_some(), asks_http),
            ("expect_body", self.expect_body.is_some(), asks_http),
            ("grpc", self.grpc.is_some(), kind == HealthCheckKind::Grpc),
        ] {
            if !is_set || is_useful {
                continue;
            }
            let (message, help) = match kind {
                HealthCheckKind::Tcp => (
                    format!("a TCP check asks for nothing, so `{key}` has no effect"),
                    if key == "grpc" {
                        "write `kind = \"grpc\"`"
                    } else {
                        "write `kind = \"http\"` and a `path`"
                    },
                ),
                HealthCheckKind::Grpc => (
                    format!("a gRPC check asks for no path, so `{key}` has no effect"),
                    "leave it out, or write `kind = \"http\"`",
                ),
                HealthCheckKind::Http => (
                    format!("an HTTP check asks for a path, so `{key}` has no effect"),
                    "leave it or `path` out",
                ),
            };
            problems.error(&path.key(key), message).at_key().help(help);
        }
    }

    /// What is written here decides what is asked: an inherited other question is dropped.
    fn or(&self, base: &Self) -> Self {
        let mut base = base.clone();
        if self.grpc.is_some() {
            base = Self { kind: None, path: None, expect_status: None, expect_body: None, ..base };
        } else if self.path.is_some() {
            base = Self { kind: None, grpc: None, ..base };
        }
        Self {
            kind: self.kind.or(base.kind),
            path: self.path.clone().or_else(|| base.path.clone()),
            grpc: self.grpc.clone().or_else(|| base.grpc.clone()),
            host: self.host.clone().or_else(|| base.host.clone()),
            expect_status: self.expect_status.clone().or_else(|| base.expect_status.clone()),
            expect_body: self.expect_body.clone().or_else(|| base.expect_body.clone()),
            interval: self.interval.or(base.interval),
            timeout: self.timeout.or(base.timeout),
            healthy_after: self.healthy_after.or(base.healthy_after),
            unhealthy_after: self.unhealthy_after.or(base.unhealthy_after),
            port: self.port.or(base.port),
        }
    }
}

impl RawStatuses {
    /// Adds them to `into` as inclusive ranges; what is none is reported.
    pub fn parse_into(&self, path: &KeyPath, into: &mut Vec<(u16, u16)>, problems: &mut Problems) {
        let range = match self {
            Self::Code(code) => Some((*code, *code)),
            Self::Range(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                low.trim().parse().ok().zip(high.trim().parse().ok())
            }
            Self::List(list) => {
                for (i, item) in list.iter().enumerate() {
                    item.parse_into(&path.index(i), into, problems);
                }
                return;
            }
        };
        match range {
            Some((low, high)) if (100..=599).contains(&low) && (low..=599).contains(&high) => {
                into.push((low, high));
            }
            _ => {
                problems
                    .error(path, "this is not a status or a range of statuses")
                    .help("write 200, \"200-399\", or a list of them");
            }
        }
    }
}
