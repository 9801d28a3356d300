//! What the clients of one measurement share: when to go on, and what they saw.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::{
    sync::{Notify, Semaphore},
    task::AbortHandle,
};

use super::{Pace, pace::Ticker};

pub(super) struct Shared {
    /// Time between two requests of the open loop.
    interval: Option<Duration>,
    begun: Notify,
    start: Cell<Option<Instant>>,
    /// Open loop: one permit for each request that is due and that no client has taken.
    due: Semaphore,
    /// Open loop: requests that were taken.
    taken: Cell<u32>,
    has_ended: Cell<bool>,
    window: Cell<Option<(Instant, Option<Instant>)>>,
    answered: Cell<u64>,
    /// Requests of the window that have no answer yet.
    open: Cell<u64>,
    failed: Cell<u64>,
    failure: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
}

/// A moment, and the requests that were answered by then.
pub(super) struct Mark {
    pub(super) at: Instant,
    pub(super) answered: u64,
}

/// At the end.
pub(super) struct Totals {
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) failure: Option<String>,
    pub(super) latency: Histogram<u64>,
}

/// Ends the task that it is for when dropped.
pub(super) struct Pacer(Option<AbortHandle>);

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Shared {
    pub(super) fn new(pace: Pace) -> Result<Self> {
        let interval = match pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(Duration::from_secs_f64(1.0 / per_second)),
        };
        Ok(Self {
            interval,
            begun: Notify::new(),
            start: Cell::new(None),
            due: Semaphore::new(0),
            taken: Cell::new(0),
            has_ended: Cell::new(false),
            window: Cell::new(None),
            answered: Cell::new(0),
            open: Cell::new(0),
            failed: Cell::new(0),
            failure: RefCell::new(None),
            // 1 µs to a minute, to a thousandth.
            latency: RefCell::new(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?),
        })
    }

    /// Lets the clients go.
    pub(super) fn begin(self: &Rc<Self>) -> Pacer {
        self.start.set(Some(Instant::now()));
        self.begun.notify_waiters();
        let Some(interval) = self.interval else { return Pacer(None) };
        let shared = self.clone();
        let task = tokio::task::spawn_local(async move {
            match Ticker::new(interval) {
                Ok(ticker) => {
                    shared.start.set(Some(ticker.start()));
                    while let Ok(due) = ticker.due().await {
                        shared.due.add_permits(due);
                    }
                }
                Err(error) => *shared.failure.borrow_mut() = Some(error.to_string()),
            }
        });
        Pacer(Some(task.abort_handle()))
    }

    /// Waits for the next request; the time at which it is to start. `None`: it is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        while self.start.get().is_none() {
            self.begun.notified().await;
        }
        let intended = match self.interval {
            None => Instant::now(),
            Some(interval) => {
                self.due.acquire().await.ok()?.forget();
                let number = self.taken.get() + 1;
                self.taken.set(number);
                self.start.get()? + interval * number
            }
        };
        if self.has_ended.get() {
            return None;
        }
        if self.counts(intended) {
            self.open.set(self.open.get() + 1);
        }
        Some(intended)
    }

    /// Takes down how a request ended.
    pub(super) fn end(&self, intended: Instant, result: std::io::Result<()>) {
        let counts = self.counts(intended);
        if counts {
            self.open.set(self.open.get().saturating_sub(1));
        }
        match result {
            Ok(()) => {
                self.answered.set(self.answered.get() + 1);
                if counts {
                    let nanos = intended.elapsed().as_nanos() as u64;
                    self.latency.borrow_mut().saturating_record(nanos);
                }
            }
            Err(error) => {
                if counts {
                    self.failed.set(self.failed.get() + 1);
                }
                *self.failure.borrow_mut() = Some(error.to_string());
            }
        }
    }

    /// Whether a request belongs to the window. One that starts before it and one that starts after it do not, wherever
    /// they end.
    fn counts(&self, intended: Instant) -> bool {
        match self.window.get() {
            None => false,
            Some((from, until)) => intended >= from && until.is_none_or(|until| intended < until),
        }
    }

    pub(super) fn open_window(&self) -> Mark {
        let at = Instant::now();
        self.window.set(Some((at, None)));
        Mark { at, answered: self.answered.get() }
    }

    /// No further request starts.
    pub(super) fn close_window(&self) -> Mark {
        let at = Instant::now();
        self.window.set(self.window.get().map(|(from, _)| (from, Some(at))));
        self.has_ended.set(true);
        // Requests that were due in the window and found no free client were not served in time.
        if self.interval.is_some() {
            let waiting = self.due.available_permits() as u64;
            if waiting > 0 {
                self.failed.set(self.failed.get() + waiting);
                *self.failure.borrow_mut() = Some("due, and no connection was free".to_owned());
            }
        }
        self.due.close();
        Mark { at, answered: self.answered.get() }
    }

    pub(super) fn totals(&self) -> Totals {
        let open = self.open.get();
        let failure = self.failure.borrow().clone();
        Totals {
            answered: self.answered.get(),
            failed: self.failed.get() + open,
            failure: failure.or_else(|| (open > 0).then(|| "no answer by the end".to_owned())),
            latency: self.latency.borrow().clone(),
        }
    }
}
