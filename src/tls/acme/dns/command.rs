//! A record written by a program of the user's, for every DNS provider that has a tool.
//!
//! The program is run without a shell, in a process group of its own, which is killed when its time is over or when the
//! future is dropped. Processes that it leaves behind after it has ended are its own matter.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, Command},
};

use super::{config::DnsCommand, error::DnsError, update::Change};
use crate::types::HumanDuration;

/// Standard error that is kept for the error.
const MAX_STDERR: usize = 4096;
/// What the program gets of the edge's environment: to find other programs, their settings, and its language.
const KEPT_VARIABLES: [&str; 3] = ["PATH", "HOME", "LANG"];
/// What is still in the pipe when the program has ended is read within this.
const DRAIN: Duration = Duration::from_millis(200);
/// The end of a killed program is waited for so long.
const REAP: Duration = Duration::from_secs(5);

/// Runs the program. `name` has no dot at its end.
pub(super) async fn run(
    command: &DnsCommand,
    timeout: Duration,
    (name, value): (&str, &str),
    change: Change,
) -> Result<(), DnsError> {
    let program = || command.program.clone();
    let action = match change {
        Change::Add => "present",
        Change::Remove => "clean-up",
    };
    let mut started = Command::new(&command.program);
    started
        .args(&command.arguments)
        .args([action, name, value])
        .env_clear()
        .envs(KEPT_VARIABLES.iter().filter_map(|key| Some((key, std::env::var_os(key)?))))
        .env("TIDEGATE_DNS_ACTION", action)
        .env("TIDEGATE_DNS_NAME", name)
        .env("TIDEGATE_DNS_VALUE", value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child =
        started.spawn().map_err(|source| DnsError::CommandStart { program: program(), source })?;
    // Declared after the child, and so dropped before it: the group is killed while its leader's id is still its own.
    let mut group = Group::of(&child);
    let mut stderr = Excerpt::default();
    match tokio::time::timeout(timeout, end_of(&mut child, &mut stderr)).await {
        Ok(Ok(status)) => {
            group.forget();
            if status.success() {
                return Ok(());
            }
            let stderr = stderr.text();
            Err(DnsError::CommandFailed { program: program(), action, status, stderr })
        }
        Ok(Err(source)) => Err(DnsError::CommandStart { program: program(), source }),
        Err(_) => {
            group.kill();
            // Reaped here, so that it is gone when the caller goes on. Else by the runtime.
            let _ = tokio::time::timeout(REAP, child.wait()).await;
            let (after, stderr) = (HumanDuration(timeout), stderr.text());
            Err(DnsError::CommandTimeout { program: program(), action, after, stderr })
        }
    }
}

/// Waits for the end, and reads standard error meanwhile: all of it, so that the program is never held up by a full pipe.
async fn end_of(child: &mut Child, stderr: &mut Excerpt) -> io::Result<ExitStatus> {
    let Some(mut pipe) = child.stderr.take() else { return child.wait().await };
    let status = tokio::select! {
        status = child.wait() => status?,
        () = stderr.read(&mut pipe) => child.wait().await?,
    };
    // A process that the program left behind may hold the pipe open for ever.
    let _ = tokio::time::timeout(DRAIN, stderr.read(&mut pipe)).await;
    Ok(status)
}

/// The beginning of what a program says.
#[derive(Default)]
struct Excerpt(Vec<u8>);

impl Excerpt {
    /// Reads to the end, or to an error, which is as good. May be dropped at any time.
    async fn read(&mut self, pipe: &mut ChildStderr) {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            let room = MAX_STDERR - self.0.len();
            self.0.extend(buffer.iter().take(length.min(room)));
        }
    }

    /// In one line, without what would move a terminal's cursor.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let text = text.trim().replace(|letter: char| letter.is_control(), " ");
        if self.0.len() < MAX_STDERR { text } else { text + "…" }
    }
}

/// The process group of a program that runs; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The program has ended: its id may be another's soon.
    fn forget(&mut self) {
        self.0 = None;
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // Nothing can be done about a group that is gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests;
