//! What waits to be told: one bounded queue, in which every webhook's events stand in their order. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::Event;
use crate::types::Name;

/// An event on its way to one webhook.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) event: Arc<Event>,
    /// Since when.
    pub(super) since: Instant,
    /// Its place among all.
    order: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    hooks: BTreeMap<Name, VecDeque<Waiting>>,
    length: usize,
    most: usize,
    next: u64,
}

impl Queue {
    /// An empty queue with room for so many.
    pub(super) fn new(most: usize) -> Self {
        Self { hooks: BTreeMap::new(), length: 0, most, next: 0 }
    }

    /// Puts an event at the end. Where there is no room the oldest of all goes: the name of its webhook is returned.
    #[must_use = "what was dropped is to be counted"]
    pub(super) fn push(&mut self, hook: &Name, event: Arc<Event>, now: Instant) -> Option<Name> {
        let dropped = if self.length >= self.most { self.drop_oldest() } else { None };
        let waiting = Waiting { event, since: now, order: self.next };
        self.next += 1;
        self.length += 1;
        self.hooks.entry(hook.clone()).or_default().push_back(waiting);
        dropped
    }

    /// Takes the first one out.
    pub(super) fn take(&mut self, hook: &Name) -> Option<Waiting> {
        let waiting = self.hooks.get_mut(hook)?.pop_front()?;
        self.length -= 1;
        Some(waiting)
    }

    /// Puts back what was taken out, as the first one again. Where there is no room any more, it is the one that goes:
    /// then `false`.
    #[must_use = "what was dropped is to be counted"]
    pub(super) fn put_back(&mut self, hook: &Name, waiting: Waiting) -> bool {
        if self.length >= self.most {
            return false;
        }
        self.length += 1;
        self.hooks.entry(hook.clone()).or_default().push_front(waiting);
        true
    }

    /// Forgets a webhook. Returns how many events were lost.
    pub(super) fn remove(&mut self, hook: &Name) -> usize {
        let lost = self.hooks.remove(hook).map_or(0, |waiting| waiting.len());
        self.length -= lost;
        lost
    }

    /// How many wait for a webhook.
    pub(super) fn length_of(&self, hook: &Name) -> usize {
        self.hooks.get(hook).map_or(0, VecDeque::len)
    }

    /// How many wait.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    fn drop_oldest(&mut self) -> Option<Name> {
        let firsts = self.hooks.iter().filter_map(|(name, waiting)| Some((name, waiting.front()?)));
        let (oldest, _) = firsts.min_by_key(|(_, first)| first.order)?;
        let oldest = oldest.clone();
        self.take(&oldest).map(|_| oldest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::telemetry::webhooks::EventKind;

    fn event(text: &str) -> Arc<Event> {
        Arc::new(Event::new(EventKind::Test, "x".parse().unwrap(), text, Value::Null))
    }

    fn texts(queue: &mut Queue, hook: &Name) -> Vec<String> {
        std::iter::from_fn(|| queue.take(hook)).map(|waiting| waiting.event.text.clone()).collect()
    }

    #[test]
    fn a_full_queue_drops_the_oldest_of_all_and_says_whose_it_was() {
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut queue = Queue::new(3);
        let now = Instant::now();
        for (hook, text) in [(&b, "1"), (&a, "2"), (&a, "3")] {
            assert_eq!(queue.push(hook, event(text), now), None);
        }
        assert_eq!(queue.push(&a, event("4"), now), Some(b.clone()));
        assert_eq!(queue.push(&a, event("5"), now), Some(a.clone()));
        assert_eq!((queue.length(), queue.length_of(&a), queue.length_of(&b)), (3, 3, 0));
        assert_eq!(texts(&mut queue, &a), ["3", "4", "5"]);
        assert_eq!(queue.length(), 0);
    }

    #[test]
    fn what_is_put_back_is_the_first_again_or_the_oldest_that_goes() {
        let a: Name = "a".parse().unwrap();
        let mut queue = Queue::new(2);
        let now = Instant::now();
        for text in ["1", "2"] {
            assert_eq!(queue.push(&a, event(text), now), None);
        }
        let first = queue.take(&a).unwrap();
        assert!(queue.put_back(&a, first));
        let first = queue.take(&a).unwrap();
        assert_eq!(first.event.text, "1");
        assert_eq!(queue.push(&a, event("3"), now), None);
        assert!(!queue.put_back(&a, first));
        assert_eq!(texts(&mut queue, &a), ["2", "3"]);
    }

    #[test]
    fn a_webhook_that_is_forgotten_makes_room() {
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut queue = Queue::new(2);
        let now = Instant::now();
        assert_eq!(queue.push(&a, event("1"), now), None);
        assert_eq!(queue.push(&a, event("2"), now), None);
        assert_eq!(queue.remove(&a), 2);
        assert_eq!(queue.remove(&a), 0);
        assert_eq!(queue.push(&b, event("3"), now), None);
        assert_eq!(queue.length(), 1);
    }
}
