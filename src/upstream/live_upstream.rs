//! What is alive of an upstream as a whole. By its name; a reload keeps it.

use std::sync::atomic::AtomicU64;

/// The live state of an upstream beside its endpoints'.
#[derive(Debug, Default)]
pub(super) struct LiveUpstream {
    /// Picks of round-robin, over all generations.
    pub(super) turns: AtomicU64,
}
