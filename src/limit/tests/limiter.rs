use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use fastrand::Rng;
use futures_util::task::noop_waker;
use tokio::runtime;

use crate::limit::{Limiter, Permit, QueueConfig, QueueOrder, Refused};

const ORDERS: [QueueOrder; 2] = [QueueOrder::Fifo, QueueOrder::Lifo];

fn queue(max_waiting: u32, order: QueueOrder) -> QueueConfig {
    QueueConfig { max_waiting, timeout: Duration::from_hours(1), order }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Permit, Refused>>>>;

/// Waiters and permits of one limiter, with what must hold of them.
struct Model {
    limiter: Arc<Limiter>,
    order: QueueOrder,
    max: u32,
    max_waiting: u32,
    waiting: Vec<(u64, Waiting)>,
    held: Vec<Permit>,
    came: u64,
    served: u64,
}

impl Model {
    fn new(rng: &mut Rng, order: QueueOrder) -> Self {
        let (max, max_waiting) = (rng.u32(1..6), rng.u32(0..6));
        let limiter = Limiter::new(max, queue(max_waiting, order));
        Self {
            limiter,
            order,
            max,
            max_waiting,
            waiting: Vec::new(),
            held: Vec::new(),
            came: 0,
            served: 0,
        }
    }

    fn come(&mut self) {
        let limiter = Arc::clone(&self.limiter);
        self.waiting.push((self.came, Box::pin(async move { limiter.acquire().await })));
        self.came += 1;
    }

    fn leave(&mut self, rng: &mut Rng) {
        if !self.waiting.is_empty() {
            drop(self.waiting.swap_remove(rng.usize(..self.waiting.len())));
            self.waiting.sort_by_key(|(ticket, _)| *ticket);
        }
    }

    fn finish(&mut self, rng: &mut Rng) {
        if !self.held.is_empty() {
            drop(self.held.swap_remove(rng.usize(..self.held.len())));
        }
    }

    fn change(&mut self, rng: &mut Rng) {
        self.max = rng.u32(1..6);
        self.limiter.set_max(self.max);
    }

    /// Polls everybody, and looks at who was served.
    fn poll(&mut self) {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut served = Vec::new();
        let mut refused = Vec::new();
        // The newest first: one that it has pushed out learns of it at once.
        for (ticket, mut waiting) in std::mem::take(&mut self.waiting).into_iter().rev() {
            match waiting.as_mut().poll(&mut context) {
                Poll::Pending => self.waiting.push((ticket, waiting)),
                Poll::Ready(Ok(permit)) => {
                    served.push(ticket);
                    self.held.push(permit);
                }
                Poll::Ready(Err(error)) => {
                    let is_newest = ticket + 1 == self.came;
                    assert_eq!(error, if is_newest { Refused::Full } else { Refused::Overtaken });
                    refused.push(ticket);
                }
            }
        }
        self.waiting.reverse();
        self.served += served.len() as u64;
        let left = || self.waiting.iter().map(|(ticket, _)| *ticket);
        for served in served {
            match self.order {
                QueueOrder::Fifo => assert!(left().all(|other| served < other)),
                QueueOrder::Lifo => assert!(left().all(|other| served > other)),
            }
        }
        for refused in refused {
            assert_eq!(self.waiting.len(), self.max_waiting as usize, "the queue has room");
            match self.order {
                QueueOrder::Fifo => assert_eq!(refused, self.came - 1, "who is in the queue stays"),
                QueueOrder::Lifo => {
                    assert!(left().all(|other| refused < other) || self.max_waiting == 0);
                }
            }
        }
    }

    fn check(&self) {
        let limiter = &self.limiter;
        assert_eq!(limiter.in_flight() as usize, self.held.len());
        assert_eq!(limiter.waiting() as usize, self.waiting.len());
        assert!(limiter.waiting() <= self.max_waiting);
        assert!(
            limiter.waiting() == 0 || limiter.in_flight() >= self.max,
            "somebody waits while there is room"
        );
    }
}

#[test]
fn permits_go_by_the_order_and_none_is_lost() {
    let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _context = runtime.enter();
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut model = Model::new(&mut rng, ORDERS[seed as usize % 2]);
        for _ in 0..400 {
            match rng.u32(..10) {
                0..5 => model.come(),
                5 => model.leave(&mut rng),
                6..9 => model.finish(&mut rng),
                _ => model.change(&mut rng),
            }
            model.poll();
            model.check();
        }
        assert!(model.served > 50, "seed {seed}: {} were served", model.served);
    }
}

#[test]
fn who_leaves_with_a_permit_on_its_way_gives_it_to_the_next() {
    let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _context = runtime.enter();
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut model = Model::new(&mut rng, ORDERS[seed as usize % 2]);
        for _ in 0..400 {
            match rng.u32(..10) {
                0..4 => model.come(),
                // Permits are on their way to those who were not polled since.
                4..6 => model.leave(&mut rng),
                6..8 => model.finish(&mut rng),
                8 => model.change(&mut rng),
                _ => {
                    let waker = noop_waker();
                    let mut context = Context::from_waker(&waker);
                    for (_, waiting) in &mut model.waiting {
                        if let Poll::Ready(served) = waiting.as_mut().poll(&mut context) {
                            model.held.extend(served);
                            *waiting = Box::pin(std::future::pending());
                        }
                    }
                }
            }
            let limiter = &model.limiter;
            assert!(limiter.waiting() == 0 || limiter.in_flight() >= model.max);
            assert!(limiter.waiting() <= model.max_waiting);
        }
        model.waiting.clear();
        model.held.clear();
        let limiter = &model.limiter;
        assert_eq!((limiter.in_flight(), limiter.waiting()), (0, 0), "seed {seed}");
    }
}

#[test]
fn threads_never_pass_the_limit_and_lose_no_permit() {
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    for order in ORDERS {
        let limiter = Limiter::new(3, queue(8, order));
        let inside = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|seed| {
                let (limiter, inside) = (Arc::clone(&limiter), Arc::clone(&inside));
                runtime.spawn(async move {
                    let mut rng = Rng::with_seed(seed);
                    let mut served = 0;
                    for _ in 0..2_000 {
                        let patience = rng.u32(1..30);
                        let leaving = async {
                            for _ in 0..patience {
                                tokio::task::yield_now().await;
                            }
                        };
                        let permit = tokio::select! {
                            permit = limiter.acquire() => permit,
                            () = leaving => continue,
                        };
                        let Ok(_permit) = permit else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let served: u32 = runtime
            .block_on(async { futures_util::future::join_all(tasks).await })
            .into_iter()
            .map(Result::unwrap)
            .sum();
        assert!(served > 1_000, "{served}");
        assert_eq!((limiter.in_flight(), limiter.waiting()), (0, 0));
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_timeout() {
    let short = QueueConfig { timeout: Duration::from_millis(20), ..queue(4, QueueOrder::Fifo) };
    let limiter = Limiter::new(1, short);
    let held = limiter.try_acquire().unwrap();
    assert_eq!(limiter.acquire().await.unwrap_err(), Refused::Timeout);
    assert_eq!((limiter.in_flight(), limiter.waiting()), (1, 0));
    drop(held);
    assert!(limiter.acquire().await.is_ok());
}

#[tokio::test]
async fn a_raised_limit_lets_those_in_who_wait_and_a_lowered_one_is_reached_as_permits_end() {
    let limiter = Limiter::new(1, queue(4, QueueOrder::Fifo));
    let held = limiter.try_acquire().unwrap();
    let mut waiting = Box::pin(limiter.acquire());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    limiter.set_max(2);
    let second = waiting.await.unwrap();
    limiter.set_max(1);
    assert!(limiter.try_acquire().is_none());
    drop(held);
    assert!(limiter.try_acquire().is_none(), "one is still in flight, which is the limit");
    drop(second);
    assert!(limiter.try_acquire().is_some());
}
