//! Experiments that somebody has switched by the API, in memory and on disk.
//!
//! Off the request path but for [`Switch`], which is one atomic. What was switched goes before what the file says until it is
//! reset: over reloads, restarts, and while the experiment is gone from the configuration. At most [`MAX_KEPT`] are kept; of more,
//! the oldest goes, and one that no configuration has before one that is in force.
//!
//! A file that can't be read switches nothing: the edge starts with what the configuration says, and tells so in its log and
//! its status.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tracing::error;

use crate::{
    state::{Mode, Registry, StoreError, read_versioned, write_versioned},
    types::Name,
};

/// The file in the state directory.
const FILE: &str = "experiments.json";
/// A file that could not be read is moved here when another is written.
const UNREADABLE: &str = "experiments.json.unreadable";
/// The version of its format.
const VERSION: u32 = 1;
/// The most that are kept.
const MAX_KEPT: usize = 1_000;

/// Nobody has switched it.
const AS_WRITTEN: u8 = 0;
const ON: u8 = 1;
const OFF: u8 = 2;

/// Whether an experiment is on, as far as it was switched. For requests.
#[derive(Debug)]
pub(super) struct Switch(AtomicU8);

impl Switch {
    fn new(switched: Option<&Switched>) -> Self {
        Self(AtomicU8::new(Self::word(switched)))
    }

    /// Whether it is on, where the configuration says `enabled`.
    pub(super) fn is_on(&self, enabled: bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            ON => true,
            OFF => false,
            _ => enabled,
        }
    }

    fn set(&self, switched: Option<&Switched>) {
        self.0.store(Self::word(switched), Ordering::Relaxed);
    }

    fn word(switched: Option<&Switched>) -> u8 {
        switched.map_or(AS_WRITTEN, |switched| if switched.on { ON } else { OFF })
    }
}

/// An experiment that was switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switched {
    /// To on.
    pub on: bool,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// All that were switched.
#[derive(Debug)]
pub(super) struct Switches {
    path: PathBuf,
    kept: Mutex<Kept>,
    live: Registry<Name, Switch>,
    /// One writes at a time, so that the newest state is the last on disk.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    switched: BTreeMap<Name, Switched>,
    /// Why the file on disk says something else.
    problem: Option<String>,
    /// The file could not be read, and is still there.
    is_unreadable: bool,
}

impl Switches {
    /// Those in the state directory. Blocks.
    pub(super) fn of(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let kept = Mutex::new(Kept::read(&path));
        Self { path, kept, live: Registry::new(), writing: Mutex::new(()) }
    }

    /// Reads the file again: another process may have written it. Blocks.
    pub(super) fn read_again(&self) {
        let read = Kept::read(&self.path);
        let mut kept = self.kept();
        for name in kept.switched.keys().chain(read.switched.keys()) {
            self.switch_of(name, &read);
        }
        *kept = read;
    }

    /// The switch of an experiment.
    pub(super) fn get(&self, name: &Name) -> Arc<Switch> {
        let kept = self.kept();
        self.live.get_or_insert_with(name.clone(), || Switch::new(kept.switched.get(name)))
    }

    /// How it was switched, where it was.
    pub(super) fn switched(&self, name: &Name) -> Option<Switched> {
        self.kept().switched.get(name).copied()
    }

    /// Why the file on disk says something else, in words.
    pub(super) fn problem(&self) -> Option<String> {
        self.kept().problem.clone()
    }

    /// Switches an experiment, or takes back what was switched. It holds at once; then it is written. Blocks.
    ///
    /// # Errors
    /// It can't be written: it holds until the process ends.
    pub(super) fn set(
        &self,
        name: &Name,
        to: Option<Switched>,
        is_in_force: impl Fn(&Name) -> bool,
    ) -> Result<(), StoreError> {
        {
            let mut kept = self.kept();
            match to {
                Some(switched) => drop(kept.switched.insert(name.clone(), switched)),
                None => drop(kept.switched.remove(name)),
            }
            while kept.switched.len() > MAX_KEPT {
                let oldest = kept
                    .switched
                    .iter()
                    .filter(|(other, _)| *other != name)
                    .min_by_key(|(other, switched)| (is_in_force(other), switched.at))
                    .map(|(other, _)| other.clone());
                let Some(oldest) = oldest else { break };
                kept.switched.remove(&oldest);
                self.switch_of(&oldest, &kept);
            }
            self.switch_of(name, &kept);
        }
        self.write()
    }

    /// Forgets switches that nothing uses; what they say is kept.
    pub(super) fn sweep(&self, now: Instant) {
        self.live.sweep(now);
    }

    fn switch_of(&self, name: &Name, kept: &Kept) {
        let switched = kept.switched.get(name);
        self.live.get_or_insert_with(name.clone(), || Switch::new(switched)).set(switched);
    }

    fn write(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (switched, is_unreadable) = {
            let kept = self.kept();
            (kept.switched.clone(), kept.is_unreadable)
        };
        if let Some(folder) = self.path.parent() {
            // Where it can't be made, writing says why.
            let _ = fs::create_dir_all(folder);
        }
        if is_unreadable {
            // For a person to look at, or for another version of this program.
            let _ = fs::rename(&self.path, self.path.with_file_name(UNREADABLE));
        }
        let written = write_versioned(&self.path, VERSION, &switched, Mode::Private);
        let mut kept = self.kept();
        kept.problem = written.as_ref().err().map(words);
        kept.is_unreadable &= written.is_err();
        written
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Entries are inserted and removed at one point.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn read(path: &Path) -> Self {
        match read_versioned(path, VERSION) {
            Ok(switched) => Self { switched: switched.unwrap_or_default(), ..Self::default() },
            Err(problem) => {
                let words = words(&problem);
                error!(
                    error = %words,
                    "what was switched of experiments can't be read: they are as the configuration says"
                );
                Self { problem: Some(words), is_unreadable: true, ..Self::default() }
            }
        }
    }
}

/// An error with its cause.
fn words(error: &StoreError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn to(on: bool, at: u64) -> Switched {
        Switched { on, at }
    }

    #[test]
    fn what_is_switched_holds_at_once_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        // The folder may have to be made.
        let state_dir = folder.path().join("state");
        let switches = Switches::of(&state_dir);
        let (a, b) = (name("a"), name("b"));
        let switch = switches.get(&a);
        assert!(switch.is_on(true) && !switch.is_on(false));
        switches.set(&a, Some(to(false, 7)), |_| true).unwrap();
        assert!(!switch.is_on(true));
        switches.set(&b, Some(to(true, 8)), |_| true).unwrap();
        assert!(switches.get(&b).is_on(false), "before anything asked for it");

        let restarted = Switches::of(&state_dir);
        assert_eq!(restarted.switched(&a), Some(to(false, 7)));
        assert!(!restarted.get(&a).is_on(true) && restarted.get(&b).is_on(false));
        restarted.set(&a, None, |_| true).unwrap();
        assert!(restarted.get(&a).is_on(true) && !restarted.get(&a).is_on(false));
        // The first one is a process that hands over to another, and back.
        switches.read_again();
        assert_eq!((switches.switched(&a), switches.switched(&b)), (None, Some(to(true, 8))));
        assert!(switch.is_on(true) && !switch.is_on(false));
        assert_eq!(Switches::of(&state_dir).problem(), None);
    }

    #[test]
    fn a_damaged_or_foreign_file_switches_nothing_and_is_moved_aside() {
        for text in ["{", "{\"version\":2,\"data\":{}}", "{\"version\":1,\"data\":{\"a b\":{}}}"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(FILE);
            fs::write(&file, text).unwrap();
            let switches = Switches::of(folder.path());
            assert!(switches.problem().unwrap().contains(FILE), "{text}");
            assert!(switches.get(&name("a")).is_on(true) && !switches.get(&name("a")).is_on(false));
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is left alone");
            switches.set(&name("a"), Some(to(true, 1)), |_| true).unwrap();
            assert_eq!(switches.problem(), None);
            assert_eq!(Switches::of(folder.path()).switched(&name("a")), Some(to(true, 1)));
            assert_eq!(fs::read_to_string(folder.path().join(UNREADABLE)).unwrap(), text);
        }
    }

    #[test]
    fn what_can_not_be_written_holds_until_the_end_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        // A file stands where the folder should.
        let state_dir = folder.path().join("state");
        fs::write(&state_dir, "").unwrap();
        let switches = Switches::of(&state_dir);
        let switch = switches.get(&name("a"));
        switches.set(&name("a"), Some(to(false, 1)), |_| true).unwrap_err();
        assert!(!switch.is_on(true));
        assert!(switches.problem().is_some());
    }

    #[test]
    fn of_too_many_the_oldest_that_nobody_has_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let switches = Switches::of(folder.path());
        {
            let mut kept = switches.kept();
            for at in 0..MAX_KEPT as u64 {
                kept.switched.insert(name(&format!("x{at}")), Switched { on: false, at });
            }
        }
        // x0 and x1 are the oldest, and in force.
        let is_in_force = |name: &Name| matches!(&**name, "x0" | "x1");
        let (x0, x2) = (switches.get(&name("x0")), switches.get(&name("x2")));
        switches.set(&name("new"), Some(to(false, 0)), is_in_force).unwrap();
        assert_eq!(switches.kept().switched.len(), MAX_KEPT);
        assert!(switches.switched(&name("new")).is_some(), "never the one that is switched");
        assert!(switches.switched(&name("x0")).is_some() && !x0.is_on(true));
        assert!(switches.switched(&name("x2")).is_none() && x2.is_on(true));
    }
}
