//! TLS towards clients: certificates, the policy of a handshake, the edge's own authority.
//!
//! [`compile`] checks what a site asks for and changes nothing; [`TlsLive::attach`] gives the result its live state. A
//! handshake takes [`SiteTls::handshake`] of the site that the client named: the listener chooses it. A certificate changes
//! inside that config, so neither a renewal nor a reload ends a connection. The crypto provider is always named, never
//! the process's default. TLS towards upstreams is not here, but what it shares: reading certificates, and watching files.

pub mod acme;
mod blueprint;
mod certificate_error;
mod client_auth;
mod client_certificate;
mod config;
mod expiry;
mod files;
#[cfg(test)]
mod fixture;
mod internal;
mod live;
mod policy;
mod store;
mod tickets;
mod watched;

use std::sync::{Arc, LazyLock};

pub use blueprint::{TlsBlueprint, compile};
pub use certificate_error::CertificateError;
pub use client_auth::{
    CertificateHeader, ClientAuth, ClientAuthMode, ExpiredCrl, RawClientAuth, TrustError,
};
pub use client_certificate::ClientCertificate;
pub use config::{CertificateSource, RawCertificate, RawTls, TlsPolicy, TlsPreset};
pub use files::{CertificateNames, Fingerprint, LoadedCertificate, load_files};
pub(crate) use files::{Content, Pair, fingerprint_of, read};
pub use internal::{AuthorityError, InternalAuthority};
pub use live::{SiteCertificate, TlsError, TlsLive};
pub use policy::{Handshake, LivePolicy, PolicyIdentity, SiteTls};
use rustls::crypto::CryptoProvider;
pub use store::{Certificate, CertificateFacts};
pub(crate) use watched::{Freshness, Offer, Timing, Watched, watch};

/// Makes our provider the process's default, which Pingora asks for its connections to endpoints. Before the first of them.
pub fn install_provider() {
    // Another edge of this process was first, with the same one.
    drop(CryptoProvider::install_default(CryptoProvider::clone(provider())));
}

/// The cryptography behind every handshake and key here: aws-lc-rs, whose suites are all forward secret and AEAD, and
/// which offers the hybrid post-quantum key exchange X25519MLKEM768 first.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// Seconds since 1970, as certificates count; 0 before it.
pub(crate) fn unix_seconds(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A moment for people, in UTC (RFC 3339).
pub(crate) fn date(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds)
        .map_or_else(|_| unix_seconds.to_string(), |time| time.to_string())
}

/// An error and its sources in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
