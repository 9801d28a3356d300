//! Listeners: sockets, accept loops, handshakes, and the I/O type that Pingora reads from.
//!
//! Place: first on the path of a request (`accept`, `handshake`, `stream`). [`ListenerSet`] changes which sockets there
//! are, without touching the connections of those that stay.

mod accept;
mod calm;
pub mod fuzz;
mod gathered;
mod guarded;
mod handshake;
mod handshakes;
mod http2_frames;
mod http2_refusals;
mod inherited;
mod networks;
mod peeked;
mod preface;
mod proxy_header;
mod refusal;
mod send_pace;
mod set;
mod socket;
mod stream;
mod web_socket;

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use pingora_core::{protocols::Stream, server::ShutdownWatch};
use tokio::runtime::Handle;

pub use inherited::{Inherited, Label, PassedSockets, Role};
pub use set::{ListenerSet, Plan};
pub use socket::{BoundAddress, SocketSet, bind_unix};
pub use stream::next_message;

use crate::{
    snapshot::{TlsChoice, Tunnel},
    telemetry::AccessLog,
    tls::acme::Challenges,
    types::Name,
};

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

/// Where the connections of a listener go that speaks no HTTP.
pub type TunnelChooser = Arc<dyn Fn(&Name) -> Option<Arc<Tunnel>> + Send + Sync>;

/// Whether an address is a trusted proxy's, which is never counted against a client's limit.
pub type Trusted = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The access log of the configuration in force.
pub type AccessLogs = Arc<dyn Fn() -> Option<Arc<AccessLog>> + Send + Sync>;

/// What listeners ask of the configuration in force.
#[derive(Clone)]
pub struct Choosers {
    /// For handshakes.
    pub tls: TlsChooser,
    /// For connections that are sent on.
    pub tunnel: TunnelChooser,
    /// For limits by client.
    pub trusted: Trusted,
    /// For what is refused before it is a request.
    pub access_log: AccessLogs,
    /// For authorities that validate a name.
    pub challenges: Arc<Challenges>,
}
