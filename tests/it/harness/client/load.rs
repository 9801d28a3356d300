//! Many clients at once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    failure::{Failure, FailureKind},
    http_client::{Client, Prepared},
    response::Response,
};
use crate::harness::{block_on, spawn};

/// Texts of failures that a report keeps.
const MOST_SAMPLES: usize = 10;

type Check = Arc<dyn Fn(&Response) -> Result<(), String> + Send + Sync>;

/// Clients that send one request again and again.
#[derive(Clone)]
pub struct Load {
    client: Client,
    request: Prepared,
    clients: usize,
    pauses: Vec<Duration>,
    every: Option<Duration>,
    check: Option<Check>,
}

/// What came of a load.
#[derive(Clone)]
pub struct LoadReport {
    /// Requests answered whole with a status under 400 that passed the check.
    pub ok: u64,
    /// Requests without an answer, or with one that did not pass the check, by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Latencies of whole answers in microseconds.
    pub latencies: Histogram<u64>,
    /// The first failures, as text.
    pub samples: Vec<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// A load that runs beside the test. Dropped, it ends.
pub struct RunningLoad {
    task: Option<tokio::task::JoinHandle<LoadReport>>,
    is_over: Arc<AtomicBool>,
    completed: Arc<AtomicU64>,
}

impl Load {
    pub(super) fn new(client: Client, request: Prepared, clients: usize) -> Self {
        Self { client, request, clients, pauses: Vec::new(), every: None, check: None }
    }

    /// Each client waits so long between two requests.
    pub fn pause(self, pause: Duration) -> Self {
        self.pauses(&[pause])
    }

    /// Each client waits so long between two requests: the first time after its first request and so on, then again
    /// from the beginning.
    pub fn pauses(mut self, pauses: &[Duration]) -> Self {
        self.pauses = pauses.to_vec();
        self
    }

    /// Each client begins a request so often, however long the one before took; what it could not begin in time it leaves out.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = Some(interval);
        self
    }

    /// Looks at each whole answer; an error counts as [`FailureKind::Check`].
    pub fn check(
        mut self,
        check: impl Fn(&Response) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// Sends so many requests in all.
    pub fn requests(self, n: u64) -> LoadReport {
        block_on(self.run(n, Arc::default(), Arc::default()))
    }

    /// Sends requests for so long.
    pub fn during(self, time: Duration) -> LoadReport {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        spawn(async move {
            tokio::time::sleep(time).await;
            stop.store(true, Ordering::SeqCst);
        });
        block_on(self.run(u64::MAX, is_over, Arc::default()))
    }

    /// Sends requests until [`RunningLoad::stop`].
    pub fn start(self) -> RunningLoad {
        let is_over = Arc::new(AtomicBool::new(false));
        let completed = Arc::new(AtomicU64::new(0));
        let task = spawn(self.run(u64::MAX, Arc::clone(&is_over), Arc::clone(&completed)));
        RunningLoad { task: Some(task), is_over, completed }
    }

    async fn run(self, n: u64, is_over: Arc<AtomicBool>, completed: Arc<AtomicU64>) -> LoadReport {
        let start = Instant::now();
        let sent = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for place in 0..self.clients {
            let load = self.clone();
            let (sent, is_over) = (Arc::clone(&sent), Arc::clone(&is_over));
            let completed = Arc::clone(&completed);
            clients.spawn(async move {
                let mut report = LoadReport::new();
                let mut pauses = load.pauses.iter().cycle();
                let mut ticks = load.every.map(|every| {
                    // Not all at once.
                    let first = every.mul_f64(place as f64 / load.clients as f64);
                    let mut ticks = tokio::time::interval_at((start + first).into(), every);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                    ticks
                });
                while !is_over.load(Ordering::SeqCst) && sent.fetch_add(1, Ordering::SeqCst) < n {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    report.add(load.one().await);
                    completed.fetch_add(1, Ordering::SeqCst);
                    if let Some(pause) = pauses.next() {
                        tokio::time::sleep(*pause).await;
                    }
                }
                report
            });
        }
        let mut report = LoadReport::new();
        while let Some(one) = clients.join_next().await {
            report.merge(one.expect("a client of the load"));
        }
        report.elapsed = start.elapsed();
        report
    }

    async fn one(&self) -> Result<Response, Failure> {
        let response = self.client.exchange(&self.request).await?;
        match self.check.as_ref().map(|check| check(&response)) {
            Some(Err(wrong)) => Err(Failure::new(FailureKind::Check, wrong)),
            _ => Ok(response),
        }
    }
}

impl LoadReport {
    fn new() -> Self {
        Self {
            ok: 0,
            failed: BTreeMap::new(),
            statuses: BTreeMap::new(),
            // Up to two minutes, to three digits.
            latencies: Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds"),
            samples: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn add(&mut self, outcome: Result<Response, Failure>) {
        match outcome {
            Ok(response) => {
                *self.statuses.entry(response.status).or_default() += 1;
                self.ok += u64::from(response.status < 400);
                self.latencies
                    .saturating_record(u64::try_from(response.elapsed.as_micros()).unwrap_or(1));
            }
            Err(failure) => {
                *self.failed.entry(failure.kind).or_default() += 1;
                if self.samples.len() < MOST_SAMPLES {
                    self.samples.push(failure.to_string());
                }
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        for (kind, n) in other.failed {
            *self.failed.entry(kind).or_default() += n;
        }
        for (status, n) in other.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        self.latencies.add(&other.latencies).expect("the same bounds");
        self.samples.extend(other.samples);
        self.samples.truncate(MOST_SAMPLES);
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.failures()
    }

    /// Requests without a right answer.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// A percentile of the latency.
    pub fn latency(&self, percentile: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_percentile(percentile))
    }

    /// Asserts that something was sent and every request answered with a status under 400.
    #[track_caller]
    pub fn assert_all_ok(self) -> Self {
        assert!(self.total() > 0, "the load sent nothing");
        assert_eq!(self.ok, self.total(), "{self}");
        self
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests in {:?}, {} ok, statuses {:?}, failed {:?} {:?}, p50 {:?}, p95 {:?}, p99 {:?}",
            self.total(),
            self.elapsed,
            self.ok,
            self.statuses,
            self.failed,
            self.samples,
            self.latency(50.0),
            self.latency(95.0),
            self.latency(99.0),
        )
    }
}

impl fmt::Debug for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RunningLoad {
    /// Requests that have ended until now.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::SeqCst)
    }

    /// Ends the load; requests that were sent are still answered.
    pub fn stop(mut self) -> LoadReport {
        self.is_over.store(true, Ordering::SeqCst);
        let task = self.task.take().expect("a load is stopped once");
        block_on(task).expect("a load that did not panic")
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}
