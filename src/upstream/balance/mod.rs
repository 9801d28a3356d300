//! Which of the eligible endpoints is next. One file an algorithm, each a pure core without endpoints, health or time.
//!
//! On the request path, so nothing here locks or allocates; [`Chooser::new`] prepares what it can when the eligible
//! endpoints change. `eligible.rs` says who they are. Weights are whole numbers of any size up to some millions: only what they are
//! to one another counts.

mod consistent_hash;
mod costs;
mod cycle;
mod least_conn;
mod lots;
mod peak_ewma;
mod random_two;

use std::sync::{Arc, atomic::AtomicU64};

use self::{
    consistent_hash::Ring,
    lots::Lots,
    peak_ewma::{EQUAL, Load},
};
use super::{
    endpoint::Endpoint, hash_config::HashConfig, latency, member::Candidate, raw::Balance,
};

/// Up to so many candidates least-conn and peak-ewma look at each; of more at a sample.
const COMPARED: usize = 16;

/// The size of that sample.
const SAMPLE: usize = 3;

/// A way of balancing, prepared for one list of candidates.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    /// In the order of the candidates. Side by side, so that a look at all of them is one pointer each.
    contenders: Box<[Contender]>,
    method: Method,
}

#[derive(Debug)]
struct Contender {
    endpoint: Arc<Endpoint>,
    weight: u32,
    /// One by it.
    per_weight: f64,
}

#[derive(Debug)]
enum Method {
    /// Each in turn, in the order of a cycle.
    RoundRobin(Box<[u32]>),
    /// The one with the fewest requests in flight per weight.
    LeastConn(Lots),
    /// The one that would answer soonest.
    PeakEwma(Lots),
    /// The better of two drawn by weight.
    RandomTwo(Lots),
    /// The one that the key belongs to.
    ConsistentHash(Ring),
}

impl Default for Method {
    fn default() -> Self {
        Self::RoundRobin(Box::default())
    }
}

impl Chooser {
    /// Prepares for candidates that will stand in this order.
    pub(super) fn new(
        balance: Balance,
        hash: Option<&HashConfig>,
        candidates: &[Candidate],
    ) -> Self {
        let contenders: Box<[Contender]> = candidates
            .iter()
            .map(|one| Contender {
                endpoint: Arc::clone(&one.member.endpoint),
                weight: one.weight,
                per_weight: 1.0 / f64::from(one.weight),
            })
            .collect();
        let weights: Vec<u32> = candidates.iter().map(|one| one.weight).collect();
        let method = match balance {
            Balance::RoundRobin => Method::RoundRobin(cycle::smooth_cycle(&weights)),
            Balance::LeastConn => Method::LeastConn(Lots::new(&weights)),
            Balance::PeakEwma => Method::PeakEwma(Lots::new(&weights)),
            Balance::RandomTwo => Method::RandomTwo(Lots::new(&weights)),
            Balance::ConsistentHash => {
                let labelled = contenders.iter().map(|one| (one.endpoint.label(), one.weight));
                let max_load = hash.map(|hash| hash.max_load).unwrap_or_default();
                Method::ConsistentHash(Ring::new(labelled, max_load.factor()))
            }
        };
        Self { contenders, method }
    }

    /// One of the candidates for which `is_open`, by its index. `hash` is that of the request's key, where it has one.
    pub(super) fn choose(
        &self,
        hash: Option<u64>,
        turns: &AtomicU64,
        is_retry: bool,
        is_open: impl Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        let is_open = &is_open;
        let is_open =
            |index: usize| self.contenders.get(index).is_some_and(|one| is_open(&one.endpoint));
        let random = || fastrand::Rng::with_seed(fastrand::u64(..));
        match &self.method {
            Method::RoundRobin(cycle) => cycle::round_robin(cycle, turns, is_retry, is_open),
            Method::LeastConn(lots) => {
                if self.contenders.len() <= COMPARED {
                    return self.least(is_open);
                }
                let sample = lots.sample::<SAMPLE>(&mut random(), is_open);
                let least = random_two::least_of(&sample, |index| self.load(index));
                least.or_else(|| self.least(is_open))
            }
            Method::PeakEwma(lots) => self.soonest(lots, &mut random(), is_open),
            Method::RandomTwo(lots) => {
                let sample = lots.sample::<2>(&mut random(), is_open);
                let least = random_two::least_of(&sample, |index| self.load(index));
                least.or_else(|| self.least(is_open))
            }
            Method::ConsistentHash(ring) => {
                let mut random = random();
                // Without a key any place on the ring is as good, within the same bounds.
                let key = hash.unwrap_or_else(|| random.u64(..));
                let in_flight = |index| self.load(index).0;
                ring.find(key, &mut random, in_flight, is_open).or_else(|| self.least(is_open))
            }
        }
    }

    /// Peak-EWMA, over all candidates or a sample of them.
    fn soonest(
        &self,
        lots: &Lots,
        random: &mut fastrand::Rng,
        is_open: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let is_idle = |index: usize| {
            let endpoint = self.contenders.get(index).map(|one| &one.endpoint);
            is_open(index) && endpoint.is_some_and(|one| one.in_flight() <= one.streams())
        };
        if let Some(index) = peak_ewma::trial(lots, random, is_idle) {
            return Some(index);
        }
        let now = latency::coarse_now();
        let load = |index: usize| {
            let Contender { endpoint, weight, per_weight } = self.contenders.get(index)?;
            // Neither is near the end of its type.
            let streams = endpoint.streams() as u32;
            let requests = (endpoint.in_flight() as u32).saturating_sub(streams);
            let latency = endpoint.estimate(now);
            let (weight, per_weight) = (*weight, *per_weight);
            Some((index, Load { latency, requests, streams, weight, per_weight }))
        };
        let count = self.contenders.len();
        if count <= COMPARED {
            let open = (0..count).filter(|index| is_open(*index)).filter_map(load);
            // Room for as many as there are: room costs time.
            return match count {
                0..=4 => peak_ewma::peak_ewma::<4>(open, random),
                5..=8 => peak_ewma::peak_ewma::<8>(open, random),
                _ => peak_ewma::peak_ewma::<COMPARED>(open, random),
            };
        }
        let sample = lots.sample::<SAMPLE>(random, &is_open);
        // They were drawn by weight: of equals the first, so that weights count once.
        peak_ewma::costs::<SAMPLE>(sample.iter().filter_map(load))
            .first(EQUAL)
            // Nearly all of them are closed, or one has nearly all the weight.
            .or_else(|| self.least(is_open))
    }

    /// The least loaded of all open ones.
    fn least(&self, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        let loads =
            (0..self.contenders.len()).map(|index| is_open(index).then(|| self.load(index)));
        let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
        least_conn::least_conn(loads, &mut random)
    }

    /// Requests in flight, and the weight.
    fn load(&self, index: usize) -> (usize, u32) {
        self.contenders.get(index).map_or((0, 0), |one| (one.endpoint.in_flight(), one.weight))
    }
}
