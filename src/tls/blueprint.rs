//! A site's TLS as configured, checked, before it has live state.

use std::{path::PathBuf, time::SystemTime};

use super::{
    client_auth::{ClientAuth, ExpiredCrl, Trust, TrustFiles},
    config::{CertificateSource, TlsPolicy},
    date,
    files::{Fingerprint, LoadedCertificate, Pair},
    with_sources,
};
use crate::types::{HostPattern, KeyPath, Name, Problems};

/// What [`super::TlsLive::attach`] needs to give a site its TLS.
#[derive(Debug)]
pub struct TlsBlueprint {
    pub(super) site: Name,
    pub(super) policy: TlsPolicy,
    /// What the policy's files say, where it has some.
    pub(super) trust: Option<(Fingerprint, Trust)>,
    pub(super) certificate: CertificateBlueprint,
}

/// A certificate that is to be served.
#[derive(Debug)]
pub(super) enum CertificateBlueprint {
    /// To be issued by the internal authority, or ordered, for these hosts, sorted.
    Issued { source: CertificateSource, hosts: Vec<HostPattern> },
    /// Read already.
    Files { chain: PathBuf, key: PathBuf, content: Fingerprint, loaded: Box<LoadedCertificate> },
}

/// Reads and checks the TLS of `site`, which stands at `path`.
///
/// Reads files, and changes nothing. `None` with at least one error in `problems` where there is no certificate to serve,
/// or nothing to judge those of clients by.
pub fn compile(
    site: &Name,
    source: &CertificateSource,
    hosts: &[HostPattern],
    policy: &TlsPolicy,
    path: &KeyPath,
    problems: &mut Problems,
) -> Option<TlsBlueprint> {
    let trust = match &policy.client_auth {
        Some(auth) => {
            let path = path.key("tls").key("client_auth");
            Some(compile_trust(auth, &path, problems))
        }
        None => None,
    };
    let path = &path.key("certificate");
    let certificate = match source {
        CertificateSource::Acme(_) | CertificateSource::Internal => {
            let mut hosts = hosts.to_vec();
            hosts.sort_unstable();
            hosts.dedup();
            CertificateBlueprint::Issued { source: source.clone(), hosts }
        }
        CertificateSource::Files { chain, key } => {
            let pair = Pair::read(chain, key);
            let content = pair.fingerprint();
            let loaded = match pair.load(SystemTime::now()) {
                Ok(loaded) => Box::new(loaded),
                Err(error) => {
                    error.report(path, problems);
                    return None;
                }
            };
            warn_of(&loaded, hosts, path, problems);
            CertificateBlueprint::Files { chain: chain.clone(), key: key.clone(), content, loaded }
        }
    };
    // A policy that lacks what it judges by lets nobody in.
    let trust = match trust {
        Some(None) => return None,
        Some(trust) => trust,
        None => None,
    };
    Some(TlsBlueprint { site: site.clone(), policy: policy.clone(), trust, certificate })
}

fn compile_trust(
    auth: &ClientAuth,
    path: &KeyPath,
    problems: &mut Problems,
) -> Option<(Fingerprint, Trust)> {
    let files = TrustFiles::read(auth);
    let content = files.fingerprint();
    let trust = match files.load() {
        Ok(trust) => trust,
        Err(error) => {
            let path = path.key(if error.is_about_crl() { "crl" } else { "ca" });
            problems.error(&path, with_sources(&error)).help(if error.is_about_crl() {
                "a PEM file with BEGIN X509 CRL: openssl crl -inform DER -in FILE -out NEW_FILE"
            } else {
                "a PEM file with BEGIN CERTIFICATE, one for each authority"
            });
            return None;
        }
    };
    if trust.has_expired(SystemTime::now()) {
        let until = trust.crl_until.map(date).unwrap_or_default();
        let what = match auth.expired_crl {
            ExpiredCrl::Refuse => "the clients that it is about are refused",
            ExpiredCrl::Accept => "it is believed all the same",
        };
        problems
            .warning(&path.key("crl"), format!("a revocation list was good until {until}: {what}"))
            .help("fetch a newer one; it is picked up without a reload");
    }
    Some((content, trust))
}

fn warn_of(
    loaded: &LoadedCertificate,
    hosts: &[HostPattern],
    path: &KeyPath,
    problems: &mut Problems,
) {
    let path = path.key("chain");
    if loaded.was_reordered {
        problems
            .warning(
                &path,
                "the certificates are in the wrong order; they are served in the right one",
            )
            .help("leaf first, then each one's issuer");
    }
    let others: Vec<String> =
        hosts.iter().filter(|host| !loaded.names.cover(host)).map(ToString::to_string).collect();
    if !others.is_empty() {
        let names = if loaded.names.0.is_empty() {
            "it has no names".to_owned()
        } else {
            format!("it is for {}", loaded.names.0.join(", "))
        };
        problems
            .warning(&path, format!("the certificate is not for {}", others.join(", ")))
            .help(format!("{names}; clients will not accept it for the others"));
    }
}

#[cfg(test)]
mod tests;
