//! A certificate chain and its key, from two PEM files.
//!
//! Off the request path: for `compile`, and for the watch of a [`super::Certificate`]. What is parsed is what was
//! hashed: both files are read once into a [`Pair`]. Nothing here keeps state. Whether clients trust the chain is not
//! checked: they do that, and private authorities are welcome.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    InconsistentKeys,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SigningKey},
};
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    error::X509Error,
    extensions::GeneralName,
    prelude::{FromDer, X509Name},
};
use zeroize::Zeroizing;

use super::{certificate_error::CertificateError, provider, unix_seconds};
use crate::types::HostPattern;

/// A chain with its key is a few KiB; more than this is some other file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A certificate that can be served.
#[derive(Clone)]
pub struct LoadedCertificate {
    /// Chain (leaf first) and key.
    pub key: Arc<CertifiedKey>,
    /// The names that the leaf is for.
    pub names: CertificateNames,
    /// The common name of its issuer, or the whole name where it has none.
    pub issuer: String,
    /// It is valid from here, in seconds since 1970.
    pub not_before: i64,
    /// It is valid up to and including this, in seconds since 1970.
    pub not_after: i64,
    /// The file had the chain in the wrong order; here it is in the right one (RFC 8446, section 4.4.2).
    pub was_reordered: bool,
}

/// The names in a certificate, as texts of [`HostPattern`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames(pub Vec<String>);

/// A private key, for rustls and as it is written.
struct ParsedKey {
    signing: Arc<dyn SigningKey>,
    der: Zeroizing<Vec<u8>>,
}

/// The content of a pair of files, or the way in which they can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Reads a chain and its key, and checks that they can be served at `now`.
///
/// # Errors
/// See [`CertificateError`].
pub fn load_files(
    chain: &Path,
    key: &Path,
    now: SystemTime,
) -> Result<LoadedCertificate, CertificateError> {
    Pair::read(chain, key).load(now)
}

/// What a file holds, or why that can't be known. It may be a key.
pub(crate) type Content = io::Result<Zeroizing<Vec<u8>>>;

/// Both files, read once.
pub(crate) struct Pair<'a> {
    chain_path: &'a Path,
    key_path: &'a Path,
    chain: Content,
    key: Content,
}

impl<'a> Pair<'a> {
    /// Reads both; what goes wrong shows in [`Self::load`].
    pub(crate) fn read(chain_path: &'a Path, key_path: &'a Path) -> Self {
        Self { chain_path, key_path, chain: read(chain_path), key: read(key_path) }
    }

    /// Both in one file, read already; `path` is what it is told by.
    pub(super) fn of(path: &'a Path, chain: Zeroizing<Vec<u8>>, key: Zeroizing<Vec<u8>>) -> Self {
        Self { chain_path: path, key_path: path, chain: Ok(chain), key: Ok(key) }
    }

    /// What tells this content from another.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(self.contents())
    }

    /// Chain and key.
    pub(crate) fn contents(&self) -> [&Content; 2] {
        [&self.chain, &self.key]
    }

    /// Parses and checks them.
    pub(super) fn load(self, now: SystemTime) -> Result<LoadedCertificate, CertificateError> {
        self.load_with_key(now).map(|(loaded, _)| loaded)
    }

    /// Parses and checks them; the key comes as DER too, for who does not take a [`SigningKey`].
    pub(crate) fn load_with_key(
        self,
        now: SystemTime,
    ) -> Result<(LoadedCertificate, Zeroizing<Vec<u8>>), CertificateError> {
        let Self { chain_path, key_path, chain, key } = self;
        let chain = chain.map_err(|error| unreadable(chain_path, false, error))?;
        let key = key.map_err(|error| unreadable(key_path, true, error))?;
        let certificates = parse_chain(chain_path, &chain)?;
        let ParsedKey { signing: key, der: key_der } = parse_key(key_path, &key)?;
        let leaf = leaf_of(chain_path, key_path, &certificates, &key)?;
        let (certificates, was_reordered) = ordered(certificates, leaf);
        let loaded = describe(CertifiedKey::new(certificates, key), was_reordered)
            .map_err(|source| malformed(chain_path, leaf, source))?;
        let now = unix_seconds(now);
        let path = chain_path.to_owned();
        if now > loaded.not_after {
            return Err(CertificateError::Expired { path, not_after: loaded.not_after });
        }
        if now < loaded.not_before {
            return Err(CertificateError::NotYetValid { path, not_before: loaded.not_before });
        }
        Ok((loaded, key_der))
    }
}

/// The facts of a certificate that is known to parse, for serving.
pub(super) fn describe(
    key: CertifiedKey,
    was_reordered: bool,
) -> Result<LoadedCertificate, x509_parser::nom::Err<X509Error>> {
    let leaf = key.cert.first().map_or(&[][..], |leaf| leaf.as_ref());
    let (_, parsed) = X509Certificate::from_der(leaf)?;
    let names = CertificateNames(names_of(&parsed));
    let issuer = common_name(parsed.issuer());
    let not_before = parsed.validity().not_before.timestamp();
    let not_after = parsed.validity().not_after.timestamp();
    Ok(LoadedCertificate {
        key: Arc::new(key),
        names,
        issuer,
        not_before,
        not_after,
        was_reordered,
    })
}

/// The common name, or all of the name where there is none.
pub(super) fn common_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().find_map(|part| part.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

/// The names that clients compare (RFC 9525, section 6): the common name is not one of them.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(octets) => match *octets {
                [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
                octets => {
                    let octets = <[u8; 16]>::try_from(octets).ok()?;
                    Some(format!("[{}]", std::net::Ipv6Addr::from(octets)))
                }
            },
            _ => None,
        })
        .collect()
}

/// What tells the content of these files from another.
pub(crate) fn fingerprint_of<'a>(files: impl IntoIterator<Item = &'a Content>) -> Fingerprint {
    let mut hash = Sha256::new();
    for file in files {
        match file {
            Ok(bytes) => {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes.as_slice());
            }
            Err(error) => {
                hash.update(u64::MAX.to_be_bytes());
                hash.update(error.to_string());
            }
        }
    }
    Fingerprint(hash.finalize().into())
}

/// Reads a file of PEM.
pub(crate) fn read(path: &Path) -> Content {
    // Before it is opened: opening a pipe waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, is_key: bool, source: io::Error) -> CertificateError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        CertificateError::Missing { path, is_key }
    } else {
        CertificateError::Unreadable { path, is_key, source }
    }
}

fn malformed(
    path: &Path,
    index: usize,
    source: x509_parser::nom::Err<X509Error>,
) -> CertificateError {
    CertificateError::MalformedCertificate { path: path.to_owned(), place: index + 1, source }
}

fn broken_pem(path: &Path, is_key: bool, error: &pem::Error) -> CertificateError {
    CertificateError::Pem { path: path.to_owned(), is_key, fault: pem_fault(error) }
}

/// What is wrong with a PEM file, without its text.
pub(super) fn pem_fault(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it can't be decoded",
    }
}

fn parse_chain(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken_pem(path, false, &error))?;
    if certificates.is_empty() {
        return Err(CertificateError::NoCertificate { path: path.to_owned() });
    }
    for (index, certificate) in certificates.iter().enumerate() {
        X509Certificate::from_der(certificate).map_err(|source| malformed(path, index, source))?;
    }
    Ok(certificates)
}

fn parse_key(path: &Path, text: &[u8]) -> Result<ParsedKey, CertificateError> {
    // Of PKCS #8 in its BEGIN line, of PKCS #1 and SEC 1 in a header (RFC 1421, section 4.6.1.1).
    let is_encrypted = String::from_utf8_lossy(text)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ENCRYPTED") || line.starts_with("Proc-Type:"));
    if is_encrypted {
        return Err(CertificateError::EncryptedKey { path: path.to_owned() });
    }
    let der = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey { path: path.to_owned() },
        error => broken_pem(path, true, &error),
    })?;
    let written = Zeroizing::new(der.secret_der().to_vec());
    let signing = provider()
        .key_provider
        .load_private_key(der)
        .map_err(|source| CertificateError::UnusableKey { path: path.to_owned(), source })?;
    Ok(ParsedKey { signing, der: written })
}

/// The place of the certificate that the key belongs to.
fn leaf_of(
    chain_path: &Path,
    key_path: &Path,
    certificates: &[CertificateDer<'static>],
    key: &Arc<dyn SigningKey>,
) -> Result<usize, CertificateError> {
    for (index, certificate) in certificates.iter().enumerate() {
        match CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match() {
            // A key that can't tell its public half has to be believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                return Ok(index);
            }
            Err(rustls::Error::InconsistentKeys(_)) => {}
            Err(source) => {
                let path = chain_path.to_owned();
                return Err(CertificateError::UnusableCertificate {
                    path,
                    place: index + 1,
                    source,
                });
            }
        }
    }
    Err(CertificateError::KeyMismatch { chain: chain_path.to_owned(), key: key_path.to_owned() })
}

/// Leaf first, then each one's issuer, then what belongs to none of them; and whether that is another order than before.
fn ordered(
    certificates: Vec<CertificateDer<'static>>,
    leaf: usize,
) -> (Vec<CertificateDer<'static>>, bool) {
    let links: Vec<(Vec<u8>, Vec<u8>)> = certificates
        .iter()
        .map(|certificate| match X509Certificate::from_der(certificate) {
            Ok((_, parsed)) => {
                (parsed.subject().as_raw().to_owned(), parsed.issuer().as_raw().to_owned())
            }
            Err(_) => Default::default(),
        })
        .collect();
    let mut order = vec![leaf];
    let mut left: Vec<usize> = (0..links.len()).filter(|index| *index != leaf).collect();
    while let Some((_, issuer)) = order.last().and_then(|last| links.get(*last)) {
        let next = left
            .iter()
            .position(|index| links.get(*index).is_some_and(|(subject, _)| subject == issuer));
        let Some(next) = next else { break };
        order.push(left.remove(next));
    }
    order.extend(left);
    if order.is_sorted() {
        return (certificates, false);
    }
    (order.into_iter().filter_map(|index| certificates.get(index).cloned()).collect(), true)
}

impl CertificateNames {
    /// Whether clients that ask for `host` (lower case, as in a handshake) accept a certificate with these names.
    pub(super) fn cover_name(&self, host: &str) -> bool {
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => name == host,
        })
    }

    /// Whether clients that ask for `host` accept a certificate with these names.
    pub fn cover(&self, host: &HostPattern) -> bool {
        let text = host.to_string();
        self.0.iter().any(|name| {
            *name == text
                || match host {
                    HostPattern::Exact(host) => name.parse::<HostPattern>().is_ok_and(|pattern| {
                        host.parse::<std::net::IpAddr>().is_err() && pattern.matches(host)
                    }),
                    HostPattern::Wildcard(_) => false,
                }
        })
    }
}

impl fmt::Debug for LoadedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedCertificate")
            .field("names", &self.names.0)
            .field("issuer", &self.issuer)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Half of what is hashed is a key.
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests;
