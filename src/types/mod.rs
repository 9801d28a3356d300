//! Plain values that every layer may use: sizes, durations, addresses, names, problems. No I/O.

mod address;
mod byte_size;
mod cidr;
mod client_network;
pub mod defaults;
mod duration;
mod host;
mod key_path;
mod max_load;
mod name;
mod name_server;
mod pace;
mod percent;
mod problem;
mod proxy_header;
mod rate;
mod secret;
mod text;

pub use address::{AddressError, EndpointAddress, ListenAddress};
pub use byte_size::ByteSize;
pub use cidr::Cidr;
pub use client_network::ClientNetwork;
pub use duration::HumanDuration;
pub use host::{HostError, HostPattern};
pub use key_path::{KeyPath, Segment};
pub use max_load::MaxLoad;
pub use name::Name;
pub use name_server::NameServer;
pub use pace::Pace;
pub use percent::Percent;
pub use problem::{Problem, Problems, Severity, did_you_mean};
pub use proxy_header::{HeaderProgress, ProxyHeader, ProxyVersion};
pub use rate::Rate;
pub use secret::{SECRET_IN_PLACE, Secret, SecretSource};
pub(crate) use text::deserialize_by_form;
