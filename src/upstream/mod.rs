//! Upstreams: named sets of endpoints, how a request finds one of them, and what is known of each.

mod config;

pub use config::{
    Balance, EndpointConfig, HealthCheckConfig, HealthCheckKind, MAX_TRIES, RawEndpoint,
    RawEndpointTable, RawHealthCheck, RawHealthCheckTable, RawRetries, RawStatuses, RawTimeouts,
    RawUpstream, RawUpstreamTls, RawUpstreamTlsTable, Timeouts, UpstreamConfig, UpstreamProtocol,
    UpstreamTlsConfig,
};
