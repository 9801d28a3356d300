//! The last good configuration: its texts, kept in the state directory, so that a start with a broken file still serves.
//!
//! One JSON file, replaced by rename after it is on the disk: a crash leaves the old one or the new one. `${NAME}` and
//! secrets stay references, so that the file holds none of their values.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use super::{
    diagnostics::Report,
    environment::{Environment, process_environment},
    load::{Loaded, load_from},
    server::RawServer,
    source::{Bundle, Files},
};
use crate::types::{KeyPath, Problems};

/// Its name in the state directory.
const FILE: &str = "last-good-configuration.json";
const VERSION: u32 = 1;

/// The file as written.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    #[serde(flatten)]
    bundle: Bundle,
}

/// Only the version: a later one may have other keys.
#[derive(Deserialize)]
struct SavedVersion {
    version: u32,
}

/// Why there is no last good configuration to serve.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the file is not what was written there.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A later version of the program wrote it.
    #[error("{} has the format {found}, and this version reads {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// It was good then and is not now, such as where an environment variable is gone.
    #[error("the last good configuration is refused now")]
    Refused(#[source] Report),
}

/// Keeps the texts of `loaded`. The file is readable by its owner only.
///
/// # Errors
/// [`LastGoodError::Io`]; the old file is still there then.
pub fn save(state_dir: &Path, loaded: &Loaded) -> Result<(), LastGoodError> {
    let path = state_dir.join(FILE);
    let saved = Saved { version: VERSION, bundle: loaded.bundle.clone() };
    let write = || -> io::Result<()> {
        fs::create_dir_all(state_dir)?;
        // In the same folder, so that the rename stays in one file system. tempfile makes it 0600.
        let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
        serde_json::to_writer(&mut file, &saved)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(state_dir)?.sync_all()
    };
    write().map_err(|source| LastGoodError::Io { path: path.clone(), source })
}

/// The last good configuration, if one was kept.
///
/// # Errors
/// All of [`LastGoodError`].
pub fn load_last_good(state_dir: &Path) -> Result<Option<Loaded>, LastGoodError> {
    let path = state_dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LastGoodError::Io { path, source }),
    };
    let damaged = |source| LastGoodError::Damaged { path: path.clone(), source };
    let SavedVersion { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version != VERSION {
        return Err(LastGoodError::Version { path, found: version });
    }
    let saved: Saved = serde_json::from_slice(&text).map_err(damaged)?;
    let main = saved.bundle.files.first().map(|file| file.path.clone()).unwrap_or_default();
    load_from(&main, Files::Bundle(&saved.bundle), Environment(&process_environment))
        .map(Some)
        .map_err(LastGoodError::Refused)
}

/// The state directory that the file at `path` names, as far as a broken file can be read; else the default.
pub fn state_dir_of(path: &Path) -> PathBuf {
    let text = fs::read_to_string(path).unwrap_or_default();
    let (document, _) = DeTable::parse_recoverable(&text);
    let server = document.get_ref().get("server").and_then(|server| server.get_ref().as_table());
    let named = server
        .and_then(|server| server.get("state_dir"))
        .and_then(|value| value.get_ref().as_str());
    match named.filter(|text| !text.contains("${")) {
        Some(folder) => PathBuf::from(folder),
        None => RawServer::default().parse(&KeyPath::root(), &mut Problems::new()).state_dir,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::load;

    fn write_configuration(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder.join("sites")).unwrap();
        let main = folder.join("tidegate.toml");
        fs::write(&main, "include = [\"sites/*.toml\"]\n").unwrap();
        fs::write(
            folder.join("sites/shop.toml"),
            "[sites.shop]\nhosts = [\"shop.test\"]\nendpoints = [\"127.0.0.1:9001\"]\n",
        )
        .unwrap();
        main
    }

    #[test]
    fn the_last_good_one_is_there_when_the_files_are_gone() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = state.path().join("deep");
        assert!(load_last_good(&state).unwrap().is_none());
        let loaded = load(&write_configuration(folder.path())).unwrap();
        save(&state, &loaded).unwrap();
        drop(folder);
        let again = load_last_good(&state).unwrap().unwrap();
        assert_eq!(again.hash, loaded.hash);
        assert_eq!(again.files, loaded.files);
        let mode = fs::metadata(state.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_file_cut_off_at_any_byte_is_reported() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let loaded = load(&write_configuration(folder.path())).unwrap();
        save(state.path(), &loaded).unwrap();
        let file = state.path().join(FILE);
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            let error = load_last_good(state.path()).unwrap_err();
            assert!(matches!(error, LastGoodError::Damaged { .. }), "{length}: {error}");
        }
        save(state.path(), &loaded).unwrap();
        assert!(load_last_good(state.path()).unwrap().is_some());
    }

    #[test]
    fn a_later_format_is_named() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "{\"version\":2,\"else\":1}").unwrap();
        let error = load_last_good(state.path()).unwrap_err();
        assert!(matches!(error, LastGoodError::Version { found: 2, .. }), "{error}");
        fs::write(state.path().join(FILE), "{\"version\":1,\"files\":[],\"includes\":{}}").unwrap();
        assert!(matches!(load_last_good(state.path()), Err(LastGoodError::Refused(_))));
    }
}
