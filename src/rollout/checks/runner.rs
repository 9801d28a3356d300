//! Runs checks while they are held: a task each, the first run at once.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Request, header::AUTHORIZATION};
use http_body_util::Full;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::debug;

use super::{
    CheckConfig, CheckKind, Outcome, Standing, http as by_http, prometheus,
    standing::{Results, standing},
};
use crate::{state::read_secret, telemetry::outgoing::Outgoing, types::Name};

/// Checks that run. Dropped, they are stopped.
pub struct Checks {
    runs: Vec<Arc<Run>>,
    tasks: Vec<AbortHandle>,
}

/// How a check does, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckStatus {
    /// Its name.
    pub name: Name,
    /// What its last run came to; `None` before the first.
    pub last: Option<Outcome>,
    /// When that was.
    pub at: Option<SystemTime>,
    /// How long it is to the next run; nothing while one is under way.
    pub next: Option<Duration>,
}

/// A check and its results.
struct Run {
    config: CheckConfig,
    progress: Mutex<Progress>,
}

struct Progress {
    results: Results,
    at: Option<SystemTime>,
    /// When the next run begins; `None` while one is under way.
    next: Option<Instant>,
}

impl Checks {
    /// Starts the checks, by tasks on `handle`.
    pub fn start(configs: Vec<CheckConfig>, handle: &Handle) -> Self {
        let new = |config: CheckConfig| {
            let results = Results::none(config.name.clone(), config.on_error, config.failures);
            let progress = Mutex::new(Progress { results, at: None, next: None });
            Arc::new(Run { config, progress })
        };
        let runs: Vec<_> = configs.into_iter().map(new).collect();
        let spawn = |run: &Arc<Run>| handle.spawn(Arc::clone(run).keep_asking()).abort_handle();
        let tasks = runs.iter().map(spawn).collect();
        Self { runs, tasks }
    }

    /// How each does, in the order in which they were given.
    pub fn status(&self) -> Vec<CheckStatus> {
        let now = Instant::now();
        let status = |run: &Arc<Run>| {
            let progress = run.lock();
            CheckStatus {
                name: progress.results.name().clone(),
                last: progress.results.last().cloned(),
                at: progress.at,
                next: progress.next.map(|next| next.saturating_duration_since(now)),
            }
        };
        self.runs.iter().map(status).collect()
    }

    /// What the latest results mean together.
    pub fn standing(&self) -> Standing {
        let results: Vec<_> = self.runs.iter().map(|run| run.lock().results.clone()).collect();
        standing(&results)
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs.iter().map(|run| &run.config.name)).finish()
    }
}

impl Run {
    async fn keep_asking(self: Arc<Self>) {
        let mut ticks = interval(self.config.every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        loop {
            ticks.tick().await;
            let began = Instant::now();
            self.lock().next = None;
            let outcome = self.ask(&mut client).await;
            debug!(check = &*self.config.name, ?outcome, "check has run");
            let mut progress = self.lock();
            progress.results.add(outcome);
            progress.at = Some(SystemTime::now());
            progress.next = Some(began + self.config.every);
        }
    }

    /// One run. The client is kept for the next one; where there was no answer, its authorities are read anew.
    async fn ask(self: &Arc<Self>, client: &mut Option<Outgoing>) -> Outcome {
        let (run, at_hand) = (Arc::clone(self), client.take());
        let prepared = tokio::task::spawn_blocking(move || run.prepare(at_hand)).await;
        let (outgoing, request) = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(text)) => return Outcome::NoAnswer { text },
            Err(panicked) => return Outcome::no_answer(panicked.to_string()),
        };
        let answer = match outgoing.ask(request, self.config.timeout).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::no_answer(format!("{}: {error}", self.config.url)),
        };
        *client = Some(outgoing);
        let status = answer.status().as_u16();
        match &self.config.kind {
            CheckKind::Prometheus(bounds) => prometheus::judge(status, answer.body(), bounds),
            CheckKind::Http(expected) => by_http::judge(status, answer.body(), expected),
        }
    }

    /// Blocks on files.
    fn prepare(
        &self,
        at_hand: Option<Outgoing>,
    ) -> Result<(Outgoing, Request<Full<Bytes>>), String> {
        let CheckConfig { url, token, ca, .. } = &self.config;
        let outgoing = match at_hand {
            Some(outgoing) => outgoing,
            None => Outgoing::to(url, ca.as_deref()).map_err(|error| error.to_string())?,
        };
        let mut request = Request::new(Full::default());
        *request.uri_mut() = url.expose().clone();
        if let Some(source) = token {
            let token = read_secret(source).map_err(|error| error.to_string())?;
            let value = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat());
            let mut value =
                value.map_err(|_| format!("the {source} has what no header can have in it"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok((outgoing, request))
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
