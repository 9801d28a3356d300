//! One runtime for all origins and clients of the process. The edge has its own: it is not to be helped by ours.

use std::{future::Future, sync::LazyLock};

use tokio::{runtime::Runtime, task::JoinHandle};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .thread_name("harness")
        .enable_all()
        .build()
        .expect("the harness needs a runtime")
});

/// Runs a future to its end on the calling thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Runs a future beside the test.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    RUNTIME.spawn(future)
}
