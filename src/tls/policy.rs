//! What a site's handshakes must satisfy, built for rustls.
//!
//! A connection is stamped with the [`PolicyIdentity`] that it was made under; the request path compares it by value
//! where a site asks for more than the least. Tickets belong to one [`SiteTls`]: each has a ticketer of its own, since
//! rustls does not check a client again when it resumes, and a ticket of one site must not open another.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    compress::CompressionCache,
    crypto::ring::Ticketer,
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};

use super::{
    config::{TlsPolicy, TlsPreset},
    provider,
    store::{Certificate, CertificateFacts},
};

/// A policy in one version. Independent of the site: sites with an equal policy share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyIdentity {
    policy: TlsPolicy,
    version: u64,
}

/// The TLS of a site: kept over reloads that change nothing of it, so that tickets stay good.
pub struct SiteTls {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// What connections are stamped with.
    pub identity: Arc<PolicyIdentity>,
    certificate: Arc<Certificate>,
}

impl PolicyIdentity {
    pub(super) fn new(policy: TlsPolicy, version: u64) -> Self {
        Self { policy, version }
    }

    /// What it asks for.
    pub fn policy(&self) -> &TlsPolicy {
        &self.policy
    }

    /// Which making of it this is, unique in the process.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl SiteTls {
    /// Builds the config of a site.
    ///
    /// # Errors
    /// The system gives no random numbers for ticket keys.
    pub(super) fn new(
        identity: Arc<PolicyIdentity>,
        certificate: Arc<Certificate>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions(identity.policy.preset))?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // 12 hours; keys change every six. Stateless, so nothing is stored for a session.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 2;
        // No 0-RTT: it can be replayed (RFC 8446, section 8).
        config.max_early_data_size = 0;
        // Nothing is compressed.
        config.cert_compression_cache = Arc::new(CompressionCache::Disabled);
        Ok(Self { config: Arc::new(config), identity, certificate })
    }

    /// What is known of its certificate now.
    pub fn certificate(&self) -> CertificateFacts {
        self.certificate.facts()
    }
}

type Versions = &'static [&'static SupportedProtocolVersion];

fn versions(preset: TlsPreset) -> Versions {
    const INTERMEDIATE: Versions = &[&TLS13, &TLS12];
    const MODERN: Versions = &[&TLS13];
    match preset {
        TlsPreset::Intermediate => INTERMEDIATE,
        TlsPreset::Modern => MODERN,
    }
}

impl fmt::Debug for SiteTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteTls")
            .field("identity", &self.identity)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
