//! Webhooks: events of rollouts, told to other programs and to people as they happen.
//!
//! Off the path of requests. [`Webhooks::tell`] leaves an event in one bounded queue for the whole edge; a task for each
//! webhook takes its events in their order, signs and sends them, and tries again for an hour (`again.rs`). Of one webhook at
//! most one request is under way, so that its events come in their order, and they share no places: webhooks that are down
//! or silent hold up no other, however many. There are [`MAX_WEBHOOKS`] at most.
//!
//! Invariants: nothing waits for a webhook, ever; URL and secret are read for each try and never shown; an event that
//! is to be signed is never sent without. What it does not do: keep events over the end of the process, and promise that one
//! comes only once: a receiver knows an event by its id.

mod again;
mod config;
mod delivery;
mod event;
mod queue;
mod signature;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{RawWebhook, RawWebhookUrl, WebhookConfig, WebhookFormat, WebhookUrl},
    event::{Event, EventKind},
};
use self::{
    delivery::keep_telling,
    queue::{Queue, Waiting},
};
use super::metrics::{Metrics, WebhookMetrics, WebhookResult};
use crate::types::{Name, Secret, SecretSource};

/// Events that may wait, for all webhooks together.
const MAX_WAITING: usize = 1_000;
/// Webhooks of an edge, each with a request under way at most.
pub const MAX_WEBHOOKS: usize = 64;
/// How often the end of the edge looks whether everything is told.
const LOOK: Duration = Duration::from_millis(10);

/// Reads a secret as it is now, or says why it can't; `state::read_secret`, which stands above this layer.
pub type SecretReader = fn(&SecretSource) -> Result<Secret, String>;

/// The webhooks of an edge.
pub struct Webhooks {
    shared: Arc<Shared>,
}

/// What the tasks of all webhooks share.
struct Shared {
    metrics: Arc<Metrics>,
    read: SecretReader,
    state: Mutex<State>,
}

struct State {
    hooks: BTreeMap<Name, Arc<Hook>>,
    queue: Queue,
    /// Where tasks run, once it is said.
    handle: Option<Handle>,
    /// Taken out of the queue, and not over yet.
    in_flight: usize,
}

/// One webhook, over reloads.
struct Hook {
    name: Name,
    config: ArcSwap<WebhookConfig>,
    metrics: Arc<WebhookMetrics>,
    /// There is something in the queue.
    filled: Notify,
    /// Its configuration is another one: what failed may now work.
    changed: Notify,
    /// It is no longer configured, or the edge is gone.
    gone: CancellationToken,
    /// It waits for its next try.
    is_resting: AtomicBool,
}

impl Webhooks {
    /// Without any webhook yet.
    pub fn new(metrics: Arc<Metrics>, read: SecretReader) -> Arc<Self> {
        let state = State {
            hooks: BTreeMap::new(),
            queue: Queue::new(MAX_WAITING),
            handle: None,
            in_flight: 0,
        };
        let shared = Shared { metrics, read, state: Mutex::new(state) };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Takes the webhooks of a configuration that comes into force. One that is there already keeps what waits for it; what
    /// waits for one that is gone is dropped and counted.
    pub fn configure(&self, configs: &[WebhookConfig]) {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let State { hooks, queue, .. } = state;
        hooks.retain(|name, hook| {
            let stays = configs.iter().any(|config| config.name == *name);
            if !stays {
                hook.gone.cancel();
                for _ in 0..queue.remove(name) {
                    hook.metrics.ended(WebhookResult::Dropped);
                }
                hook.metrics.waiting(0);
            }
            stays
        });
        for config in configs {
            if let Some(hook) = state.hooks.get(&config.name) {
                if **hook.config.load() != *config {
                    hook.config.store(Arc::new(config.clone()));
                    hook.changed.notify_one();
                }
                continue;
            }
            let hook = Arc::new(Hook {
                name: config.name.clone(),
                config: ArcSwap::from_pointee(config.clone()),
                metrics: self.shared.metrics.webhook(&config.name),
                filled: Notify::new(),
                changed: Notify::new(),
                gone: CancellationToken::new(),
                is_resting: AtomicBool::new(false),
            });
            if let Some(handle) = &state.handle {
                handle.spawn(keep_telling(Arc::clone(&self.shared), Arc::clone(&hook)));
            }
            state.hooks.insert(config.name.clone(), hook);
        }
    }

    /// Begins to send, by tasks on `handle`. What was told before has waited.
    pub fn start(&self, handle: &Handle) {
        let mut state = self.shared.lock();
        if state.handle.is_none() {
            for hook in state.hooks.values() {
                handle.spawn(keep_telling(Arc::clone(&self.shared), Arc::clone(hook)));
            }
            state.handle = Some(handle.clone());
        }
    }

    /// Tells an event to every webhook that wants its kind. Never waits; where 1,000 wait already, the oldest is dropped
    /// and counted.
    pub fn tell(&self, event: Event) {
        let event = Arc::new(event);
        let mut state = self.shared.lock();
        let wanting: Vec<_> = state
            .hooks
            .values()
            .filter(|hook| hook.config.load().wants(event.kind))
            .map(Arc::clone)
            .collect();
        for hook in wanting {
            state.push(&hook, Arc::clone(&event));
        }
    }

    /// Tells an event to one webhook, whatever kinds it wants. `false` where there is no such webhook.
    pub fn tell_one(&self, name: &str, event: Event) -> bool {
        let mut state = self.shared.lock();
        let Some(hook) = state.hooks.get(name).map(Arc::clone) else { return false };
        state.push(&hook, Arc::new(event));
        true
    }

    /// Waits until every event is told that can be told now, at most for `limit`. Returns how many are left: to be
    /// tried again, or under way.
    pub async fn settle(&self, limit: Duration) -> usize {
        let end = Instant::now() + limit;
        loop {
            let (is_busy, left) = self.shared.lock().outlook();
            if !is_busy || Instant::now() >= end {
                return left;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").finish_non_exhaustive()
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        // The tasks hold what they share, but not this.
        for hook in self.shared.lock().hooks.values() {
            hook.gone.cancel();
        }
    }
}

impl State {
    fn push(&mut self, hook: &Hook, event: Arc<Event>) {
        if let Some(loser) = self.queue.push(&hook.name, event, Instant::now())
            && let Some(loser) = self.hooks.get(&loser)
        {
            loser.metrics.ended(WebhookResult::Dropped);
            loser.metrics.waiting(self.queue.length_of(&loser.name));
        }
        hook.metrics.waiting(self.queue.length_of(&hook.name));
        hook.filled.notify_one();
    }

    /// Whether more will be told soon, and how many are not told yet.
    fn outlook(&self) -> (bool, usize) {
        let is_ready = |hook: &Arc<Hook>| {
            self.queue.length_of(&hook.name) > 0 && !hook.is_resting.load(Ordering::Acquire)
        };
        let is_busy = self.in_flight > 0 || self.hooks.values().any(is_ready);
        (is_busy && self.handle.is_some(), self.queue.length() + self.in_flight)
    }
}

impl Shared {
    /// The next event of a webhook; it is to be ended or put back.
    fn take(&self, hook: &Hook) -> Option<Waiting> {
        let mut state = self.lock();
        let waiting = state.queue.take(&hook.name)?;
        state.in_flight += 1;
        hook.metrics.waiting(state.queue.length_of(&hook.name));
        Some(waiting)
    }

    /// An event that was taken is over.
    fn end(&self, hook: &Hook, result: WebhookResult) {
        self.lock().in_flight -= 1;
        hook.metrics.ended(result);
    }

    /// An event that was taken is the webhook's next one again, after a rest.
    fn put_back(&self, hook: &Hook, waiting: Waiting) {
        let mut state = self.lock();
        state.in_flight -= 1;
        hook.is_resting.store(true, Ordering::Release);
        if !hook.gone.is_cancelled() && state.queue.put_back(&hook.name, waiting) {
            hook.metrics.waiting(state.queue.length_of(&hook.name));
        } else {
            hook.metrics.ended(WebhookResult::Dropped);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
