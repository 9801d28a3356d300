//! Drawing candidates by weight in constant time, and small samples of different ones.

/// A table to draw from: Walker's alias method, built by Vose's algorithm (1991). Eight bytes a candidate.
///
/// A draw takes a column at random, and of the two candidates that share it one by its threshold. Exact to 1 part in 2^32.
#[derive(Debug, Default)]
pub(super) struct Lots(Box<[Column]>);

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Below it the column's own candidate is drawn, in parts of 2^32.
    threshold: u32,
    /// Who is drawn otherwise.
    other: u32,
}

/// Up to `D` different candidates, in the order in which they were drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<const D: usize> {
    indexes: [u32; D],
    len: usize,
}

impl Lots {
    /// One candidate a weight. Weights of 0 are not drawn, unless all are 0.
    pub(super) fn new(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        // A column holds `total` parts; a candidate has `weight * count` of them.
        let mut parts: Vec<u64> = weights.iter().map(|w| u64::from(*w) * count).collect();
        let mut columns: Vec<Column> = (0..weights.len() as u32)
            .map(|own| Column { threshold: u32::MAX, other: own })
            .collect();
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (index, part) in (0_u32..).zip(&parts) {
            if *part < total { small.push(index) } else { large.push(index) }
        }
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            let part = parts.get(less as usize).copied().unwrap_or_default();
            if let Some(column) = columns.get_mut(less as usize) {
                let threshold = (u128::from(part) << 32).checked_div(u128::from(total));
                *column = Column { threshold: threshold.unwrap_or_default() as u32, other: more };
            }
            let Some(rest) = parts.get_mut(more as usize) else { break };
            *rest -= total - part;
            if *rest < total { small.push(more) } else { large.push(more) }
        }
        Self(columns.into_boxed_slice())
    }

    /// One candidate, with the probability of its weight.
    pub(super) fn draw(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let bits = random.u64(..);
        let index = ((bits & u64::from(u32::MAX)) * self.0.len() as u64) >> 32;
        let column = self.0.get(index as usize)?;
        // A threshold of 0 is that of a weight of 0; a full column's other is its own.
        let is_own = ((bits >> 32) as u32) < column.threshold;
        Some(if is_own { index as usize } else { column.other as usize })
    }

    /// Different open candidates, each drawn by weight. Fewer than `D` where too many draws were closed or met the same again.
    pub(super) fn sample<const D: usize>(
        &self,
        random: &mut fastrand::Rng,
        is_open: impl Fn(usize) -> bool,
    ) -> Sample<D> {
        let mut sample = Sample { indexes: [0; D], len: 0 };
        for _ in 0..2 * D {
            let Some(index) = self.draw(random) else { break };
            if !sample.iter().any(|drawn| drawn == index)
                && is_open(index)
                && let Some(slot) = sample.indexes.get_mut(sample.len)
            {
                *slot = index as u32;
                sample.len += 1;
                if sample.len == D {
                    break;
                }
            }
        }
        sample
    }
}

impl<const D: usize> Sample<D> {
    /// The candidates.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.indexes.iter().take(self.len).map(|index| *index as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_drawn_from_nothing() {
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(Lots::new(&[]).draw(&mut random), None);
        assert_eq!(Lots::new(&[7]).draw(&mut random), Some(0));
        assert_eq!(Lots::new(&[]).sample::<2>(&mut random, |_| true).len, 0);
    }

    #[test]
    fn a_sample_holds_different_open_ones() {
        let mut random = fastrand::Rng::with_seed(2);
        let lots = Lots::new(&[1; 20]);
        for _ in 0..1_000 {
            let sample = lots.sample::<4>(&mut random, |index| index != 3);
            let drawn: std::collections::HashSet<usize> = sample.iter().collect();
            assert_eq!(drawn.len(), sample.len);
            assert!(!drawn.contains(&3) && !drawn.is_empty());
        }
        assert_eq!(lots.sample::<4>(&mut random, |_| false).len, 0);
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let mut weights = vec![1_000_000; 5_000];
        weights.push(1);
        let lots = Lots::new(&weights);
        let mut random = fastrand::Rng::with_seed(3);
        assert!((0..1_000).all(|_| lots.draw(&mut random).unwrap() < weights.len()));
    }

    proptest! {
        /// Shares are those of the weights, within five standard deviations.
        #[test]
        fn draws_follow_the_weights(weights in prop::collection::vec(0_u32..1_000, 1..12), seed: u64) {
            const DRAWS: u32 = 20_000;
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let lots = Lots::new(&weights);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..DRAWS {
                counts[lots.draw(&mut random).unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / f64::from(total);
                let expected = share * f64::from(DRAWS);
                let deviation = (expected * (1.0 - share)).sqrt();
                prop_assert!(
                    (f64::from(*count) - expected).abs() <= 5.0 * deviation + 1.0,
                    "{count} for {expected}, of {weights:?}"
                );
            }
        }
    }
}
