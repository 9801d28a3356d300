//! The demo origin: a small HTTP server to try the edge against, without writing one.
//!
//! It stands beside the request path: `tidegate origin` and the tests start it, the edge only sees its address. It
//! answers HTTP/1.1 and HTTP/2 (prior knowledge), shows the headers that reached it, and can be made slow, faulty or
//! unhealthy while it runs. It is for trying things out: anybody who reaches it can change its settings.
//!
//! It uses nothing of the crate but `types`.

mod answer;
mod server;
mod settings;

pub use server::{Origins, Spec, StartError, start};
pub use settings::{Percent, Settings, SettingsError, SettingsView, health};
