//! Watching the files of a configuration: one call for each new content, once it is still.
//!
//! File events only wake the watcher up; what counts is a fingerprint of all texts. It follows the includes by itself, so
//! that it also sees files that the last good configuration did not have. A poll stands behind the events. Editors that
//! replace a file by rename and Kubernetes, which swaps the link `..data`, are seen because folders are watched.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use sha2::{Digest, Sha256};

use super::{
    environment::{Environment, process_environment},
    fragments::Fragments,
    source::{Bundle, Files, has_wildcard, unescape},
};
use crate::types::defaults;

/// The least time between two looks at the files, however many events there are.
const PACE: Duration = Duration::from_millis(20);
/// Folders that are watched; the poll covers the rest.
const MAX_FOLDERS: usize = 1_024;
/// Links that are followed on the way to a file.
const MAX_LINKS: usize = 16;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
struct Timing {
    settle: Duration,
    poll: Duration,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    wake: mpsc::SyncSender<()>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Starts to watch the file at `path` and what it includes.
    ///
    /// What is on the disk now counts as known: start the watcher first, then load. `on_change` runs on the watcher's own
    /// thread, once for each new content that was still for [`defaults::SETTLE`]; what changes while it runs is seen after it.
    ///
    /// # Errors
    /// Where the thread can't be started. Without file events (limits of the system), the poll is left.
    pub fn start(path: &Path, on_change: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let timing = Timing { settle: defaults::SETTLE.0, poll: defaults::POLL.0 };
        Self::start_with(path, timing, on_change)
    }

    fn start_with(
        path: &Path,
        timing: Timing,
        on_change: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        // One place is enough: a wake that finds it taken is already on its way.
        let (wake, wakes) = mpsc::sync_channel(1);
        let events = wake.clone();
        let names = Arc::new(Mutex::new(Names::new()));
        let known_names = names.clone();
        let notify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if may_be_change(&event, &known_names.lock().unwrap_or_else(PoisonError::into_inner)) {
                let _ = events.try_send(());
            }
        });
        let notify = notify
            .inspect_err(|error| {
                tracing::warn!(%error, "no file events; the configuration is only polled");
            })
            .ok();
        let mut files = WatchedFiles::new(path, notify, names);
        let known = files.fingerprint();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let thread = thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || run(&mut files, known, timing, &wakes, &stopped, &on_change))?;
        Ok(Self { wake, is_stopped, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(
    files: &mut WatchedFiles,
    mut known: Fingerprint,
    timing: Timing,
    wakes: &mpsc::Receiver<()>,
    is_stopped: &AtomicBool,
    on_change: &(impl Fn() + Send),
) {
    // A content that is new, and since when it has been still.
    let mut pending: Option<(Fingerprint, Instant)> = None;
    loop {
        let wait = pending.map_or(timing.poll, |(_, since)| {
            timing.settle.saturating_sub(since.elapsed()).max(Duration::from_millis(1))
        });
        match wakes.recv_timeout(wait) {
            Ok(()) => thread::sleep(PACE),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if is_stopped.load(Ordering::Acquire) {
            return;
        }
        let looked = Instant::now();
        let current = files.fingerprint();
        match pending {
            _ if current == known => pending = None,
            Some((content, since)) if content == current => {
                if since.elapsed() >= timing.settle {
                    known = current;
                    pending = None;
                    on_change();
                }
            }
            _ => pending = Some((current, looked)),
        }
    }
}

/// The names of the files, and of what links to them point to.
type Names = HashSet<OsString>;

/// Whether an event can be a change of the configuration. Reading files is an event too; and a log that is written beside
/// the files would make many. What comes, goes or is renamed may be a new include.
fn may_be_change(event: &notify::Result<notify::Event>, names: &Names) -> bool {
    match event {
        Ok(notify::Event { kind: EventKind::Access(_), .. }) => false,
        Ok(notify::Event { kind: EventKind::Modify(ModifyKind::Data(_)), paths, .. }) => {
            paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name))
        }
        _ => true,
    }
}

/// SHA-256 of all texts with their paths.
type Fingerprint = [u8; 32];

/// The files as they were last seen.
struct WatchedFiles {
    path: PathBuf,
    notify: Option<RecommendedWatcher>,
    names: Arc<Mutex<Names>>,
    seen: Bundle,
    fingerprint: Fingerprint,
}

impl WatchedFiles {
    fn new(path: &Path, notify: Option<RecommendedWatcher>, names: Arc<Mutex<Names>>) -> Self {
        let path = path.to_owned();
        Self { path, notify, names, seen: Bundle::default(), fingerprint: Fingerprint::default() }
    }

    /// What is on the disk now. Texts are parsed for their includes only where one of them changed.
    fn fingerprint(&mut self) -> Fingerprint {
        // Before the look, so that what changes after it makes an event.
        self.watch_folders();
        if self.is_as_seen() {
            return self.fingerprint;
        }
        let environment = Environment(&process_environment);
        self.seen = Fragments::gather(&self.path, Files::Disk, environment).to_bundle();
        let mut hasher = Sha256::new();
        for source in &self.seen.files {
            for part in [source.path.as_os_str().as_encoded_bytes(), source.text.as_bytes()] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        self.fingerprint = hasher.finalize().into();
        self.watch_folders();
        self.fingerprint
    }

    /// Whether each file has the text that it had, and each include finds what it found.
    fn is_as_seen(&self) -> bool {
        let read: HashSet<&Path> =
            self.seen.files.iter().map(|source| source.path.as_path()).collect();
        let is_whole = !read.is_empty()
            && self.seen.includes.values().flatten().all(|path| read.contains(path.as_path()));
        is_whole
            && self
                .seen
                .files
                .iter()
                .all(|source| Files::Disk.read(&source.path).is_ok_and(|text| text == source.text))
            && self.seen.includes.iter().all(|(pattern, found)| {
                Files::Disk.matching(pattern).is_ok_and(|now| now == *found)
            })
    }

    /// Watches every folder that a change can happen in. Watching one again does nothing, or heals a watch that was lost.
    fn watch_folders(&mut self) {
        let Some(notify) = &mut self.notify else { return };
        let mut places = Places::default();
        places.add(&self.path, 0);
        for source in &self.seen.files {
            places.add(&source.path, 0);
        }
        for pattern in self.seen.includes.keys() {
            places.add_pattern(pattern);
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = places.names;
        for folder in places.folders.into_iter().take(MAX_FOLDERS) {
            if let Err(error) = notify.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "folder is only polled");
            }
        }
    }
}

/// Where a change can happen.
#[derive(Default)]
struct Places {
    folders: BTreeSet<PathBuf>,
    names: Names,
}

impl Places {
    /// A file and each link on the way to it: a swapped link is a change of the folder that holds it.
    fn add(&mut self, path: &Path, links: usize) {
        self.folders.insert(folder_of(path));
        self.names.extend(path.file_name().map(ToOwned::to_owned));
        if links > MAX_LINKS {
            return;
        }
        for ancestor in path.ancestors().filter(|ancestor| ancestor.is_symlink()) {
            let folder = folder_of(ancestor);
            if let (Ok(target), Ok(rest)) = (ancestor.read_link(), path.strip_prefix(ancestor)) {
                let target = folder.join(target);
                let target = if rest.as_os_str().is_empty() { target } else { target.join(rest) };
                self.add(&target, links + 1);
            }
            self.folders.insert(folder);
        }
    }

    /// The folders in which a new file could match.
    fn add_pattern(&mut self, pattern: &str) {
        let mut ancestor = Path::new(pattern).parent();
        while let Some(folder) = ancestor {
            let text = folder.to_string_lossy();
            if !has_wildcard(&text) {
                self.add(&PathBuf::from(unescape(&text)).join("any"), 0);
                return;
            }
            for found in glob::glob(&text).into_iter().flatten().flatten().take(MAX_FOLDERS) {
                if found.is_dir() {
                    self.folders.insert(found);
                }
            }
            ancestor = folder.parent();
        }
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::mpsc::{Receiver, channel},
    };

    use super::*;

    const TEXT: &str = "include = [\"sites/*.toml\"]\n";
    const LONG: Duration = Duration::from_secs(10);

    fn timing() -> Timing {
        // The poll is out of reach: what these tests see, they see by events.
        Timing { settle: Duration::from_millis(40), poll: Duration::from_mins(1) }
    }

    struct Watched {
        folder: tempfile::TempDir,
        changes: Receiver<()>,
        _watcher: Watcher,
    }

    impl Watched {
        fn start(timing: Timing, prepare: impl FnOnce(&Path)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            let (sender, changes) = channel();
            let main = folder.path().join("tidegate.toml");
            let watcher =
                Watcher::start_with(&main, timing, move || sender.send(()).unwrap()).unwrap();
            Self { folder, changes, _watcher: watcher }
        }

        fn plain(timing: Timing) -> Self {
            Self::start(timing, |folder| {
                fs::create_dir(folder.join("sites")).unwrap();
                fs::write(folder.join("tidegate.toml"), TEXT).unwrap();
                fs::write(folder.join("sites/a.toml"), "# a").unwrap();
            })
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.folder.path().join(name), text).unwrap();
        }

        /// One change comes, and no second one.
        fn sees_one(&self, what: &str) {
            assert!(self.changes.recv_timeout(LONG).is_ok(), "{what} is not seen");
            self.sees_none(what);
        }

        fn sees_none(&self, what: &str) {
            self.sees_none_for(Duration::from_millis(200), what);
        }

        fn sees_none_for(&self, quiet: Duration, what: &str) {
            assert!(self.changes.recv_timeout(quiet).is_err(), "{what} is seen");
        }
    }

    #[test]
    fn each_new_content_is_one_change() {
        let watched = Watched::plain(timing());
        watched.write("tidegate.toml", TEXT);
        watched.sees_none("the same content");
        watched.write("sites/a.toml", "# changed");
        watched.sees_one("a changed include");
        watched.write("sites/b.toml", "# new");
        watched.sees_one("a new include");
        fs::remove_file(watched.folder.path().join("sites/b.toml")).unwrap();
        watched.sees_one("an include that went away");
        watched.write("other.txt", "x");
        watched.sees_none("a file that is not included");
        // What is broken is a content like any other.
        watched.write("sites/a.toml", "not toml [");
        watched.sees_one("a broken file");
        watched.write("sites/a.toml", "not toml [");
        watched.sees_none("the same broken file");
    }

    #[test]
    fn fifty_rewrites_are_fifty_changes() {
        let watched = Watched::plain(timing());
        for i in 0..50 {
            watched.write("sites/a.toml", &format!("broken {i} ["));
            assert!(watched.changes.recv_timeout(LONG).is_ok(), "rewrite {i} is not seen");
        }
        watched.sees_none("a fifty-first change");
    }

    #[test]
    fn a_half_written_file_is_waited_for() {
        let timing = Timing { settle: Duration::from_millis(150), poll: Duration::from_mins(1) };
        let watched = Watched::plain(timing);
        let mut file = fs::File::create(watched.folder.path().join("sites/a.toml")).unwrap();
        for i in 0..10 {
            use std::io::Write;
            writeln!(file, "# line {i}").unwrap();
            // Each write starts the wait anew.
            watched.sees_none_for(Duration::from_millis(40), "a half-written file");
        }
        watched.sees_one("the whole file");
    }

    #[test]
    fn a_file_replaced_by_rename_is_seen() {
        let watched = Watched::plain(timing());
        for text in ["# one", "# two"] {
            watched.write("sites/.a.toml.swp", text);
            let folder = watched.folder.path().join("sites");
            fs::rename(folder.join(".a.toml.swp"), folder.join("a.toml")).unwrap();
            watched.sees_one(text);
        }
    }

    #[test]
    fn a_swapped_link_is_seen() {
        let swap = |folder: &Path, version: &str| {
            let data = folder.join(version);
            fs::create_dir_all(data.join("sites")).unwrap();
            fs::write(data.join("tidegate.toml"), TEXT).unwrap();
            fs::write(data.join("sites/a.toml"), format!("# {version}")).unwrap();
            symlink(version, folder.join("..data_tmp")).unwrap();
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        };
        let watched = Watched::start(timing(), |folder| {
            swap(folder, "..1");
            for name in ["tidegate.toml", "sites"] {
                symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
            }
        });
        swap(watched.folder.path(), "..2");
        watched.sees_one("the second version");
        fs::remove_dir_all(watched.folder.path().join("..1")).unwrap();
        swap(watched.folder.path(), "..3");
        watched.sees_one("the third version");
        fs::write(watched.folder.path().join("..3/sites/a.toml"), "# edited").unwrap();
        watched.sees_one("an edit behind the links");
    }

    #[test]
    fn a_log_beside_the_files_wakes_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (main, log) = (folder.path().join("tidegate.toml"), folder.path().join("access.log"));
        for file in [&main, &log] {
            fs::write(file, "# 1").unwrap();
        }
        let mut files = WatchedFiles::new(&main, None, Arc::default());
        // Without events there is nothing to watch, and no names are learned.
        files.notify = notify::recommended_watcher(|_| {}).ok();
        files.fingerprint();
        let names = files.names.lock().unwrap();
        let event = |kind, path: &Path| Ok(notify::Event::new(kind).add_path(path.to_owned()));
        let data = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let create = EventKind::Create(notify::event::CreateKind::File);
        assert!(may_be_change(&event(data, &main), &names));
        assert!(!may_be_change(&event(data, &log), &names));
        assert!(may_be_change(&event(create, &log), &names));
    }

    #[test]
    fn the_poll_stands_behind_the_events() {
        let timing = Timing { settle: Duration::from_millis(20), poll: Duration::from_millis(30) };
        let watched = Watched::start(timing, |_| {});
        // A folder that does not exist yet can't be watched.
        fs::create_dir(watched.folder.path().join("sites")).unwrap();
        watched.write("sites/a.toml", "# a");
        watched.write("tidegate.toml", TEXT);
        assert!(watched.changes.recv_timeout(LONG).is_ok());
    }

    #[test]
    fn a_change_during_a_reload_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("tidegate.toml");
        fs::write(&main, "# 0").unwrap();
        let (sender, changes) = channel();
        let (go_on, wait) = channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let _watcher = Watcher::start_with(&main, timing(), move || {
            sender.send(()).unwrap();
            let _ = wait.lock().unwrap().recv_timeout(LONG);
        })
        .unwrap();
        fs::write(&main, "# 1").unwrap();
        changes.recv_timeout(LONG).unwrap();
        fs::write(&main, "# 2").unwrap();
        go_on.send(()).unwrap();
        changes.recv_timeout(LONG).unwrap();
        go_on.send(()).unwrap();
    }

    #[test]
    fn a_change_is_seen_in_time() {
        let timing = Timing { settle: defaults::SETTLE.0, poll: defaults::POLL.0 };
        let watched = Watched::plain(timing);
        let start = Instant::now();
        watched.write("sites/a.toml", "# changed");
        watched.changes.recv_timeout(LONG).unwrap();
        assert!(start.elapsed() >= timing.settle, "{:?}", start.elapsed());
        assert!(start.elapsed() < timing.poll, "{:?}", start.elapsed());
    }
}
