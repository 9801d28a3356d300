//! The test harness: real origins, real clients, and the edge between them, all on ephemeral loopback ports.
//!
//! A test reads like a user's story: it starts [`Origin`]s, an [`Edge`] with the configuration text that a user would
//! write (`{0}`, `{1}` stand for the origins' addresses), sends requests by [`Client`] and looks at what each side saw.
//! Waits are deadlines ([`assert_eventually!`](crate::assert_eventually)), never sleeps of a guessed length.

pub mod certificate;
pub mod client;
pub mod edge;
pub mod eventually;
pub mod knot;
pub mod name_server;
pub mod origin;
pub mod pebble;
mod runtime;

pub use certificate::{Authority, Certificate};
pub use client::{Client, Failure, FailureKind, Load, LoadReport, Raw, RawHttp2, Response, Tls};
pub use edge::{Edge, Launch};
pub use knot::Knot;
pub use name_server::NameServer;
pub use origin::{Origin, Play, RawOrigin, RecordingOrigin, TcpOrigin};
pub use pebble::Pebble;
pub use runtime::{block_on, spawn};
