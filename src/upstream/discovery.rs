//! Where the addresses of an endpoint come from: they are written in the configuration, or a name is resolved.
//!
//! An [`AddressSet`] holds what a discovery has last said. It is swapped without a new snapshot: the endpoint sets that
//! watch it are built anew. It outlives snapshots, so that a reload does not wait for a name it already knows. An empty answer does
//! not replace endpoints: they are held until there are others, or for as long as the source says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::types::EndpointAddress;

use super::{
    task::{TaskGuard, TaskSlot},
    watch::Watchers,
};

/// The most addresses of one source; of more, those that sort last are left out.
pub const MAX_ADDRESSES: usize = 256;

/// One endpoint that was discovered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiscoveredEndpoint {
    /// Where it is: an IP address or a Unix socket, never a name.
    pub address: EndpointAddress,
    /// The name of its host, where the source has one of its own for each.
    pub host: Option<Arc<str>>,
    /// Its weight, where the source has one for each.
    pub weight: Option<u32>,
}

impl From<EndpointAddress> for DiscoveredEndpoint {
    fn from(address: EndpointAddress) -> Self {
        Self { address, host: None, weight: None }
    }
}

/// What a discovery knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The endpoints as they are now.
    pub endpoints: Vec<DiscoveredEndpoint>,
    /// Whether they, or some of them, are what the source has just said, and not kept from before.
    pub is_fresh: bool,
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

    /// For how long endpoints are held while the source says that there are none.
    fn keep(&self) -> Duration {
        Duration::MAX
    }

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
        let endpoints = self.0.iter().cloned().map(DiscoveredEndpoint::from).collect();
        Discovered { endpoints, is_answered: true, is_fresh: true, error: None }
    }

    fn follow(&self, _: Report) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The endpoints that one source has at present.
pub(super) struct AddressSet {
    /// As the log has it.
    name: String,
    source: Box<dyn Discovery>,
    state: Mutex<State>,
    watchers: Watchers,
    task: TaskSlot,
}

struct State {
    discovered: Discovered,
    /// When the source last said where endpoints are.
    answered: Option<Instant>,
}

impl AddressSet {
    pub(super) fn new(name: String, source: Box<dyn Discovery>) -> Self {
        let state = Mutex::new(State { discovered: source.known(), answered: None });
        Self { name, source, state, watchers: Watchers::default(), task: TaskSlot::default() }
    }

    /// Who is told when the endpoints change.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// What is known now.
    pub(super) fn state(&self) -> Discovered {
        self.lock().discovered.clone()
    }

    /// Whether the source has been asked.
    pub(super) fn is_answered(&self) -> bool {
        self.lock().discovered.is_answered
    }

    /// Follows the source for as long as the guard lives.
    pub(super) fn run(self: &Arc<Self>, handle: &Handle) -> Arc<TaskGuard> {
        self.task.share(handle, || {
            let set = Arc::clone(self);
            self.source.follow(Box::new(move |discovered| set.replace(discovered, Instant::now())))
        })
    }

    fn replace(&self, mut discovered: Discovered, now: Instant) {
        let endpoints = &mut discovered.endpoints;
        endpoints.sort_unstable();
        endpoints.dedup_by(|a, b| a.address == b.address);
        if endpoints.len() > MAX_ADDRESSES {
            tracing::warn!(
                addresses = endpoints.len(),
                limit = MAX_ADDRESSES,
                "too many addresses discovered, the rest is left out"
            );
            endpoints.truncate(MAX_ADDRESSES);
        }
        {
            let mut state = self.lock();
            if discovered.is_fresh {
                state.answered = Some(now);
            }
            let keep = self.source.keep();
            let may_be_held = state
                .answered
                .is_some_and(|answered| now.saturating_duration_since(answered) < keep);
            if endpoints.is_empty() && may_be_held {
                endpoints.clone_from(&state.discovered.endpoints);
            }
            // Once asked, it stays so, also where following starts anew after a pause.
            discovered.is_answered |= state.discovered.is_answered;
            if state.discovered == discovered {
                return;
            }
            self.log(&state.discovered, &discovered);
            state.discovered = discovered;
        }
        self.watchers.notify();
    }

    /// Says once that something is wrong, that the endpoints are given up, and that all is well again.
    fn log(&self, before: &Discovered, after: &Discovered) {
        let (name, kept) = (&self.name, after.endpoints.len());
        let were = before.endpoints.len();
        match (&before.error, &after.error) {
            (None, Some(error)) => {
                tracing::warn!(name, %error, kept, "name not resolved, the last answer is kept");
            }
            (Some(_), Some(error)) if kept == 0 && were > 0 => {
                tracing::error!(name, %error, were, "name not resolved for too long: its endpoints are given up");
            }
            (Some(_), None) => tracing::info!(name, endpoints = kept, "name resolved again"),
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::upstream::watch::Watch;

    struct Silent;

    const DAY: Duration = Duration::from_hours(24);

    fn set() -> AddressSet {
        AddressSet::new("test".to_owned(), Box::new(Silent))
    }

    impl Discovery for Silent {
        fn known(&self) -> Discovered {
            Discovered::default()
        }

        fn keep(&self) -> Duration {
            DAY
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
            endpoints: addresses
                .iter()
                .map(|text| text.parse::<EndpointAddress>().unwrap().into())
                .collect(),
            is_answered: true,
            is_fresh: true,
            error: None,
        }
    }

    #[test]
    fn an_empty_answer_is_held_until_there_is_another() {
        let set = set();
        assert!(!set.is_answered());
        let counting = Arc::new(Counting::default());
        set.watchers().add(&(Arc::downgrade(&counting) as Weak<dyn Watch>));
        let changes = || counting.0.load(std::sync::atomic::Ordering::Relaxed);
        let now = Instant::now();
        set.replace(found(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]), now);
        assert_eq!(set.state(), found(&["10.0.0.1:80", "10.0.0.2:80"]));
        set.replace(found(&["10.0.0.1:80", "10.0.0.2:80"]), now);
        assert_eq!(changes(), 1, "nothing new");
        let failed = Discovered { error: Some("down".to_owned()), ..Discovered::default() };
        set.replace(failed.clone(), now + Duration::from_hours(23));
        assert_eq!(set.state().endpoints.len(), 2);
        assert_eq!(set.state().error.as_deref(), Some("down"));
        assert!(set.is_answered());
        set.replace(found(&["10.0.0.3:80"]), now + DAY);
        assert_eq!(set.state(), found(&["10.0.0.3:80"]));
        assert_eq!(changes(), 3);
        set.replace(failed.clone(), now + DAY + DAY);
        assert!(set.state().endpoints.is_empty(), "a last answer is no answer for ever");
    }

    #[test]
    fn kept_endpoints_do_not_make_the_last_answer_younger() {
        let set = set();
        let now = Instant::now();
        set.replace(found(&["10.0.0.1:80"]), now);
        let kept = Discovered { is_fresh: false, ..found(&["10.0.0.1:80"]) };
        set.replace(kept, now + Duration::from_hours(23));
        set.replace(Discovered::default(), now + DAY);
        assert!(set.state().endpoints.is_empty());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let set = set();
        let all: Vec<String> =
            (0..1_000).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        set.replace(found(&all), Instant::now());
        assert_eq!(set.state().endpoints.len(), MAX_ADDRESSES);
    }

    #[test]
    fn written_addresses_are_known_at_once() {
        let addresses = vec!["unix:/run/a".parse().unwrap()];
        let set = AddressSet::new("test".to_owned(), Box::new(Static::new(addresses)));
        assert_eq!(set.state(), found(&["unix:/run/a"]));
    }
}
