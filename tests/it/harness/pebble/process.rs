//! A program of Debian's as a child process, and ports that are kept for it.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::harness::origin::reserve;

/// How long a program may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(10);
/// What Go's network package says of a port that somebody else has.
const TAKEN: &str = "address already in use";

/// A running program. Dropped, it is killed.
pub(super) struct Process {
    child: Child,
    name: &'static str,
    output: PathBuf,
}

/// Why a program does not serve.
#[derive(Debug)]
pub(super) enum StartError {
    /// Somebody else has its port.
    Taken,
    /// Anything else, with what it said.
    Failed(String),
}

impl Process {
    /// Starts a program of `PATH`. What it says is kept in `directory`.
    pub(super) fn start(name: &'static str, command: &mut Command, directory: &Path) -> Self {
        let output = directory.join(format!("{name}.log"));
        let file = File::create(&output).expect("a log file");
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error} (scripts/setup.sh test installs it)"));
        Self { child, name, output }
    }

    /// Waits until the program serves, as `is_ready` says.
    pub(super) fn wait_ready(
        &mut self,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<(), StartError> {
        let end = Instant::now() + READY;
        loop {
            let ended = self.child.try_wait().expect("our own child");
            let said = self.said();
            if said.contains(TAKEN) {
                return Err(StartError::Taken);
            }
            if let Some(status) = ended {
                return Err(StartError::Failed(format!("{} ended, {status}:\n{said}", self.name)));
            }
            if is_ready() {
                return Ok(());
            }
            if Instant::now() >= end {
                let name = self.name;
                let why = format!("{name} does not serve after {READY:?}:\n{said}");
                return Err(StartError::Failed(why));
            }
            thread::sleep(POLL);
        }
    }

    /// All it said so far.
    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port that stays ours: bound, not listened on, with `SO_REUSEADDR`. Go's listeners set that too, and may then
/// listen on it; nobody is given it who asks for any free port.
pub(super) struct Port {
    _held: Socket,
    pub(super) address: SocketAddr,
}

impl Port {
    /// A free port for TCP.
    pub(super) fn tcp() -> Self {
        let held = reserve((Ipv4Addr::LOCALHOST, 0).into());
        let address = held.local_addr().expect("an address").as_socket().expect("an IP address");
        Self { _held: held, address }
    }

    /// A port that is free for TCP and UDP. For UDP it can't be held: it may be taken until it is used.
    pub(super) fn tcp_and_udp() -> Self {
        loop {
            let port = Self::tcp();
            if UdpSocket::bind(port.address).is_ok() {
                return port;
            }
        }
    }
}
