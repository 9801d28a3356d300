//! What came out of a backup takes the place of the state directory, in one step.
//!
//! The files are written to a folder beside it, flushed, and the two change places by one rename: a crash at any point
//! leaves the old directory or the new one, whole. Before that the state directory is not touched.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tempfile::TempDir;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Names for what is put aside within one second.
const MAX_ASIDE: u32 = 100;

/// Why a state directory can't be replaced. It is as it was then, but where the action says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It holds something, and nobody said that it may go.
    #[error(
        "{} is not empty; with --force what is in it is moved aside, not deleted", path.display()
    )]
    NotEmpty {
        /// The state directory.
        path: PathBuf,
    },
    /// A file or a dangling link has its name.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The state directory.
        path: PathBuf,
    },
    /// A folder can't be put in the place of a mounted file system.
    #[error(
        "{} is mounted, so that it can't be replaced in one step; restore to a folder below it \
         (--state-dir), and name that one in server.state_dir",
        path.display()
    )]
    Mounted {
        /// The state directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder beside a state directory, which is to take its place. Dropped before that, it is removed.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    /// The state directory without links.
    target: PathBuf,
    parent: PathBuf,
    /// Folders made so far, relative.
    folders: BTreeSet<PathBuf>,
}

impl Staging {
    /// Makes the folder. Changes nothing else.
    ///
    /// # Errors
    /// The state directory can't be replaced: not at all, or not without `may_replace`.
    pub fn beside(state_dir: &Path, may_replace: bool) -> Result<Self, PlaceError> {
        let target = place_of(state_dir)?;
        if !may_replace && !is_free(&target)? {
            return Err(PlaceError::NotEmpty { path: target });
        }
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(PlaceError::Mounted { path: target });
        };
        let folder = tempfile::Builder::new()
            .prefix(&format!(".{}.restore-", name.display()))
            .permissions(Permissions::from_mode(FOLDER_MODE))
            .tempdir_in(parent)
            .map_err(io_error("making a folder in", parent))?;
        Ok(Self { folder, parent: parent.to_owned(), target, folders: BTreeSet::new() })
    }

    /// The state directory without links.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes a file, flushed. The path is relative, and was checked.
    ///
    /// # Errors
    /// [`PlaceError::Io`].
    pub fn write(&mut self, path: &str, content: &[u8]) -> Result<(), PlaceError> {
        let whole = self.folder.path().join(path);
        let mut above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        // Without the staging folder itself.
        above.pop();
        for folder in above.into_iter().rev() {
            if self.folders.insert(folder.to_owned()) {
                let whole = self.folder.path().join(folder);
                DirBuilder::new()
                    .mode(FOLDER_MODE)
                    .create(&whole)
                    .map_err(io_error("making", &whole))?;
            }
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&whole)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(io_error("writing", &whole))
    }

    /// Puts the folder in the place of the state directory. What was there is moved to `<directory>.before-restore-<when>`,
    /// where there is a `when`; tells where it is then.
    ///
    /// # Errors
    /// All of [`PlaceError`].
    pub fn put(self, when: Option<&str>) -> Result<Option<PathBuf>, PlaceError> {
        for folder in &self.folders {
            flush(&self.folder.path().join(folder))?;
        }
        flush(self.folder.path())?;
        let aside = match when {
            Some(when) if !is_free(&self.target)? => Some(free_name(&self.target, when)?),
            _ => None,
        };
        // From here on it is not removed by itself: after the swap the old state has its name.
        let staged = self.folder.keep();
        let swapped = match aside {
            // Replaces a folder only where it is empty.
            None => fs::rename(&staged, &self.target).map(|()| None),
            Some(aside) => swap(&staged, &self.target, aside).map(Some),
        };
        let old = match swapped {
            Ok(old) => old,
            Err(source) => {
                drop(fs::remove_dir_all(&staged));
                let path = self.target;
                return Err(match source.kind() {
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                        PlaceError::NotEmpty { path }
                    }
                    io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
                        PlaceError::Mounted { path }
                    }
                    _ => PlaceError::Io { action: "replacing", path, source },
                });
            }
        };
        File::open(&self.parent)
            .and_then(|parent| parent.sync_all())
            .map_err(io_error("replaced, but a crash now may undo it: flushing", &self.parent))?;
        Ok(old)
    }
}

/// Puts `staged` in the place of `target`, and that aside; tells where it is. On an error all is as it was.
fn swap(staged: &Path, target: &Path, aside: PathBuf) -> io::Result<PathBuf> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE) {
        // The old state has the name of the new one now, and keeps it where it can't get a better one.
        Ok(()) => match fs::rename(staged, &aside) {
            Ok(()) => Ok(aside),
            Err(_) => Ok(staged.to_owned()),
        },
        // Some file systems can't (NFS). Then there are two steps, and a crash between them leaves the old one aside.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::rename(target, &aside)?;
            let placed = fs::rename(staged, target);
            placed.inspect_err(|_| drop(fs::rename(&aside, target))).map(|()| aside)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the state directory is, or will be, without links.
fn place_of(state_dir: &Path) -> Result<PathBuf, PlaceError> {
    let looked_at = io_error("looking at", state_dir);
    match fs::symlink_metadata(state_dir) {
        Ok(_) => {
            let target = fs::canonicalize(state_dir).map_err(looked_at)?;
            if !target.is_dir() {
                return Err(PlaceError::NotAFolder { path: target });
            }
            Ok(target)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = match state_dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let Some(name) = state_dir.file_name() else {
                return Err(PlaceError::NotAFolder { path: state_dir.to_owned() });
            };
            let parent = fs::canonicalize(parent).map_err(io_error("looking at", parent))?;
            Ok(parent.join(name))
        }
        Err(error) => Err(looked_at(error)),
    }
}

/// Whether nothing is there, or an empty folder.
fn is_free(target: &Path) -> Result<bool, PlaceError> {
    match fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("looking at", target)(error)),
    }
}

/// A name beside the state directory that nothing has.
fn free_name(target: &Path, when: &str) -> Result<PathBuf, PlaceError> {
    (1..=MAX_ASIDE)
        .map(|nth| {
            let mut name = target.as_os_str().to_owned();
            name.push(format!(".before-restore-{when}"));
            if nth > 1 {
                name.push(format!("-{nth}"));
            }
            PathBuf::from(name)
        })
        .find(|name| fs::symlink_metadata(name).is_err())
        .ok_or_else(|| {
            io_error("finding a name beside", target)(io::ErrorKind::AlreadyExists.into())
        })
}

fn flush(folder: &Path) -> Result<(), PlaceError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("flushing", folder))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    move |source| PlaceError::Io { action, path: path.to_owned(), source }
}
