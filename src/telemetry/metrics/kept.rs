//! Metric handles by what they are about, kept over reloads.
//!
//! The same key gives the same handles for as long as somebody holds them, so that counters go on when a new snapshot
//! is compiled. When nobody has held them for ten minutes, the caller is told to remove their series: the number of
//! series is bounded by the configurations of the last ten minutes. Never touched on the request path.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long series outlive their last holder: a rollback of the configuration finds them.
const KEEP: Duration = Duration::from_mins(10);

/// Handles of one kind.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
}

#[derive(Debug)]
struct Entry<V> {
    handles: Arc<V>,
    unheld_since: Option<Instant>,
}

impl<V> Entry<V> {
    /// Whether anybody but this map holds it. Nobody else makes a first reference: that takes the map's lock.
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.handles) > 1
    }
}

impl<K: Clone + Eq + Hash, V> Kept<K, V> {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// The handles of `key`; made, where there are none.
    pub(super) fn resolve(&self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&key) {
            return entry.handles.clone();
        }
        let handles = Arc::new(make(&key));
        entries.insert(key, Entry { handles: handles.clone(), unheld_since: None });
        handles
    }

    /// Forgets what nobody has held for [`KEEP`], and passes each such key to `remove`.
    pub(super) fn sweep(&self, now: Instant, mut remove: impl FnMut(&K)) {
        self.lock().retain(|key, entry| {
            if entry.is_held() {
                entry.unheld_since = None;
                return true;
            }
            let since = *entry.unheld_since.get_or_insert(now);
            let keep = now.saturating_duration_since(since) < KEEP;
            if !keep {
                remove(key);
            }
            keep
        });
    }

    /// What is held now.
    pub(super) fn held(&self) -> Vec<(K, Arc<V>)> {
        self.those(Entry::is_held)
    }

    /// What is held, and what has been within the last ten minutes.
    pub(super) fn all(&self) -> Vec<(K, Arc<V>)> {
        self.those(|_| true)
    }

    fn those(&self, are_asked_for: impl Fn(&Entry<V>) -> bool) -> Vec<(K, Arc<V>)> {
        let entries = self.lock();
        entries
            .iter()
            .filter(|(_, entry)| are_asked_for(entry))
            .map(|(key, entry)| (key.clone(), entry.handles.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        // A panic while it was held leaves a map that is whole: entries are inserted and removed at one point.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_handles_while_they_are_held_and_ten_minutes_longer() {
        let kept: Kept<&str, u32> = Kept::new();
        let first = kept.resolve("a", |_| 1);
        let second = kept.resolve("a", |_| 2);
        assert!(Arc::ptr_eq(&first, &second));

        let start = Instant::now();
        let mut removed = Vec::new();
        kept.sweep(start + KEEP * 3, |key| removed.push(*key));
        assert!(removed.is_empty(), "it is held");

        drop((first, second));
        kept.sweep(start, |key| removed.push(*key));
        kept.sweep(start + KEEP / 2, |key| removed.push(*key));
        assert!(removed.is_empty(), "ten minutes have not passed");
        kept.sweep(start + KEEP, |key| removed.push(*key));
        assert_eq!(removed, ["a"]);
        kept.sweep(start + KEEP * 2, |key| removed.push(*key));
        assert_eq!(removed.len(), 1, "it is forgotten");
    }

    #[test]
    fn handles_that_come_back_start_the_ten_minutes_again() {
        let kept: Kept<&str, u32> = Kept::new();
        let start = Instant::now();
        drop(kept.resolve("a", |_| 1));
        kept.sweep(start, |_| unreachable!());
        let back = kept.resolve("a", |_| 2);
        kept.sweep(start + KEEP * 2, |_| unreachable!());
        assert_eq!(kept.held().len(), 1);
        drop(back);
        kept.sweep(start + KEEP * 2, |_| unreachable!());
        assert!(kept.held().is_empty());
    }
}
