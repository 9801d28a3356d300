//! The state of rollouts on disk: one file, replaced whole.
//!
//! A file that can't be read is set aside and told loudly; the edge then starts as with no state: what the file of the
//! configuration says is live, and no rollout starts by itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tracing::error;

use super::controller::Progress;
use crate::{
    state::{Mode, StoreError, read_versioned, write_versioned},
    types::Name,
};

/// Version of the format.
const VERSION: u32 = 1;
/// Rollouts that are remembered beside those of the configuration.
const MOST_GONE: usize = 1_000;

/// How far each rollout is.
pub(super) type Kept = BTreeMap<Name, Progress>;

pub(super) fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("rollouts.json")
}

/// What was kept; nothing where there is no file, or none that can be read.
pub(super) fn read(path: &Path) -> Kept {
    match read_versioned(path, VERSION) {
        Ok(kept) => kept.unwrap_or_default(),
        Err(problem) => {
            let aside = path.with_extension("unreadable");
            let moved = std::fs::rename(path, &aside);
            error!(
                error = %problem,
                aside = moved.is_ok().then(|| aside.display().to_string()),
                "the state of rollouts can't be read: all requests go where the configuration says, and no rollout starts by itself"
            );
            Kept::default()
        }
    }
}

/// Replaces the file.
pub(super) fn write(path: &Path, kept: &Kept) -> Result<(), StoreError> {
    if let (true, Some(folder)) = (!kept.is_empty(), path.parent()) {
        std::fs::create_dir_all(folder).map_err(|source| StoreError::Io {
            action: "creating",
            path: folder.to_owned(),
            source,
        })?;
    } else if !path.exists() {
        return Ok(());
    }
    write_versioned(path, VERSION, kept, Mode::Private)
}

/// Forgets rollouts that are not there any more, where they are too many.
pub(super) fn bound(kept: &mut Kept, is_there: impl Fn(&Name) -> bool) {
    let gone: Vec<Name> = kept.keys().filter(|name| !is_there(name)).cloned().collect();
    for name in gone.iter().skip(MOST_GONE) {
        kept.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_what_is_damaged_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder.path().join("new"));
        assert!(read(&path).is_empty());
        write(&path, &Kept::default()).unwrap();
        assert!(!path.exists(), "nothing to keep");
        let kept: Kept = [("shop".parse().unwrap(), Progress::default())].into();
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), kept);
        for damaged in [
            "",
            "{",
            "{\"version\":2,\"data\":{}}",
            "{\"version\":1,\"data\":{\"a\":{\"phase\":\"x\"}}}",
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(read(&path).is_empty(), "{damaged}");
            assert!(!path.exists() && path.with_extension("unreadable").exists());
        }
        let many: Vec<Name> = (0..2_000).map(|n| format!("r{n:04}").parse().unwrap()).collect();
        let mut kept: Kept = many.iter().map(|name| (name.clone(), Progress::default())).collect();
        bound(&mut kept, |name| *name == many[1_999]);
        assert_eq!((kept.len(), kept.contains_key(&many[1_999])), (1_001, true));
    }
}
