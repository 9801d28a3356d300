//! A process that we started, on a core of its own, and that ends with us.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure;

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ended when it is dropped.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts a program on one core; what it prints goes to `<name>.out` in the folder.
    ///
    /// `setpriv` asks the kernel to end it should we be killed, `taskset` pins it; both become the program.
    pub(crate) fn start(
        name: &str,
        core: usize,
        folder: &Path,
        program: &Path,
        args: &[&str],
    ) -> Result<Self> {
        let output = folder.join(format!("{name}.out"));
        let file = File::create(&output)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string()])
            .arg(program)
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("can't start {name} by setpriv"))?;
        Ok(Self { child, output })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The workers of nginx are its children: they end when it is asked to, not when it is killed.
        let tree = measure::tree(self.child.id());
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if self.is_running() {
            for process in tree {
                signal(process, Signal::KILL);
            }
        }
        // It has ended, or it can't be ended.
        drop(self.child.wait());
    }
}

fn signal(process: u32, signal: Signal) {
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It may have ended already.
        let _ = kill_process(process, signal);
    }
}
