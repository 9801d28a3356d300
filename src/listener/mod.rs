//! Listeners: sockets, accept loops, handshakes, and the I/O type that Pingora reads from.
//!
//! Place: first on the path of a request (`accept`, `handshake`, `stream`). [`ListenerSet`] changes which sockets there
//! are, without touching the connections of those that stay.

mod accept;
mod calm;
mod guarded;
mod handshake;
mod handshakes;
mod head;
mod http2_frames;
mod networks;
mod send_pace;
mod set;
mod socket;
mod stream;
mod web_socket;

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use pingora_core::{protocols::Stream, server::ShutdownWatch};
use tokio::runtime::Handle;

pub use set::{ListenerSet, Plan};
pub use socket::BoundAddress;

use crate::{snapshot::TlsChoice, types::Name};

/// Serves connections: Pingora's engine, as the accept loops see it.
#[async_trait]
pub trait Serve: Send + Sync {
    /// Serves one connection to its end. `shutdown` turns true when its listener drains.
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch);
}

/// A runtime of the data plane with its engine.
#[derive(Clone)]
pub struct Worker {
    /// Where its tasks run.
    pub handle: Handle,
    /// What serves its connections.
    pub engine: Arc<dyn Serve>,
}

/// Chooses what a handshake gets: listener, name asked for (lower case), our address.
pub type TlsChooser = Arc<dyn Fn(&Name, Option<&str>, Option<IpAddr>) -> TlsChoice + Send + Sync>;

/// Whether an address is a trusted proxy's, which is never counted against a client's limit.
pub type Trusted = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;
