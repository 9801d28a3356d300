//! Backups: the files of a state directory in one encrypted file, and back.
//!
//! Off the request path; blocks. A backup is a tar inside age (<https://age-encryption.org/v1>), encrypted by a passphrase
//! (scrypt). Its first member, `INDEX`, lists the others with their sizes and hashes; the others are the files, below
//! `FOLDER`. `age -d backup.age | tar x` opens it without this program.
//!
//! ```text
//! gather ── files, read into memory ──▶ seal ──▶ backup          (pack.rs)
//! backup ──▶ unpack ── each file, once it is what the index says ──▶ Staging ──▶ the state directory   (place.rs)
//! ```
//!
//! What is state: every regular file, but for what `never_state` names. A feature that puts a file into the state
//! directory has it in the backup without a word here.
//!
//! Invariants: a backup that is made can be restored (both sides have the same limits); nothing of a backup is used before
//! its passphrase, its authentication and its hash are right; a restored directory is there whole or not at all. It does
//! not stop an edge that writes meanwhile: as each state file is replaced by rename, each is whole, but two of them may be
//! of two moments.

mod pack;
mod place;
mod unpack;

use std::{
    io,
    path::{Path, PathBuf},
};

use age::secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::{
    pack::{Gathered, gather, seal},
    place::{PlaceError, Staging},
    unpack::{Keep, unpack},
};

/// The first member: what is in the backup.
const INDEX: &str = "tidegate-backup.json";
/// The folder of the files in the tar.
const FOLDER: &str = "state/";
/// Of the index and of what it says of the other members.
const VERSION: u32 = 1;
/// The largest index, in bytes.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// The longest path of a file, in bytes.
const MAX_PATH_BYTES: usize = 1_024;
/// `N = 2^18` takes 256 MiB and about a second; it is what age's own tool takes.
const WORK_FACTOR: u8 = 18;
/// The largest one that is taken from a backup which another tool made: 1 GiB of memory.
const MAX_WORK_FACTOR: u8 = 20;
/// Characters of the shortest passphrase that a backup is made with.
const MIN_PASSPHRASE: usize = 8;

/// How much a backup may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files and folders.
    pub files: usize,
    /// Bytes of all files. They are in memory at once while a backup is made.
    pub bytes: u64,
}

impl Default for Limits {
    /// Far above a large edge: 5,000 certificates are some 15,000 files of 4 KiB.
    fn default() -> Self {
        Self { files: 100_000, bytes: 256 << 20 }
    }
}

/// What a backup says of itself: its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    version: u32,
    /// The version of the program that made it.
    pub tidegate: String,
    /// When: RFC 3339, UTC.
    pub made_at: String,
    /// The files, by path.
    pub files: Vec<ListedFile>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Relative to the state directory, with forward slashes.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content, in hexadecimal digits.
    pub sha256: String,
}

/// What a backup is encrypted with. Wiped when dropped; not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct Passphrase(SecretString);

/// Why a text is no passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Nothing is in it.
    #[error("the passphrase is empty")]
    Empty,
    /// It could be guessed.
    #[error(
        "the passphrase has fewer than {MIN_PASSPHRASE} characters; take several words, or `openssl rand -base64 24`"
    )]
    Short,
}

impl Passphrase {
    /// One to open a backup with.
    ///
    /// # Errors
    /// [`PassphraseError::Empty`].
    pub fn to_open(text: &str) -> Result<Self, PassphraseError> {
        if text.is_empty() {
            return Err(PassphraseError::Empty);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// One to make a backup with.
    ///
    /// # Errors
    /// All of [`PassphraseError`].
    pub fn to_seal(text: &str) -> Result<Self, PassphraseError> {
        let passphrase = Self::to_open(text)?;
        if text.chars().count() < MIN_PASSPHRASE {
            return Err(PassphraseError::Short);
        }
        Ok(passphrase)
    }
}

/// How dear a guess at the passphrase is: the logarithm of scrypt's `N`.
#[derive(Clone, Copy, Debug)]
pub struct WorkFactor(u8);

impl WorkFactor {
    /// A cheap one, for tests.
    pub const CHEAP: Self = Self(4);
}

impl Default for WorkFactor {
    fn default() -> Self {
        Self(WORK_FACTOR)
    }
}

/// Why there is no backup, or why one is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The state directory can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No state is there.
    #[error("there is nothing to back up in {}; is it the state directory?", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// More than a backup may hold.
    #[error("more than {limit} files and folders: no state directory has as many")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// More than a backup may hold.
    #[error("more than {} MiB: no state directory is as large", limit >> 20)]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The backup can't be written.
    #[error("the backup can't be written")]
    Write(#[source] io::Error),
    /// The backup can't be encrypted.
    #[error("the backup can't be encrypted")]
    Encrypt(#[source] age::EncryptError),
    /// It does not begin as one.
    #[error("this is no backup: it is not encrypted by age")]
    NotEncrypted,
    /// It is for the holder of a key.
    #[error("this is no backup: it is not encrypted by a passphrase")]
    NotByPassphrase,
    /// It would take too long to open.
    #[error(
        "it asks for {} times the work of a backup; Tidegate makes none of those",
        1_u64 << required.saturating_sub(WORK_FACTOR).min(63)
    )]
    Dear {
        /// The logarithm of scrypt's `N`.
        required: u8,
    },
    /// It was made with another passphrase.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Not what was written.
    #[error("the backup is damaged or cut off")]
    Damaged(#[source] io::Error),
    /// The backup can't be read.
    #[error("the backup can't be read")]
    Input(#[source] io::Error),
    /// Encrypted is something else.
    #[error("this is no backup: its first member is not {INDEX}")]
    NoIndex,
    /// The index can't be understood.
    #[error("this is no backup: its {INDEX} can't be understood")]
    Index(#[source] serde_json::Error),
    /// Another version of the program made it.
    #[error("the backup has format version {found}, and this program reads {VERSION}")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// A member that no backup of ours has.
    #[error("the backup is not taken: \"{}\" {reason}", path.escape_debug())]
    Member {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What came out of the backup can't be kept.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl ArchiveError {
    fn member(path: impl Into<String>, reason: &'static str) -> Self {
        Self::Member { path: path.into(), reason }
    }
}

/// Whether a name in the state directory is of something that is never state: temporary files and folders (`.new-…`,
/// `.tmp…`), and of files, locks (`lock`, `….lock`) and logs (`….log`).
fn never_state(name: &str, is_folder: bool) -> bool {
    let is_temporary = name.starts_with(".new-") || name.starts_with(".tmp");
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    is_temporary || !is_folder && (name == "lock" || matches!(extension, Some("lock" | "log")))
}

#[cfg(test)]
mod tests;
