//! The limit on open files: each client and each connection to an endpoint takes one.
//!
//! Systems give a low soft limit for the sake of programs that use select(2), and a high hard one for those that ask for
//! it (setrlimit(2); systemd does since version 240). The edge asks.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Files beside connections: sockets, logs, the runtimes' own.
const OWN: u64 = 100;
/// What is little for an edge.
const FEW: u64 = 4_096;

/// Raises the soft limit to the hard one.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let most = match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit on open files can't be raised");
            limit.current
        }
    };
    debug!(most, "open files");
    // Two for each request: the client's connection and the endpoint's.
    if let Some(most) = most.filter(|most| *most < FEW) {
        let connections = most.saturating_sub(OWN) / 2;
        warn!(
            most,
            connections, "the limit on open files is low: it is enough for so many connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit { current: before.maximum.map(|most| most - 1), ..before };
        setrlimit(Resource::Nofile, low).unwrap();
        raise();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
