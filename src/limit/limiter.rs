//! At most so many at once, and a bounded queue before them.
//!
//! Place: `upstream` and `policy` hold one for each thing that is limited; a request holds a [`Permit`].
//!
//! Invariants: while somebody waits, no permit is free, so that nobody who comes later is served before; a permit that is
//! given back goes to a waiter or is free, and one that is handed to a waiter who has left goes on to the next. Who is in
//! flight and who waits stand in one word: with room, a permit is one compare-and-swap, and nothing is allocated. The lock
//! is for the queue alone, and never held over an await.
//!
//! What it does not do: it is not fair among clients, and a lowered `max` takes no permit away.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Who of those who wait gets the next permit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueOrder {
    /// Who has waited longest.
    #[default]
    Fifo,
    /// Who came last: under a lasting overload those are served whose clients are still there, and the others time out
    /// (adaptive LIFO: B. Maurer, "Fail at Scale", ACM Queue 13:8, 2015). Where the queue is full, who has waited longest
    /// leaves it.
    Lifo,
}

/// How those wait for whom there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueConfig {
    /// So many may wait at once; 0 is none.
    pub max_waiting: u32,
    /// Nobody waits longer.
    pub timeout: Duration,
    /// Who is next.
    pub order: QueueOrder,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No room, and none in the queue.
    #[error("no room, and none in the queue")]
    Full,
    /// It waited, and a newer one has taken its place in the full queue.
    #[error("a newer one has taken the place in the queue")]
    Overtaken,
    /// No room within the time that one may wait.
    #[error("no room in time")]
    Timeout,
}

/// Both counts in one word: waiting in its upper half, in flight in its lower.
#[derive(Clone, Copy)]
struct Counts {
    in_flight: u32,
    waiting: u32,
}

impl Counts {
    const fn of(word: u64) -> Self {
        Self { in_flight: word as u32, waiting: (word >> 32) as u32 }
    }

    const fn word(self) -> u64 {
        (self.waiting as u64) << 32 | self.in_flight as u64
    }
}

/// A limit on how many are at it at once.
#[derive(Debug)]
pub struct Limiter {
    counts: AtomicU64,
    max: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    config: QueueConfig,
    /// By the order in which they came.
    waiters: BTreeMap<u64, oneshot::Sender<Permit>>,
    next: u64,
}

/// The right to be in flight; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit {
    /// `None`: it is accounted for otherwise.
    limiter: Option<Arc<Limiter>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(limiter) = self.limiter.take() {
            limiter.release();
        }
    }
}

impl Limiter {
    /// At most `max` at once.
    pub fn new(max: u32, queue: QueueConfig) -> Arc<Self> {
        Arc::new(Self {
            counts: AtomicU64::new(0),
            max: AtomicU32::new(max),
            queue: Mutex::new(Queue { config: queue, waiters: BTreeMap::new(), next: 0 }),
        })
    }

    /// How many may be in flight at once.
    pub fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// How many are in flight. More than [`Self::max`] where that was lowered.
    pub fn in_flight(&self) -> u32 {
        self.counts().in_flight
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.counts().waiting
    }

    fn counts(&self) -> Counts {
        Counts::of(self.counts.load(Ordering::Acquire))
    }

    /// A permit where there is room and nobody waits. Lock-free.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.take_room().then(|| self.permit())
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { limiter: Some(Arc::clone(self)) }
    }

    fn take_room(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let more = |word| {
            let counts = Counts::of(word);
            let has_room = counts.waiting == 0 && counts.in_flight < max;
            has_room.then(|| Counts { in_flight: counts.in_flight + 1, ..counts }.word())
        };
        self.counts.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// A permit, after waiting where there is no room. Who drops the future leaves the queue.
    ///
    /// # Errors
    /// The queue is full, or the time to wait over. Becomes 503 with `Retry-After` (RFC 9110, section 15.6.4).
    pub async fn acquire(self: &Arc<Self>) -> Result<Permit, Refused> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let (mut place, timeout) = match self.enqueue()? {
            Entered::Room => return Ok(self.permit()),
            Entered::Queue(place, timeout) => (place, timeout),
        };
        match tokio::time::timeout(timeout, &mut place.turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Refused::Overtaken),
            // It may have come in the very moment.
            Err(_) => place.leave().ok_or(Refused::Timeout),
        }
    }

    /// Takes room that came about meanwhile, or a place in the queue.
    fn enqueue(self: &Arc<Self>) -> Result<Entered, Refused> {
        let mut queue = self.lock();
        // Who waits is counted only under the lock, in the same word as who is in flight: whoever gives a permit back
        // after this sees it.
        if self.take_room() {
            return Ok(Entered::Room);
        }
        let max_waiting = queue.config.max_waiting as usize;
        let is_full = queue.waiters.len() >= max_waiting;
        if is_full && (max_waiting == 0 || queue.config.order == QueueOrder::Fifo) {
            return Err(Refused::Full);
        }
        let (sender, turn) = oneshot::channel();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiters.insert(ticket, sender);
        self.wait_more();
        // Only one may be over; more where the queue was made shorter.
        let pushed_out = if is_full { queue.waiters.pop_first() } else { None };
        if pushed_out.is_some() {
            self.wait_less();
        }
        // Room may have come about between the two.
        self.hand_out(&mut queue);
        let timeout = queue.config.timeout;
        drop(queue);
        drop(pushed_out);
        Ok(Entered::Queue(Place { limiter: Arc::clone(self), ticket, turn }, timeout))
    }

    fn release(self: &Arc<Self>) {
        let less = |word| {
            let counts = Counts::of(word);
            let is_free = counts.waiting == 0;
            is_free
                .then(|| Counts { in_flight: counts.in_flight.saturating_sub(1), ..counts }.word())
        };
        if self.counts.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
            return;
        }
        let mut queue = self.lock();
        self.counts.fetch_sub(1, Ordering::AcqRel);
        self.hand_out(&mut queue);
    }

    /// Gives free permits to those who wait.
    fn hand_out(self: &Arc<Self>, queue: &mut Queue) {
        let max = self.max.load(Ordering::Relaxed);
        while self.counts().in_flight < max {
            let next = match queue.config.order {
                QueueOrder::Fifo => queue.waiters.pop_first(),
                QueueOrder::Lifo => queue.waiters.pop_last(),
            };
            let Some((_, waiter)) = next else { return };
            // One less waits, one more is in flight.
            let counts = Counts { in_flight: 1, waiting: 0 }.word();
            self.counts.fetch_add(counts, Ordering::AcqRel);
            self.wait_less();
            if let Err(mut permit) = waiter.send(self.permit()) {
                // It has left in this moment. Dropping the permit would take the lock that is held.
                permit.limiter = None;
                self.counts.fetch_sub(counts, Ordering::AcqRel);
            }
        }
    }

    /// Changes the limit. Who is in flight stays; who waits may go where there is more room.
    pub fn set_max(self: &Arc<Self>, max: u32) {
        if self.max() == max {
            return;
        }
        let mut queue = self.lock();
        self.max.store(max, Ordering::Relaxed);
        self.hand_out(&mut queue);
    }

    /// Changes how one waits, from the next one on. Who waits stays, by the order that holds now; its time is the old one.
    pub fn configure(&self, config: QueueConfig) {
        self.lock().config = config;
    }

    fn wait_more(&self) {
        self.counts.fetch_add(Counts { in_flight: 0, waiting: 1 }.word(), Ordering::AcqRel);
    }

    fn wait_less(&self) {
        self.counts.fetch_sub(Counts { in_flight: 0, waiting: 1 }.word(), Ordering::AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here leaves the queue half changed when it panics.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entered {
    Room,
    Queue(Place, Duration),
}

/// A place in the queue; dropped, it is left. A permit that was handed to it goes on to the next with its channel.
struct Place {
    limiter: Arc<Limiter>,
    ticket: u64,
    turn: oneshot::Receiver<Permit>,
}

impl Place {
    /// Leaves the queue; with a permit where one was on its way.
    fn leave(mut self) -> Option<Permit> {
        self.take_out();
        self.turn.try_recv().ok()
    }

    fn take_out(&self) {
        let mut queue = self.limiter.lock();
        let mine = queue.waiters.remove(&self.ticket);
        if mine.is_some() {
            self.limiter.wait_less();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.take_out();
    }
}
