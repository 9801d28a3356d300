//! The certificate that all contestants have: ECDSA over P-256, as most sites have today.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;

/// The host that every request asks for.
pub(crate) const HOST: &str = "bench.test";

pub(crate) struct Certificate {
    /// What the client trusts.
    pub(crate) der: CertificateDer<'static>,
    /// PEM, for nginx, Tidegate and the bare proxy.
    pub(crate) chain: String,
    pub(crate) key: String,
    /// Both in one file, as HAProxy wants it.
    pub(crate) both: String,
}

impl Certificate {
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
        let write = |name: &str, text: String| -> Result<String> {
            let path = folder.join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        Ok(Self {
            der: certificate.der().clone(),
            chain: write("chain.pem", certificate.pem())?,
            key: write("key.pem", key.serialize_pem())?,
            both: write("both.pem", certificate.pem() + &key.serialize_pem())?,
        })
    }
}
