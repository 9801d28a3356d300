//! The cheapest of a few candidates; of equals one at random, in proportion to their weights.
//!
//! Written without branches on what is compared: among equals no processor guesses right, and each wrong guess costs as much as
//! the rest of a pick.

/// What at most `N` candidates cost.
#[derive(Debug)]
pub(super) struct Costs<const N: usize> {
    each: [f64; N],
    weights: [u32; N],
    indexes: [u32; N],
    len: usize,
}

impl<const N: usize> Costs<N> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { each: [0.0; N], weights: [0; N], indexes: [0; N], len: 0 }
    }

    /// Adds a candidate; more than `N` are left out.
    pub(super) fn add(&mut self, index: usize, weight: u32, cost: f64) {
        let at = self.len;
        if let (Some(its_cost), Some(its_weight), Some(its_index)) =
            (self.each.get_mut(at), self.weights.get_mut(at), self.indexes.get_mut(at))
        {
            *its_cost = cost;
            *its_weight = weight;
            *its_index = index as u32;
            self.len += 1;
        }
    }

    /// Changes the cost of each, in the order in which they were added.
    pub(super) fn scale(&mut self, factors: impl Iterator<Item = f64>) {
        for (cost, factor) in self.each.iter_mut().zip(factors).take(self.len) {
            *cost *= factor;
        }
    }

    /// The first of those whose cost is at most `equal` times the least.
    pub(super) fn first(&self, equal: f64) -> Option<usize> {
        let costs = self.each.get(..self.len)?;
        let limit = limit(costs, equal);
        let place = costs.iter().position(|cost| *cost <= limit)?;
        self.indexes.get(place).map(|index| *index as usize)
    }

    /// One of those whose cost is at most `equal` times the least, by weight.
    pub(super) fn draw(&self, equal: f64, random: &mut fastrand::Rng) -> Option<usize> {
        let costs = self.each.get(..self.len)?;
        let limit = limit(costs, equal);
        // Weights summed up: those of the equals before and with each.
        let mut sums = [0_u64; N];
        let mut total = 0;
        for ((sum, cost), weight) in sums.iter_mut().zip(costs).zip(&self.weights) {
            total += u64::from(*weight) * u64::from(*cost <= limit);
            *sum = total;
        }
        if total == 0 {
            return None;
        }
        let drawn = random.u64(0..total);
        let place: usize = sums.iter().take(self.len).map(|sum| usize::from(*sum <= drawn)).sum();
        self.indexes.get(place).map(|index| *index as usize)
    }
}

fn limit(costs: &[f64], equal: f64) -> f64 {
    costs.iter().fold(f64::INFINITY, |least, cost| least.min(*cost)) * equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_are_drawn_by_weight() {
        let mut costs = Costs::<5>::new();
        for (index, weight, cost) in
            [(7, 1, 1.0), (3, 9, 2.0), (5, 3, 1.2), (9, 0, 0.9), (2, 6, 1.1)]
        {
            costs.add(index, weight, cost);
        }
        let mut random = fastrand::Rng::with_seed(3);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[costs.draw(1.5, &mut random).unwrap()] += 1;
        }
        for (index, expected) in [(7, 1_000_u32), (5, 3_000), (2, 6_000)] {
            assert!(counts[index].abs_diff(expected) < 250, "{counts:?}");
        }
        assert_eq!(counts[3] + counts[9], 0, "too dear, and without weight");
        assert_eq!(Costs::<4>::new().draw(1.0, &mut random), None);
    }

    #[test]
    fn the_first_of_the_cheapest_is_taken() {
        let mut costs = Costs::<4>::new();
        assert_eq!(costs.first(1.5), None);
        for (index, cost) in [(7, 2.0), (3, 1.3), (5, 1.0), (9, 1.1)] {
            costs.add(index, 1, cost);
        }
        assert_eq!(
            (costs.first(1.5), costs.first(1.2), costs.first(2.0)),
            (Some(3), Some(5), Some(7))
        );
    }

    #[test]
    fn too_many_are_left_out() {
        let mut costs = Costs::<5>::new();
        for index in 0..=5_usize {
            costs.add(index, 1, if index == 5 { 0.0 } else { 1.0 });
        }
        let mut random = fastrand::Rng::with_seed(3);
        assert!((0..1_000).all(|_| costs.draw(1.0, &mut random).unwrap() < 5));
    }
}
