//! `tls` of an upstream: as written, and parsed.

use std::path::PathBuf;

use rustls_pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{KeyPath, Name, Problems, deserialize_by_form};

/// `tls` of an upstream, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawUpstreamTls {
    /// On with verification, or off.
    Switch(bool),
    /// On, with more said.
    Table(RawUpstreamTlsTable),
}

deserialize_by_form!(
    RawUpstreamTls,
    "true, false, or a table with server_name, ca, client_certificate, insecure_skip_verify",
    { bool => Switch, table => Table }
);

/// `tls` of an upstream as a table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawUpstreamTlsTable {
    /// The name asked for (SNI) and verified. Default: the endpoint's host name, or its address.
    pub server_name: Option<String>,
    /// A PEM file of authorities to trust instead of the system's. Changes are picked up.
    pub ca: Option<PathBuf>,
    /// The certificate that the edge shows to endpoints that ask for one, health checks included. Default: none.
    pub client_certificate: Option<RawUpstreamCertificate>,
    /// Accept any certificate. `check` warns about it.
    #[schemars(extend("default" = false))]
    pub insecure_skip_verify: Option<bool>,
}

/// The edge's own certificate towards endpoints, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawUpstreamCertificate {
    /// A PEM file with the certificate and its intermediates, leaf first. Changes are picked up.
    pub chain: Option<PathBuf>,
    /// The PEM file of its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: Option<PathBuf>,
}

/// TLS to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamTlsConfig {
    /// The name asked for and verified, where it is not the endpoint's own.
    pub server_name: Option<String>,
    /// A PEM file of authorities to trust.
    pub ca: Option<PathBuf>,
    /// The certificate that endpoints are shown.
    pub client_certificate: Option<CertificateFiles>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// Leaf first.
    pub chain: PathBuf,
    /// Of the leaf.
    pub key: PathBuf,
}

impl RawUpstreamTls {
    /// This one's keys, then `base`'s, where both are tables.
    pub(super) fn or(&self, base: &Self) -> Self {
        match (self, base) {
            (Self::Table(mine), Self::Table(theirs)) => Self::Table(mine.or(theirs)),
            (mine, _) => mine.clone(),
        }
    }

    /// Fills in the defaults for the upstream `name`, and checks what a key alone can't say.
    pub(super) fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<UpstreamTlsConfig> {
        let table = match self {
            Self::Switch(false) => return None,
            Self::Switch(true) => return Some(UpstreamTlsConfig::default()),
            Self::Table(table) => table,
        };
        let insecure_skip_verify = table.insecure_skip_verify.unwrap_or(false);
        if insecure_skip_verify {
            problems
                .warning(
                    &path.key("insecure_skip_verify"),
                    format!("INSECURE: the upstream `{name}` takes any certificate: whoever answers at its endpoints' addresses can read and change the traffic"),
                )
                .help("name the authority with `ca = \"…\"` instead");
        }
        if let Some(name) = &table.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            problems.error(
                &path.key("server_name"),
                format!("\"{name}\" is not a host name or an address"),
            );
        }
        Some(UpstreamTlsConfig {
            server_name: table.server_name.clone(),
            ca: table.ca.clone(),
            client_certificate: table.client_certificate.as_ref().and_then(|certificate| {
                certificate.parse(&path.key("client_certificate"), problems)
            }),
            insecure_skip_verify,
        })
    }
}

impl RawUpstreamTlsTable {
    fn or(&self, base: &Self) -> Self {
        Self {
            server_name: self.server_name.clone().or_else(|| base.server_name.clone()),
            ca: self.ca.clone().or_else(|| base.ca.clone()),
            // Whole: a chain of one place and a key of another never fit.
            client_certificate: self
                .client_certificate
                .clone()
                .or_else(|| base.client_certificate.clone()),
            insecure_skip_verify: self.insecure_skip_verify.or(base.insecure_skip_verify),
        }
    }
}

impl RawUpstreamCertificate {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<CertificateFiles> {
        let (message, help) = match (&self.chain, &self.key) {
            (Some(chain), Some(key)) => {
                return Some(CertificateFiles { chain: chain.clone(), key: key.clone() });
            }
            (Some(_), None) => ("the client certificate has no key", "add `key = \"…\"`"),
            (None, Some(_)) => ("the key has no client certificate", "add `chain = \"…\"`"),
            (None, None) => (
                "the client certificate has no files",
                "write { chain = \"…\", key = \"…\" }, or leave it out",
            ),
        };
        problems.error(path, message).help(help);
        None
    }
}
