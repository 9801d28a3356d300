//! Where the addresses of an endpoint come from: they are written in the configuration, or a name is resolved.
//!
//! An [`AddressSet`] holds what a discovery has last said. It is swapped without a new snapshot: the endpoint sets that
//! watch it are built anew. It outlives snapshots, so that a reload does not wait for a name it already knows. An empty answer never
//! replaces addresses: they are held until there are others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::types::EndpointAddress;

use super::{
    task::{TaskGuard, TaskSlot},
    watch::Watchers,
};

/// The most addresses of one source; of more, those that sort last are left out.
pub const MAX_ADDRESSES: usize = 256;

/// What a discovery knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Where the endpoints are now: IP addresses or Unix sockets, never names.
    pub addresses: Vec<EndpointAddress>,
    /// Whether the source has been asked at least once, with success or without.
    pub is_answered: bool,
    /// What is wrong with the source at present.
    pub error: Option<String>,
}

/// Takes what a discovery has found.
pub type Report = Box<dyn Fn(Discovered) + Send + Sync>;

/// A source of addresses.
pub trait Discovery: Send + Sync {
    /// What is known without asking anybody.
    fn known(&self) -> Discovered;

    /// Follows the source and reports each state of it, complete, until the future is dropped.
    /// It returns where nothing can ever change.
    fn follow(&self, report: Report) -> BoxFuture<'static, ()>;
}

/// Addresses that are written in the configuration.
#[derive(Debug)]
pub struct Static(Vec<EndpointAddress>);

impl Static {
    /// A source of these addresses.
    pub fn new(addresses: Vec<EndpointAddress>) -> Self {
        Self(addresses)
    }
}

impl Discovery for Static {
    fn known(&self) -> Discovered {
        Discovered { addresses: self.0.clone(), is_answered: true, error: None }
    }

    fn follow(&self, _: Report) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The addresses that one source has at present.
pub(super) struct AddressSet {
    source: Box<dyn Discovery>,
    state: Mutex<Discovered>,
    watchers: Watchers,
    task: TaskSlot,
}

impl AddressSet {
    pub(super) fn new(source: Box<dyn Discovery>) -> Self {
        let state = Mutex::new(source.known());
        Self { source, state, watchers: Watchers::default(), task: TaskSlot::default() }
    }

    /// Who is told when the addresses change.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// What is known now.
    pub(super) fn state(&self) -> Discovered {
        self.lock().clone()
    }

    /// Whether the source has been asked.
    pub(super) fn is_answered(&self) -> bool {
        self.lock().is_answered
    }

    /// Follows the source for as long as the guard lives.
    pub(super) fn run(self: &Arc<Self>, handle: &Handle) -> Arc<TaskGuard> {
        self.task.share(handle, || {
            let set = Arc::clone(self);
            self.source.follow(Box::new(move |discovered| set.replace(discovered)))
        })
    }

    fn replace(&self, mut discovered: Discovered) {
        let addresses = &mut discovered.addresses;
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MAX_ADDRESSES {
            tracing::warn!(
                addresses = addresses.len(),
                limit = MAX_ADDRESSES,
                "too many addresses discovered, the rest is left out"
            );
            addresses.truncate(MAX_ADDRESSES);
        }
        {
            let mut state = self.lock();
            if addresses.is_empty() {
                addresses.clone_from(&state.addresses);
            }
            // Once asked, it stays so, also where following starts anew after a pause.
            discovered.is_answered |= state.is_answered;
            if *state == discovered {
                return;
            }
            *state = discovered;
        }
        self.watchers.notify();
    }

    fn lock(&self) -> MutexGuard<'_, Discovered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::upstream::watch::Watch;

    struct Silent;

    impl Discovery for Silent {
        fn known(&self) -> Discovered {
            Discovered::default()
        }

        fn follow(&self, _: Report) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[derive(Default)]
    struct Counting(std::sync::atomic::AtomicUsize);

    impl Watch for Counting {
        fn changed(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn found(addresses: &[&str]) -> Discovered {
        Discovered {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            is_answered: true,
            error: None,
        }
    }

    #[test]
    fn an_empty_answer_is_held_until_there_is_another() {
        let set = AddressSet::new(Box::new(Silent));
        assert!(!set.is_answered());
        let counting = Arc::new(Counting::default());
        set.watchers().add(&(Arc::downgrade(&counting) as Weak<dyn Watch>));
        let changes = || counting.0.load(std::sync::atomic::Ordering::Relaxed);
        set.replace(found(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]));
        assert_eq!(set.state(), found(&["10.0.0.1:80", "10.0.0.2:80"]));
        set.replace(found(&["10.0.0.1:80", "10.0.0.2:80"]));
        assert_eq!(changes(), 1, "nothing new");
        let failed = Discovered { error: Some("down".to_owned()), ..Discovered::default() };
        set.replace(failed);
        assert_eq!(set.state().addresses.len(), 2);
        assert_eq!(set.state().error.as_deref(), Some("down"));
        assert!(set.is_answered());
        set.replace(found(&["10.0.0.3:80"]));
        assert_eq!(set.state(), found(&["10.0.0.3:80"]));
        assert_eq!(changes(), 3);
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let set = AddressSet::new(Box::new(Silent));
        let all: Vec<String> =
            (0..1_000).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        set.replace(found(&all));
        assert_eq!(set.state().addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn written_addresses_are_known_at_once() {
        let set = AddressSet::new(Box::new(Static::new(found(&["unix:/run/a"]).addresses)));
        assert_eq!(set.state(), found(&["unix:/run/a"]));
    }
}
