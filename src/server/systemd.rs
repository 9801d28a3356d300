//! The service manager: what it is told (`sd_notify(3)`), and the sockets that it passes (`sd_listen_fds(3)`).
//!
//! Both are agreed on by environment variables, which only the process's own start looks at: an edge that is started by
//! the library's entry tells nobody and takes nothing, unless it is given a [`Systemd`] and sockets.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use sd_notify::NotifyState;
use tracing::warn;

use crate::listener::Inherited;

/// Tells the service manager how the process does. Costs a datagram each; never on the request path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd {
    is_listening: bool,
}

impl Systemd {
    /// The one that started this process, if it wants to be told (`NOTIFY_SOCKET`).
    pub fn from_environment() -> Self {
        Self {
            is_listening: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()),
        }
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.is_listening
            && let Err(error) = sd_notify::notify(states)
        {
            warn!(%error, "the service manager can't be told");
        }
    }

    /// The edge is ready: after its start, and again after a reload, taken or refused.
    pub(super) fn ready(self, generation: u64) {
        let status = format!("serving, generation {generation}");
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// A reload begins; `ready` ends it.
    pub(super) fn reloading(self) {
        if !self.is_listening {
            return;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "the monotonic clock can't be read"),
        }
    }

    /// What the edge does, in words.
    pub(super) fn status(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The process drains and ends.
    pub(super) fn stopping(self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }

    /// Another process is the service from now on. Said by the old one too: the manager may believe only it.
    pub(super) fn main_process_is(self, pid: u32) {
        let status = format!("handed over to process {pid}");
        self.tell(&[NotifyState::MainPid(pid), NotifyState::Status(&status)]);
    }

    /// This process is the service now, and ready.
    pub(super) fn took_over(self, generation: u64) {
        let status = format!("serving, generation {generation}");
        self.tell(&[
            NotifyState::MainPid(std::process::id()),
            NotifyState::Ready,
            NotifyState::Status(&status),
        ]);
    }
}

/// The sockets that the service manager passed to this process (`LISTEN_FDS`), with their names. They are given out once;
/// programs that this one starts don't get them.
pub fn activated_sockets() -> Inherited {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    if IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Inherited::default();
    }
    match take_activated() {
        Ok(sockets) => Inherited::from_service_manager(sockets),
        Err(error) => {
            warn!(%error, "the service manager's sockets can't be taken");
            Inherited::default()
        }
    }
}

fn take_activated() -> io::Result<Vec<(OwnedFd, String)>> {
    // It has looked whether LISTEN_PID is ours, and each descriptor is open: it has set FD_CLOEXEC on it.
    let numbers = sd_notify::listen_fds_with_names()?;
    Ok(numbers
        .map(|(number, name)| {
            #[expect(unsafe_code, reason = "descriptors come as numbers in the environment")]
            // SAFETY: the number is of an open descriptor that was passed to this process by its environment, before its
            // first instruction. Nothing in it owns that number yet: the flag above lets this run once, before any
            // other code looks at LISTEN_FDS.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            (socket, name)
        })
        .collect())
}
