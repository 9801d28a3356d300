//! Peak-EWMA: the endpoint that would answer soonest, by what it took of late and what it has to do.
//!
//! Cost = latency × (requests in flight + 1 + streams / 1000) / weight. Costs within a quarter of the least count as equal, since
//! that is what latencies differ by from one moment to the next; of equals one at random, in proportion to their weights.
//! An endpoint of which nothing is known, or whose last answer is nearly forgotten, counts as quick as the quickest:
//! it gets requests at once, and no more at a time than the quickest would.
//!
//! The idea is that of Finagle's `PeakEwma` balancer. What differs: nobody's estimate falls below the quickest one's last answer, so
//! that a forgotten endpoint is not flooded, and a small share of the picks are trials that look at no estimate.

use super::{super::latency::Estimate, costs::Costs, lots::Lots};

/// What a long stream weighs of a request: it is a connection, and says nothing of how quickly a request is answered.
const A_STREAM: f64 = 0.001;

/// Costs up to so many times the least are as good.
pub(super) const EQUAL: f64 = 1.25;

/// One pick in so many is a trial: two in 256.
const TRIALS_IN_256: u8 = 2;

/// What is known of a candidate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// How long it takes to answer, where that is known.
    pub(super) latency: Option<Estimate>,
    /// In flight, without streams.
    pub(super) requests: u32,
    /// Long streams in flight.
    pub(super) streams: u32,
    /// Its share.
    pub(super) weight: u32,
    /// One by its weight: no division at a pick.
    pub(super) per_weight: f64,
}

impl Load {
    /// What is left of its cost without the latency.
    fn burden(&self) -> f64 {
        (f64::from(self.requests) + 1.0 + f64::from(self.streams) * A_STREAM) * self.per_weight
    }
}

/// The index of the candidate to take, of at most `N`; the rest are not looked at. Of equals one by weight.
pub(super) fn peak_ewma<const N: usize>(
    loads: impl Iterator<Item = (usize, Load)>,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    costs::<N>(loads).draw(EQUAL, random)
}

/// What each of at most `N` candidates costs.
pub(super) fn costs<const N: usize>(loads: impl Iterator<Item = (usize, Load)>) -> Costs<N> {
    let mut costs = Costs::<N>::new();
    let mut latencies = [0_u64; N];
    let mut quickest = u64::MAX;
    for ((index, load), latency) in loads.zip(&mut latencies) {
        costs.add(index, load.weight, load.burden());
        quickest = quickest.min(load.latency.map_or(u64::MAX, |estimate| estimate.last));
        *latency = load.latency.map_or(0, |estimate| estimate.now);
    }
    // Without any estimate the fewest requests decide.
    let floor = if quickest == u64::MAX { 1 } else { quickest };
    // Latencies are far below 2^63; a signed number becomes a float in one step.
    costs.scale(latencies.iter().map(|latency| floor.max(*latency).cast_signed() as f64));
    costs
}

/// Now and then a candidate drawn by weight alone, so that one that was slow is seen to be quick again. It must have no request in
/// flight: one that hangs holds one trial at a time.
pub(super) fn trial(
    lots: &Lots,
    random: &mut fastrand::Rng,
    is_idle: impl Fn(usize) -> bool,
) -> Option<usize> {
    if random.u8(..) >= TRIALS_IN_256 {
        return None;
    }
    lots.draw(random).filter(|index| is_idle(*index))
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::Reverse,
        collections::BinaryHeap,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::{super::super::latency::Latency, *};

    fn known(micros: u64, requests: u32) -> Load {
        let latency = Some(Estimate { last: micros * 1_000, now: micros * 1_000 });
        Load { latency, requests, streams: 0, weight: 1, per_weight: 1.0 }
    }

    fn unknown(requests: u32) -> Load {
        Load { latency: None, requests, streams: 0, weight: 1, per_weight: 1.0 }
    }

    /// Who is ever taken.
    fn taken(loads: &[Load]) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(5);
        let mut seen = vec![0; loads.len()];
        for _ in 0..500 {
            let index = peak_ewma::<8>(loads.iter().copied().enumerate(), &mut random).unwrap();
            seen[index] += 1;
        }
        (0..loads.len()).filter(|index| seen[*index] > 0).collect()
    }

    #[test]
    fn the_cheapest_are_taken() {
        let with = |streams, load: Load| Load { streams, ..load };
        let heavy =
            |weight: u32, load: Load| Load { weight, per_weight: 1.0 / f64::from(weight), ..load };
        for (loads, expected) in [
            (vec![known(1_000, 0), known(50_000, 0)], vec![0]),
            // As good as equal, and not.
            (vec![known(1_000, 0), known(1_200, 0)], vec![0, 1]),
            (vec![known(1_000, 0), known(1_300, 0)], vec![0]),
            // Quick with a queue against slow without one.
            (vec![known(1_000, 90), known(50_000, 0)], vec![1]),
            (vec![known(1_000, 1), known(1_000, 0)], vec![1]),
            // Twice the weight takes twice as many.
            (vec![heavy(2_000, known(1_000, 1)), heavy(1_000, known(1_000, 0))], vec![0, 1]),
            (vec![heavy(1_000_000, known(1_000, 9)), heavy(1, known(1_000, 0))], vec![0]),
            // A hundred streams push nobody away; ten thousand do.
            (vec![with(100, known(1_000, 0)), known(1_000, 0)], vec![0, 1]),
            (vec![with(10_000, known(1_000, 0)), known(1_000, 0)], vec![1]),
            // Of which nothing is known is as quick as the quickest, and not quicker.
            (vec![known(1_000, 0), known(5_000, 0), unknown(0)], vec![0, 2]),
            (vec![known(1_000, 0), known(5_000, 0), unknown(1)], vec![0]),
            (vec![unknown(1), unknown(0)], vec![1]),
        ] {
            assert_eq!(taken(&loads), expected, "{loads:?}");
        }
        // One that is all but forgotten, as well.
        let forgotten = Some(Estimate { last: 50_000_000, now: 3 });
        let forgotten = |requests| Load { latency: forgotten, ..unknown(requests) };
        assert_eq!(taken(&[known(1_000, 0), forgotten(0)]), [0, 1]);
        assert_eq!(taken(&[known(1_000, 0), forgotten(1)]), [0]);
        let none: [(usize, Load); 0] = [];
        assert_eq!(peak_ewma::<8>(none.into_iter(), &mut fastrand::Rng::with_seed(1)), None);
    }

    #[test]
    fn equals_share_by_weight() {
        let weights = [1_000, 3_000, 6_000];
        let loads = weights.map(|weight: u32| Load {
            weight,
            per_weight: 1.0 / f64::from(weight),
            ..known(1_000, 0)
        });
        // A load of one request weighs little beside many in flight: costs that are equal per weight.
        let loads = loads.map(|load| Load { requests: load.weight - 1, ..load });
        let mut random = fastrand::Rng::with_seed(9);
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            counts[peak_ewma::<8>(loads.into_iter().enumerate(), &mut random).unwrap()] += 1;
        }
        for (count, expected) in counts.iter().zip([3_000, 9_000, 18_000]) {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }

    /// Clients that each send the next request when the last one is answered.
    struct World {
        now: Duration,
        random: fastrand::Rng,
        latencies: Vec<Latency>,
        in_flight: Vec<usize>,
        requests: Vec<u64>,
        lots: Lots,
        weights: Vec<u32>,
        /// When requests end: time, start, endpoint.
        ends: BinaryHeap<Reverse<(Duration, Duration, usize)>>,
    }

    impl World {
        fn new(weights: &[u32], seed: u64) -> Self {
            Self {
                now: Duration::from_secs(1),
                random: fastrand::Rng::with_seed(seed),
                latencies: weights.iter().map(|_| Latency::default()).collect(),
                in_flight: vec![0; weights.len()],
                requests: vec![0; weights.len()],
                lots: Lots::new(weights),
                weights: weights.to_vec(),
                ends: BinaryHeap::new(),
            }
        }

        fn pick(&mut self) -> usize {
            let idle = |index: usize| self.in_flight[index] == 0;
            if let Some(index) = trial(&self.lots, &mut self.random, idle) {
                return index;
            }
            let now = self.now.as_nanos() as u64;
            let loads = (0..self.weights.len()).map(|index| {
                let load = Load {
                    latency: self.latencies[index].read(now),
                    requests: self.in_flight[index] as u32,
                    streams: 0,
                    weight: self.weights[index],
                    per_weight: 1.0 / f64::from(self.weights[index]),
                };
                (index, load)
            });
            peak_ewma::<8>(loads, &mut self.random).unwrap()
        }

        /// `total` requests of `clients`; an endpoint takes its time, more or less by a fifth.
        fn run(
            &mut self,
            clients: usize,
            total: u64,
            pause: Duration,
            takes: impl Fn(usize) -> Duration,
        ) {
            for left in (0..total).rev() {
                if self.ends.len() >= clients {
                    let Reverse((at, start, index)) = self.ends.pop().unwrap();
                    self.now = self.now.max(at) + pause;
                    self.in_flight[index] -= 1;
                    self.latencies[index]
                        .observe_at(at.saturating_sub(start), at.as_nanos() as u64);
                }
                let index = self.pick();
                let took = takes(index).mul_f64(0.8 + 0.4 * self.random.f64());
                self.in_flight[index] += 1;
                self.requests[index] += 1;
                self.ends.push(Reverse((self.now + took, self.now, index)));
                let _ = left;
            }
        }

        fn share(&self, index: usize) -> f64 {
            self.requests[index] as f64 / self.requests.iter().sum::<u64>() as f64
        }
    }

    #[test]
    fn a_slow_one_of_three_gets_few_requests_whatever_the_concurrency() {
        let takes = |index| Duration::from_millis(if index == 2 { 50 } else { 1 });
        for seed in 0..20 {
            for clients in [1, 2, 3, 4, 12] {
                for pause in [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)] {
                    let mut world = World::new(&[1, 1, 1], seed);
                    world.run(clients, 4_000, pause, takes);
                    let share = world.share(2);
                    assert!(
                        share < 0.02,
                        "{share} of {clients} clients, {pause:?} apart, seed {seed}"
                    );
                    assert!(world.requests[2] > 1, "never tried again");
                    // The others share what is left.
                    assert!((0.35..0.65).contains(&world.share(0)), "{:?}", world.requests);
                }
            }
        }
    }

    #[test]
    fn one_that_was_slow_is_used_again_soon() {
        for seed in 0..20 {
            let mut world = World::new(&[1, 1, 1], seed);
            world.run(4, 20_000, Duration::from_millis(2), |index| {
                Duration::from_millis(if index == 2 { 50 } else { 1 })
            });
            // At 300 requests a second or so, for half a minute.
            world.requests = vec![0; 3];
            world.run(4, 10_000, Duration::from_millis(3), |_| Duration::from_millis(1));
            world.requests = vec![0; 3];
            world.run(4, 3_000, Duration::from_millis(3), |_| Duration::from_millis(1));
            assert!(world.share(2) > 0.15, "{:?}, seed {seed}", world.requests);
        }
    }

    #[test]
    fn one_that_joins_is_neither_starved_nor_flooded() {
        for seed in 0..20 {
            for clients in [1, 4, 32] {
                let mut world = World::new(&[1, 1, 1, 1], seed);
                let takes = |_| Duration::from_millis(2);
                world.run(clients, 2_000, Duration::ZERO, takes);
                world.latencies[3] = Latency::default();
                world.requests = vec![0; 4];
                let mut most = 0;
                for _ in 0..40 * clients {
                    world.run(clients, 1, Duration::ZERO, takes);
                    most = most.max(world.in_flight[3]);
                }
                assert!(world.requests[3] > 0, "starved with {clients} clients, seed {seed}");
                assert!(most <= clients / 2 + 1, "{most} of {clients} at once, seed {seed}");
            }
        }
    }

    #[test]
    fn one_that_hangs_holds_few_requests() {
        for seed in 0..20 {
            let mut world = World::new(&[1, 1, 1], seed);
            world.run(4, 500, Duration::ZERO, |_| Duration::from_millis(1));
            world.run(4, 500, Duration::ZERO, |index| {
                if index == 1 { Duration::from_hours(1) } else { Duration::from_millis(1) }
            });
            assert!(world.in_flight[1] <= 3, "{} hang, seed {seed}", world.in_flight[1]);
        }
    }

    proptest! {
        /// Under load, with equal speeds, shares are those of the weights.
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1_u32..5, 2..8), seed: u64) {
            let weights: Vec<u32> = weights.iter().map(|weight| weight * 1_000).collect();
            let mut world = World::new(&weights, seed);
            let total: u32 = weights.iter().sum();
            let clients = 8 * total as usize / 1_000;
            world.run(clients, 8_000, Duration::ZERO, |_| Duration::from_millis(10));
            for (index, weight) in weights.iter().enumerate() {
                let expected = f64::from(*weight) / f64::from(total);
                let share = world.share(index);
                prop_assert!((share / expected - 1.0).abs() < 0.2, "{share} for {expected} of {weights:?}");
            }
        }
    }

    #[test]
    fn time_is_only_an_argument() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(3), Instant::now());
        assert!(latency.estimate(Instant::now()) > Duration::ZERO);
    }
}
