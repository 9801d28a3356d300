//! Upgrade: all listening sockets go to a new process, while both run.
//!
//! Every edge listens on a Unix socket in its state directory. A process that was started with `--upgrade` loads and
//! compiles its configuration and probes its endpoints first; then it asks there for the sockets ([`take`]), accepts on
//! them, and says that it is ready. Only then does the old one stop to accept and drain ([`give`]). Whatever goes wrong
//! before that leaves the old one as it was: the sockets are shared until then, and their accept queues belong to both.
//!
//! Invariants: a set of sockets is handed over whole; nothing is closed that still has a queue which nobody reads; only
//! processes of the same user, or root's, are answered; each step has a time limit.

mod channel;
mod give;
mod take;

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use self::{give::answer_successors, take::Takeover};
use super::state::{Core, Phase};
use crate::{
    admin::AdminServer,
    listener::{Inherited, Label, PassedSockets, Role, bind_unix},
    types::ListenAddress,
};

/// The hand-over socket in the state directory.
const SOCKET: &str = "hand-over.sock";
/// Its owner only.
const MODE: u32 = 0o600;
/// How long SIGQUIT waits for a new process before it says that none came.
const WAIT: Duration = Duration::from_secs(30);

/// Why a process did not get the sockets.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Nobody answers.
    #[error(
        "no edge answers on {}: {source}; is the state directory the same? To start one where none runs, leave --upgrade out",
        path.display()
    )]
    NoPredecessor {
        /// The hand-over socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hand over.
    #[error("the edge that runs hands nothing over: {0}")]
    Refused(String),
    /// It speaks another version of the messages.
    #[error(
        "the edge that runs speaks version {found} of the hand-over, and this one {}",
        channel::VERSION
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// It had waited too long when this one was ready.
    #[error("the edge that runs had given up waiting, and serves on")]
    GaveUp,
    /// The two could not talk, or a socket can't be used.
    #[error("the hand-over failed: {0}")]
    Io(#[from] io::Error),
}

fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

/// Whether an edge runs with this state directory: whether one answers on its hand-over socket.
///
/// One that could not bind that socket, or that drains after a signal, does not.
///
/// # Errors
/// It can't be told, such as where the socket is another user's.
pub fn is_running(state_dir: &Path) -> io::Result<bool> {
    match UnixStream::connect(socket_path(state_dir)) {
        Ok(_) => Ok(true),
        // A crash leaves the file; a killed edge's socket refuses.
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory => Ok(false),
            _ => Err(error),
        },
    }
}

/// What an edge has for its successor, beside the listeners' sockets, and how far the hand-over is.
#[derive(Default)]
pub(super) struct Estate {
    /// Sockets of the admin listener and of the hand-over itself.
    others: Mutex<Vec<PassedSockets>>,
    /// The admin listener is the new process's.
    pub(super) admin_is_left: CancellationToken,
    /// A new process serves.
    is_handed_over: CancellationToken,
    /// SIGQUIT was there, and the wait is not over.
    is_awaited: AtomicBool,
}

impl Estate {
    fn others(&self) -> MutexGuard<'_, Vec<PassedSockets>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the admin listener's socket.
    pub(super) fn add_admin(
        &self,
        server: &AdminServer,
        configured: &ListenAddress,
    ) -> io::Result<()> {
        let label = Label { role: Role::Admin, address: configured.clone(), owns_file: true };
        self.others().push(PassedSockets { label, sockets: vec![server.try_clone_socket()?] });
        Ok(())
    }

    /// Takes the hand-over socket that was inherited, or binds one. Without one there is no upgrade; the edge serves.
    pub(super) fn listen(
        &self,
        state_dir: &Path,
        inherited: &mut Inherited,
    ) -> Option<std::os::unix::net::UnixListener> {
        let path = socket_path(state_dir);
        let address = ListenAddress::Unix(path.clone());
        let bound = match inherited.claim(&Role::HandOver, &address) {
            Ok(Some(set)) => set.into_first().ok_or_else(|| io::ErrorKind::InvalidInput.into()),
            Ok(None) => std::fs::create_dir_all(state_dir)
                .and_then(|()| bind_unix(&path, MODE))
                .map(OwnedFd::from),
            Err(error) => Err(error),
        };
        let bound = bound.and_then(|socket| Ok((socket.as_fd().try_clone_to_owned()?, socket)));
        match bound {
            Ok((held, socket)) => {
                let label = Label { role: Role::HandOver, address, owns_file: true };
                self.others().push(PassedSockets { label, sockets: vec![held] });
                Some(socket.into())
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "there can be no upgrade: no socket to hand over by");
                None
            }
        }
    }

    fn can_hand_over(&self) -> bool {
        self.others().iter().any(|set| set.label.role == Role::HandOver)
    }

    /// A new process serves.
    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over.is_cancelled()
    }

    /// Returns when a new process serves.
    pub(super) async fn handed_over(&self) {
        self.is_handed_over.cancelled().await;
    }

    /// The end without a hand-over: nobody is to ask here any more.
    pub(super) fn close(&self) {
        if self.is_handed_over() {
            return;
        }
        for set in self.others().drain(..) {
            if let (Role::HandOver, ListenAddress::Unix(path)) =
                (&set.label.role, &set.label.address)
            {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

impl Core {
    /// Handles of all sockets.
    fn pass_on(&self) -> io::Result<Vec<PassedSockets>> {
        let mut passed = self.listeners.pass_on()?;
        for set in self.estate.others().iter() {
            let sockets = set
                .sockets
                .iter()
                .map(|socket| socket.as_fd().try_clone_to_owned())
                .collect::<io::Result<_>>()?;
            passed.push(PassedSockets { label: set.label.clone(), sockets });
        }
        Ok(passed)
    }

    /// Another process serves: this one accepts no more, and drains.
    fn leave(&self, is_taken: impl Fn(&Label) -> bool) {
        self.listeners.leave(&is_taken);
        for set in self.estate.others().drain(..) {
            if is_taken(&set.label) && set.label.role == Role::Admin {
                self.estate.admin_is_left.cancel();
            }
        }
        self.set_phase(Phase::Draining);
        self.estate.is_handed_over.cancel();
    }

    /// Leaves everything to the edge that was there before, which serves on.
    pub(super) fn give_back(&self) {
        self.leave(|_| true);
    }

    /// SIGQUIT: says when no new process has come after a while. One may come before or after it just as well.
    pub(super) async fn expect_successor(&self) {
        let systemd = self.options.systemd;
        if !self.estate.can_hand_over() {
            warn!(
                "there is no upgrade without a hand-over socket, see the start of the log: serving on"
            );
            return;
        }
        if self.estate.is_awaited.swap(true, Ordering::AcqRel) {
            return;
        }
        info!(seconds = WAIT.as_secs(), "waiting for a process that is started with --upgrade");
        systemd.status("waiting for a new process");
        if tokio::time::timeout(WAIT, self.estate.handed_over()).await.is_err() {
            warn!("no new process came: serving on");
            systemd.status("serving; no new process came");
        }
        self.estate.is_awaited.store(false, Ordering::Release);
    }
}
