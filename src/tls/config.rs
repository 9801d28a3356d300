//! `certificate` and `tls` of a site: as written, and parsed.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    acme::KeyType,
    client_auth::{ClientAuth, RawClientAuth},
};
use crate::types::{KeyPath, Problems};

/// `certificate` of a site, as written. Exactly one of: `acme`, `internal`, `chain` with `key`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawCertificate {
    /// Ordered and renewed by ACME, as `[acme]` says. Until the first is there, the internal authority's is served.
    pub acme: Option<bool>,
    /// With `acme`: `ecdsa`, `rsa`, or `both`, of which a client gets the one that it can verify.
    #[schemars(extend("default" = "that of `[acme]`"))]
    pub key_type: Option<KeyType>,
    /// Issued by the edge's own authority, made at first start in the state directory.
    pub internal: Option<bool>,
    /// A PEM file with the certificate and its intermediates, leaf first. Changes are picked up.
    pub chain: Option<PathBuf>,
    /// The PEM file of its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: Option<PathBuf>,
}

/// `tls` of a site, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTls {
    /// `intermediate` (TLS 1.2 and 1.3) or `modern` (1.3 only); forward secrecy and AEAD in both.
    #[schemars(extend("default" = "intermediate"))]
    pub preset: Option<TlsPreset>,
    /// The certificates that clients must show. Requests over connections that were made without are answered by 421.
    pub client_auth: Option<RawClientAuth>,
}

/// A named set of versions and cipher suites.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Deserialize,
    Serialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum TlsPreset {
    /// TLS 1.2 and 1.3.
    #[default]
    Intermediate,
    /// TLS 1.3 only.
    Modern,
}

/// Where a site's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// From an ACME authority; the internal one's until then.
    Acme(KeyType),
    /// From the edge's own authority.
    Internal,
    /// From files.
    Files {
        /// PEM, leaf first.
        chain: PathBuf,
        /// PEM.
        key: PathBuf,
    },
}

/// What a connection's handshake must satisfy. Two sites with an equal one share connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsPolicy {
    /// Versions and cipher suites.
    pub preset: TlsPreset,
    /// The certificates that clients must show.
    pub client_auth: Option<ClientAuth>,
}

impl TlsPolicy {
    /// Whether it asks for more than the least, so that its site's requests must come over connections made under it.
    pub fn demands_own_connections(&self) -> bool {
        self.preset == TlsPreset::Modern || self.client_auth.is_some()
    }
}

impl RawTls {
    /// Fills in the defaults.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> TlsPolicy {
        let client_auth = self.client_auth.as_ref();
        TlsPolicy {
            preset: self.preset.unwrap_or_default(),
            client_auth: client_auth
                .and_then(|auth| auth.parse(&path.key("client_auth"), problems)),
        }
    }
}

impl RawCertificate {
    /// Finds the one source that is named. `key_type` is that of certificates by ACME where this does not say.
    pub fn parse(
        &self,
        path: &KeyPath,
        key_type: KeyType,
        problems: &mut Problems,
    ) -> CertificateSource {
        if self.key_type.is_some() && self.acme != Some(true) {
            problems
                .error(
                    &path.key("key_type"),
                    "only for certificates by ACME the edge makes keys of a kind",
                )
                .help("add `acme = true`, or take it out");
        }
        let from_files = self.chain.is_some() || self.key.is_some();
        let named = usize::from(self.acme == Some(true))
            + usize::from(self.internal == Some(true))
            + usize::from(from_files);
        if named != 1 {
            problems.error(path, "a certificate comes from exactly one source").help(
                "write { acme = true }, { internal = true } or { chain = \"…\", key = \"…\" }",
            );
            return CertificateSource::Internal;
        }
        match (&self.chain, &self.key) {
            (Some(chain), Some(key)) => {
                CertificateSource::Files { chain: chain.clone(), key: key.clone() }
            }
            (Some(_), None) => {
                problems.error(path, "the certificate chain has no key").help("add `key = \"…\"`");
                CertificateSource::Internal
            }
            (None, Some(_)) => {
                problems
                    .error(path, "the key has no certificate chain")
                    .help("add `chain = \"…\"`");
                CertificateSource::Internal
            }
            (None, None) if self.acme == Some(true) => {
                CertificateSource::Acme(self.key_type.unwrap_or(key_type))
            }
            (None, None) => CertificateSource::Internal,
        }
    }
}
