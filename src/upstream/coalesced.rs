//! Work that many may ask for at once, and that one of them does for all. Nobody waits for it who need not do it.

use std::sync::{
    Mutex, TryLockError,
    atomic::{AtomicBool, Ordering},
};

/// One kind of work.
#[derive(Debug, Default)]
pub(super) struct Coalesced {
    is_due: AtomicBool,
    working: Mutex<()>,
}

impl Coalesced {
    /// Does the work, or leaves it to who is about it and will do it once more: it begins after this was called.
    pub(super) fn run(&self, work: impl Fn()) {
        self.is_due.store(true, Ordering::SeqCst);
        while self.is_due.load(Ordering::SeqCst) {
            let _working = match self.working.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(error)) => error.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            if self.is_due.swap(false, Ordering::SeqCst) {
                work();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, atomic::AtomicU32};

    use super::*;

    #[test]
    fn what_many_ask_for_during_the_work_is_done_once_more_and_nobody_waits() {
        let coalesced = Coalesced::default();
        let (runs, begun, asked) = (AtomicU32::new(0), Barrier::new(11), Barrier::new(11));
        let work = || {
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                begun.wait();
                asked.wait();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| coalesced.run(work));
            for _ in 0..10 {
                scope.spawn(|| {
                    begun.wait();
                    coalesced.run(work);
                    // Reached while the first run still goes on.
                    asked.wait();
                });
            }
        });
        assert_eq!(runs.into_inner(), 2);
    }
}
