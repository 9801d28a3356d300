//! TLS to endpoints: the authorities that are trusted, read once when a configuration is compiled.
//!
//! Requests use them through Pingora's peer (`peer.rs`), probes through a client configuration of their own (`probe.rs`).
//! Verification is on unless the configuration says otherwise.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Arc, OnceLock},
};

use pingora_core::{
    protocols::tls::CaType,
    utils::tls::{WrappedX509, parse_x509},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{config::UpstreamTlsConfig, raw::UpstreamProtocol};

/// The largest file of authorities, in bytes. The system's whole bundle is a quarter of it.
const MAX_CA_BYTES: u64 = 1 << 20;

/// Why a file of authorities can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthoritiesError {
    /// It can't be read.
    #[error("the file can't be read: {0}")]
    Read(#[source] io::Error),
    /// It is too large to be what it should be.
    #[error("the file is larger than {MAX_CA_BYTES} bytes")]
    TooLarge,
    /// It is not PEM.
    #[error("the file is not PEM: {0}")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// It holds no certificate.
    #[error("there is no certificate in the file")]
    Empty,
    /// One of its certificates makes no sense, counted from 1.
    #[error("certificate {0} in the file can't be used as an authority")]
    Certificate(usize),
}

/// Certificates of authorities, in the forms that their users want.
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    for_pingora: Arc<CaType>,
    fingerprint: [u8; 32],
}

impl Authorities {
    /// Reads a PEM file.
    pub(super) fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_CA_BYTES + 1).read_to_end(&mut pem))
            .map_err(AuthoritiesError::Read)?;
        if pem.len() as u64 > MAX_CA_BYTES {
            return Err(AuthoritiesError::TooLarge);
        }
        Self::parse(&pem)
    }

    fn parse(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        let mut wrapped = Vec::new();
        let mut hash = Sha256::new();
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(AuthoritiesError::Pem)?;
            let bad = AuthoritiesError::Certificate(index + 1);
            hash.update(&certificate);
            let for_pingora = wrap(&certificate);
            let (Ok(()), Some(for_pingora)) = (roots.add(certificate), for_pingora) else {
                return Err(bad);
            };
            wrapped.push(for_pingora);
        }
        if wrapped.is_empty() {
            return Err(AuthoritiesError::Empty);
        }
        Ok(Self {
            roots: Arc::new(roots),
            for_pingora: Arc::from(wrapped),
            fingerprint: hash.finalize().into(),
        })
    }
}

/// A certificate in Pingora's form, whose constructor panics on what it can't read.
fn wrap(certificate: &CertificateDer<'_>) -> Option<WrappedX509> {
    X509Certificate::from_der(certificate).ok()?;
    // Pingora parses with an older version of the same parser; should the two ever differ, that is an error here and not a
    // panic in the compiler of configurations.
    let der = certificate.to_vec();
    std::panic::catch_unwind(move || WrappedX509::new(der, parse_x509)).ok()
}

/// The TLS settings of an upstream with the files they name.
pub(super) struct UpstreamTls {
    config: UpstreamTlsConfig,
    authorities: Option<Authorities>,
}

/// What tells two TLS settings apart, the content of the files included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TlsIdentity {
    config: UpstreamTlsConfig,
    authorities: Option<[u8; 32]>,
}

impl UpstreamTls {
    /// Reads the files that the settings name.
    pub(super) fn load(config: &UpstreamTlsConfig) -> Result<Self, AuthoritiesError> {
        let authorities = config.ca.as_deref().map(Authorities::read).transpose()?;
        Ok(Self { config: config.clone(), authorities })
    }

    pub(super) fn config(&self) -> &UpstreamTlsConfig {
        &self.config
    }

    /// The authorities for Pingora, where they are not the system's.
    pub(super) fn authorities(&self) -> Option<&Arc<CaType>> {
        self.authorities.as_ref().map(|authorities| &authorities.for_pingora)
    }

    pub(super) fn identity(&self) -> TlsIdentity {
        TlsIdentity {
            config: self.config.clone(),
            authorities: self.authorities.as_ref().map(|authorities| authorities.fingerprint),
        }
    }

    /// The client configuration for probes; the same trust as requests have.
    pub(super) fn probe_config(
        &self,
        protocol: UpstreamProtocol,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if self.config.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            let own = self.authorities.as_ref().map(|authorities| &authorities.roots);
            builder.with_root_certificates(Arc::clone(own.unwrap_or_else(|| system_roots())))
        };
        let mut config = builder.with_no_client_auth();
        let protocols: &[&[u8]] = match protocol {
            UpstreamProtocol::Http1 => &[b"http/1.1"],
            UpstreamProtocol::Http2 => &[b"h2"],
            UpstreamProtocol::Auto => &[b"h2", b"http/1.1"],
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// The system's authorities, read once. Without any, every verification fails, which the probes report.
fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!("the system has no certificate authorities");
        }
        Arc::new(roots)
    })
}

/// Takes any certificate, but still has the peer prove that it holds the key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_file_of_authorities_is_read_whole_or_refused() {
        let (one, two) = (authority("one"), authority("two"));
        let both = Authorities::parse(format!("{one}\n# and\n{two}").as_bytes()).unwrap();
        assert_eq!((both.roots.len(), both.for_pingora.len()), (2, 2));
        let only = Authorities::parse(one.as_bytes()).unwrap();
        assert_ne!(only.fingerprint, both.fingerprint);

        let junk = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let error = |pem: &str| Authorities::parse(pem.as_bytes()).err().unwrap();
        assert!(matches!(error(&format!("{one}{junk}")), AuthoritiesError::Certificate(2)));
        assert!(matches!(error(""), AuthoritiesError::Empty));
        assert!(matches!(error("-----BEGIN CERTIFICATE-----\nMAA=\n"), AuthoritiesError::Pem(_)));
        let missing = Authorities::read(Path::new("/nowhere/ca.pem")).err().unwrap();
        assert!(matches!(missing, AuthoritiesError::Read(_)));
    }
}
