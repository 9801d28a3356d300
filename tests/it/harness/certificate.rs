//! Certificates for tests: an authority of the test's own, and what it issues. Nothing here is ever trusted elsewhere.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The crypto provider, given explicitly everywhere: no test depends on a process-wide default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// An authority that lives for one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    /// The leaf, DER.
    pub der: CertificateDer<'static>,
    /// Leaf first, PEM.
    pub chain_pem: String,
    /// PKCS #8, PEM.
    pub key_pem: String,
    key_der: Vec<u8>,
}

impl Authority {
    /// A new authority with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("an authority");
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate, DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Issues a certificate for these DNS names and addresses; the first is its common name.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |_| {})
    }

    /// Issues a certificate whose parameters the caller changes, such as its dates.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names");
        params.distinguished_name.push(DnType::CommonName, names.first().expect("a name").as_str());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certificate {
            der: certificate.der().clone(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }

    /// A list that revokes certificates by their serial numbers, PEM.
    pub fn revocation_list(&self, revoked: &[u64], until: SystemTime) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: SystemTime::UNIX_EPOCH.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: SystemTime::UNIX_EPOCH.into(),
            next_update: until.into(),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

impl Certificate {
    /// Writes `<name>.pem` and `<name>.key` into a directory and returns their paths.
    pub fn write_to(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let chain = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        std::fs::write(&chain, &self.chain_pem).expect("the chain is written");
        std::fs::write(&key, &self.key_pem).expect("the key is written");
        (chain, key)
    }

    /// The key, DER.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }

    /// A server that shows this certificate and offers these protocols.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        self.server_config_asking(None, alpn)
    }

    /// The same, which takes only clients with a certificate of `clients`.
    pub fn server_config_asking(
        &self,
        clients: Option<&CertificateDer<'static>>,
        alpn: &[&str],
    ) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.clone()).expect("an authority");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let mut config = builder
            .with_single_cert(vec![self.der.clone()], self.key())
            .expect("a certificate that fits its key");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
