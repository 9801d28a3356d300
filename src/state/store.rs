//! Files that are whole or absent: written beside their place, flushed, then renamed into it.
//!
//! Used for what must survive a crash (certificates, the last good configuration, rollout state). Blocks: call it from a
//! blocking task. Does not lock: a path has one writer.

use std::{
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The largest state file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its owner only (0600): keys, tokens, anything derived from them.
    Private,
    /// Everybody (0644).
    Shared,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Shared => 0o644,
        }
    }
}

/// Why a state file can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what we wrote.
    #[error("{} does not hold the state that it should", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// The file was written by another version of this program.
    #[error("{} has format version {found}, this program reads {expected}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version it has.
        found: u32,
        /// The version that was asked for.
        expected: u32,
    },
    /// The file is larger than any that we write.
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
}

/// A value with the version of its format.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    data: T,
}

/// The version alone, to be read before the rest is understood.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Replaces the file at `path` by one with these bytes. After a crash there is the old file or the new one, whole.
///
/// File and folder are flushed to the disk before it returns. A symbolic link at `path` is replaced, not followed.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    };
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(mode.bits()))
        .tempfile_in(folder)
        .map_err(failed("creating a file in", folder))?;
    file.write_all(bytes).map_err(failed("writing", path))?;
    // The mode given at creation is cut by the umask.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode.bits()))
        .map_err(failed("setting the mode of", path))?;
    file.as_file().sync_all().map_err(failed("flushing", path))?;
    file.persist(path).map_err(|error| failed("replacing", path)(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("flushing", folder))
}

/// Writes `data` as JSON with the version of its format, atomically.
pub fn write_versioned<T: Serialize>(
    path: &Path,
    version: u32,
    data: &T,
    mode: Mode,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(&Versioned { version, data })
        .map_err(|source| StoreError::Format { path: path.to_owned(), source })?;
    write_atomically(path, &bytes, mode)
}

/// Reads what [`write_versioned`] wrote, or `None` where there is no file.
///
/// # Errors
/// [`StoreError::Version`] for another version, so that the caller can convert or set it aside; it never guesses.
pub fn read_versioned<T: DeserializeOwned>(
    path: &Path,
    version: u32,
) -> Result<Option<T>, StoreError> {
    let io = |source| StoreError::Io { action: "reading", path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(StoreError::TooLarge { path: path.to_owned() });
    }
    let format = |source| StoreError::Format { path: path.to_owned(), source };
    let found = serde_json::from_slice::<VersionOnly>(&bytes).map_err(format)?.version;
    if found != version {
        return Err(StoreError::Version { path: path.to_owned(), found, expected: version });
    }
    let versioned: Versioned<T> = serde_json::from_slice(&bytes).map_err(format)?;
    Ok(Some(versioned.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_atomically(&path, b"one, and longer", Mode::Shared).unwrap();
        write_atomically(&path, b"two", Mode::Private).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        write_atomically(&path, b"three", Mode::Shared).unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        // A folder that is not empty can't be replaced by a file.
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"old").unwrap();
        let error = write_atomically(&path, b"new", Mode::Shared).unwrap_err();
        assert!(matches!(error, StoreError::Io { action: "replacing", .. }), "{error}");
        assert_eq!(std::fs::read(path.join("inside")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no leftover");
        let error = write_atomically(Path::new("/nowhere/at/all"), b"x", Mode::Shared).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }));
    }

    #[test]
    fn versions_are_told_apart_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_versioned::<Vec<u8>>(&path, 1).unwrap(), None);
        write_versioned(&path, 1, &vec![1, 2, 3], Mode::Private).unwrap();
        assert_eq!(read_versioned::<Vec<u8>>(&path, 1).unwrap(), Some(vec![1, 2, 3]));
        let error = read_versioned::<Vec<u8>>(&path, 2).unwrap_err();
        assert!(matches!(error, StoreError::Version { found: 1, expected: 2, .. }));
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let error = read_versioned::<Vec<u8>>(&path, 1).unwrap_err();
            assert!(matches!(error, StoreError::Format { .. }), "cut at {end}: {error}");
        }
    }
}
