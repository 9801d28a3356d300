//! Why two files are not a certificate: told apart for the configuration's errors and for the watch.

use std::{io, path::PathBuf};

use x509_parser::error::X509Error;

use super::{date, with_sources};
use crate::types::{KeyPath, Problems};

/// Why two files are not a certificate that can be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no such file.
    #[error("{} does not exist", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Whether it is the key's.
        is_key: bool,
    },
    /// It is there, and can't be read.
    #[error("{} can't be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Whether it is the key's.
        is_key: bool,
        /// Why.
        source: io::Error,
    },
    /// A broken PEM file (RFC 7468). The fault is told without the text around it: it could be a key.
    #[error("{} is not a PEM file: {fault}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Whether it is the key's.
        is_key: bool,
        /// What is wrong.
        fault: &'static str,
    },
    /// The chain's file has no certificate.
    #[error("{} has no certificate in it", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// One of the certificates can't be parsed.
    #[error("certificate {place} in {} can't be parsed", .path.display())]
    MalformedCertificate {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        place: usize,
        /// Why.
        source: x509_parser::nom::Err<X509Error>,
    },
    /// One of the certificates can't be used in TLS.
    #[error("certificate {place} in {} can't be used", .path.display())]
    UnusableCertificate {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        place: usize,
        /// Why.
        source: rustls::Error,
    },
    /// The key's file has no key.
    #[error("{} has no private key in it", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key has a password.
    #[error("the private key in {} is encrypted", .path.display())]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is of a kind or size that can't be used.
    #[error("the private key in {} can't be used", .path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The key belongs to none of the certificates.
    #[error("the private key in {} is not that of a certificate in {}", .key.display(), .chain.display())]
    KeyMismatch {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The leaf's time is over.
    #[error("the certificate in {} expired at {}", .path.display(), date(*.not_after))]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its end, in seconds since 1970.
        not_after: i64,
    },
    /// The leaf's time has not come.
    #[error("the certificate in {} is not valid before {}", .path.display(), date(*.not_before))]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Its start, in seconds since 1970.
        not_before: i64,
    },
}

impl CertificateError {
    /// Adds it to `problems` at the key of `path` that names the file: `chain` or `key`.
    pub(crate) fn report(&self, path: &KeyPath, problems: &mut Problems) {
        let path = path.key(if self.is_about_key() { "key" } else { "chain" });
        let problem = problems.error(&path, with_sources(self));
        if let Some(help) = self.help() {
            problem.help(help);
        }
    }

    /// Whether it is about the key's file rather than the chain's.
    pub fn is_about_key(&self) -> bool {
        match self {
            Self::Missing { is_key, .. }
            | Self::Unreadable { is_key, .. }
            | Self::Pem { is_key, .. } => *is_key,
            Self::NoKey { .. }
            | Self::EncryptedKey { .. }
            | Self::UnusableKey { .. }
            | Self::KeyMismatch { .. } => true,
            Self::NoCertificate { .. }
            | Self::MalformedCertificate { .. }
            | Self::UnusableCertificate { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. } => false,
        }
    }

    /// What mends it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::EncryptedKey { .. } => {
                Some("take its password away: openssl pkey -in KEY -out NEW_KEY")
            }
            Self::KeyMismatch { .. } => {
                Some("chain and key come from different orders; take both from the same one")
            }
            Self::NoCertificate { .. } => Some("a PEM file with BEGIN CERTIFICATE, leaf first"),
            Self::NoKey { .. } => {
                Some("a PEM file with BEGIN PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")
            }
            _ => None,
        }
    }
}
