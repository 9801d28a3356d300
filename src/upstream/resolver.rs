//! Look-ups by DNS: one resolver for all names, its settings, and what can come of a look-up.
//!
//! Not on the request path. Nothing is cached here: a name is followed by one task (`dns.rs`, `srv.rs`), which asks again
//! when the time to live is over. Settings are taken from a new configuration without a restart, from the next look-up on.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
};

use crate::{
    telemetry::metrics::{LookUpResult, Metrics},
    tls::acme::Caa,
};

use super::dns_config::DnsConfig;

/// The time to live of "there is nothing" where the answer has none.
const NOTHING_REFRESH: Duration = Duration::from_secs(30);
/// At most so far while a name has no address at all: a service that is being started is to be found soon.
const MAX_EMPTY_REFRESH: Duration = Duration::from_secs(5);
/// The wait after a failed look-up; it doubles up to [`MAX_RETRY`].
const MIN_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failed look-up.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Each server is asked so often.
const ATTEMPTS: usize = 2;
/// The share of a time to live by which a look-up may come early: names that were found together are not always asked for
/// together.
const JITTER: f64 = 0.1;

/// The family of an address record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A service record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// Lower case, without the dot at its end; empty where the service is said not to be there.
    pub(super) target: Arc<str>,
}

/// What was found, and for how long it holds.
pub(super) type Found<T> = (Vec<T>, Duration);

/// Why a look-up found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookUpError {
    /// There is no such name (NXDOMAIN). It may be asked again after the time that the answer gives.
    #[error("the name does not exist (NXDOMAIN)")]
    NoName(Duration),
    /// There is the name, and no record of this kind.
    #[error("the name has no addresses")]
    NoRecords(Duration),
    /// No name server answered in time.
    #[error("no name server answered in time")]
    Timeout,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl LookUpError {
    /// Whether a name server has said so; else the look-up failed, and nothing is known anew.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::NoName(_) | Self::NoRecords(_))
    }
}

/// The resolver of all names.
pub struct SharedResolver {
    settings: ArcSwap<Settings>,
    metrics: Arc<Metrics>,
}

struct Settings {
    config: DnsConfig,
    /// Made when the first name needs it.
    resolver: Mutex<Option<TokioResolver>>,
}

impl Settings {
    fn new(config: DnsConfig) -> Arc<Self> {
        Arc::new(Self { config, resolver: Mutex::new(None) })
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut slot = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*slot {
            return Ok(resolver.clone());
        }
        let mut builder = if self.config.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let server = |address: &std::net::SocketAddr| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                server
            };
            let servers = self.config.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = self.config.timeout;
        options.attempts = ATTEMPTS;
        let resolver = builder.build()?;
        *slot = Some(resolver.clone());
        Ok(resolver)
    }
}

impl SharedResolver {
    /// A resolver with these settings; look-ups are counted in `metrics`.
    pub fn new(config: DnsConfig, metrics: Arc<Metrics>) -> Self {
        Self { settings: ArcSwap::new(Settings::new(config)), metrics }
    }

    /// Takes other settings, from the next look-up on.
    pub fn configure(&self, config: &DnsConfig) {
        if self.settings.load().config != *config {
            self.settings.store(Settings::new(config.clone()));
        }
    }

    /// How long a last answer is used.
    pub(super) fn keep(&self) -> Duration {
        self.settings.load().config.keep
    }

    /// The addresses of one family.
    pub(super) async fn addresses(
        &self,
        host: &str,
        family: Family,
    ) -> Result<Found<IpAddr>, LookUpError> {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        self.look_up(host, kind, RData::ip_addr).await
    }

    /// The records of a service.
    pub(super) async fn services(&self, name: &str) -> Result<Found<Service>, LookUpError> {
        let service = |data: &RData| match data {
            RData::SRV(record) => {
                let target = record.target.to_ascii().to_ascii_lowercase();
                Some(Service {
                    priority: record.priority,
                    weight: record.weight,
                    port: record.port,
                    target: Arc::from(target.trim_end_matches('.')),
                })
            }
            _ => None,
        };
        self.look_up(name, RecordType::SRV, service).await
    }

    /// The CAA records at a name.
    pub(super) async fn caa(&self, name: &str) -> Result<Found<Caa>, LookUpError> {
        let record = |data: &RData| match data {
            RData::CAA(record) => {
                let issuer = record.value_as_issue().ok().and_then(|(issuer, _)| issuer);
                let issuer = issuer.map(|name| name.to_ascii().to_ascii_lowercase());
                Some(Caa {
                    is_critical: record.issuer_critical,
                    tag: record.tag.to_ascii_lowercase(),
                    issuer: issuer.unwrap_or_default().trim_end_matches('.').to_owned(),
                })
            }
            _ => None,
        };
        self.look_up(name, RecordType::CAA, record).await
    }

    async fn look_up<T>(
        &self,
        name: &str,
        kind: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Result<Found<T>, LookUpError> {
        let settings = self.settings.load_full();
        let answer = match settings.resolver() {
            Ok(resolver) => resolver.lookup(name, kind).await,
            Err(error) => Err(error),
        };
        let found = answer.map_err(why).and_then(|answer: Lookup| {
            let time_to_live = answer.valid_until().saturating_duration_since(Instant::now());
            let found: Vec<T> =
                answer.answers().iter().filter_map(|record| take(&record.data)).collect();
            // An alias that leads nowhere.
            if found.is_empty() {
                return Err(LookUpError::NoRecords(time_to_live));
            }
            Ok((found, time_to_live))
        });
        self.metrics.looked_up(match &found {
            Ok(_) => LookUpResult::Found,
            Err(LookUpError::NoName(_)) => LookUpResult::NoName,
            Err(LookUpError::NoRecords(_)) => LookUpResult::NoRecords,
            Err(LookUpError::Timeout) => LookUpResult::Timeout,
            Err(LookUpError::Failed(_)) => LookUpResult::Failed,
        });
        found
    }

    /// How long to wait before the next look-up. `failures`: so many have failed in a row. `random` is from 0 to 1.
    pub(super) fn pause<T>(
        &self,
        result: &Result<Found<T>, LookUpError>,
        failures: u32,
        is_empty: bool,
        random: f64,
    ) -> Duration {
        let settings = self.settings.load();
        let DnsConfig { min_ttl, max_ttl, .. } = settings.config;
        let pause = match result {
            Ok((_, ttl)) | Err(LookUpError::NoName(ttl) | LookUpError::NoRecords(ttl)) => {
                (*ttl).clamp(min_ttl, max_ttl)
            }
            Err(LookUpError::Timeout | LookUpError::Failed(_)) => retry_pause(failures),
        };
        let pause = if is_empty { pause.min(MAX_EMPTY_REFRESH.max(min_ttl)) } else { pause };
        pause.mul_f64(1.0 - JITTER * random)
    }
}

fn retry_pause(failures: u32) -> Duration {
    MIN_RETRY.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(MAX_RETRY)
}

fn why(error: NetError) -> LookUpError {
    match error {
        NetError::Timeout => LookUpError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let seconds = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            let time_to_live = seconds.unwrap_or(NOTHING_REFRESH);
            if none.response_code == ResponseCode::NXDomain {
                LookUpError::NoName(time_to_live)
            } else {
                LookUpError::NoRecords(time_to_live)
            }
        }
        error => LookUpError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_slow_down() {
        let pauses: Vec<u64> = (1..8).map(|n| retry_pause(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_pause(u32::MAX), MAX_RETRY);
    }

    #[test]
    fn the_time_to_live_decides_within_its_floor_and_ceiling() {
        let resolver = SharedResolver::new(DnsConfig::default(), Metrics::new());
        let pause = |seconds, is_empty, random| {
            let found = Ok((vec![()], Duration::from_secs(seconds)));
            resolver.pause(&found, 0, is_empty, random).as_millis()
        };
        assert_eq!(pause(60, false, 0.0), 60_000);
        assert_eq!(pause(60, false, 1.0), 54_000);
        assert_eq!(pause(0, false, 0.0), 1_000);
        assert_eq!(pause(86_400, false, 0.0), 300_000);
        assert_eq!(pause(60, true, 0.0), 5_000);
        let nothing: Result<Found<()>, _> = Err(LookUpError::NoName(Duration::from_secs(90)));
        assert_eq!(resolver.pause(&nothing, 0, false, 0.0).as_secs(), 90);
        let failed: Result<Found<()>, _> = Err(LookUpError::Timeout);
        assert_eq!(resolver.pause(&failed, 3, false, 0.0).as_secs(), 4);
        let config = DnsConfig { min_ttl: Duration::from_secs(20), ..DnsConfig::default() };
        resolver.configure(&config);
        assert_eq!(pause(1, false, 0.0), 20_000);
    }
}
