//! What ACME keeps: accounts, certificates, orders under way, the ledger. Behind a trait: replicas will share a store.
//!
//! Files stand in `acme/` of the state directory, 0600, each replaced atomically and with the version of its format. A
//! certificate and its key are one file, so that they always belong together. A damaged file is set aside under another
//! name and told; what it held is ordered anew. Calls block.

use std::{
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tracing::{error, warn};
use zeroize::Zeroizing;

use super::{
    super::{
        certificate_error::CertificateError,
        files::{LoadedCertificate, Pair},
    },
    config::Authority,
    ledger::Ledger,
    schedule::Window,
};
use crate::{
    state::{Mode, StoreError, read_versioned, write_versioned},
    types::HostPattern,
};

const FORMAT: u32 = 1;

/// The kinds of keys that a certificate can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// ECDSA P-256.
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
}

/// What a certificate is kept under: its names and its kind of key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateId(Box<str>);

/// A text that is not shown and is wiped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(Zeroizing<String>);

/// An account with an authority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptAccount {
    /// The authority's directory.
    pub directory: String,
    /// PKCS #8, DER as base64.
    pub key: SecretText,
    /// Its URL; `None` while it is not known whether the authority has it.
    pub url: Option<String>,
    /// The contact that the authority was told.
    pub email: Option<String>,
}

/// A certificate that was ordered, with its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptCertificate {
    /// Its names, sorted.
    pub names: Vec<String>,
    /// Its kind of key.
    pub algorithm: Algorithm,
    /// The name of the authority that issued it; `None`: it was imported.
    pub authority: Option<String>,
    /// PEM, leaf first.
    pub chain: String,
    /// PEM, PKCS #8.
    pub key: SecretText,
    /// When it was issued, in seconds since 1970.
    pub issued: i64,
    /// The renewal that its authority suggests, as told last.
    #[serde(default)]
    pub window: Option<Window>,
}

/// An order under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptOrder {
    /// The name of the authority.
    pub authority: String,
    /// Its directory.
    pub directory: String,
    /// The order's URL.
    pub url: String,
    /// The key that is to be certified: PEM, PKCS #8.
    pub key: SecretText,
}

/// Where ACME keeps things. Calls block.
pub trait AcmeStore: fmt::Debug + Send + Sync {
    /// The account with an authority.
    fn account(&self, authority: &Authority) -> Result<Option<KeptAccount>, StoreError>;
    /// Keeps it.
    fn keep_account(&self, authority: &Authority, account: &KeptAccount) -> Result<(), StoreError>;
    /// Forgets it, setting its key aside: the authority does not know it any more.
    fn forget_account(&self, authority: &Authority) -> Result<(), StoreError>;
    /// A certificate.
    fn certificate(&self, id: &CertificateId) -> Result<Option<KeptCertificate>, StoreError>;
    /// Keeps it.
    fn keep_certificate(
        &self,
        id: &CertificateId,
        kept: &KeptCertificate,
    ) -> Result<(), StoreError>;
    /// All certificates, also those that no site has.
    fn certificates(&self) -> Result<Vec<(CertificateId, KeptCertificate)>, StoreError>;
    /// When a certificate was last changed, to see whether somebody else did.
    fn changed(&self, id: &CertificateId) -> Option<SystemTime>;
    /// The order under way for a certificate.
    fn order(&self, id: &CertificateId) -> Result<Option<KeptOrder>, StoreError>;
    /// Keeps it, or forgets it.
    fn keep_order(&self, id: &CertificateId, order: Option<&KeptOrder>) -> Result<(), StoreError>;
    /// Failed orders and planned tries.
    fn ledger(&self) -> Result<Ledger, StoreError>;
    /// Keeps them.
    fn keep_ledger(&self, ledger: &Ledger) -> Result<(), StoreError>;
}

/// The store of one edge: files in its state directory.
#[derive(Clone, Debug)]
pub struct FileStore {
    root: PathBuf,
}

impl FileStore {
    /// The store in a state directory. Nothing is made before something is kept.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.join("acme") }
    }

    fn account_path(&self, authority: &Authority) -> PathBuf {
        let name = format!("{}-{}.json", authority.name, short_hash([&authority.directory]));
        self.root.join("accounts").join(name)
    }

    fn certificate_path(&self, id: &CertificateId) -> PathBuf {
        self.root.join("certificates").join(format!("{}.json", id.0))
    }

    fn order_path(&self, id: &CertificateId) -> PathBuf {
        self.root.join("orders").join(format!("{}.json", id.0))
    }

    fn ledger_path(&self) -> PathBuf {
        self.root.join("ledger.json")
    }
}

/// Reads a file; what is damaged is set aside.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read_versioned(path, FORMAT) {
        Err(damaged @ (StoreError::Format { .. } | StoreError::TooLarge { .. })) => {
            let aside = path.with_extension("json.damaged");
            error!(error = %damaged, aside = %aside.display(), "a file of ACME's state is damaged; it is set aside");
            fs::rename(path, &aside).map_err(io_error("setting aside", path))?;
            Ok(None)
        }
        other => other,
    }
}

fn write<T: Serialize>(path: &Path, data: &T) -> Result<(), StoreError> {
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(io_error("making", folder))?;
    }
    write_versioned(path, FORMAT, data, Mode::Private)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

impl AcmeStore for FileStore {
    fn account(&self, authority: &Authority) -> Result<Option<KeptAccount>, StoreError> {
        read(&self.account_path(authority))
    }

    fn keep_account(&self, authority: &Authority, account: &KeptAccount) -> Result<(), StoreError> {
        write(&self.account_path(authority), account)
    }

    fn forget_account(&self, authority: &Authority) -> Result<(), StoreError> {
        let path = self.account_path(authority);
        match fs::rename(&path, path.with_extension("json.unknown")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("setting aside", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn certificate(&self, id: &CertificateId) -> Result<Option<KeptCertificate>, StoreError> {
        read(&self.certificate_path(id))
    }

    fn keep_certificate(
        &self,
        id: &CertificateId,
        kept: &KeptCertificate,
    ) -> Result<(), StoreError> {
        write(&self.certificate_path(id), kept)
    }

    fn certificates(&self) -> Result<Vec<(CertificateId, KeptCertificate)>, StoreError> {
        let folder = self.root.join("certificates");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error("reading", &folder))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("reading", &folder))?.file_name();
            // What is half written or was set aside ends otherwise, or begins with a dot.
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(id) = id.filter(|id| !id.starts_with('.')) else { continue };
            let id = CertificateId(id.into());
            match self.certificate(&id) {
                Ok(Some(kept)) => all.push((id, kept)),
                Ok(None) => {}
                Err(error) => {
                    warn!(certificate = %id, %error, "a certificate that is kept can't be read");
                }
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    fn changed(&self, id: &CertificateId) -> Option<SystemTime> {
        fs::metadata(self.certificate_path(id)).ok()?.modified().ok()
    }

    fn order(&self, id: &CertificateId) -> Result<Option<KeptOrder>, StoreError> {
        read(&self.order_path(id))
    }

    fn keep_order(&self, id: &CertificateId, order: Option<&KeptOrder>) -> Result<(), StoreError> {
        let path = self.order_path(id);
        match order {
            Some(order) => write(&path, order),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_error("removing", &path)(error))
                }
                _ => Ok(()),
            },
        }
    }

    fn ledger(&self) -> Result<Ledger, StoreError> {
        Ok(read(&self.ledger_path())?.unwrap_or_default())
    }

    fn keep_ledger(&self, ledger: &Ledger) -> Result<(), StoreError> {
        write(&self.ledger_path(), ledger)
    }
}

impl CertificateId {
    /// Of a certificate for these names, in any order. Readable, and safe as the name of a file.
    pub fn new(names: &[String], algorithm: Algorithm) -> Self {
        let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let first = sorted.first().copied().unwrap_or_default();
        let readable: String = first
            .chars()
            .take(100)
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' })
            .collect();
        let readable = readable.trim_start_matches('.');
        let kind = algorithm.word();
        Self(format!("{readable}-{kind}-{}", short_hash(sorted)).into())
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Algorithm {
    /// The word that is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

impl KeptCertificate {
    /// One that was ordered elsewhere, valid from `not_before` (seconds since 1970).
    pub fn imported(
        names: Vec<String>,
        algorithm: Algorithm,
        chain: String,
        key: Zeroizing<String>,
        not_before: i64,
    ) -> Self {
        let (key, issued) = (SecretText(key), not_before);
        Self { names, algorithm, authority: None, chain, key, issued, window: None }
    }

    /// Checks that it can be served at `now`.
    ///
    /// # Errors
    /// See [`CertificateError`]; the path is what the certificate is kept under.
    pub(in crate::tls) fn load(
        &self,
        id: &CertificateId,
        now: SystemTime,
    ) -> Result<LoadedCertificate, CertificateError> {
        let path = Path::new(&*id.0);
        let key = Zeroizing::new(self.key.expose().as_bytes().to_vec());
        Pair::of(path, Zeroizing::new(self.chain.as_bytes().to_vec()), key).load(now)
    }
}

impl SecretText {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// The texts of host patterns, sorted.
pub(in crate::tls) fn names_of(hosts: &[HostPattern]) -> Vec<String> {
    let mut names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Enough to tell a few thousand apart.
fn short_hash<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_ref());
        hash.update([0]);
    }
    let mut text = String::with_capacity(16);
    for byte in hash.finalize().iter().take(8) {
        use fmt::Write;
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kept(name: &str) -> KeptCertificate {
        KeptCertificate {
            names: vec![name.to_owned()],
            algorithm: Algorithm::Ecdsa,
            authority: None,
            chain: "chain".to_owned(),
            key: SecretText::new("hunter2"),
            issued: 1,
            window: None,
        }
    }

    #[test]
    fn what_is_kept_is_private_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path());
        let names = ["b.test".to_owned(), "*.a.test".to_owned()];
        let id = CertificateId::new(&names, Algorithm::Ecdsa);
        assert!(
            store.certificate(&id).unwrap().is_none() && store.certificates().unwrap().is_empty()
        );
        store.keep_certificate(&id, &kept("a.test")).unwrap();
        let back = store.certificate(&id).unwrap().unwrap();
        assert_eq!(
            (back.key.expose(), back.names.as_slice()),
            ("hunter2", &["a.test".to_owned()][..])
        );
        let path = store.certificate_path(&id);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(!format!("{back:?}").contains("hunter2"));
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with("_.a.test-ecdsa-"));
        let other =
            CertificateId::new(&["*.a.test".to_owned(), "b.test".to_owned()], Algorithm::Ecdsa);
        assert_eq!(id, other, "the order of names does not count");
        assert_ne!(id, CertificateId::new(&names, Algorithm::Rsa));
        assert_eq!(store.certificates().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_a_newer_one_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path());
        let id = CertificateId::new(&["a.test".to_owned()], Algorithm::Ecdsa);
        store.keep_certificate(&id, &kept("a.test")).unwrap();
        let path = store.certificate_path(&id);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(store.certificate(&id).unwrap().is_none());
        assert!(!path.exists() && path.with_extension("json.damaged").exists());
        assert!(store.certificates().unwrap().is_empty());
        fs::write(&path, "{\"version\":9,\"data\":{}}").unwrap();
        assert!(matches!(store.certificate(&id), Err(StoreError::Version { found: 9, .. })));
        assert!(path.exists());
    }

    #[test]
    fn an_order_is_forgotten_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path());
        let id = CertificateId::new(&["a.test".to_owned()], Algorithm::Rsa);
        let order = KeptOrder {
            authority: "a".to_owned(),
            directory: "https://a/".to_owned(),
            url: "https://a/1".to_owned(),
            key: SecretText::new("key"),
        };
        store.keep_order(&id, Some(&order)).unwrap();
        assert_eq!(store.order(&id).unwrap().unwrap().url, "https://a/1");
        store.keep_order(&id, None).unwrap();
        store.keep_order(&id, None).unwrap();
        assert!(store.order(&id).unwrap().is_none());
    }
}
