//! Live values by key: a reload finds what the generation before it used.
//!
//! Touched when a configuration is published and when a set of endpoints changes, never by a request.
//! Invariant: a value that somebody holds is never dropped from here, so that one key has one value.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a value that nobody holds is kept: a rollback within that time finds it.
const KEEP_UNUSED: Duration = Duration::from_mins(10);

/// The most values that nobody holds; of more, those that were used longest ago go first.
const MAX_UNUSED: usize = 4_096;

/// Values shared by key. A value that only the registry holds is unused; it stays for ten minutes.
#[derive(Debug)]
pub struct Registry<K, V> {
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts uses, to order entries by their last one.
    clock: u64,
    max_unused: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    last_use: u64,
    unused_since: Option<Instant>,
}

impl<V> Entry<V> {
    fn is_used(&self) -> bool {
        // New references are made under the registry's lock or from one that is held outside,
        // so that a count of 1 can't grow while we look at it.
        Arc::strong_count(&self.value) > 1
    }
}

impl<K: Eq + Hash + Clone, V> Registry<K, V> {
    /// An empty registry.
    pub fn new() -> Self {
        Self::with_max_unused(MAX_UNUSED)
    }

    fn with_max_unused(max_unused: usize) -> Self {
        Self { inner: Mutex::new(Inner { entries: HashMap::new(), clock: 0, max_unused }) }
    }

    /// The value of `key`, made by `make` where there is none.
    ///
    /// `make` runs under the registry's lock: it must be quick and must not use the registry.
    pub fn get_or_insert_with(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let (value, dropped) = {
            let mut inner = self.lock();
            inner.clock += 1;
            let clock = inner.clock;
            let entry = inner.entries.entry(key).or_insert_with(|| Entry {
                value: Arc::new(make()),
                last_use: clock,
                unused_since: None,
            });
            entry.last_use = clock;
            entry.unused_since = None;
            let value = Arc::clone(&entry.value);
            (value, inner.take_excess())
        };
        drop(dropped); // outside the lock: a value's drop may do anything
        value
    }

    /// All values, unused ones included, in no order.
    pub fn values(&self) -> Vec<Arc<V>> {
        self.lock().entries.values().map(|entry| Arc::clone(&entry.value)).collect()
    }

    /// Drops what has been unused for ten minutes. To be called now and then.
    ///
    /// The ten minutes start with the first sweep that sees the value unused.
    pub fn sweep(&self, now: Instant) {
        let dropped = {
            let mut inner = self.lock();
            inner.clock += 1;
            let clock = inner.clock;
            let mut expired = Vec::new();
            for (key, entry) in &mut inner.entries {
                if entry.is_used() {
                    entry.unused_since = None;
                    entry.last_use = clock;
                } else {
                    let since = *entry.unused_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= KEEP_UNUSED {
                        expired.push(key.clone());
                    }
                }
            }
            let mut dropped: Vec<_> =
                expired.iter().filter_map(|key| inner.entries.remove(key)).collect();
            dropped.extend(inner.take_excess());
            dropped
        };
        drop(dropped);
    }

    /// How many values there are, unused ones included.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values somebody holds.
    pub fn used(&self) -> usize {
        self.lock().entries.values().filter(|entry| entry.is_used()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        // Nothing in here leaves the map half changed when it panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V> Inner<K, V> {
    /// Takes the unused entries that are over the limit, least recently used first.
    fn take_excess(&mut self) -> Vec<Entry<V>> {
        if self.entries.len() <= self.max_unused {
            return Vec::new();
        }
        let mut unused: Vec<(u64, K)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_used())
            .map(|(key, entry)| (entry.last_use, key.clone()))
            .collect();
        let excess = unused.len().saturating_sub(self.max_unused);
        unused.sort_unstable_by_key(|(last_use, _)| *last_use);
        unused.iter().take(excess).filter_map(|(_, key)| self.entries.remove(key)).collect()
    }
}

impl<K: Eq + Hash + Clone, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_held_value_is_found_again_and_never_swept() {
        let registry = Registry::new();
        let start = Instant::now();
        let held = registry.get_or_insert_with("a", || 1);
        for minute in 0..60 {
            registry.sweep(start + MINUTE * minute);
        }
        let again = registry.get_or_insert_with("a", || 2);
        assert!(Arc::ptr_eq(&held, &again));
        assert_eq!(registry.used(), 1);
    }

    #[test]
    fn an_unused_value_stays_for_ten_minutes_after_it_was_last_seen_unused() {
        let registry = Registry::new();
        let start = Instant::now();
        drop(registry.get_or_insert_with("a", || 1));
        registry.sweep(start);
        registry.sweep(start + MINUTE * 9);
        assert_eq!(registry.len(), 1, "a rollback finds it");
        // Used again, the ten minutes start anew.
        assert_eq!(*registry.get_or_insert_with("a", || 2), 1);
        registry.sweep(start + MINUTE * 11);
        registry.sweep(start + MINUTE * 20);
        assert_eq!(registry.len(), 1);
        registry.sweep(start + MINUTE * 21);
        assert!(registry.is_empty());
        assert_eq!(*registry.get_or_insert_with("a", || 2), 2);
    }

    #[test]
    fn of_too_many_unused_values_the_oldest_go_and_held_ones_stay() {
        let registry = Registry::with_max_unused(2);
        let held = registry.get_or_insert_with(0, || 0);
        for key in 1..=4 {
            drop(registry.get_or_insert_with(key, || key));
        }
        drop(registry.get_or_insert_with(3, || 33));
        drop(registry.get_or_insert_with(5, || 5));
        registry.sweep(Instant::now());
        assert_eq!(registry.len(), 3, "the held one and two others");
        assert!(Arc::ptr_eq(&held, &registry.get_or_insert_with(0, || 99)));
        assert_eq!(*registry.get_or_insert_with(3, || 99), 3, "used after 4");
        assert_eq!(*registry.get_or_insert_with(5, || 99), 5);
        assert_eq!(*registry.get_or_insert_with(4, || 99), 99, "went as the oldest unused one");
    }
}
