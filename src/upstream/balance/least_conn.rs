//! Least-conn: the endpoint with the fewest requests in flight per weight.

/// The index with the fewest requests in flight per weight; of equals one at random, in proportion to their weights.
///
/// `loads` yields `(in flight, weight)`, or `None` for what must not be taken. Weights of 0 are never taken.
pub(super) fn least_conn(
    loads: impl Iterator<Item = Option<(usize, u32)>>,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    let mut tied_weight = 0;
    for (index, load) in loads.enumerate() {
        let Some((in_flight, weight)) = load else { continue };
        let (in_flight, weight) = (in_flight as u64, u64::from(weight));
        if weight == 0 {
            continue;
        }
        // a / b < c / d without a division.
        let order = best.map(|(_, least, its_weight)| {
            in_flight.saturating_mul(its_weight).cmp(&least.saturating_mul(weight))
        });
        match order {
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Equal) => {
                // Reservoir: each of the tied ones stays with the probability of its weight.
                tied_weight += weight;
                if random.u64(0..tied_weight) < weight {
                    best = Some((index, in_flight, weight));
                }
            }
            None | Some(std::cmp::Ordering::Less) => {
                tied_weight = weight;
                best = Some((index, in_flight, weight));
            }
        }
    }
    best.map(|(index, ..)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn least_conn_takes_the_least_per_weight() {
        let mut random = fastrand::Rng::with_seed(7);
        for (loads, index) in [
            (&[Some((3, 1)), Some((1, 1)), Some((2, 1))][..], Some(1)),
            (&[Some((3, 4)), Some((1, 1))], Some(0)),
            (&[Some((9, 10)), Some((8, 9)), Some((10, 11))], Some(1)),
            (&[None, Some((50, 1))], Some(1)),
            (&[Some((0, 0)), Some((50, 1))], Some(1)),
            (&[Some((usize::MAX, 1)), Some((1, 1_000))], Some(1)),
            (&[None, None], None),
            (&[], None),
        ] {
            assert_eq!(least_conn(loads.iter().copied(), &mut random), index, "{loads:?}");
        }
    }

    #[test]
    fn ties_are_spread_by_weight() {
        let mut random = fastrand::Rng::with_seed(42);
        let loads = [Some((0, 1)), Some((5, 1)), Some((0, 2)), Some((0, 1))];
        let mut counts = [0_u32; 4];
        for _ in 0..10_000 {
            counts[least_conn(loads.into_iter(), &mut random).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        for (index, expected) in [(0, 2_500), (2, 5_000), (3, 2_500)] {
            assert!(counts[index].abs_diff(expected) < 200, "{counts:?}");
        }
    }

    proptest! {
        /// With every pick counted, least-conn keeps the load per weight within one request of equal.
        #[test]
        fn least_conn_fills_by_weight(weights in prop::collection::vec(1_u32..20, 1..12), seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut in_flight = vec![0_usize; weights.len()];
            for _ in 0..500 {
                let loads = in_flight.iter().zip(&weights).map(|(n, w)| Some((*n, *w)));
                let index = least_conn(loads, &mut random).unwrap();
                let least = |i: usize| in_flight[i] as f64 / f64::from(weights[i]);
                prop_assert!((0..weights.len()).all(|other| least(index) <= least(other)));
                in_flight[index] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (count, weight) in in_flight.iter().zip(&weights) {
                let ideal = 500.0 * f64::from(*weight) / f64::from(total);
                prop_assert!((*count as f64 - ideal).abs() <= f64::from(*weight) + weights.len() as f64);
            }
        }
    }
}
