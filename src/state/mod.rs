//! What outlives a snapshot, in general: shared live values by key, files that are whole or absent, and backups of them.
//!
//! The values themselves live in their feature (`upstream`, `policy`, `tls`, `rollout`). Nothing here is touched by a request.

pub mod archive;
mod edge_secret;
mod registry;
mod secret;
mod signed_number;
mod store;

pub use edge_secret::{EdgeSecret, EdgeSecretError, MIN_SHARED_SECRET};
pub use registry::Registry;
pub use secret::{SecretError, read_secret};
pub use signed_number::{NumberKey, NumberSigner};
pub use store::{Mode, StoreError, read_versioned, write_atomically, write_versioned};
