//! What outlives snapshots of all rollouts: attempts, their controllers, and the state on disk.
//!
//! One task drives the state machines: every 50 ms while a candidate is judged, else once a second. A change of the dial is
//! the first thing that follows from a look; telling and writing it down come after. The request path takes no lock here.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::{runtime::Handle, sync::Notify};
use tracing::{error, info, warn};

use super::{
    analysis::LatencyCounts,
    attempt::{Attempt, AttemptKey},
    checks::{Checks, Outcome, Standing},
    controller::{Command, Event, EventKind, Facts, Machine, Phase, Progress, Refused, Setting},
    cookie::CookieKey,
    dial::Side,
    kept::{self, Kept},
    plan::RolloutConfig,
    preflight::Run,
    status::{self, CheckLine, EventStatus, RolloutStatus, SideFacts, SideStatus},
};
use crate::{
    state::Registry,
    types::{Name, did_you_mean},
    upstream::Upstream,
};

/// A candidate that is judged is looked at so often.
const OFTEN: Duration = Duration::from_millis(50);
/// Everything else.
const SELDOM: Duration = Duration::from_secs(1);
/// Latencies are learned so often.
const LEARN: Duration = Duration::from_secs(1);
/// What has no event is written down so often: time that has passed, evidence.
const SAVE: Duration = Duration::from_secs(5);
/// Events that are shown of each rollout.
const SHOWN_EVENTS: usize = 50;
/// Latencies shown are of about so many requests.
const SHOWN_TIMES: u64 = 20_000;

/// A rollout of one generation, as its controller needs it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What its configuration says.
    pub config: Arc<RolloutConfig>,
    /// Its dial; `None` without a candidate.
    pub attempt: Option<Arc<Attempt>>,
    /// The stable upstream.
    pub stable: Arc<Upstream>,
    /// The candidate.
    pub candidate: Option<Arc<Upstream>>,
    /// Its routes, by their numbers.
    pub routes: Vec<String>,
    /// Differs where its routes or upstreams differ.
    pub fingerprint: u64,
}

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
    cookie_key: Arc<ArcSwapOption<CookieKey>>,
    inner: Mutex<Inner>,
    wake: Notify,
    saving: tokio::sync::Mutex<()>,
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
}

/// A rollout that is in force.
struct Controlled {
    machine: Machine,
    plan: Plan,
    set: Option<Setting>,
    /// Asks the endpoints what the preflight lists, while it is time for that.
    run: Option<Run>,
    /// Of the stable and of the candidate.
    times: [LatencyCounts; 2],
    last_learn: Duration,
    events: VecDeque<Event>,
    /// While the candidate is judged, and the plan has some.
    checks: Option<Checks>,
    /// How many there were of each kind.
    counts: [u64; EventKind::OF_ROLLOUTS.len()],
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
            cookie_key: Arc::default(),
            wake: Notify::new(),
            saving: tokio::sync::Mutex::default(),
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
        self.attempts.get_or_insert_with(key.clone(), || {
            Attempt::new(key, Instant::now(), self.handle.clone())
        })
    }

    /// The key of cookies, once there is one.
    pub fn cookie_key(&self) -> &Arc<ArcSwapOption<CookieKey>> {
        &self.cookie_key
    }

    /// Takes the key of cookies.
    pub fn set_cookie_key(&self, key: CookieKey) {
        self.cookie_key.store(Some(Arc::new(key)));
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
                inner.kept.insert(name, gone.machine.keep());
            }
        }
        self.tell(&events);
        // That a rollout was there is worth knowing too: its next revision starts by itself.
        self.is_news.store(true, Ordering::Release);
        self.wake.notify_one();
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
        &self,
        name: &str,
        command: Command,
    ) -> Result<RolloutStatus, CommandError> {
        if self.is_stopped.load(Ordering::Acquire) {
            let why = "this process starts or ends, and decides nothing: ask the one that serves";
            return Err(CommandError::Refused(Refused(why.to_owned())));
        }
        let (events, status) = {
            let mut inner = self.lock();
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
        self.tell(&events);
        self.wake.notify_one();
        let status = status?;
        self.save().await.map_err(CommandError::NotKept)?;
        Ok(status)
    }

    /// Nothing is decided any more: the edge ends, or another process has taken over. What there is is written down.
    pub fn stop(&self) {
        if !self.is_stopped.swap(true, Ordering::AcqRel) {
            let kept = self.everything();
            if let Err(error) = kept::write(&self.path, &kept) {
                warn!(%error, "the state of rollouts can't be kept");
            }
        }
    }

    /// One look at all of them. Says when the next one is due.
    fn look(self: &Arc<Self>) -> Duration {
        let now = self.began.elapsed();
        let (mut events, mut is_active) = (Vec::new(), false);
        let is_due = {
            let mut inner = self.lock();
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
            let is_news = self.is_news.swap(false, Ordering::AcqRel) || !events.is_empty();
            let is_due = is_news || (is_active && now >= inner.last_save + SAVE);
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

    async fn save(&self) -> Result<(), String> {
        let _one_at_a_time = self.saving.lock().await;
        if self.is_stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let (kept, path) = (self.everything(), self.path.clone());
        let written = tokio::task::spawn_blocking(move || kept::write(&path, &kept)).await;
        match written {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        }
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

impl Controlled {
    fn new(plan: &Plan, kept: Option<Progress>, now: Duration, wall: Timestamp) -> Self {
        let (config, routes) = (plan.config.clone(), plan.routes.clone());
        Self {
            machine: Machine::new(config, routes, plan.fingerprint, kept, now, wall),
            plan: plan.clone(),
            set: None,
            run: None,
            times: Default::default(),
            last_learn: now,
            events: VecDeque::new(),
            checks: None,
            counts: [0; EventKind::OF_ROLLOUTS.len()],
        }
    }

    fn take(&mut self, plan: &Plan) {
        let key = |plan: &Plan| plan.attempt.as_ref().map(|attempt| attempt.key().clone());
        if key(&self.plan) != key(plan) {
            // Another dial, which says nothing yet.
            self.set = None;
            self.times = Default::default();
        }
        if self.plan.config.checks != plan.config.checks {
            self.checks = None;
        }
        self.plan = plan.clone();
    }

    fn facts(&self) -> Facts {
        let probes = self.machine.plan().preflight.healthy;
        Facts {
            stable: self.plan.stable.standing(probes),
            candidate: self
                .plan
                .candidate
                .as_ref()
                .map(|candidate| candidate.standing(probes))
                .unwrap_or_default(),
            checks: self.checks.as_ref().map_or(Standing::Good, Checks::standing),
            preflight: self.run.as_ref().map(Run::result).unwrap_or_default(),
            wall: Timestamp::now(),
        }
    }

    /// Other systems are asked while there is something to ask about.
    fn run_checks(&mut self, handle: &Handle) {
        let configs = &self.machine.plan().checks;
        let is_wanted = !configs.is_empty() && self.machine.is_judging();
        if is_wanted != self.checks.is_some() {
            self.checks = is_wanted.then(|| Checks::start(configs.clone(), handle));
        }
    }

    fn look(&mut self, now: Duration, facts: &Facts) -> Vec<Event> {
        let counts = self.plan.attempt.as_ref().map(|attempt| attempt.collect());
        self.machine.look(now, facts, &counts.unwrap_or_default())
    }

    /// Sets the dial, where it is to say something else, and begins or ends asking the endpoints of the preflight.
    fn set(&mut self, handle: &Handle) {
        self.set_dial();
        let upstream = self.machine.asks().and_then(|side| match side {
            Side::Stable => Some(&self.plan.stable),
            Side::Candidate => self.plan.candidate.as_ref(),
        });
        self.run = match (upstream, self.run.take()) {
            (None, _) => None,
            (Some(upstream), Some(run)) if run.is_of(upstream, &self.plan.config) => Some(run),
            (Some(upstream), _) => Some(Run::start(handle, upstream, &self.plan.config)),
        };
    }

    fn set_dial(&mut self) {
        let Some(attempt) = &self.plan.attempt else { return };
        let setting = self.machine.setting();
        if self.set.replace(setting) == Some(setting) {
            return;
        }
        if setting.is_mirrored {
            attempt.mirror(setting.number);
        } else if setting.is_in_play {
            attempt.set(setting.share, setting.number, setting.is_in_play);
        } else {
            attempt.take_back(setting.number);
        }
    }

    fn learn(&mut self, now: Duration) {
        if now < self.last_learn + LEARN {
            return;
        }
        self.last_learn = now;
        let Some(attempt) = &self.plan.attempt else { return };
        let times = attempt.collect_times();
        for (_, stable, candidate) in &times {
            let [of_stable, of_candidate] = &mut self.times;
            of_stable.add_within(stable, SHOWN_TIMES);
            of_candidate.add_within(candidate, SHOWN_TIMES);
        }
        for (stratum, thresholds) in self.machine.learn(now, &times) {
            attempt.set_thresholds(stratum, thresholds);
        }
    }

    fn remember(&mut self, event: &Event) {
        if let Some(count) = self.counts.get_mut(event.kind as usize) {
            *count += 1;
        }
        if self.events.len() == SHOWN_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
    }

    fn status(&self) -> RolloutStatus {
        let machine = &self.machine;
        let (plan, progress) = (machine.plan(), machine.progress());
        let side = |side: Side, upstream: &Arc<Upstream>| {
            let standing = upstream.standing(0);
            let facts = SideFacts {
                upstream: upstream.config().name.clone(),
                in_service: standing.in_service,
                endpoints: standing.endpoints,
                times: match side {
                    Side::Stable => &self.times[0],
                    Side::Candidate => &self.times[1],
                },
            };
            SideStatus::of(machine, side, &facts)
        };
        let steps = plan.strategy.steps().len();
        let has_step = matches!(progress.phase, Phase::Step | Phase::Ready) && steps > 0;
        let ln_evidence = super::analysis::Criterion::ALL
            .map(|criterion| machine.analysis().ln_evidence(criterion))
            .into_iter()
            .fold(f64::NEG_INFINITY, f64::max);
        RolloutStatus {
            name: plan.name.clone(),
            strategy: plan.strategy.word().to_owned(),
            revision: plan.revision.clone(),
            phase: progress.phase,
            state: progress.phase.word().to_owned(),
            step: has_step.then_some((progress.step + 1, steps)),
            live: match machine.live_side() {
                Side::Candidate => plan.candidate.clone().unwrap_or_else(|| plan.stable.clone()),
                Side::Stable => plan.stable.clone(),
            },
            is_paused: progress.is_paused,
            file_differs: machine.file_differs(),
            waits_for: machine.hold().map(ToString::to_string),
            reason: progress.reason.as_ref().map(|reason| reason.text.clone()),
            reason_at: progress.reason.as_ref().map(|reason| reason.at),
            next: status::next(machine),
            doubt: machine.is_judging().then(|| (-ln_evidence).exp().min(1.0)),
            stable: side(Side::Stable, &self.plan.stable),
            candidate: self
                .plan
                .candidate
                .as_ref()
                .map(|candidate| side(Side::Candidate, candidate)),
            mirror: self
                .plan
                .attempt
                .as_ref()
                .filter(|_| plan.strategy.mirror().is_some())
                .map(|attempt| attempt.copies().status()),
            routes: self.plan.routes.clone(),
            checks: self.checks.iter().flat_map(Checks::status).map(check_status).collect(),
            events: self
                .events
                .iter()
                .map(|event| EventStatus {
                    at: event.at,
                    event: event.kind.word().to_owned(),
                    text: event.text.clone(),
                })
                .collect(),
        }
    }
}

fn check_status(status: super::checks::CheckStatus) -> CheckLine {
    let (passes, text) = match status.last {
        None => (None, "it has no result yet".to_owned()),
        Some(Outcome::Passes) => (Some(true), "passes".to_owned()),
        Some(Outcome::Fails { text }) => (Some(false), text),
        Some(Outcome::NoAnswer { text }) => (None, format!("no answer: {text}")),
    };
    CheckLine { name: status.name, passes, text }
}
