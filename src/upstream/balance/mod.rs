//! Which of the eligible endpoints is next. One file an algorithm, each a pure core without endpoints, health or time.
//!
//! On the request path, so nothing here locks or allocates; [`Chooser::new`] prepares what it can when the eligible
//! endpoints change. `eligible.rs` says who they are.

mod cycle;
mod least_conn;

use std::sync::atomic::AtomicU64;

use super::{member::Candidate, raw::Balance};

/// A way of balancing, prepared for one list of candidates.
#[derive(Debug, Default)]
pub(super) enum Chooser {
    /// Each in turn, in the order of a cycle.
    RoundRobin(Box<[u32]>),
    /// The one with the fewest requests in flight per weight.
    #[default]
    LeastConn,
}

impl Chooser {
    /// Prepares for candidates that will stand in this order.
    pub(super) fn new(balance: Balance, candidates: &[Candidate]) -> Self {
        match balance {
            Balance::RoundRobin => {
                let weights: Vec<u32> = candidates.iter().map(|one| one.weight).collect();
                Self::RoundRobin(cycle::smooth_cycle(&weights))
            }
            Balance::LeastConn => Self::LeastConn,
        }
    }

    /// One of the candidates for which `is_open`, by its index.
    pub(super) fn choose(
        &self,
        candidates: &[Candidate],
        turns: &AtomicU64,
        is_open: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(cycle) => cycle::round_robin(cycle, turns, |index| {
                candidates.get(index).is_some_and(&is_open)
            }),
            Self::LeastConn => {
                let loads = candidates
                    .iter()
                    .map(|one| is_open(one).then(|| (one.member.endpoint.in_flight(), one.weight)));
                let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
                least_conn::least_conn(loads, &mut random)
            }
        }
    }
}
