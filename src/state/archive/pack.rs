//! From a state directory to a backup.
//!
//! All files are read first, so that the index, which stands before them, says what follows it, whatever an edge writes
//! meanwhile.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    iter,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    ArchiveError, Contents, FOLDER, INDEX, Limits, ListedFile, MAX_INDEX_BYTES, MAX_PATH_BYTES,
    Passphrase, VERSION, WorkFactor, never_state, unpack::hex,
};

/// The files of a state directory, in memory, by path.
pub struct Gathered {
    pub(super) files: Vec<(ListedFile, Zeroizing<Vec<u8>>)>,
    /// What was left out although it may have been meant to be state, with the reason.
    pub left_out: Vec<(PathBuf, &'static str)>,
}

/// Reads the state in a directory. `progress` is told the number of files so far.
///
/// A file that goes away meanwhile is not in it: the edge took it back.
///
/// # Errors
/// [`ArchiveError::Read`], [`ArchiveError::Nothing`], [`ArchiveError::TooMany`], [`ArchiveError::TooLarge`].
pub fn gather(
    state_dir: &Path,
    limits: Limits,
    progress: &mut dyn FnMut(usize),
) -> Result<Gathered, ArchiveError> {
    let mut gathered = Gathered { files: Vec::new(), left_out: Vec::new() };
    let (mut entries, mut bytes) = (0, 0);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let is_top = folder.as_os_str().is_empty();
        let whole = if is_top { state_dir.to_owned() } else { state_dir.join(&folder) };
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound && !is_top;
        let listing = match fs::read_dir(&whole) {
            Err(error) if is_gone(&error) => continue,
            listing => listing.map_err(read_error(&whole))?,
        };
        for entry in listing {
            entries += 1;
            if entries > limits.files {
                return Err(ArchiveError::TooMany { limit: limits.files });
            }
            let entry = entry.map_err(read_error(&whole))?;
            let kind = entry.file_type().map_err(read_error(&entry.path()))?;
            let path = match named(&folder, entry.file_name(), kind.is_dir()) {
                Ok(Some(path)) => path,
                Ok(None) => continue,
                Err(reason) => {
                    gathered.left_out.push((entry.path(), reason));
                    continue;
                }
            };
            if kind.is_dir() {
                folders.push(path.into());
            } else if kind.is_file() {
                let Some(content) = read(&entry.path(), limits.bytes - bytes, limits)? else {
                    continue;
                };
                bytes += content.len() as u64;
                gathered.files.push((listed(path, &content), content));
                progress(gathered.files.len());
            } else if kind.is_symlink() {
                gathered.left_out.push((entry.path(), "it is a symbolic link"));
            } else if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
                gathered.left_out.push((entry.path(), "it is no regular file"));
            }
        }
    }
    if gathered.files.is_empty() {
        return Err(ArchiveError::Nothing { path: state_dir.to_owned() });
    }
    gathered.files.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    gathered.left_out.sort();
    Ok(gathered)
}

/// The path in the backup of what has this name in `folder`; `None` for what is never state.
fn named(folder: &Path, name: OsString, is_folder: bool) -> Result<Option<String>, &'static str> {
    let name = name.into_string().map_err(|_| "its name is not UTF-8")?;
    if never_state(&name, is_folder) {
        return Ok(None);
    }
    let path = folder.join(name).into_os_string().into_string();
    let path = path.map_err(|_| "its name is not UTF-8")?;
    if path.len() > MAX_PATH_BYTES {
        return Err("its path is too long");
    }
    Ok(Some(path))
}

/// The content of a file, at most `left` bytes; `None` where it is gone.
fn read(
    path: &Path,
    left: u64,
    limits: Limits,
) -> Result<Option<Zeroizing<Vec<u8>>>, ArchiveError> {
    // What has become a link or a pipe since it was listed is neither followed nor waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file: File = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(read_error(path))?,
    };
    let size = file.metadata().map_err(read_error(path))?.len();
    if size > left {
        return Err(ArchiveError::TooLarge { limit: limits.bytes });
    }
    // In one piece: a vector that grows leaves copies of what is secret behind.
    let mut content = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.take(left + 1).read_to_end(&mut content).map_err(read_error(path))?;
    if content.len() as u64 > left {
        return Err(ArchiveError::TooLarge { limit: limits.bytes });
    }
    Ok(Some(content))
}

fn listed(path: String, content: &[u8]) -> ListedFile {
    ListedFile { path, bytes: content.len() as u64, sha256: hex(&Sha256::digest(content)) }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Read { path: path.to_owned(), source }
}

/// Writes a backup of these files; gives the output back, which is not flushed yet, and what is in the backup.
///
/// `progress` is told the number of files so far.
///
/// # Errors
/// [`ArchiveError::Write`], [`ArchiveError::Encrypt`], [`ArchiveError::TooLarge`].
pub fn seal<W: Write>(
    gathered: &Gathered,
    made_at: String,
    passphrase: &Passphrase,
    work: WorkFactor,
    output: W,
    progress: &mut dyn FnMut(usize),
) -> Result<(W, Contents), ArchiveError> {
    let contents = Contents {
        version: VERSION,
        tidegate: env!("CARGO_PKG_VERSION").to_owned(),
        made_at,
        files: gathered.files.iter().map(|(file, _)| file.clone()).collect(),
    };
    let index = serde_json::to_vec_pretty(&contents).map_err(ArchiveError::Index)?;
    if index.len() as u64 > MAX_INDEX_BYTES {
        return Err(ArchiveError::TooLarge { limit: MAX_INDEX_BYTES });
    }
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(work.0);
    let recipients = iter::once(&recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(ArchiveError::Encrypt)?;
    let encrypted = encryptor.wrap_output(output).map_err(ArchiveError::Write)?;
    let mut tar = tar::Builder::new(encrypted);
    append(&mut tar, INDEX, &index)?;
    for (done, (file, content)) in gathered.files.iter().enumerate() {
        progress(done);
        append(&mut tar, &format!("{FOLDER}{}", file.path), content)?;
    }
    let output = tar.into_inner().and_then(age::stream::StreamWriter::finish);
    Ok((output.map_err(ArchiveError::Write)?, contents))
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    content: &[u8],
) -> Result<(), ArchiveError> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).map_err(ArchiveError::Write)
}
