//! Where configuration text comes from: the disk, or the copy kept of the last good one.
//!
//! Nothing here knows TOML. Paths stay as the user wrote them, so that a report shows what they know.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// The largest file that is read: far above any configuration written by people or templates.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Source {
    /// Its path, as the user gave it.
    pub(super) path: PathBuf,
    /// Its text.
    pub(super) text: Arc<str>,
}

/// A stretch of one source, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Index of the source.
    pub(super) source: usize,
    /// Its first byte.
    pub(super) start: usize,
    /// The byte after its last.
    pub(super) end: usize,
}

/// All texts of one configuration, enough to load it again without the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Bundle {
    /// Every file, the main one first.
    pub(super) files: Vec<Source>,
    /// What each include pattern found.
    pub(super) includes: BTreeMap<String, Vec<PathBuf>>,
}

/// Where files are read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Files<'a> {
    /// The file system.
    Disk,
    /// Texts in memory.
    Bundle(&'a Bundle),
}

/// Why an include pattern could not be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatternError {
    /// It is no pattern.
    #[error("this is not a pattern: {}", .0.msg)]
    Syntax(#[from] glob::PatternError),
    /// A folder on its way can't be read.
    #[error("{} can't be read: {}", .0.path().display(), .0.error())]
    Folder(#[from] glob::GlobError),
}

impl Files<'_> {
    /// The text of a file.
    pub(super) fn read(self, path: &Path) -> io::Result<Arc<str>> {
        match self {
            Self::Disk => {
                let file = File::open(path)?;
                if file.metadata()?.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                let mut bytes = Vec::new();
                file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > MAX_FILE_BYTES {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                match std::str::from_utf8(&bytes) {
                    Ok(text) => Ok(Arc::from(text)),
                    Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                }
            }
            Self::Bundle(bundle) => bundle
                .files
                .iter()
                .find(|source| source.path == path)
                .map(|source| source.text.clone())
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// The files that an include names, sorted. A name without wildcards is itself, there or not.
    pub(super) fn matching(self, pattern: &str) -> Result<Vec<PathBuf>, PatternError> {
        if let Self::Bundle(bundle) = self {
            return Ok(bundle.includes.get(pattern).cloned().unwrap_or_default());
        }
        if !has_wildcard(pattern) {
            return Ok(vec![PathBuf::from(unescape(pattern))]);
        }
        // Names with a leading dot are editors' locks and Kubernetes' `..data`.
        let options =
            glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
        let mut files = Vec::new();
        for entry in glob::glob_with(pattern, options)? {
            let path = entry?;
            if !path.is_dir() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// What two paths to one file have in common.
    pub(super) fn identity(self, path: &Path) -> PathBuf {
        match self {
            Self::Disk => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            Self::Bundle(_) => path.to_owned(),
        }
    }
}

/// The pattern that `include` in the file `from` stands for.
pub(super) fn pattern_of(from: &Path, include: &str) -> String {
    let folder = from.parent().unwrap_or(Path::new(""));
    if Path::new(include).is_absolute() || folder.as_os_str().is_empty() {
        return include.to_owned();
    }
    format!("{}/{include}", glob::Pattern::escape(&folder.to_string_lossy()).trim_end_matches('/'))
}

/// Whether a pattern can match several names. `[*]` and the like are escaped single characters.
pub(super) fn has_wildcard(pattern: &str) -> bool {
    unescape(pattern).contains(['*', '?', '['])
        && glob::Pattern::escape(&unescape(pattern)) != pattern
}

/// Takes away what [`glob::Pattern::escape`] put in.
pub(super) fn unescape(pattern: &str) -> String {
    let mut text = pattern.to_owned();
    for (escaped, plain) in [("[*]", "*"), ("[?]", "?"), ("[]]", "]"), ("[[]", "[")] {
        text = text.replace(escaped, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_relative_to_the_file_that_names_them() {
        assert_eq!(pattern_of(Path::new("tidegate.toml"), "sites/*.toml"), "sites/*.toml");
        assert_eq!(pattern_of(Path::new("conf/a.toml"), "sites/*.toml"), "conf/sites/*.toml");
        assert_eq!(pattern_of(Path::new("conf/a.toml"), "/etc/x.toml"), "/etc/x.toml");
        assert_eq!(pattern_of(Path::new("odd[1]/a.toml"), "b.toml"), "odd[[]1[]]/b.toml");
    }

    #[test]
    fn a_folder_with_odd_characters_is_no_wildcard() {
        assert!(!has_wildcard(&pattern_of(Path::new("odd[1]/a.toml"), "b.toml")));
        assert!(has_wildcard(&pattern_of(Path::new("odd[1]/a.toml"), "*.toml")));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd[1]");
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join("b.toml"), "").unwrap();
        for include in ["b.toml", "*.toml"] {
            let pattern = pattern_of(&odd.join("a.toml"), include);
            assert_eq!(Files::Disk.matching(&pattern).unwrap(), [odd.join("b.toml")]);
        }
    }

    #[test]
    fn hidden_files_are_not_included() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".#a.toml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let pattern = pattern_of(&folder.path().join("main"), "*.toml");
        let found = Files::Disk.matching(&pattern).unwrap();
        assert_eq!(found, [folder.path().join("a.toml"), folder.path().join("b.toml")]);
    }
}
