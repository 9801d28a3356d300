//! What outlives snapshots of all rollouts: attempts, their controllers, and the state on disk.
//!
//! One task drives the state machines: every 50 ms while a candidate is judged, else once a second. A change of the dial is
//! the first thing that follows from a look; telling and writing it down come after. The request path takes no lock here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{runtime::Handle, sync::Notify};
use tracing::{error, info, warn};

use super::{
    attempt::{Attempt, AttemptKey},
    controlled::{Controlled, Plan},
    controller::{Command, Event, EventKind, Refused},
    kept::{self, Kept},
    plan::RolloutConfig,
    status::RolloutStatus,
};
use crate::{
    state::{EdgeSecret, NumberKey, NumberSigner, Registry},
    types::{Name, Problems, did_you_mean},
};

/// A candidate that is judged is looked at so often.
const OFTEN: Duration = Duration::from_millis(50);
/// Everything else.
const SELDOM: Duration = Duration::from_secs(1);
/// What has no event is written down so often: time that has passed, evidence. So often it is tried again, too.
const SAVE: Duration = Duration::from_secs(5);

/// Why a command was not done, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such rollout.
    #[error("there is no rollout \"{0}\"{1}")]
    Unknown(String, String),
    /// It can't be done now.
    #[error("{0}")]
    Refused(Refused),
    /// It is in force, and a restart would not know of it.
    #[error(
        "it is in force, but can't be written down, so that a restart would not know of it: {0}"
    )]
    NotKept(String),
}

/// Who is told of events.
pub type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// The long-lived state of all rollouts.
pub struct Live {
    path: PathBuf,
    began: Instant,
    handle: Handle,
    attempts: Registry<AttemptKey, Attempt>,
    /// What cookies of the next generation are signed with.
    cookie_key: Mutex<Option<NumberKey>>,
    inner: Mutex<Inner>,
    wake: Notify,
    /// One save waits at a time.
    saving: tokio::sync::Mutex<()>,
    /// Who writes the file; holds what became of the last time.
    writing: Mutex<Result<(), String>>,
    /// Changes under the lock of `inner`, so that what was decided before it is in what is written down at the end.
    is_stopped: AtomicBool,
    /// Something was decided that is not written down yet.
    is_news: AtomicBool,
    listener: Mutex<Option<Listener>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("rollout::Live").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    rollouts: BTreeMap<Name, Controlled>,
    /// What was read, and what rollouts that the configuration has no more had come to.
    kept: Kept,
    last_save: Duration,
    /// It could not be written down: it is not tried again before this.
    next_try: Duration,
}

impl Live {
    /// Reads what was kept in the state directory. Nothing is in force yet.
    pub fn new(state_dir: &Path, handle: Handle) -> Arc<Self> {
        let path = kept::path_in(state_dir);
        Arc::new(Self {
            inner: Mutex::new(Inner { kept: kept::read(&path), ..Inner::default() }),
            path,
            began: Instant::now(),
            handle,
            attempts: Registry::new(),
            cookie_key: Mutex::default(),
            wake: Notify::new(),
            saving: tokio::sync::Mutex::default(),
            writing: Mutex::new(Ok(())),
            is_stopped: AtomicBool::new(true),
            is_news: AtomicBool::new(false),
            listener: Mutex::default(),
        })
    }

    /// Begins to decide. `was_another`: another process has decided up to now, and has written down what there is.
    pub fn start(self: &Arc<Self>, was_another: bool) {
        if was_another {
            self.read_again();
        }
        self.is_stopped.store(false, Ordering::Release);
        self.handle.spawn(drive(Arc::downgrade(self)));
    }

    fn read_again(&self) {
        let mut inner = self.lock();
        inner.kept = kept::read(&self.path);
        let (now, wall) = (self.began.elapsed(), Timestamp::now());
        let plans: Vec<Plan> = inner.rollouts.values().map(|one| one.plan.clone()).collect();
        for plan in plans {
            let name = plan.config.name.clone();
            let kept = inner.kept.get(&name).cloned();
            let mut controlled = Controlled::new(&plan, kept, now, wall);
            controlled.set(&self.handle);
            inner.rollouts.insert(name, controlled);
        }
    }

    /// Who is told of events from now on. It must not wait.
    pub fn listen(&self, listener: Listener) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// The live state of an attempt.
    pub fn attempt(&self, key: AttemptKey) -> Arc<Attempt> {
        self.attempts.get_or_insert_with(key.clone(), || Attempt::new(key, Instant::now()))
    }

    /// What signs the cookies of an attempt: the number that a client was dealt by, worth nothing for another revision. `None`
    /// where there is no key.
    pub fn cookies(&self, attempt: &AttemptKey) -> Option<NumberSigner> {
        let key = self.cookie_key.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = attempt.revision.as_deref().unwrap_or_default();
        Some(key.as_ref()?.signer(&[&attempt.rollout, revision]))
    }

    /// The key of the cookies of attempts that are attached from here on. Those before keep theirs.
    pub fn set_secret(&self, secret: &EdgeSecret) {
        let key = NumberKey::of(secret, "rollout cookies, version 1");
        *self.cookie_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// Drops attempts that nothing has used for ten minutes.
    pub fn sweep(&self, now: Instant) {
        self.attempts.sweep(now);
    }

    /// A generation comes into force, with these rollouts. To be called right before the swap: its requests find the dials set.
    pub fn put_in_force(&self, plans: &[Plan], now: Instant) {
        let (now, wall) = (now.saturating_duration_since(self.began), Timestamp::now());
        let mut events = Vec::new();
        {
            let mut inner = self.lock();
            let mut before = std::mem::take(&mut inner.rollouts);
            for plan in plans {
                let name = plan.config.name.clone();
                let controlled = match before.remove(&name) {
                    Some(mut controlled) => {
                        let (config, routes) = (plan.config.clone(), plan.routes.clone());
                        events.extend(controlled.machine.adopt(
                            config,
                            routes,
                            plan.fingerprint,
                            plan.last_number(),
                            now,
                        ));
                        controlled.take(plan);
                        controlled
                    }
                    None => Controlled::new(plan, inner.kept.get(&name).cloned(), now, wall),
                };
                let controlled = inner.rollouts.entry(name).or_insert(controlled);
                controlled.set(&self.handle);
                for event in &events {
                    if event.rollout == controlled.plan.config.name {
                        controlled.remember(event);
                    }
                }
            }
            // What the configuration has no more may come back.
            for (name, gone) in before {
                gone.leave();
                inner.kept.insert(name, gone.machine.keep());
            }
            let Inner { kept, rollouts, .. } = &mut *inner;
            let gone = kept.iter_mut().filter(|(name, _)| !rollouts.contains_key(*name));
            gone.for_each(|(_, progress)| progress.leave());
            kept::bound(kept, |name| rollouts.contains_key(name));
        }
        self.tell(&events);
        // That a rollout was there is worth knowing too: its next revision starts by itself.
        self.is_news.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Refuses plans that would take all requests at once from what a person has decided to give them to.
    pub fn object(&self, plans: &[Arc<RolloutConfig>], problems: &mut Problems) {
        let inner = self.lock();
        for plan in plans {
            let controlled = inner.rollouts.get(&plan.name);
            if let Some(text) = controlled.and_then(|one| one.machine.objection(plan)) {
                problems.error(&plan.path.key("stable"), text);
            }
        }
    }

    /// How all of them are.
    pub fn status(&self) -> Vec<RolloutStatus> {
        self.lock().rollouts.values().map(Controlled::status).collect()
    }

    /// How often what happened to each rollout.
    pub fn event_counts(&self) -> Vec<(Name, Vec<(EventKind, u64)>)> {
        let counts =
            |one: &Controlled| EventKind::OF_ROLLOUTS.into_iter().zip(one.counts).collect();
        self.lock().rollouts.iter().map(|(name, one)| (name.clone(), counts(one))).collect()
    }

    /// Does what a person asks for, and writes it down.
    ///
    /// # Errors
    /// There is no such rollout, it can't be done now, or it was done and could not be written down.
    pub async fn command(
        self: &Arc<Self>,
        name: &str,
        command: Command,
    ) -> Result<RolloutStatus, CommandError> {
        let (events, status) = {
            let mut inner = self.lock();
            if self.is_stopped.load(Ordering::Acquire) {
                let why =
                    "this process starts or ends, and decides nothing: ask the one that serves";
                return Err(CommandError::Refused(Refused(why.to_owned())));
            }
            let names: Vec<String> = inner.rollouts.keys().map(ToString::to_string).collect();
            let Some(controlled) = inner.rollouts.get_mut(name) else {
                let near = did_you_mean(name, names.iter().map(String::as_str));
                let near = near.map(|near| format!("; did you mean \"{near}\"?"));
                return Err(CommandError::Unknown(name.to_owned(), near.unwrap_or_default()));
            };
            let now = self.began.elapsed();
            let facts = controlled.facts();
            // What was counted up to now belongs to what was before.
            let mut events = controlled.look(now, &facts);
            let done = controlled.machine.command(command, now, &facts);
            controlled.set(&self.handle);
            let refused = match done {
                Ok(more) => {
                    events.extend(more);
                    None
                }
                Err(refused) => Some(CommandError::Refused(refused)),
            };
            for event in &events {
                controlled.remember(event);
            }
            (events, refused.map_or_else(|| Ok(controlled.status()), Err))
        };
        if !events.is_empty() {
            // Also where the command was refused: the look before it may have decided something.
            self.is_news.store(true, Ordering::Release);
        }
        self.tell(&events);
        self.wake.notify_one();
        let status = status?;
        self.save().await.map_err(CommandError::NotKept)?;
        Ok(status)
    }

    /// Nothing is decided any more: the edge ends, or another process has taken over. What there is is written down.
    pub fn stop(&self) {
        // A write that is under way ends first: nothing older may replace what is written here.
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_stopped = {
            let _nothing_is_decided_meanwhile = self.lock();
            self.is_stopped.swap(true, Ordering::AcqRel)
        };
        if !was_stopped {
            *writing = self.write();
            if let Err(error) = &*writing {
                warn!(error, "the state of rollouts can't be kept");
            }
        }
    }

    /// One look at all of them. Says when the next one is due.
    fn look(self: &Arc<Self>) -> Duration {
        let now = self.began.elapsed();
        let (mut events, mut is_active) = (Vec::new(), false);
        let is_due = {
            let mut inner = self.lock();
            if self.is_stopped.load(Ordering::Acquire) {
                return SELDOM;
            }
            for controlled in inner.rollouts.values_mut() {
                let facts = controlled.facts();
                let told = controlled.look(now, &facts);
                controlled.set(&self.handle);
                for event in &told {
                    controlled.remember(event);
                }
                events.extend(told);
                controlled.learn(now);
                controlled.run_checks(&self.handle);
                is_active |= controlled.machine.is_active();
            }
            let is_owed = now >= inner.next_try && self.is_news.swap(false, Ordering::AcqRel);
            let is_due = is_owed
                || !events.is_empty()
                || (is_active && now >= inner.last_save + SAVE && now >= inner.next_try);
            if is_due {
                inner.last_save = now;
            }
            is_due
        };
        self.tell(&events);
        if is_due {
            self.save_later();
        }
        if is_active { OFTEN } else { SELDOM }
    }

    fn save_later(self: &Arc<Self>) {
        let live = Arc::clone(self);
        self.handle.spawn(async move {
            if let Err(error) = live.save().await {
                error!(error, "the state of rollouts can't be kept: a restart would begin with what was kept before");
            }
        });
    }

    async fn save(self: &Arc<Self>) -> Result<(), String> {
        let _one_at_a_time = self.saving.lock().await;
        let live = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || live.write_down()).await;
        let written = written.unwrap_or_else(|panicked| Err(panicked.to_string()));
        if written.is_err() {
            // The disk may be full for a while: what is owed stays owed.
            self.lock().next_try = self.began.elapsed() + SAVE;
            self.is_news.store(true, Ordering::Release);
        }
        written
    }

    /// Writes down what there is. After the end the last word is written already: what became of that is what there is to say.
    fn write_down(&self) -> Result<(), String> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_stopped.load(Ordering::Acquire) {
            *writing = self.write();
        }
        writing.clone()
    }

    fn write(&self) -> Result<(), String> {
        kept::write(&self.path, &self.everything()).map_err(|error| error.to_string())
    }

    fn everything(&self) -> Kept {
        let inner = self.lock();
        let mut kept = inner.kept.clone();
        for (name, controlled) in &inner.rollouts {
            kept.insert(name.clone(), controlled.machine.keep());
        }
        kept::bound(&mut kept, |name| inner.rollouts.contains_key(name));
        kept
    }

    fn tell(&self, events: &[Event]) {
        for event in events {
            let Event { kind, rollout, revision, text, .. } = event;
            let revision = revision.as_deref().unwrap_or_default();
            let word = kind.word();
            if kind.is_alarm() {
                warn!(%rollout, revision, event = word, "rollout: {text}");
            } else {
                info!(%rollout, revision, event = word, "rollout: {text}");
            }
            let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(listener) = listener.as_ref() {
                listener(event);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at all rollouts for as long as they live.
async fn drive(live: Weak<Live>) {
    loop {
        let Some(live) = live.upgrade() else { return };
        if live.is_stopped.load(Ordering::Acquire) {
            return;
        }
        let pause = live.look();
        let woken = async { live.wake.notified().await };
        // A wake-up only brings the next look forward.
        drop(tokio::time::timeout(pause, woken).await);
    }
}
