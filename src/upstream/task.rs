//! A background task that many may need and that runs once, for as long as one of them does.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::{runtime::Handle, task::AbortHandle};

/// The right to a running task: it is aborted when the last holder lets go.
#[derive(Debug)]
pub(super) struct TaskGuard(AbortHandle);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The place of one task.
#[derive(Debug, Default)]
pub(super) struct TaskSlot(Mutex<Weak<TaskGuard>>);

impl TaskSlot {
    /// Joins the running task, or starts it. The task ends when all guards are dropped, so it must not hold one.
    pub(super) fn share<F>(&self, handle: &Handle, start: impl FnOnce() -> F) -> Arc<TaskGuard>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = slot.upgrade() {
            return guard;
        }
        let guard = Arc::new(TaskGuard(handle.spawn(start()).abort_handle()));
        *slot = Arc::downgrade(&guard);
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_is_shared_ends_with_its_last_user_and_starts_again() {
        let slot = TaskSlot::default();
        let alive = Arc::new(());
        let start = || {
            let alive = Arc::clone(&alive);
            async move {
                std::future::pending::<()>().await;
                drop(alive);
            }
        };
        let handle = Handle::current();
        let (first, second) = (slot.share(&handle, start), slot.share(&handle, start));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(Arc::strong_count(&alive), 2, "one task");
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 2, "still used");
        drop(second);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
        let _third = slot.share(&handle, start);
        assert_eq!(Arc::strong_count(&alive), 2, "a new one");
    }
}
