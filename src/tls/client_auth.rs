//! Which certificates clients must show: authorities and revocation lists, from PEM files.
//!
//! Off the request path: for `compile`, and for the watch of a [`super::policy::LivePolicy`]. What is parsed is what was
//! hashed: the files are read once into [`TrustFiles`]. Nothing here keeps state.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};
use zeroize::Zeroizing;

use super::{
    files::{Fingerprint, fingerprint_of, pem_fault, read},
    provider, unix_seconds, with_sources,
};
use crate::types::{KeyPath, Problems};

/// `tls.client_auth` of a site, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawClientAuth {
    /// A PEM file with the authorities whose certificates are taken. Changes are picked up.
    pub ca: Option<PathBuf>,
    /// `require`: no handshake without a certificate; `optional`: one that is shown must be good.
    #[schemars(extend("default" = "require"))]
    pub mode: Option<ClientAuthMode>,
    /// A PEM file with the revocation lists of these authorities. Changes are picked up. With it, a certificate whose
    /// authority has no list in it is refused.
    pub crl: Option<PathBuf>,
    /// What becomes of clients once a revocation list is older than it says it may be: `refuse` or `accept`.
    #[schemars(extend("default" = "refuse"))]
    pub expired_crl: Option<ExpiredCrl>,
    /// What endpoints are told of the certificate: `certificate` and `chain` (`Client-Cert` and `Client-Cert-Chain` of
    /// RFC 9440), `xfcc` (`X-Forwarded-Client-Cert`, as Envoy writes it).
    #[schemars(extend("default" = ["certificate"]))]
    pub send: Option<Vec<CertificateHeader>>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthMode {
    /// It must.
    #[default]
    Require,
    /// It may.
    Optional,
}

/// What a revocation list is worth after its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredCrl {
    /// Nothing: no certificate that it is about is taken.
    #[default]
    Refuse,
    /// As much as before.
    Accept,
}

/// A header that tells endpoints of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateHeader {
    /// `Client-Cert` (RFC 9440, section 2.2).
    Certificate,
    /// `Client-Cert-Chain` (RFC 9440, section 2.3).
    Chain,
    /// `X-Forwarded-Client-Cert`.
    Xfcc,
}

/// `tls.client_auth` of a site, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// The authorities' file.
    pub ca: PathBuf,
    /// Whether a certificate must be shown.
    pub mode: ClientAuthMode,
    /// The revocation lists' file.
    pub crl: Option<PathBuf>,
    /// What a list is worth after its time.
    pub expired_crl: ExpiredCrl,
}

/// Why files can't be trusted in.
#[derive(Debug, thiserror::Error)]
#[error("{} {fault}", .path.display())]
pub struct TrustError {
    path: PathBuf,
    is_crl: bool,
    fault: String,
}

/// What clients' certificates are judged by.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// The end of the list that ends first, in seconds since 1970.
    pub(super) crl_until: Option<i64>,
}

/// The files of a [`ClientAuth`], read once.
pub(super) struct TrustFiles<'a> {
    auth: &'a ClientAuth,
    ca: io::Result<Zeroizing<Vec<u8>>>,
    crl: Option<io::Result<Zeroizing<Vec<u8>>>>,
}

impl RawClientAuth {
    /// Fills in the defaults. `None` with an error in `problems` where there is no authority.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<ClientAuth> {
        let Some(ca) = &self.ca else {
            problems
                .error(path, "client certificates have no authority that they are judged by")
                .help("add `ca = \"clients-ca.pem\"`");
            return None;
        };
        if self.expired_crl.is_some() && self.crl.is_none() {
            problems
                .error(&path.key("expired_crl"), "there is no revocation list")
                .help("add `crl = \"clients.crl\"`, or leave `expired_crl` out");
        }
        Some(ClientAuth {
            ca: ca.clone(),
            mode: self.mode.unwrap_or_default(),
            crl: self.crl.clone(),
            expired_crl: self.expired_crl.unwrap_or_default(),
        })
    }

    /// What endpoints are told.
    pub fn headers(&self) -> Vec<CertificateHeader> {
        self.send.clone().unwrap_or_else(|| vec![CertificateHeader::Certificate])
    }
}

impl TrustError {
    /// Whether it is about the revocation lists rather than the authorities.
    pub(super) fn is_about_crl(&self) -> bool {
        self.is_crl
    }
}

impl<'a> TrustFiles<'a> {
    /// Reads them; what goes wrong shows in [`Self::load`].
    pub(super) fn read(auth: &'a ClientAuth) -> Self {
        Self { auth, ca: read(&auth.ca), crl: auth.crl.as_deref().map(read) }
    }

    /// What tells this content from another.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(std::iter::once(&self.ca).chain(&self.crl))
    }

    /// Parses and checks them.
    pub(super) fn load(self) -> Result<Trust, TrustError> {
        let Self { auth, ca, crl } = self;
        let authorities = authorities(&auth.ca, ca)?;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider().clone());
        let mut crl_until = None;
        if let (Some(path), Some(text)) = (&auth.crl, crl) {
            let lists = lists(path, text)?;
            crl_until = lists.iter().filter_map(|(_, until)| *until).min();
            verifier = verifier
                .with_crls(lists.into_iter().map(|(list, _)| list))
                .only_check_end_entity_revocation();
            if auth.expired_crl == ExpiredCrl::Refuse {
                verifier = verifier.enforce_revocation_expiration();
            }
        }
        if auth.mode == ClientAuthMode::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        match verifier.build() {
            Ok(verifier) => Ok(Trust { verifier, crl_until }),
            Err(VerifierBuilderError::InvalidCrl(error)) => {
                let path = auth.crl.as_deref().unwrap_or(Path::new(""));
                Err(unusable(path, true, format!("has a list that can't be used: {error:?}")))
            }
            Err(error) => Err(unusable(&auth.ca, false, format!("can't be used: {error}"))),
        }
    }
}

impl Trust {
    /// Whether a list is past its time at `now`.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        self.crl_until.is_some_and(|until| until < unix_seconds(now))
    }
}

fn unusable(path: &Path, is_crl: bool, fault: String) -> TrustError {
    TrustError { path: path.to_owned(), is_crl, fault }
}

fn text(
    path: &Path,
    is_crl: bool,
    text: io::Result<Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    text.map_err(|error| {
        let fault = if error.kind() == io::ErrorKind::NotFound {
            "does not exist".to_owned()
        } else {
            format!("can't be read: {error}")
        };
        unusable(path, is_crl, fault)
    })
}

fn authorities(
    path: &Path,
    content: io::Result<Zeroizing<Vec<u8>>>,
) -> Result<RootCertStore, TrustError> {
    let content = text(path, false, content)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(&content).enumerate() {
        let certificate = certificate.map_err(|error| {
            unusable(path, false, format!("is not a PEM file: {}", pem_fault(&error)))
        })?;
        roots.add(certificate).map_err(|error| {
            let place = index + 1;
            let error = with_sources(&error);
            unusable(
                path,
                false,
                format!("has a certificate ({place}) that can't be used: {error}"),
            )
        })?;
    }
    if roots.is_empty() {
        return Err(unusable(path, false, "has no certificate in it".to_owned()));
    }
    Ok(roots)
}

type List = (CertificateRevocationListDer<'static>, Option<i64>);

fn lists(path: &Path, content: io::Result<Zeroizing<Vec<u8>>>) -> Result<Vec<List>, TrustError> {
    let content = text(path, true, content)?;
    let mut lists = Vec::new();
    for (index, list) in CertificateRevocationListDer::pem_slice_iter(&content).enumerate() {
        let list = list.map_err(|error| {
            unusable(path, true, format!("is not a PEM file: {}", pem_fault(&error)))
        })?;
        let until = match CertificateRevocationList::from_der(&list) {
            Ok((_, parsed)) => parsed.next_update().map(|until| until.timestamp()),
            Err(error) => {
                let place = index + 1;
                let fault = format!("has a list ({place}) that can't be parsed: {error}");
                return Err(unusable(path, true, fault));
            }
        };
        lists.push((list, until));
    }
    if lists.is_empty() {
        return Err(unusable(path, true, "has no revocation list in it".to_owned()));
    }
    Ok(lists)
}
