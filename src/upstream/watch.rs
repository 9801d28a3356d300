//! Who is told when a health verdict or a discovered set of addresses changes: the endpoint sets of living snapshots.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Something that is built from live values and must be built anew when they change.
pub(super) trait Watch: Send + Sync {
    /// One of the values has changed.
    fn changed(&self);
}

/// The watchers of one live value. It holds them weakly: a snapshot that goes takes its sets along.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Weak<dyn Watch>>>);

impl Watchers {
    /// Adds a watcher once, and forgets those that are gone.
    pub(super) fn add(&self, watcher: &Weak<dyn Watch>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|known| known.strong_count() > 0 && !known.ptr_eq(watcher));
        list.push(Weak::clone(watcher));
    }

    /// Tells every watcher. The lock is not held meanwhile: a watcher may add itself elsewhere.
    pub(super) fn notify(&self) {
        let living: Vec<Arc<dyn Watch>> = {
            let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        for watcher in living {
            watcher.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counting(AtomicUsize);

    impl Watch for Counting {
        fn changed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn watchers_are_told_once_and_forgotten_when_gone() {
        let watchers = Watchers::default();
        let counting = Arc::new(Counting(AtomicUsize::new(0)));
        let other = Arc::new(Counting(AtomicUsize::new(0)));
        let weak: Weak<dyn Watch> = Arc::downgrade(&counting) as Weak<dyn Watch>;
        let weak_other: Weak<dyn Watch> = Arc::downgrade(&other) as Weak<dyn Watch>;
        watchers.add(&weak);
        watchers.add(&weak);
        watchers.add(&weak_other);
        watchers.notify();
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert_eq!(other.0.load(Ordering::Relaxed), 1);
        drop(other);
        watchers.add(&weak);
        assert_eq!(watchers.0.lock().unwrap().len(), 1);
    }
}
