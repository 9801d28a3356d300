//! The new process's side: asks for the sockets, and says when it accepts on them. Blocks.

use std::{os::unix::net::UnixStream, path::Path, time::Duration};

use tracing::{info, warn};

use super::{
    HandOverError,
    channel::{Channel, FromNew, FromOld, VERSION},
    socket_path,
};
use crate::listener::Inherited;

/// How long the old process may take to answer: a reload may be under way there.
const OFFER: Duration = Duration::from_secs(30);
/// How long it may take to stop accepting.
const CONFIRM: Duration = Duration::from_secs(10);

/// A hand-over that has begun: this process has the sockets, and the old one still accepts on them.
#[derive(Debug)]
pub(in crate::server) struct Takeover {
    channel: Channel,
    /// How many sets came.
    sets: usize,
}

impl Takeover {
    /// Gets the sockets of the edge that runs with this state directory.
    ///
    /// # Errors
    /// All of [`HandOverError`]; then that edge serves on.
    pub(in crate::server) fn begin(state_dir: &Path) -> Result<(Self, Inherited), HandOverError> {
        let path = socket_path(state_dir);
        let stream = UnixStream::connect(&path)
            .map_err(|source| HandOverError::NoPredecessor { path, source })?;
        let channel = Channel::new(stream)?;
        channel.limit(OFFER)?;
        let release = env!("CARGO_PKG_VERSION").to_owned();
        channel.send(&FromNew::Ask { version: VERSION, release })?;
        let sets = match channel.receive()? {
            FromOld::Offer { version: VERSION, release, sets } => {
                info!(process = channel.peer, release, listeners = sets.len(), "taking over");
                channel.receive_sockets(sets)?
            }
            FromOld::Offer { version: found, .. } => return Err(HandOverError::Version { found }),
            FromOld::Refused { reason } => return Err(HandOverError::Refused(reason)),
            FromOld::Confirmed | FromOld::GaveUp => return Err(HandOverError::GaveUp),
        };
        Ok((Self { channel, sets: sets.len() }, Inherited::from_predecessor(sets)?))
    }

    /// Tells the old process that this one accepts, and waits until it does not any more. `taken` are the places of the
    /// sets that were claimed.
    ///
    /// # Errors
    /// [`HandOverError::GaveUp`]: the old process serves on, and this one must not. Where the old one is just gone, this
    /// one serves: better two for a moment than none.
    pub(in crate::server) fn finish(self, taken: &[usize]) -> Result<(), HandOverError> {
        // The service manager's sockets stand behind those of the old process.
        let taken = taken.iter().copied().filter(|at| *at < self.sets).collect();
        let answer = self
            .channel
            .limit(CONFIRM)
            .and_then(|()| self.channel.send(&FromNew::Ready { taken }))
            .or_else(|error| {
                // It may have said why it is gone.
                if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
            })
            .and_then(|()| self.channel.receive());
        match answer {
            Ok(FromOld::Confirmed) => info!(process = self.channel.peer, "took over"),
            Ok(FromOld::GaveUp | FromOld::Refused { .. }) => return Err(HandOverError::GaveUp),
            Ok(FromOld::Offer { .. }) | Err(_) => {
                warn!(
                    process = self.channel.peer,
                    "took over, and the old process did not confirm; see that it is gone"
                );
            }
        }
        Ok(())
    }
}
