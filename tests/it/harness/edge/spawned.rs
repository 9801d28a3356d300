//! The edge as the built binary: `tidegate run --config FILE --ready-file FILE`.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// How long the binary may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// How often files and the process are looked at.
const POLL: Duration = Duration::from_millis(10);

/// The binary under test: the one that was built with the tests, or another one that `TIDEGATE_BINARY` names, such as a
/// release build.
fn binary() -> PathBuf {
    std::env::var_os("TIDEGATE_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tidegate")), PathBuf::from)
}

/// A running process. Dropped, it is killed.
pub(super) struct Spawned {
    child: Child,
    ready_file: PathBuf,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

/// What the edge writes when it serves.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub(super) listeners: BTreeMap<String, String>,
    pub(super) admin: Option<String>,
}

/// How the process ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All it said.
    pub log: String,
}

impl Spawned {
    pub(super) fn start(
        directory: &Path,
        file: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let log = directory.join("edge.log");
        let ready_file = directory.join("ready.json");
        let output = File::create(&log).expect("a log file");
        let child = Command::new(binary())
            .arg("run")
            .arg("--config")
            .arg(file)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments)
            .env("RUST_BACKTRACE", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log file"))
            .stderr(output)
            .spawn()
            .expect("the built binary runs");
        Self { child, ready_file, log, exit: None }
    }

    /// Waits until the edge serves and tells where.
    pub(super) fn ready(&mut self) -> Result<Ready, String> {
        let end = Instant::now() + READY;
        loop {
            // Half a file is no JSON yet.
            if let Ok(text) = std::fs::read_to_string(&self.ready_file)
                && let Ok(ready) = serde_json::from_str(&text)
            {
                return Ok(ready);
            }
            if let Some(exit) = self.poll() {
                return Err(format!("the edge ended at start with {exit}:\n{}", self.logs()));
            }
            if Instant::now() >= end {
                return Err(format!("the edge does not serve after {READY:?}:\n{}", self.logs()));
            }
            thread::sleep(POLL);
        }
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("our own child");
        }
        self.exit
    }

    pub(super) fn wait_exit(&mut self, limit: Duration) -> Option<Exit> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll() {
                return Some(Exit { code: status.code(), log: self.logs() });
            }
            if Instant::now() >= end {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    pub(super) fn signal(&self, name: &str) {
        // The shell's own `kill`: no unsafe code for the sake of a test.
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -s {name} {}", self.pid()))
            .status()
            .expect("a shell");
        assert!(status.success(), "{name} could not be sent to {}", self.pid());
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, from `/proc/<pid>/status`: proc(5).
    pub(super) fn rss(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1_024
    }

    pub(super) fn logs(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.poll().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
