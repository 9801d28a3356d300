//! The commands of the `tidegate` binary, one file a command.
//!
//! This is the only layer that prints, and the only one that uses `anyhow`.

pub mod admin_client;
pub mod status;
mod table;
