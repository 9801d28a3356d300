//! The old process's side: answers those that ask for the sockets, until one of them serves.

use std::{io, os::unix::net::UnixStream, sync::Weak, time::Duration};

use tokio::{net::UnixListener, task::spawn_blocking};
use tracing::{info, warn};

use super::{
    super::state::{Core, Phase},
    HandOverError,
    channel::{Channel, FromNew, FromOld, OfferedSet, VERSION},
};
use crate::listener::{Label, PassedSockets};

/// How long a process that connected may take to ask, and to take the sockets in.
const ASK: Duration = Duration::from_secs(5);
/// How long it may then take to accept on them. Until then no reload happens here.
const READY: Duration = Duration::from_mins(1);
/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Hands over to the first process that becomes ready. One that fails changes nothing.
pub(in crate::server) async fn answer_successors(core: Weak<Core>, socket: UnixListener) {
    loop {
        let accepted = socket.accept().await;
        let Some(core) = core.upgrade() else { return };
        let given = match accepted {
            Ok((stream, _)) => match stream.into_std() {
                Ok(stream) => core.give_to(stream).await,
                Err(error) => Err(error.into()),
            },
            Err(error) => {
                warn!(%error, "the hand-over socket can't be accepted on");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match given {
            Ok(()) => return,
            Err(error) => warn!(%error, "no hand-over: serving on"),
        }
    }
}

impl Core {
    async fn give_to(&self, stream: UnixStream) -> Result<(), HandOverError> {
        let channel = spawn_blocking(move || asked(stream)).await.map_err(io::Error::other)??;
        // What is offered must be what there is until the end.
        let _no_reload = self.reloading.lock().await;
        if self.phase() == Phase::Draining {
            let reason = "it is ending".to_owned();
            channel.send(&FromOld::Refused { reason: reason.clone() })?;
            return Err(HandOverError::Refused(reason));
        }
        let passed = self.pass_on()?;
        info!(process = channel.peer, listeners = passed.len(), "handing over");
        let offered = spawn_blocking(move || offer(channel, passed));
        let (channel, taken) = offered.await.map_err(io::Error::other)??;
        self.leave(|label| taken.contains(label));
        // The new process decides from here on, and begins with what this one writes down.
        let rollouts = self.live.rollouts.clone();
        if spawn_blocking(move || rollouts.stop()).await.is_err() {
            // The sockets are the other's already: there is no way back.
            warn!("what is decided of rollouts could not be written down");
        }
        info!(process = channel.peer, listeners = taken.len(), "handed over");
        // Before the new process speaks for the service itself.
        self.options.systemd.main_process_is(channel.peer);
        let confirmed = spawn_blocking(move || channel.send(&FromOld::Confirmed)).await;
        if !matches!(confirmed, Ok(Ok(()))) {
            warn!("the new process could not be told");
        }
        Ok(())
    }
}

/// A process that asks for the sockets in words that we know.
fn asked(stream: UnixStream) -> Result<Channel, HandOverError> {
    let channel = Channel::new(stream)?;
    channel.limit(ASK)?;
    match channel.receive()? {
        FromNew::Ask { version: VERSION, release } => {
            info!(process = channel.peer, release, "a process asks for the sockets");
            Ok(channel)
        }
        FromNew::Ask { version: found, .. } => {
            let reason = format!("it speaks version {VERSION} of the hand-over");
            channel.send(&FromOld::Refused { reason })?;
            Err(HandOverError::Version { found })
        }
        FromNew::Ready { .. } => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
}

/// Sends the sockets, and waits until the new process accepts; gives the labels of those that it took.
fn offer(
    channel: Channel,
    passed: Vec<PassedSockets>,
) -> Result<(Channel, Vec<Label>), HandOverError> {
    let labels: Vec<Label> = passed.iter().map(|set| set.label.clone()).collect();
    let sets = passed
        .iter()
        .map(|set| OfferedSet { label: set.label.clone(), sockets: set.sockets.len() })
        .collect();
    let release = env!("CARGO_PKG_VERSION").to_owned();
    channel.send(&FromOld::Offer { version: VERSION, release, sets })?;
    channel.send_sockets(&passed)?;
    drop(passed);
    channel.limit(READY)?;
    match channel.receive() {
        Ok(FromNew::Ready { taken }) => {
            let taken = taken.into_iter().filter_map(|at| labels.get(at).cloned()).collect();
            Ok((channel, taken))
        }
        Ok(FromNew::Ask { .. }) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        Err(error) => {
            // It may be slow rather than gone; then it must know that this one serves on.
            drop(channel.send(&FromOld::GaveUp));
            Err(error.into())
        }
    }
}
