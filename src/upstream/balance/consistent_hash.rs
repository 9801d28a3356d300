//! Consistent hashing with bounded loads: a key keeps its endpoint, and no endpoint is given far more than its share.
//!
//! A ring of points, each endpoint's by the hash of its address, the same on every replica and after a restart. A key belongs
//! to the first point at or behind its hash; where that endpoint has as many requests in flight as it may, to
//! the next on the ring that has room (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", 2016). Adding or removing one of
//! N endpoints moves about 1/N of the keys.
//!
//! Memory: 20 bytes a point at most, at most [`MOST_A_ENDPOINT`] points an endpoint and about [`MOST`] in all: under 330 KiB an
//! upstream. Made anew when the candidates change, and only where this balance is chosen.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Points of the endpoint with the largest weight; the others have their part of it. Shares are right within some 8 %, and
/// the bound on the load takes care of the rest.
const MOST_A_ENDPOINT: u32 = 160;

/// Points in all; from 103 endpoints on each has fewer. One each they always have.
const MOST: u32 = 16_384;

/// Points of one digest.
const A_DIGEST: u32 = 4;

/// Points that are looked at for a key whose endpoints are full. Then the least loaded endpoint takes the request.
const WALK: usize = 256;

/// Up to so many endpoints the requests in flight are summed at each pick. Of more they are at as many picks as make so many looks at
/// an endpoint a pick, on average.
const SUMMED: usize = 8;

/// What a product of shares may be off by; a bound that is a whole number stays one.
const ROUNDING: f64 = 1e-6;

/// The points of all candidates, and how much each may have.
#[derive(Debug, Default)]
pub(super) struct Ring {
    hashes: Box<[u64]>,
    /// The ring cut into equal parts, about as many as points, a power of two: the first point of each. Points are spread
    /// evenly, so that the one behind a key is one or two further.
    parts: Box<[u32]>,
    /// Whose each point is.
    owners: Box<[u32]>,
    /// What each candidate may have of all requests in flight.
    bounds: Box<[f64]>,
    /// Requests in flight with all candidates, as last summed.
    total: AtomicU64,
}

impl Ring {
    /// A ring of candidates with a label, the same everywhere, and a weight. `max_load` is 1.25 for 125 %.
    pub(super) fn new<'a>(
        candidates: impl Iterator<Item = (&'a str, u32)> + Clone,
        max_load: f64,
    ) -> Self {
        let heaviest = candidates.clone().map(|(_, weight)| weight).max().unwrap_or(1).max(1);
        let total: u64 = candidates.clone().map(|(_, weight)| u64::from(weight)).sum();
        let endpoints = candidates.clone().count() as u32;
        // Fewer of them are the first of more, so that this changes few points.
        let each = MOST.checked_div(endpoints).unwrap_or(1).clamp(1, MOST_A_ENDPOINT);
        let mut points = Vec::new();
        for (owner, (label, weight)) in (0_u32..).zip(candidates.clone()) {
            let own = (u64::from(each) * u64::from(weight)).div_ceil(u64::from(heaviest)) as u32;
            points.extend(points_of(label).take(own as usize).map(|hash| (hash, label, owner)));
        }
        // Two points at one place go by label, whatever the order of the candidates.
        points.sort_unstable();
        let count = points.len().next_power_of_two().max(2);
        let first_of = |part: usize| {
            let from = (part as u64) << shift_of(count);
            points.partition_point(|(hash, ..)| *hash < from) as u32
        };
        let bound = |weight: u32| max_load * f64::from(weight) / total.max(1) as f64;
        Self {
            parts: (0..count).map(first_of).collect(),
            hashes: points.iter().map(|(hash, ..)| *hash).collect(),
            owners: points.iter().map(|(.., owner)| *owner).collect(),
            bounds: candidates.map(|(_, weight)| bound(weight)).collect(),
            total: AtomicU64::new(0),
        }
    }

    /// The candidate that a key's hash belongs to, of those that are open and have room. `None` where the walk along the ring
    /// found none.
    pub(super) fn find(
        &self,
        key: u64,
        random: &mut fastrand::Rng,
        in_flight: impl Fn(usize) -> usize,
        is_open: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let first = self.first_behind(key);
        let (before, behind) = self.owners.split_at_checked(first)?;
        let mut total = None;
        let mut has_room = |owner: usize| {
            let load = in_flight(owner);
            // One request an endpoint may always have.
            load == 0 || {
                let total = *total.get_or_insert_with(|| self.total(random, &in_flight));
                let bound = self.bounds.get(owner).copied().unwrap_or_default();
                // As good as a comparison with the bound rounded up, since the load is a whole number.
                (load as f64) < bound * (total + 1) as f64 - ROUNDING
            }
        };
        let around = behind.iter().chain(before).take(WALK).map(|owner| *owner as usize);
        let mut last = None;
        for owner in around {
            // The points of one endpoint often stand side by side.
            if last != Some(owner) && is_open(owner) && has_room(owner) {
                return Some(owner);
            }
            last = Some(owner);
        }
        None
    }

    /// The first point at or behind a key, by its place; the number of points where there is none.
    fn first_behind(&self, key: u64) -> usize {
        let part = (key >> shift_of(self.parts.len())) as usize;
        let from = self.parts.get(part).map_or(0, |first| *first as usize);
        let behind = self.hashes.iter().skip(from).take_while(|hash| **hash < key);
        from + behind.count()
    }

    /// Requests in flight with all candidates.
    fn total(&self, random: &mut fastrand::Rng, in_flight: impl Fn(usize) -> usize) -> u64 {
        let count = self.bounds.len();
        if count > SUMMED && random.usize(..count) >= SUMMED {
            return self.total.load(Ordering::Relaxed);
        }
        let total = (0..count).map(|index| in_flight(index) as u64).sum();
        if count > SUMMED {
            self.total.store(total, Ordering::Relaxed);
        }
        total
    }
}

/// How far a hash is shifted to get its part of `count`, a power of two.
fn shift_of(count: usize) -> u32 {
    // There are two at least; none only before there is a ring.
    u64::BITS - count.max(2).ilog2()
}

/// The points of an endpoint, without end.
fn points_of(label: &str) -> impl Iterator<Item = u64> {
    (0_u32..).flat_map(move |round| {
        let digest = Sha256::new().chain_update(label).chain_update(round.to_be_bytes()).finalize();
        let points: [u64; A_DIGEST as usize] = std::array::from_fn(|at| {
            digest.iter().skip(8 * at).take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
        });
        points
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys, spread well.
    fn keys(count: u64) -> impl Iterator<Item = u64> {
        let mut random = fastrand::Rng::with_seed(4_711);
        (0..count).map(move |_| random.u64(..))
    }

    fn labels(numbers: impl Iterator<Item = u32>) -> Vec<String> {
        numbers.map(|number| format!("10.0.{}.{}:8080", number >> 8, number & 255)).collect()
    }

    fn ring(labels: &[String], weights: &[u32]) -> Ring {
        Ring::new(labels.iter().map(String::as_str).zip(weights.iter().copied()), 1.25)
    }

    /// Whose the keys are while nothing is in flight.
    fn homes<'a>(ring: &Ring, labels: &'a [String], count: u64) -> Vec<&'a str> {
        let mut random = fastrand::Rng::with_seed(1);
        keys(count)
            .map(|key| labels[ring.find(key, &mut random, |_| 0, |_| true).unwrap()].as_str())
            .collect()
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(ring(&[], &[]).find(7, &mut random, |_| 0, |_| true), None);
        let one = ring(&labels(0..1), &[3]);
        assert_eq!(one.find(u64::MAX, &mut random, |_| 90, |_| true), Some(0));
        assert_eq!(one.find(0, &mut random, |_| 0, |_| false), None);
    }

    #[test]
    fn points_are_the_same_for_ever() {
        // What replicas of other versions have computed, and what a restart must find again.
        let points: Vec<u64> = points_of("10.0.0.1:8080").take(5).collect();
        let known: [u64; 5] = [
            7_569_753_570_164_234_220,
            9_210_335_510_752_115_827,
            1_121_696_117_068_064_495,
            9_747_329_054_738_236_482,
            14_605_653_315_985_800_962,
        ];
        assert_eq!(points, known);
    }

    #[test]
    fn the_point_behind_a_key_is_found_from_its_part() {
        for count in [1, 2, 3, 7, 100, 500] {
            let ring = ring(&labels(0..count), &vec![1; count as usize]);
            let ends = [0, 1, u64::MAX - 1, u64::MAX].into_iter();
            let at = ring.hashes.iter().flat_map(|hash| [hash - 1, *hash, hash + 1]);
            for key in keys(2_000).chain(ends).chain(at) {
                let behind = ring.hashes.partition_point(|hash| *hash < key);
                assert_eq!(ring.first_behind(key), behind, "{key} of {count}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        for (count, most) in
            [(3, 480), (100, 16_000), (103, 16_384), (5_000, 16_384), (20_000, 20_000)]
        {
            let labels = labels(0..count);
            let ring = ring(&labels, &vec![1; count as usize]);
            assert!(ring.hashes.len() <= most, "{} of {count}", ring.hashes.len());
            assert!(ring.hashes.len() >= count as usize);
            assert!(ring.parts.len() <= 2 * ring.hashes.len());
        }
    }

    #[test]
    fn full_endpoints_pass_their_keys_on_and_keep_the_rest() {
        let labels = labels(0..5);
        let ring = ring(&labels, &[1; 5]);
        let mut random = fastrand::Rng::with_seed(1);
        let home = |key, random: &mut _| ring.find(key, random, |_| 4, |_| true).unwrap();
        for key in keys(200) {
            let first = home(key, &mut random);
            let full = |index: usize| if index == first { 9 } else { 4 };
            let second = ring.find(key, &mut random, full, |_| true).unwrap();
            assert_ne!(first, second);
            // It goes where it would go without the full one, too.
            assert_eq!(ring.find(key, &mut random, |_| 4, |index| index != first), Some(second));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// One more of N takes about 1/(N+1) of the keys, and no other key moves.
        #[test]
        fn one_more_takes_its_share_and_moves_nothing_else(count in 2_u32..40, first in 0_u32..1_000) {
            const KEYS: u64 = 4_000;
            let less = labels(first..first + count);
            // In another order, too.
            let more: Vec<String> = labels(first..=first + count).into_iter().rev().collect();
            let joined = more[0].as_str();
            let (ring_less, ring_more) =
                (ring(&less, &vec![1; less.len()]), ring(&more, &vec![1; more.len()]));
            let (before, after) = (homes(&ring_less, &less, KEYS), homes(&ring_more, &more, KEYS));
            let mut moved = 0;
            for (before, after) in before.iter().zip(&after) {
                if before != after {
                    prop_assert_eq!(*after, joined);
                    moved += 1;
                }
            }
            let share = f64::from(moved) / KEYS as f64 * f64::from(count + 1);
            prop_assert!((0.6..1.5).contains(&share), "{share} of its share");
        }

        /// Shares of the keys follow the weights.
        #[test]
        fn keys_follow_the_weights(weights in prop::collection::vec(1_u32..4, 2..20), scale in 1_u32..1_000_000) {
            const KEYS: u64 = 8_000;
            let labels = labels(0..weights.len() as u32);
            let scaled: Vec<u32> = weights.iter().map(|weight| weight * (scale / 4 + 1)).collect();
            let ring = ring(&labels, &scaled);
            let homes = homes(&ring, &labels, KEYS);
            let total: u32 = weights.iter().sum();
            for (label, weight) in labels.iter().zip(&weights) {
                let count = homes.iter().filter(|home| **home == label.as_str()).count() as f64;
                let expected = KEYS as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((0.55..1.5).contains(&(count / expected)), "{count} for {expected}");
            }
        }

        /// Whatever the keys, nobody has more in flight than its bound, and keys with room stay at home.
        #[test]
        fn the_load_is_bounded(
            weights in prop::collection::vec(1_u32..4, 2..40),
            distinct in 1_u64..50,
            steps in prop::collection::vec((any::<u64>(), 0_u8..3), 1..400),
            seed: u64,
        ) {
            let labels = labels(0..weights.len() as u32);
            let ring = ring(&labels, &weights);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut in_flight = vec![0_usize; weights.len()];
            let total_weight: u32 = weights.iter().sum();
            let chosen: Vec<u64> = keys(distinct).collect();
            let mut open = Vec::new();
            for (step, action) in steps {
                if action == 0 && !open.is_empty() {
                    let index: usize = open.swap_remove((step % open.len() as u64) as usize);
                    in_flight[index] -= 1;
                    continue;
                }
                let key = chosen[(step % distinct) as usize];
                let found = ring.find(key, &mut random, |index| in_flight[index], |_| true);
                // Two or three keys that fill nearly everyone: the walk may end first.
                let Some(index) = found else { continue };
                let sum: usize = in_flight.iter().sum();
                let share = f64::from(weights[index]) / f64::from(total_weight);
                let mut bound = (1.25 * share * (sum + 1) as f64 - ROUNDING).ceil().max(1.0);
                if weights.len() > SUMMED {
                    // The sum is a few picks old.
                    bound += 3.0;
                }
                in_flight[index] += 1;
                open.push(index);
                prop_assert!(in_flight[index] as f64 <= bound, "{} over {bound}", in_flight[index]);
            }
        }
    }
}
