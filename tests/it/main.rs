//! Integration tests: one binary.
#![allow(
    clippy::expect_used,
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test asserts by panicking, its data has a known shape, and its output is for people"
)]
#![allow(unreachable_pub, reason = "what the harness offers to tests is public to them")]

#[allow(dead_code, unused_imports, reason = "a library for tests: it offers more than today's use")]
mod harness;

mod access_log;
mod acme;
mod acme_dns;
mod allocations;
mod audit_log;
mod backup;
mod balance;
mod balance_algorithms;
mod blame;
mod breaker;
mod client_certificates;
mod clock;
mod config;
mod demo_origin;
mod dns;
mod docs;
mod endpoints_fail;
mod exhaustion;
mod experiments;
mod fallback;
mod faults;
mod floods;
mod forwarding;
mod framing;
mod fuzz;
mod harness_origin;
mod harness_pebble;
mod health;
mod health_grpc;
mod keep_alive;
mod large;
mod layers;
mod limits_bodies;
mod limits_concurrency;
mod limits_connections;
mod limits_http2;
mod listener_changes;
mod listener_patience;
mod listeners;
mod log_level;
mod outgoing;
mod outliers;
mod overload;
mod passthrough;
mod proxy_protocol;
mod proxy_protocol_out;
mod reference;
mod reference_metrics;
mod reload;
mod reload_time;
mod retries;
mod rollout_analysis;
mod rollout_checks;
mod rollouts;
mod routing;
mod service_manager;
mod shutdown;
mod smoke;
mod soak;
mod sticky;
mod streams;
mod tcp;
mod tls_scan;
mod upgrade;
mod upgrade_load;
mod upstream_tls;
mod webhooks;
mod who_gets_requests;
