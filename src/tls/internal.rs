//! The edge's own authority, for names that no public one certifies and for trying things out.
//!
//! Off the request path. `internal-ca/ca.pem` (0644) and `internal-ca/ca-key.pem` (0600) in the state directory are made
//! with the first certificate and then kept: people trust that file by hand. The key is written before the certificate,
//! each by temporary file, fsync and rename, and an older certificate goes first: after a crash at any point either both
//! files belong together or one is missing, and then both are made anew. It signs only for the edge itself.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SigningKey},
};
use tracing::{info, warn};
use x509_parser::{certificate::X509Certificate, error::X509Error, prelude::FromDer};
use zeroize::Zeroizing;

use super::{
    files::{LoadedCertificate, common_name, describe},
    provider, unix_seconds,
};
use crate::types::HostPattern;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_VALIDITY: Duration = DAY.saturating_mul(3650);
const LEAF_VALIDITY: Duration = DAY.saturating_mul(30);
/// Clocks of clients may be behind ours.
const BACKDATED: Duration = Duration::from_hours(1);
/// Common names are at most 64 characters (RFC 5280, appendix A.1).
const MAX_COMMON_NAME: usize = 64;
const DIRECTORY: &str = "internal-ca";
const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca-key.pem";
const TEMPORARY_PREFIX: &str = ".new-";

/// The authority, open.
pub struct InternalAuthority {
    name: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// One key for all leaves of this process: they are all in the same memory and nowhere else, so that who has one has
    /// all of them; a key for each would only cost time and memory.
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn SigningKey>,
}

/// Why the authority can't be opened, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or the directory.
    #[error("{} can't be used for the internal authority", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what was written there.
    #[error("{} is damaged: {reason}; put it back, or delete it for a new authority", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A certificate could not be made.
    #[error("a certificate can't be made")]
    Generate(#[from] rcgen::Error),
    /// A fresh key was not accepted.
    #[error("a fresh key can't be used")]
    Key(#[from] rustls::Error),
    /// A fresh certificate could not be read.
    #[error("a fresh certificate can't be parsed")]
    Parse(#[from] x509_parser::nom::Err<X509Error>),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl InternalAuthority {
    /// Opens the authority in `state_dir`, or makes it.
    ///
    /// A lock file keeps two processes from making it at once.
    ///
    /// # Errors
    /// The directory can't be used, or a file in it is damaged.
    pub fn open(state_dir: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let directory = state_dir.join(DIRECTORY);
        fs::create_dir_all(&directory).map_err(io_error(&directory))?;
        let lock_path = directory.join("lock");
        let lock = fs::File::options()
            .create(true)
            .append(true)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        lock.lock().map_err(io_error(&lock_path))?;
        let authority = match Files::read(&directory)? {
            Some(files) => {
                let authority = files.parse(&directory)?;
                if authority.outlives_leaves(now) {
                    authority
                } else {
                    warn!(authority = authority.name, "internal authority ends; a new one is made");
                    make(&directory, now)?
                }
            }
            None => make(&directory, now)?,
        };
        drop(lock);
        Ok(authority)
    }

    /// Its name, in every certificate as the issuer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own certificate, for those who trust it.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Makes a certificate for `hosts`, valid for 30 days starting an hour before `now`.
    ///
    /// # Errors
    /// [`AuthorityError::Generate`] and what stands below it; never for want of a file.
    pub fn issue(
        &self,
        hosts: &[HostPattern],
        now: SystemTime,
    ) -> Result<LoadedCertificate, AuthorityError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = hosts.iter().map(name).collect::<Result<_, _>>()?;
        params.distinguished_name = subject(
            &hosts
                .iter()
                .map(ToString::to_string)
                .find(|host| host.len() <= MAX_COMMON_NAME)
                .unwrap_or_else(|| "Tidegate".to_owned()),
        );
        // A serial number of its own each: rcgen's default follows from the key, and all leaves have the same.
        params.serial_number = Some(SerialNumber::from(random_bytes::<16>()?.to_vec()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_VALIDITY);
        let leaf = params.signed_by(&self.leaf_key, &self.issuer)?;
        let chain = vec![leaf.der().clone()];
        Ok(describe(CertifiedKey::new(chain, self.leaf_signer.clone()), false)?)
    }

    fn new(
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    ) -> Result<Self, AuthorityError> {
        let name = common_name(X509Certificate::from_der(&certificate)?.1.subject());
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf_signer = signer(&leaf_key)?;
        Ok(Self { name, certificate, issuer, leaf_key, leaf_signer })
    }

    fn outlives_leaves(&self, now: SystemTime) -> bool {
        X509Certificate::from_der(&self.certificate).is_ok_and(|(_, parsed)| {
            parsed.validity().not_after.timestamp() > unix_seconds(now + LEAF_VALIDITY)
        })
    }
}

/// When a certificate that is valid between these should be renewed: with a third left. Seconds since 1970.
pub(super) fn renew_at(not_before: i64, not_after: i64) -> i64 {
    not_after.saturating_sub(not_after.saturating_sub(not_before) / 3)
}

/// Both files as they are.
struct Files {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

impl Files {
    /// `None` where one is missing.
    fn read(directory: &Path) -> Result<Option<Self>, AuthorityError> {
        let read = |name: &str| {
            let path = directory.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(io_error(&path)(error)),
            }
        };
        let (certificate, key) = (read(CERTIFICATE_FILE)?, read(KEY_FILE)?);
        Ok(certificate.zip(key).map(|(certificate, key)| Self { certificate, key }))
    }

    fn parse(self, directory: &Path) -> Result<InternalAuthority, AuthorityError> {
        let damaged =
            |file: &str, reason| AuthorityError::Damaged { path: directory.join(file), reason };
        let certificate = CertificateDer::from_pem_slice(&self.certificate)
            .map_err(|_| damaged(CERTIFICATE_FILE, "it has no certificate"))?;
        let is_authority =
            X509Certificate::from_der(&certificate).is_ok_and(|(_, parsed)| parsed.is_ca());
        if !is_authority {
            return Err(damaged(CERTIFICATE_FILE, "it is not an authority's certificate"));
        }
        let key = std::str::from_utf8(&self.key)
            .ok()
            .and_then(|key| KeyPair::from_pem(key).ok())
            .ok_or_else(|| damaged(KEY_FILE, "it has no private key"))?;
        let signer = signer(&key).map_err(|_| damaged(KEY_FILE, "its key can't be used"))?;
        let pair = CertifiedKey::new(vec![certificate.clone()], signer);
        if pair.keys_match().is_err() {
            return Err(damaged(KEY_FILE, "it is not the key of ca.pem"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        InternalAuthority::new(certificate, issuer)
    }
}

fn make(directory: &Path, now: SystemTime) -> Result<InternalAuthority, AuthorityError> {
    let id = u32::from_be_bytes(random_bytes()?);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("Tidegate internal authority {id:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    set_validity(&mut params, now, AUTHORITY_VALIDITY);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;

    clear(directory)?;
    write(directory, KEY_FILE, 0o600, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    write(directory, CERTIFICATE_FILE, 0o644, certificate.pem().as_bytes())?;
    let authority = InternalAuthority::new(certificate.der().clone(), Issuer::new(params, key))?;
    let file = directory.join(CERTIFICATE_FILE);
    info!(authority = authority.name, file = %file.display(), "internal authority made");
    Ok(authority)
}

/// Takes away what must not stand beside a new key: an older certificate, and what a crash left half written.
fn clear(directory: &Path) -> Result<(), AuthorityError> {
    for entry in fs::read_dir(directory).map_err(io_error(directory))? {
        let entry = entry.map_err(io_error(directory))?;
        let name = entry.file_name();
        let is_stale = name == CERTIFICATE_FILE
            || name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        if is_stale {
            fs::remove_file(entry.path()).map_err(io_error(&entry.path()))?;
        }
    }
    sync(directory)
}

fn write(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), AuthorityError> {
    let path = directory.join(name);
    let write = || {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(directory)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(io_error(&path))?;
    sync(directory)
}

fn sync(directory: &Path) -> Result<(), AuthorityError> {
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error(directory))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    move |source| AuthorityError::Io { path: path.to_owned(), source }
}

fn signer(key: &KeyPair) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    provider().key_provider.load_private_key(der)
}

fn name(host: &HostPattern) -> Result<SanType, rcgen::Error> {
    let text = host.to_string();
    let address = text.trim_start_matches('[').trim_end_matches(']').parse();
    Ok(match address {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(text.try_into()?),
    })
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, validity: Duration) {
    let start = now - BACKDATED;
    params.not_before = start.into();
    params.not_after = (start + validity).into();
}

fn random_bytes<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    provider().secure_random.fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

impl fmt::Debug for InternalAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalAuthority").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
