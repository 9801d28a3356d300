//! The authorities that an upstream's endpoints are judged by: the system's, or those of a file; or none at all.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use pingora_core::{
    protocols::tls::CaType,
    utils::tls::{WrappedX509, parse_x509},
};
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls;

/// Why a file of authorities can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthoritiesError {
    /// It can't be read.
    #[error("the file can't be read: {0}")]
    Read(#[source] io::Error),
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
    pub(super) roots: Arc<RootCertStore>,
    pub(super) for_pingora: Arc<CaType>,
}

impl Authorities {
    /// Takes what was read of a PEM file.
    pub(super) fn load(content: tls::Content) -> Result<Self, AuthoritiesError> {
        Self::parse(&content.map_err(AuthoritiesError::Read)?)
    }

    fn parse(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        let mut wrapped = Vec::new();
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(AuthoritiesError::Pem)?;
            let bad = AuthoritiesError::Certificate(index + 1);
            let for_pingora = wrap(&certificate);
            let (Ok(()), Some(for_pingora)) = (roots.add(certificate), for_pingora) else {
                return Err(bad);
            };
            wrapped.push(for_pingora);
        }
        if wrapped.is_empty() {
            return Err(AuthoritiesError::Empty);
        }
        Ok(Self { roots: Arc::new(roots), for_pingora: Arc::from(wrapped) })
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

/// The system's authorities, read once. Without any, every verification fails, which the probes report.
pub(super) fn system_roots() -> &'static Arc<RootCertStore> {
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
pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

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
        assert_eq!((only.roots.len(), only.for_pingora.len()), (1, 1));

        let junk = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let error = |pem: &str| Authorities::parse(pem.as_bytes()).err().unwrap();
        assert!(matches!(error(&format!("{one}{junk}")), AuthoritiesError::Certificate(2)));
        assert!(matches!(error(""), AuthoritiesError::Empty));
        assert!(matches!(error("-----BEGIN CERTIFICATE-----\nMAA=\n"), AuthoritiesError::Pem(_)));
        let missing = tls::read(std::path::Path::new("/nowhere/ca.pem"));
        let missing = Authorities::load(missing).err().unwrap();
        assert!(matches!(missing, AuthoritiesError::Read(_)));
    }
}
