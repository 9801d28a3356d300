//! Random-two: of a few candidates drawn by weight, the one with the fewest requests in flight per weight.
//!
//! With two draws this is the power of two choices (Mitzenmacher, 2001): nearly as even as looking at all of them, at the
//! cost of two looks, and without the herd that forms where many edges follow the same least one.

use super::lots::Sample;

/// The index of the sample with the fewest requests in flight per weight; of equals the first, so that shares follow the
/// weights while nothing is in flight.
///
/// `load` is `(in flight, weight)`.
pub(super) fn least_of<const D: usize>(
    sample: &Sample<D>,
    load: impl Fn(usize) -> (usize, u32),
) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for index in sample.iter() {
        let (in_flight, weight) = load(index);
        let (in_flight, weight) = (in_flight as u64, u64::from(weight));
        // a / b < c / d without a division.
        if best.is_none_or(|(_, least, its_weight)| {
            in_flight.saturating_mul(its_weight) < least.saturating_mul(weight)
        }) {
            best = Some((index, in_flight, weight));
        }
    }
    best.map(|(index, ..)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::lots::Lots, *};

    #[test]
    fn while_nothing_is_in_flight_shares_follow_the_weights() {
        let weights = [1_000_u32, 3_000, 6_000];
        let lots = Lots::new(&weights);
        let mut random = fastrand::Rng::with_seed(11);
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            let sample = lots.sample::<2>(&mut random, |_| true);
            counts[least_of(&sample, |index| (0, weights[index])).unwrap()] += 1;
        }
        for (count, expected) in counts.iter().zip([3_000, 9_000, 18_000]) {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }

    proptest! {
        /// A hundred endpoints, each request staying: the fullest is never far above its share, where one draw alone would be.
        #[test]
        fn two_choices_keep_the_load_even(weights in prop::collection::vec(1_u32..4, 20..100), seed: u64) {
            let lots = Lots::new(&weights);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut in_flight = vec![0_usize; weights.len()];
            let requests = 20 * weights.len();
            for _ in 0..requests {
                let sample = lots.sample::<2>(&mut random, |_| true);
                let index = least_of(&sample, |index| (in_flight[index], weights[index])).unwrap();
                in_flight[index] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (count, weight) in in_flight.iter().zip(&weights) {
                let ideal = requests as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((*count as f64) < ideal + 3.0 * f64::from(*weight) + 3.0, "{count} for {ideal}");
            }
        }
    }
}
