//! The thread on which configurations become snapshots, and on which what they took is given back.
//!
//! Loading takes several times the memory of its result. The allocator keeps what a thread has freed for that thread, and
//! gives it back only while that thread asks: on many threads it would be held many times. Here one thread does all of
//! it, one piece of work after the other, and empties its heap after each; nothing of it runs on the request path.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use tokio::sync::{mpsc as queue, oneshot};

/// Pieces of work that wait. There is one reload at a time, and who comes when it is full waits.
const WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// Hands work to the thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(super) struct Builder {
    queue: queue::Sender<Work>,
}

/// The work panicked; the log says where.
#[derive(Debug, thiserror::Error)]
#[error("it ended with a panic, which is a bug; see the log")]
pub(super) struct Panicked;

impl Builder {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, mut receiver) = queue::channel::<Work>(WAITING);
        thread::Builder::new().name("tidegate-config".to_owned()).spawn(move || {
            while let Some(work) = receiver.blocking_recv() {
                // A panic ends the piece of work; whoever waits for its result sees that there is none.
                drop(catch_unwind(AssertUnwindSafe(work)));
                give_back();
            }
        })?;
        Ok(Self { queue: sender })
    }

    /// Does `work` there and waits for its result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (tell, told) = oneshot::channel();
        let work = Box::new(move || drop(tell.send(work())));
        self.queue.send(work).await.map_err(|_| Panicked)?;
        told.await.map_err(|_| Panicked)
    }

    /// Starts `work` there and does not wait for it.
    pub(super) async fn start_work(
        &self,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), Panicked> {
        self.queue.send(Box::new(work)).await.map_err(|_| Panicked)
    }

    /// The same as [`Self::run`] for callers outside of a runtime.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (tell, told) = mpsc::sync_channel(1);
        let work = Box::new(move || drop(tell.send(work())));
        self.queue.blocking_send(work).map_err(|_| Panicked)?;
        told.recv().map_err(|_| Panicked)
    }
}

/// Gives back what the calling thread has freed. Takes milliseconds.
fn give_back() {
    #[expect(unsafe_code, reason = "the allocator's own function, which its crate does not wrap")]
    // SAFETY: it takes no pointer, may be called by any thread at any time, and touches free memory only. Where another
    // allocator serves (in tests), there is nothing for it to do.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_piece_of_work_only() {
        let builder = Builder::start().unwrap();
        assert!(builder.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(builder.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn all_work_is_done_on_one_thread() {
        let builder = Builder::start().unwrap();
        let name = || thread::current().name().map(str::to_owned);
        let first = builder.run_blocking(name).unwrap();
        assert_eq!(first.as_deref(), Some("tidegate-config"));
        assert_eq!(first, builder.run_blocking(name).unwrap());
    }
}
