//! TLS to endpoints, made of an upstream's settings and the files they name.
//!
//! Off the request path: when a configuration is compiled, and when a file changes (`live_tls.rs`). There is one client
//! configuration for all connections of HTTP/1.1 (`secured.rs`), one for probes, both with the same trust, certificate and
//! sessions; Pingora makes the connections of HTTP/2, and builds one for each from what stands here. Verification is on
//! unless the configuration says otherwise.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use pingora_core::{protocols::tls::CaType, utils::tls::CertKey};
use rustls::{
    ClientConfig,
    client::{Resumption, danger::ServerCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::{
    authorities::{AnyCertificate, Authorities, AuthoritiesError, system_roots},
    raw::UpstreamProtocol,
    tls_config::UpstreamTlsConfig,
};
use crate::{
    tls::{self, CertificateError, Content, Fingerprint, Pair},
    types::{KeyPath, Problems},
};

/// Server names whose sessions are kept for resumption, each with the last few tickets; the one used longest ago goes first.
const SESSIONS: usize = 256;

/// Why there is no TLS to endpoints.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamTlsError {
    /// The authorities.
    #[error("authorities of {}", .0.display())]
    Authorities(PathBuf, #[source] AuthoritiesError),
    /// The edge's own certificate.
    #[error(transparent)]
    ClientCertificate(#[from] CertificateError),
    /// The key is good, but in no form that the engine takes for HTTP/2.
    #[error("the private key in {} can't be used for HTTP/2", .0.display())]
    Key(PathBuf),
    /// Both are good, and rustls does not take them.
    #[error("no TLS is possible: {0}")]
    Config(#[from] rustls::Error),
}

impl UpstreamTlsError {
    /// Adds it to `problems`; `path` is that of `tls`.
    pub(super) fn report(&self, path: &KeyPath, problems: &mut Problems) {
        match self {
            Self::Authorities(_, error) => {
                problems
                    .error(&path.key("ca"), error.to_string())
                    .help("a PEM file with BEGIN CERTIFICATE, one for each authority");
            }
            Self::ClientCertificate(error) => {
                error.report(&path.key("client_certificate"), problems);
            }
            Self::Key(_) => {
                problems.error(&path.key("client_certificate").key("key"), self.to_string());
            }
            Self::Config(_) => {
                problems.error(path, self.to_string());
            }
        }
    }

    /// Whether time alone mends it.
    pub(super) fn is_early(&self) -> bool {
        matches!(self, Self::ClientCertificate(CertificateError::NotYetValid { .. }))
    }
}

/// The files that TLS settings name, read once.
pub(super) struct TlsFiles<'a> {
    settings: &'a UpstreamTlsConfig,
    ca: Option<Content>,
    client: Option<Pair<'a>>,
}

/// TLS to the endpoints of an upstream, with what its files said.
pub(super) struct EndpointTls {
    identity: TlsIdentity,
    http1: Arc<ClientConfig>,
    probes: Arc<ClientConfig>,
    engine: Option<EngineTls>,
    /// The end of the edge's own certificate, in seconds since 1970.
    client_not_after: Option<i64>,
}

/// What Pingora makes connections that may be HTTP/2 from.
#[derive(Default)]
pub(super) struct EngineTls {
    /// Where they are not the system's.
    pub(super) authorities: Option<Arc<CaType>>,
    pub(super) client: Option<Arc<CertKey>>,
}

/// What tells two TLS settings apart, the content of the files included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TlsIdentity {
    settings: UpstreamTlsConfig,
    content: Fingerprint,
}

impl<'a> TlsFiles<'a> {
    /// Reads them; what goes wrong shows in [`Self::load`].
    pub(super) fn read(settings: &'a UpstreamTlsConfig) -> Self {
        let client = settings.client_certificate.as_ref();
        Self {
            settings,
            ca: settings.ca.as_deref().map(tls::read),
            client: client.map(|files| Pair::read(&files.chain, &files.key)),
        }
    }

    /// What tells this content from another.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        tls::fingerprint_of(self.ca.iter().chain(self.client.iter().flat_map(Pair::contents)))
    }

    /// Parses and checks them, for an upstream that speaks `protocol`.
    pub(super) fn load(self, protocol: UpstreamProtocol) -> Result<EndpointTls, UpstreamTlsError> {
        self.load_at(protocol, SystemTime::now())
    }

    /// The same at another time.
    pub(super) fn load_at(
        self,
        protocol: UpstreamProtocol,
        now: SystemTime,
    ) -> Result<EndpointTls, UpstreamTlsError> {
        let content = self.fingerprint();
        let Self { settings, ca, client } = self;
        let authorities = ca
            .map(|content| {
                let path = settings.ca.clone().unwrap_or_default();
                Authorities::load(content)
                    .map_err(|error| UpstreamTlsError::Authorities(path, error))
            })
            .transpose()?;
        let client = client.map(|pair| pair.load_with_key(now)).transpose()?;
        let engine = match protocol {
            UpstreamProtocol::Http1 => None,
            UpstreamProtocol::Http2 | UpstreamProtocol::Auto => {
                let own = client.as_ref();
                let files = settings.client_certificate.as_ref();
                let unusable = || {
                    UpstreamTlsError::Key(files.map(|files| files.key.clone()).unwrap_or_default())
                };
                Some(EngineTls {
                    authorities: authorities.as_ref().map(|own| Arc::clone(&own.for_pingora)),
                    client: own
                        .map(|(loaded, key)| for_pingora(&loaded.key, key).ok_or_else(unusable))
                        .transpose()?,
                })
            }
        };
        let client_not_after = client.as_ref().map(|(loaded, _)| loaded.not_after);
        let base = client_config(settings, authorities, client.map(|(loaded, _)| loaded.key))?;
        let speaking = |protocols: &[&[u8]]| {
            let mut config = base.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        let http1 = speaking(&[b"http/1.1"]);
        let probes = match protocol {
            UpstreamProtocol::Http1 => Arc::clone(&http1),
            UpstreamProtocol::Http2 => speaking(&[b"h2"]),
            UpstreamProtocol::Auto => speaking(&[b"h2", b"http/1.1"]),
        };
        let identity = TlsIdentity { settings: settings.clone(), content };
        Ok(EndpointTls { identity, http1, probes, engine, client_not_after })
    }
}

impl EndpointTls {
    pub(super) fn settings(&self) -> &UpstreamTlsConfig {
        &self.identity.settings
    }

    pub(super) fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// What its files held.
    pub(super) fn content(&self) -> Fingerprint {
        self.identity.content
    }

    /// For connections of HTTP/1.1.
    pub(super) fn http1(&self) -> &Arc<ClientConfig> {
        &self.http1
    }

    /// For probes, by the upstream's protocol.
    pub(super) fn probes(&self) -> &Arc<ClientConfig> {
        &self.probes
    }

    /// For connections that may be HTTP/2, where the upstream has such.
    pub(super) fn engine(&self) -> Option<&EngineTls> {
        self.engine.as_ref()
    }

    /// The end of the edge's own certificate, in seconds since 1970.
    pub(super) fn client_not_after(&self) -> Option<i64> {
        self.client_not_after
    }
}

/// The client configuration without protocols. Its clones share sessions.
fn client_config(
    settings: &UpstreamTlsConfig,
    authorities: Option<Authorities>,
    client: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = tls::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?;
    let builder = if settings.insecure_skip_verify {
        let any: Arc<dyn ServerCertVerifier> = Arc::new(AnyCertificate(Arc::clone(provider)));
        builder.dangerous().with_custom_certificate_verifier(any)
    } else {
        let own = authorities.map(|own| own.roots);
        builder.with_root_certificates(own.unwrap_or_else(|| Arc::clone(system_roots())))
    };
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// A certificate in Pingora's form. `None` where Pingora would panic on it, at each connection.
fn for_pingora(certificate: &CertifiedKey, key: &Zeroizing<Vec<u8>>) -> Option<Arc<CertKey>> {
    PrivateKeyDer::try_from(key.as_slice()).ok()?;
    let chain: Vec<Vec<u8>> = certificate.cert.iter().map(|der| der.to_vec()).collect();
    let key = key.to_vec();
    // Pingora parses with an older version of the parser that has passed the chain.
    std::panic::catch_unwind(move || Arc::new(CertKey::new(chain, key))).ok()
}
