//! The store as tasks use it: its calls block, and so run beside them.

use std::sync::Arc;

use super::{failure::Failure, kept::AcmeStore};
use crate::state::StoreError;

/// A store for tasks.
#[derive(Clone, Debug)]
pub(super) struct Shelf(pub(super) Arc<dyn AcmeStore>);

impl Shelf {
    /// Does something with the store.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        action: impl FnOnce(&dyn AcmeStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = Arc::clone(&self.0);
        Ok(self.work(move || action(&*store)).await??)
    }

    /// Does what takes its time.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let done = tokio::task::spawn_blocking(action).await;
        done.map_err(|error| Failure::Store(error.to_string()))
    }
}
