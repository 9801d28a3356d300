//! From a backup to its files, each checked before it is given on.
//!
//! Who made the backup knew its passphrase, and is not trusted for that: paths lead nowhere but into the state directory,
//! only regular files are taken, and only those of the index, each once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufReader, Read},
    iter,
    path::{Component, Path},
};

use age::DecryptError;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    ArchiveError, Contents, FOLDER, INDEX, Limits, ListedFile, MAX_INDEX_BYTES, MAX_PATH_BYTES,
    MAX_WORK_FACTOR, Passphrase, PlaceError, VERSION,
};

/// The version alone, to be read before the rest is understood.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Takes a file: its path and its content.
pub type Keep<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<(), PlaceError>;

/// Reads a backup to its end, and gives each file to `keep` with its path once it is what the index says.
///
/// All that is kept must be thrown away where this fails: what makes it fail may stand at the end.
///
/// # Errors
/// All of [`ArchiveError`] that are about a backup; what `keep` says.
pub fn unpack(
    input: impl Read,
    passphrase: &Passphrase,
    limits: Limits,
    keep: Keep<'_>,
) -> Result<Contents, ArchiveError> {
    // A member has a header and padding, and one with a long name has that twice.
    let most = limits.bytes + limits.files as u64 * 4_096 + MAX_INDEX_BYTES;
    let decrypted = decrypt(input, passphrase)?;
    let mut tar = tar::Archive::new(Bounded { inner: decrypted, left: most });
    let mut members = tar.entries().map_err(read_error(limits))?;

    let first = members.next().ok_or(ArchiveError::NoIndex)?.map_err(read_error(limits))?;
    let contents = index(first, limits)?;
    let mut missing: BTreeMap<&str, &ListedFile> = check(&contents, limits)?;
    for member in members {
        let mut member = member.map_err(read_error(limits))?;
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let kind = member.header().entry_type();
        if kind != tar::EntryType::Regular {
            return Err(ArchiveError::member(path, "is not a regular file"));
        }
        let listed = path.strip_prefix(FOLDER).and_then(|inner| missing.remove(inner));
        let Some(listed) = listed else {
            return Err(ArchiveError::member(path, "is not in its list, or there twice"));
        };
        if member.size() != listed.bytes {
            return Err(ArchiveError::member(path, "has another size than its list says"));
        }
        let mut content = Zeroizing::new(Vec::with_capacity(listed.bytes as usize));
        member.read_to_end(&mut content).map_err(read_error(limits))?;
        if content.len() as u64 != listed.bytes || hex(&Sha256::digest(&*content)) != listed.sha256
        {
            return Err(ArchiveError::member(path, "has another content than its list says"));
        }
        keep(&listed.path, &content)?;
    }
    if let Some(path) = missing.into_keys().next() {
        return Err(ArchiveError::member(path, "is in its list, and not in it"));
    }
    // The end of the tar is not the end of the backup: only its last byte tells that it is whole.
    let mut rest = tar.into_inner();
    let mut block = [0; 4_096];
    loop {
        match rest.read(&mut block).map_err(read_error(limits))? {
            0 => return Ok(contents),
            read if block.iter().take(read).all(|byte| *byte == 0) => {}
            _ => {
                let trailing =
                    io::Error::new(io::ErrorKind::InvalidData, "something follows its end");
                return Err(ArchiveError::Damaged(trailing));
            }
        }
    }
}

fn decrypt(input: impl Read, passphrase: &Passphrase) -> Result<impl Read, ArchiveError> {
    let decryptor =
        age::Decryptor::new_buffered(BufReader::new(input)).map_err(|error| match error {
            DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                ArchiveError::Damaged(error)
            }
            DecryptError::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                ArchiveError::Input(error)
            }
            _ => ArchiveError::NotEncrypted,
        })?;
    if !decryptor.is_scrypt() {
        return Err(ArchiveError::NotByPassphrase);
    }
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    decryptor.decrypt(iter::once(&identity as &dyn age::Identity)).map_err(|error| match error {
        DecryptError::ExcessiveWork { required, .. } => ArchiveError::Dear { required },
        DecryptError::InvalidHeader => ArchiveError::NotEncrypted,
        DecryptError::Io(error) => ArchiveError::Input(error),
        // The key was right, and the header is not the one that it was made for.
        DecryptError::InvalidMac => ArchiveError::Damaged(io::Error::new(
            io::ErrorKind::InvalidData,
            "its head was changed",
        )),
        _ => ArchiveError::WrongPassphrase,
    })
}

/// The index, from the first member.
fn index<R: Read>(mut first: tar::Entry<'_, R>, limits: Limits) -> Result<Contents, ArchiveError> {
    let is_index = &*first.path_bytes() == INDEX.as_bytes()
        && first.header().entry_type() == tar::EntryType::Regular;
    if !is_index {
        return Err(ArchiveError::NoIndex);
    }
    if first.size() > MAX_INDEX_BYTES {
        return Err(ArchiveError::TooLarge { limit: MAX_INDEX_BYTES });
    }
    let mut text = Vec::new();
    first.read_to_end(&mut text).map_err(read_error(limits))?;
    let VersionOnly { version } = serde_json::from_slice(&text).map_err(ArchiveError::Index)?;
    if version != VERSION {
        return Err(ArchiveError::Version { found: version });
    }
    serde_json::from_slice(&text).map_err(ArchiveError::Index)
}

/// The files of the index by path, each of which leads into the state directory.
fn check(contents: &Contents, limits: Limits) -> Result<BTreeMap<&str, &ListedFile>, ArchiveError> {
    if contents.files.len() > limits.files {
        return Err(ArchiveError::TooMany { limit: limits.files });
    }
    let (mut files, mut folders, mut bytes) = (BTreeMap::new(), BTreeSet::new(), 0_u64);
    for file in &contents.files {
        let path = Path::new(&file.path);
        bytes = bytes.saturating_add(file.bytes);
        if bytes > limits.bytes {
            return Err(ArchiveError::TooLarge { limit: limits.bytes });
        }
        if let Some(reason) = refusal(&file.path) {
            return Err(ArchiveError::member(&file.path, reason));
        }
        if files.insert(file.path.as_str(), file).is_some() {
            return Err(ArchiveError::member(&file.path, "is in its list twice"));
        }
        folders.extend(path.ancestors().skip(1).filter_map(Path::to_str));
    }
    match files.keys().find(|path| folders.contains(**path)) {
        Some(path) => Err(ArchiveError::member(*path, "is a file and a folder")),
        None => Ok(files),
    }
}

/// Why a path can't be one of a state file.
fn refusal(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.contains('\0') {
        return Some("is no path");
    }
    if path.len() > MAX_PATH_BYTES {
        return Some("is too long");
    }
    let leads_in = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    // `a//b`, `a/./b` and `a/` have such components too.
    let is_plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (!leads_in || !is_plain).then_some("leads out of the state directory, or is not plain")
}

/// Ends with an error, not with silence, where there is more than may be.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// What an error while reading the decrypted bytes means.
fn read_error(limits: Limits) -> impl FnOnce(io::Error) -> ArchiveError {
    move |error| match error.kind() {
        io::ErrorKind::FileTooLarge => ArchiveError::TooLarge { limit: limits.bytes },
        // `Other` is what the tar reader says of a broken header.
        io::ErrorKind::InvalidData
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other => ArchiveError::Damaged(error),
        _ => ArchiveError::Input(error),
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
