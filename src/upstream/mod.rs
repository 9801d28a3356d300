//! Upstreams: named sets of endpoints, how a request finds one of them, and what is known of each.
//!
//! On the request path: [`Upstream::pick`] (`set.rs`, `eligible.rs`, `balance/`) and [`Picked`] (`picked.rs`), once a try. Everything
//! else runs beside it: probes (`health.rs`, `probe.rs`), discovery (`discovery.rs`, `dns.rs`, `srv.rs`), and the keeper
//! (`keeper.rs`) of what the traffic shows (`outlier/`).
//! An upstream belongs to a snapshot; what is alive of it (`live.rs`) outlives it. A pick never waits and never looks up a name.

mod answers;
mod ask;
mod authorities;
mod balance;
mod carried;
mod coalesced;
mod config;
mod connect;
mod discovery;
mod dns;
mod dns_config;
mod eligibility_config;
mod eligible;
mod endpoint;
mod fights;
mod for_certificates;
mod gates;
mod grpc_health;
mod hash_config;
mod health;
mod judged;
mod judged_connector;
mod keep_alive;
mod keeper;
mod latency;
mod limits_config;
mod live;
mod live_tls;
mod live_upstream;
mod member;
mod outlier;
mod peer;
mod picked;
mod probe;
mod ramp;
mod raw;
mod resolver;
mod retries_config;
mod retry;
mod retry_budget;
mod retry_shares;
mod secured;
mod selection;
mod set;
mod srv;
mod status;
mod sticky;
mod sticky_config;
mod task;
mod tls;
mod tls_config;
mod watch;
mod wish;

#[cfg(test)]
mod connection_cost;
#[cfg(test)]
mod test_origin;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use rustls_pki_types::ServerName;

pub use ask::{Answer, Ask, AskError, Asked, Rest};
pub use config::{
    EndpointConfig, HealthCheckConfig, MAX_CONNECTS_OF_A_TRY, MAX_TRIES, MAX_TRIES_OF_A_REQUEST,
    Timeouts, UpstreamConfig,
};
pub use connect::{EndpointStream, connect, is_own_failure};
pub use discovery::{Discovered, DiscoveredEndpoint, Discovery, MAX_ADDRESSES, Report, Static};
pub use dns::Dns;
pub use dns_config::{DnsConfig, RawDns};
pub use eligibility_config::{EligibilityConfig, WhenNoneHealthy};
pub use endpoint::{Endpoint, InFlight, Tried};
pub use fights::warn_of_tries;
pub use gates::{GateStatus, OpenConnection, TooManyConnections};
pub use hash_config::{HashConfig, RawHash};
pub use health::Verdict;
pub use judged::MalformedAnswer;
pub use judged_connector::{JudgedConnector, judge_answers};
pub use keep_alive::parse_keep_alive;
pub use limits_config::{
    LimitsConfig, RawAdaptive, RawAdaptiveTable, RawBreaker, RawBreakerTable, RawLimits,
};
pub use live::Live;
pub use outlier::{OutlierConfig, RawOutlierDetection, RawOutlierTable};
pub use picked::Picked;
pub use raw::{
    Balance, HealthCheckKind, RawEndpoint, RawEndpointTable, RawGrpcCheck, RawHealthCheck,
    RawHealthCheckTable, RawProxyProtocol, RawStatuses, RawTimeouts, RawUpstream, UpstreamProtocol,
};
pub use resolver::SharedResolver;
pub use retries_config::{RawRetries, RawRetryBudget, RawRetryOn, Retries};
pub use retry::{Again, FailedTry, NotAgain, TryFailure};
pub use retry_budget::RetryBudgetConfig;
pub use srv::Srv;
pub use status::{
    EjectedStatus, EndpointStatus, NameStatus, ServiceStatus, SetStanding, UpstreamStatus,
};
pub use sticky::{StickyKey, StickyValue};
pub use sticky_config::RawSticky;
pub use tls_config::{
    CertificateFiles, RawUpstreamCertificate, RawUpstreamTls, RawUpstreamTlsTable,
    UpstreamTlsConfig,
};
pub use wish::Wish;

pub use crate::telemetry::metrics::{EjectionReason, Fault};
use crate::{
    limit::{Limiter, Open, Permit, Probe},
    types::{ClientNetwork, EndpointAddress, Problems},
};

use self::{
    live_upstream::LiveUpstream,
    peer::PeerTemplate,
    set::EndpointSet,
    tls::{EndpointTls, TlsFiles},
};

/// An upstream as compiled: what its configuration says, with the files it names, and nothing alive.
#[derive(Clone)]
pub struct Blueprint {
    config: Arc<UpstreamConfig>,
    tls: Option<Arc<EndpointTls>>,
}

impl std::fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blueprint").field("name", &self.config.name).finish_non_exhaustive()
    }
}

/// Compiles an upstream. Reads the files of its TLS, and starts nothing.
///
/// What is wrong is added to `problems`; then there is no blueprint.
pub fn compile(config: &Arc<UpstreamConfig>, problems: &mut Problems) -> Option<Blueprint> {
    let mut is_good = true;
    let mut tls = None;
    if let Some(host) = config.health_check.as_ref().and_then(|check| check.host.as_deref())
        && host.parse::<http::uri::Authority>().is_err()
    {
        let path = config.path.key("health_check").key("host");
        problems
            .error(&path, format!("\"{host}\" is not a Host header value"))
            .help("write a host name, with a port where it is not the usual one");
        is_good = false;
    }
    if let Some(settings) = &config.tls {
        let path = config.path.key("tls");
        match TlsFiles::read(settings).load(config.protocol) {
            Err(error) => {
                error.report(&path, problems);
                return None;
            }
            Ok(loaded) => tls = Some(Arc::new(loaded)),
        }
    }
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        let path = config.path.key("endpoints").index(index);
        if let Some(tls) = &config.tls
            && let Some(name) = peer::server_name(tls, &endpoint.address, None)
            && ServerName::try_from(name.as_str()).is_err()
        {
            problems
                .error(&path, format!("\"{name}\" can't be verified by TLS"))
                .help("set `tls.server_name` to the name in the endpoint's certificate");
            is_good = false;
        }
        // A name is resolved later, and its addresses always make a peer.
        match endpoint.address {
            EndpointAddress::Dns(..) => continue,
            EndpointAddress::Srv(_) => {
                // Whoever can answer for the name server could name a host that it has a certificate for.
                if config
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.server_name.is_none() && !tls.insecure_skip_verify)
                {
                    problems
                        .error(&path, "the hosts of SRV records can't be verified by TLS: their names come from DNS")
                        .help("set `tls.server_name` to the name in the endpoints' certificates");
                    is_good = false;
                }
                continue;
            }
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => {}
        }
        if let Err(error) = PeerTemplate::new(config, tls.as_deref(), &endpoint.address, None) {
            let problem = problems.error(&path, error.to_string());
            if matches!(error, peer::PeerError::NoServerName) {
                problem.help("set `tls.server_name` to the name in the endpoint's certificate");
            }
            is_good = false;
        }
    }
    is_good.then(|| Blueprint { config: Arc::clone(config), tls })
}

/// Why an upstream has no endpoint for a request. Becomes 503 with `Retry-After` (RFC 9110, section 15.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// Every endpoint is unhealthy or has the weight 0.
    #[error("no endpoint is healthy")]
    NoneHealthy,
    /// Its names have no addresses, or none yet.
    #[error("no endpoint is known")]
    NoneKnown,
}

/// A named set of endpoints, as one generation of the configuration uses it.
pub struct Upstream {
    config: Arc<UpstreamConfig>,
    set: Arc<EndpointSet>,
    live: Arc<LiveUpstream>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// What its configuration says.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Its generation comes into force: limits, breaker and outlier detection take its settings. Never before, since the
    /// generation before it uses the same.
    pub fn put_in_force(&self, now: Instant) {
        self.live.gates.configure(&self.config, now);
        self.live.outliers.configure(self.config.outlier_detection.as_ref());
    }

    /// An endpoint for the next try of a request: one that it has not tried, while there is one. Never waits.
    pub fn pick(&self, wish: &Wish) -> Result<Picked, NoEndpoint> {
        self.set.pick(wish)
    }

    /// A request begins its first try here.
    pub fn count_request(&self, network: Option<ClientNetwork>, now: Instant) {
        self.live.retry_budget.count_request(network, now);
    }

    /// Takes a place for a retry, where the upstream's requests have one left.
    pub fn takes_retry(&self, network: Option<ClientNetwork>, now: Instant) -> bool {
        self.live.retry_budget.take(self.config.retries.budget, network, now)
    }

    /// Whether its breaker lets a request through: with what the try is to carry ([`Picked::probes`]) where it is one of
    /// the few.
    ///
    /// # Errors
    /// It is open. Becomes 503 with `Retry-After`.
    pub fn pass(
        &self,
        network: Option<ClientNetwork>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Probe>, Open> {
        self.live.gates.pass(network, now)
    }

    /// A permit for a request; `None` where there is no limit.
    ///
    /// # Errors
    /// There is no room: the limiter has a queue.
    pub fn try_permit(&self) -> Result<Option<Permit>, Arc<Limiter>> {
        self.live.gates.try_permit()
    }

    /// Counts a connection that the caller makes, until the result is dropped.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn open_connection(&self) -> Result<OpenConnection, TooManyConnections> {
        self.live.gates.connections().open()
    }

    /// What is known of its endpoints: how many are in service, and how many of them so many probes in a row have found healthy.
    pub fn standing(&self, good_probes: u32) -> SetStanding {
        self.set.standing(good_probes)
    }

    /// Its endpoints that nothing speaks against, to be asked something of our own.
    pub fn in_service(&self) -> Vec<Asked> {
        self.set.in_service()
    }

    /// The endpoint that was picked, to be asked something of our own. `None` where it is gone meanwhile.
    pub fn asked(&self, picked: &Picked) -> Option<Asked> {
        self.set.asked(picked)
    }

    /// Whether at least one endpoint is known to be healthy.
    pub fn has_healthy(&self) -> bool {
        self.set.has_healthy()
    }

    /// Resolves when every host name has been looked up and every endpoint has had a probe, with success or without.
    /// It may take as long as they do: put a timeout on it.
    pub async fn probed(&self) {
        self.set.probed().await;
    }

    /// What the API and the metrics show.
    pub fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            name: self.config.name.clone(),
            balance: self.config.balance,
            service: self.set.service_status(),
            endpoints: self.set.endpoint_status(),
            names: self.set.name_status(),
            gates: self.live.gates.status(),
        }
    }
}
