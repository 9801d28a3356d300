//! The edge under test: in the test process ([`Edge::start`]) or as the built binary ([`Edge::spawn`]).
//!
//! Both take the text that a user would write; [`configuration`] fills in what every test would repeat. Each edge has a
//! directory of its own with its configuration, its state and its access log, and ends when it is dropped. A failing
//! test prints the edge's log.

mod configuration;
mod in_process;
mod metrics;
mod spawned;

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

pub use configuration::complete;
pub use metrics::Labels;
pub use spawned::{Exit, Launch};

use super::{
    Client, Tls,
    client::{Raw, Response},
};
use in_process::InProcess;
use spawned::Spawned;

/// A running edge.
pub struct Edge {
    driver: Driver,
    directory: Arc<Directory>,
    addresses: Vec<String>,
    listeners: BTreeMap<String, String>,
    admin: Option<String>,
}

/// A directory, which an edge shares with those that took over from it.
struct Directory {
    folder: TempDir,
    /// How many processes were started in it.
    processes: AtomicUsize,
}

impl Directory {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, file: &Path, launch: Launch) -> Spawned {
        let nth = self.processes.fetch_add(1, Ordering::SeqCst) + 1;
        Spawned::start(self.path(), file, launch, nth)
    }
}

enum Driver {
    InProcess(InProcess),
    Spawned(Spawned),
}

/// What a reload came to: the generation in force, or what was said against it.
pub type Reloaded = Result<u64, String>;

impl Edge {
    /// Starts the edge in the test process.
    ///
    /// `{0}`, `{1}` in the text stand for the origins' addresses, `{dir}` for the edge's directory.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(origins: &[&dyn Display], text: &str) -> Self {
        let prepared = Prepared::new(origins, text);
        let started = InProcess::start(&prepared.file).unwrap_or_else(|error| panic!("{error}"));
        let (listeners, admin) = (started.listeners(), started.admin_address());
        prepared.running(Driver::InProcess(started), listeners, admin)
    }

    /// Starts the edge in the test process; an error says why it did not.
    ///
    /// # Errors
    /// What the edge says.
    pub fn try_start(origins: &[&dyn Display], text: &str) -> Result<Self, String> {
        let prepared = Prepared::new(origins, text);
        let started = InProcess::start(&prepared.file)?;
        let (listeners, admin) = (started.listeners(), started.admin_address());
        Ok(prepared.running(Driver::InProcess(started), listeners, admin))
    }

    /// Starts the built binary: for signals, exit codes, memory, and what must hold in a process of its own.
    ///
    /// # Panics
    /// When it does not serve within 20 s; its log is in the message.
    #[track_caller]
    pub fn spawn(origins: &[&dyn Display], text: &str) -> Self {
        Self::spawn_with(origins, text, &[])
    }

    /// Starts the built binary with more arguments.
    ///
    /// # Panics
    /// When it does not serve within 20 s; its log is in the message.
    #[track_caller]
    pub fn spawn_with(origins: &[&dyn Display], text: &str, arguments: &[&str]) -> Self {
        Self::launch(origins, text, Launch::default().arguments(arguments))
    }

    /// Starts the built binary as `launch` says.
    ///
    /// # Panics
    /// When it does not serve within 20 s; its log is in the message.
    #[track_caller]
    pub fn launch(origins: &[&dyn Display], text: &str, launch: Launch) -> Self {
        let prepared = Prepared::new(origins, text);
        let mut started = prepared.directory.start(&prepared.file, launch);
        let ready = started.ready().unwrap_or_else(|error| panic!("{error}"));
        prepared.running(Driver::Spawned(started), ready.listeners, ready.admin)
    }

    /// Runs the built binary and waits for its end: for what must not start.
    pub fn run_to_end(origins: &[&dyn Display], text: &str, limit: Duration) -> Exit {
        Self::run_launch_to_end(origins, text, Launch::default(), limit)
    }

    /// Runs the built binary as `launch` says and waits for its end.
    pub fn run_launch_to_end(
        origins: &[&dyn Display],
        text: &str,
        launch: Launch,
        limit: Duration,
    ) -> Exit {
        let prepared = Prepared::new(origins, text);
        let mut started = prepared.directory.start(&prepared.file, launch);
        started.wait_exit(limit).expect("the edge ends by itself")
    }

    /// Starts the built binary with `--upgrade`, with this edge's directory and its configuration as it is now.
    ///
    /// # Panics
    /// When it does not serve within 20 s; its log is in the message.
    #[track_caller]
    pub fn upgrade(&self) -> Self {
        self.try_upgrade(Launch::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts the built binary with `--upgrade`.
    ///
    /// # Errors
    /// It ended, or does not serve within 20 s; with its log.
    pub fn try_upgrade(&self, launch: Launch) -> Result<Self, String> {
        let launch = launch.arguments(&["--upgrade"]);
        let mut started = self.directory.start(&self.config_path(), launch);
        let ready = started.ready()?;
        Ok(Self {
            driver: Driver::Spawned(started),
            directory: Arc::clone(&self.directory),
            addresses: self.addresses.clone(),
            listeners: ready.listeners,
            admin: ready.admin,
        })
    }

    /// A client of the plain listener `http`.
    pub fn client(&self) -> Client {
        Client::to(self.address("http"))
    }

    /// A client of the TLS listener `https`.
    pub fn tls_client(&self, tls: Tls) -> Client {
        Client::to(self.address("https")).tls(tls)
    }

    /// A client that sends bytes to the plain listener `http`.
    pub fn raw(&self) -> Raw {
        Raw::connect(self.address("http"))
    }

    /// Where a listener is bound.
    ///
    /// # Panics
    /// When there is no such listener.
    #[track_caller]
    pub fn address(&self, listener: &str) -> String {
        // A reload may have added some.
        if let (None, Driver::InProcess(edge)) = (self.listeners.get(listener), &self.driver)
            && let Some(address) = edge.listeners().remove(listener)
        {
            return address;
        }
        self.listeners
            .get(listener)
            .unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.listeners))
            .clone()
    }

    /// A client of the admin listener.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn admin(&self) -> Client {
        Client::to(self.admin.as_deref().expect("an admin listener"))
    }

    /// Where the admin listener is.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn admin_address(&self) -> &str {
        self.admin.as_deref().expect("an admin listener")
    }

    /// The sum of all series of a metric that have these labels; 0 where there is none.
    ///
    /// Labels are `()`, `[("upstream", "api")]`, or an origin: then the series whose `endpoint` is its address.
    /// A histogram's parts are asked for by their own names (`…_count`, `…_sum`).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "`metric(name, [(\"a\", \"b\")])` reads best"
    )]
    pub fn metric(&self, name: &str, labels: impl Labels) -> f64 {
        self.sum_of(name, &labels).unwrap_or(0.0)
    }

    /// As [`Self::metric`]; `None` where there is no such series.
    #[expect(clippy::needless_pass_by_value, reason = "as above")]
    pub fn metric_if_any(&self, name: &str, labels: impl Labels) -> Option<f64> {
        self.sum_of(name, &labels)
    }

    fn sum_of(&self, name: &str, labels: &impl Labels) -> Option<f64> {
        let text = self.admin().get("/metrics").send().assert_status(200).text();
        metrics::sum(&text, name, &labels.pairs())
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Value {
        self.admin().get("/v1/status").send().assert_status(200).json()
    }

    /// Writes the configuration anew and asks for a reload by the admin API.
    ///
    /// # Errors
    /// What the edge says against it.
    pub fn reload_with(&self, text: &str) -> Reloaded {
        self.write_config(text);
        self.reload()
    }

    /// Asks for a reload by the admin API.
    ///
    /// # Errors
    /// What the edge says against it.
    pub fn reload(&self) -> Reloaded {
        let answer = self.admin().timeout(Duration::from_secs(20)).post("/v1/config/reload").send();
        reloaded(&answer)
    }

    /// Reloads as the process does by itself, without the admin API. In the test process only.
    ///
    /// # Errors
    /// What the edge says against it.
    pub fn reload_directly(&self) -> Reloaded {
        match &self.driver {
            Driver::InProcess(edge) => edge.reload(),
            Driver::Spawned(_) => panic!("a spawned edge reloads by signal or API"),
        }
    }

    /// Writes the configuration anew, for the watcher to see.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.config_path(), self.completed(text)).expect("the file is written");
    }

    /// Writes the configuration beside the old one and renames it into place, as editors do.
    pub fn replace_config(&self, text: &str) {
        let beside = self.path("tidegate.toml.new");
        std::fs::write(&beside, self.completed(text)).expect("the file is written");
        std::fs::rename(beside, self.config_path()).expect("the file is renamed");
    }

    /// The text as it would be written: addresses and defaults filled in.
    pub fn completed(&self, text: &str) -> String {
        complete(text, &self.addresses, self.directory.path())
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.path("tidegate.toml")
    }

    /// A path in the edge's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The lines of the access log so far, as JSON.
    ///
    /// # Panics
    /// When a whole line is not JSON.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("access.log")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// What the edge has logged. The edge in the test process logs with the test.
    pub fn logs(&self) -> String {
        match &self.driver {
            Driver::InProcess(_) => String::new(),
            Driver::Spawned(edge) => edge.logs(),
        }
    }

    /// Sends a signal by its name: `TERM`, `HUP`, `QUIT`. Spawned only.
    pub fn signal(&self, name: &str) {
        self.spawned().signal(name);
    }

    /// Sends a signal and waits for the end of the process. Spawned only.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn signal_and_wait(&mut self, name: &str, limit: Duration) -> Exit {
        self.signal(name);
        self.wait_exit(limit).expect("the process ends")
    }

    /// The process's number. Spawned only.
    pub fn pid(&self) -> u32 {
        self.spawned().pid()
    }

    /// Resident memory in bytes. Spawned only.
    pub fn rss(&self) -> u64 {
        self.spawned().rss()
    }

    /// Waits for the end of the process; `None` when it still runs after `limit`. Spawned only.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<Exit> {
        match &mut self.driver {
            Driver::Spawned(edge) => edge.wait_exit(limit),
            Driver::InProcess(_) => panic!("an edge in the test process does not exit"),
        }
    }

    /// Ends the edge in the test process, with or without a drain, and waits for it.
    pub fn shut_down(&mut self, drain: bool) {
        match &mut self.driver {
            Driver::InProcess(edge) => edge.shut_down(drain),
            Driver::Spawned(_) => panic!("a spawned edge ends by signal"),
        }
    }

    fn spawned(&self) -> &Spawned {
        match &self.driver {
            Driver::Spawned(edge) => edge,
            Driver::InProcess(_) => panic!("this needs Edge::spawn"),
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = std::fs::read_to_string(self.config_path()).unwrap_or_default();
            eprintln!("--- configuration\n{text}\n--- the edge's log\n{}---", self.logs());
        }
    }
}

/// A directory with a configuration, before the edge runs.
struct Prepared {
    directory: Arc<Directory>,
    file: PathBuf,
    addresses: Vec<String>,
}

impl Prepared {
    fn new(origins: &[&dyn Display], text: &str) -> Self {
        let directory =
            tempfile::Builder::new().prefix("tidegate-").tempdir().expect("a directory");
        let addresses: Vec<String> = origins.iter().map(ToString::to_string).collect();
        let file = directory.path().join("tidegate.toml");
        let whole = complete(text, &addresses, directory.path());
        std::fs::create_dir_all(directory.path().join("state")).expect("a directory");
        std::fs::write(&file, whole).expect("the file is written");
        let directory = Arc::new(Directory { folder: directory, processes: AtomicUsize::new(0) });
        Self { directory, file, addresses }
    }

    fn running(
        self,
        driver: Driver,
        listeners: BTreeMap<String, String>,
        admin: Option<String>,
    ) -> Edge {
        Edge { driver, directory: self.directory, addresses: self.addresses, listeners, admin }
    }
}

/// Reads the answer of `POST /v1/config/reload`.
fn reloaded(answer: &Response) -> Reloaded {
    if answer.status != 200 {
        return Err(answer.text());
    }
    answer.json()["generation"].as_u64().ok_or_else(|| format!("no generation: {}", answer.text()))
}

/// Makes a path with a file under a directory, with the directories between.
pub fn write_file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("a directory");
    }
    std::fs::write(&path, text).expect("the file is written");
    path
}
