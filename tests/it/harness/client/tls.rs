//! TLS of clients: whom they trust, what name they ask for, what they were shown.

use std::{net::TcpStream, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion,
    RootCertStore, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::failure::{Failure, FailureKind};
use crate::harness::certificate::{Certificate, provider};

/// How a client speaks TLS. Clones share their session cache, so that a second handshake may resume.
#[derive(Clone)]
pub struct Tls {
    roots: Option<Arc<RootCertStore>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    identity: Option<Certificate>,
    pub(super) server_name: Option<String>,
    alpn: Option<Vec<String>>,
    built: Option<Arc<ClientConfig>>,
}

/// What a handshake came to.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The leaf that was served, DER; empty where the session was resumed without it.
    pub leaf: Vec<u8>,
    /// Certificates that were served.
    pub chain_length: usize,
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: ProtocolVersion,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// Whether a session was resumed.
    pub is_resumed: bool,
}

impl Tls {
    /// Trusts what the authorities in this PEM text have issued.
    pub fn trusting(pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        assert!(!roots.is_empty(), "the PEM text has no certificate");
        Self::new(Some(Arc::new(roots)))
    }

    /// Accepts any certificate, so that a test can look at it.
    pub fn any() -> Self {
        Self::new(None)
    }

    fn new(roots: Option<Arc<RootCertStore>>) -> Self {
        Self {
            roots,
            versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
            identity: None,
            server_name: None,
            alpn: None,
            built: None,
        }
    }

    /// The name asked for (SNI) and verified, apart from the `Host` header. An address asks for no name.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// Speaks TLS 1.2 only.
    pub fn only_tls12(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS12];
        self.built = None;
        self
    }

    /// Speaks TLS 1.3 only.
    pub fn only_tls13(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS13];
        self.built = None;
        self
    }

    /// Shows a client certificate.
    pub fn identity(mut self, certificate: &Certificate) -> Self {
        self.identity = Some(certificate.clone());
        self.built = None;
        self
    }

    /// Offers these protocols instead of the client's own.
    pub fn alpn(mut self, names: &[&str]) -> Self {
        self.alpn = Some(names.iter().map(|name| (*name).to_owned()).collect());
        self.built = None;
        self
    }

    /// Builds its configuration once; clones made after this share sessions.
    pub(super) fn prepared(mut self, alpn: &[&str]) -> Self {
        // What was built for other protocols is not it.
        self.built = None;
        self.built = Some(self.config(alpn));
        self
    }

    /// Its configuration, offering these protocols unless it has others of its own: for clients that are not ours.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.config(alpn)
    }

    pub(super) fn config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        if let Some(built) = &self.built {
            return Arc::clone(built);
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&self.versions)
            .expect("versions");
        let builder = match &self.roots {
            Some(roots) => builder.with_root_certificates(Arc::clone(roots)),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider()))),
        };
        let mut config = match &self.identity {
            Some(certificate) => builder
                .with_client_auth_cert(vec![certificate.der.clone()], certificate.key())
                .expect("a certificate that fits its key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match &self.alpn {
            Some(names) => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
            None => alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        };
        Arc::new(config)
    }

    pub(super) fn name(&self, otherwise: &str) -> ServerName<'static> {
        let name = self.server_name.as_deref().unwrap_or(otherwise);
        ServerName::try_from(name.to_owned()).expect("a server name")
    }

    /// Shakes hands with `address` and tells what came of it.
    ///
    /// # Errors
    /// No connection, or a handshake that failed: [`FailureKind::Tls`] with the alert in its text.
    pub fn handshake(&self, address: &str) -> Result<Handshake, Failure> {
        let mut socket = TcpStream::connect(address)
            .map_err(|error| Failure::new(FailureKind::Connect, error))?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        let mut connection = self.connection(address);
        // TLS 1.3 sends its tickets and the alert for a client certificate after the handshake: one read more.
        while connection.is_handshaking() {
            connection
                .complete_io(&mut socket)
                .map_err(|error| Failure::new(FailureKind::Tls, error))?;
        }
        Ok(Handshake::of(&connection))
    }

    /// What a client is refused with: in its handshake, or behind it, where TLS 1.3 tells of a client's certificate.
    pub fn refusal(&self, address: &str) -> String {
        let mut socket = TcpStream::connect(address).expect("a listener");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        let mut connection = self.connection(address);
        loop {
            match connection.complete_io(&mut socket) {
                Ok((0, 0)) => return "nothing".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// The first message of a handshake, as one record.
    pub fn client_hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.connection("127.0.0.1:0").write_tls(&mut bytes).expect("a vector takes bytes");
        bytes
    }

    pub(super) fn connection(&self, address: &str) -> ClientConnection {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        ClientConnection::new(self.config(&[]), self.name(host)).expect("a client")
    }
}

impl Handshake {
    pub(super) fn of(connection: &ClientConnection) -> Self {
        let chain = connection.peer_certificates().unwrap_or_default();
        Self {
            leaf: chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default(),
            chain_length: chain.len(),
            version: connection.protocol_version().expect("a handshake that ended"),
            alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The DNS names of the leaf.
    pub fn names(&self) -> Vec<String> {
        let (_, leaf) = X509Certificate::from_der(&self.leaf).expect("a certificate");
        let names = leaf.subject_alternative_name().expect("names").expect("names");
        names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect()
    }
}

/// Takes every certificate; signatures are still checked, so that the server has the key.
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
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
