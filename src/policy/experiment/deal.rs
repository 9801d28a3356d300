//! From a client's place to its variant: pure, without memory, the same on every replica.
//!
//! The places are cut into as many equal parts as there are variants, in the order of their names. A variant has the beginning of
//! its own part and grows into it; where its share is larger than its part it goes on from the ends of the others' parts, towards
//! what their owners have. So a variant that grows takes clients that are in none: always where there are one or two variants,
//! and as long as no variant has more than its even part where there are more. Beyond that it may also displace others who reached
//! into its part, who then get as much of the rest as they lost.
//!
//! Another number of variants, or other names, cut the places in another way: nearly everybody may move then. A share of 0%
//! keeps a part free.

use crate::types::Percent;

/// What each place leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deal {
    /// Ranges in order: where each ends, and the variant in it.
    ranges: Box<[(u32, Option<usize>)]>,
    /// How many steps the places have.
    steps: u32,
}

/// The steps of one part: shares are whole millionths of all parts, so that borders are exact.
const PART: u32 = Percent::ALL.millionths();

impl Deal {
    /// The deal of these shares, together at most 100%; at most 16.
    pub(super) fn new(shares: &[Percent]) -> Self {
        let parts = u32::try_from(shares.len()).unwrap_or(u32::MAX).max(1);
        // In steps: a millionth of the whole is `parts` of them.
        let sizes = || shares.iter().map(|share| share.millionths().saturating_mul(parts));
        // What is free: from the end of what the owner has, to the first step that somebody else has.
        let mut free: Vec<(u32, u32)> = Vec::with_capacity(shares.len());
        let mut taken: Vec<(u32, u32, usize)> = Vec::new();
        for (variant, (begin, size)) in (0..).step_by(PART as usize).zip(sizes()).enumerate() {
            let own = size.min(PART);
            taken.push((begin, begin + own, variant));
            free.push((begin + own, begin + PART));
        }
        let count = free.len();
        for (variant, size) in sizes().enumerate() {
            let mut rest = size.saturating_sub(PART);
            for part in (0..count).map(|ahead| (variant + ahead) % count) {
                let Some((begin, end)) = free.get_mut(part) else { continue };
                let piece = rest.min(*end - *begin);
                taken.push((*end - piece, *end, variant));
                *end -= piece;
                rest -= piece;
            }
        }
        taken.retain(|(begin, end, _)| begin < end);
        taken.sort_unstable();
        let mut ranges = Vec::with_capacity(2 * taken.len());
        let mut at = 0;
        for (begin, end, variant) in taken {
            if at < begin {
                ranges.push((begin, None));
            }
            ranges.push((end, Some(variant)));
            at = end;
        }
        Self { ranges: ranges.into(), steps: parts.saturating_mul(PART) }
    }

    /// The variant of a place, which is evenly spread over all numbers.
    pub(super) fn variant(&self, place: u64) -> Option<usize> {
        // The upper half of the product: `place` scaled to the steps.
        let step = (u128::from(place) * u128::from(self.steps)) >> 64;
        let range = self.ranges.partition_point(|(end, _)| u128::from(*end) <= step);
        self.ranges.get(range)?.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percents(millionths: &[u32]) -> Vec<Percent> {
        let text = |share: &u32| format!("{}.{:04}%", share / 10_000, share % 10_000);
        millionths.iter().map(|share| text(share).parse().unwrap()).collect()
    }

    /// How many steps each variant has; by its ranges.
    fn sizes(deal: &Deal, variants: usize) -> Vec<u32> {
        let mut sizes = vec![0; variants];
        let mut at = 0;
        for (end, variant) in &deal.ranges {
            assert!(*end > at, "{deal:?}");
            if let Some(variant) = variant {
                sizes[*variant] += end - at;
            }
            at = *end;
        }
        assert!(at <= deal.steps);
        sizes
    }

    /// So many steps go from one variant to another.
    type Move = (u32, Option<usize>, Option<usize>);

    fn moves(from: &Deal, to: &Deal) -> Vec<Move> {
        let step_of = |deal: &Deal, step: u32| {
            let range = deal.ranges.partition_point(|(end, _)| *end <= step);
            deal.ranges.get(range).and_then(|(_, variant)| *variant)
        };
        let mut borders: Vec<u32> =
            from.ranges.iter().chain(&to.ranges).map(|(end, _)| *end).collect();
        borders.extend([0, from.steps]);
        borders.sort_unstable();
        borders
            .windows(2)
            .map(|pair| (pair[1] - pair[0], step_of(from, pair[0]), step_of(to, pair[0])))
            .filter(|(size, was, is)| *size > 0 && was != is)
            .collect()
    }

    #[test]
    fn places_lead_to_their_variants_at_the_exact_borders() {
        let deal = Deal::new(&percents(&[250_000, 250_000]));
        // Halves: a quarter of all from the beginning of each.
        let quarter = 1_u64 << 62;
        for (place, variant) in [
            (0, Some(0)),
            (quarter - 1, Some(0)),
            (quarter, None),
            (2 * quarter - 1, None),
            (2 * quarter, Some(1)),
            (3 * quarter - 1, Some(1)),
            (3 * quarter, None),
            (u64::MAX, None),
        ] {
            assert_eq!(deal.variant(place), variant, "{place:x}");
        }
        let all = Deal::new(&percents(&[1_000_000]));
        assert_eq!((all.variant(0), all.variant(u64::MAX)), (Some(0), Some(0)));
        let none = Deal::new(&percents(&[0, 0, 0]));
        assert_eq!((none.variant(0), none.variant(u64::MAX)), (None, None));
        assert_eq!(Deal::new(&[]).variant(7), None);
    }

    /// Shares of so many variants that are at most 100% together.
    fn shares(variants: usize) -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0_u32..=1_000_000, variants).prop_map(|mut shares| {
            let mut left = 1_000_000;
            for share in &mut shares {
                *share = (*share).min(left);
                left -= *share;
            }
            shares
        })
    }

    proptest! {
        #[test]
        fn each_variant_has_exactly_its_share(
            shares in (1_usize..=16).prop_flat_map(shares)
        ) {
            let parts = shares.len() as u32;
            let deal = Deal::new(&percents(&shares));
            let wanted: Vec<u32> = shares.iter().map(|share| share * parts).collect();
            prop_assert_eq!(sizes(&deal, shares.len()), wanted);
        }

        #[test]
        fn of_two_variants_each_gains_or_loses_exactly_the_difference(
            from in shares(2), to in shares(2)
        ) {
            let moved = moves(&Deal::new(&percents(&from)), &Deal::new(&percents(&to)));
            let of = |side: &dyn Fn(&Move) -> bool| {
                moved.iter().filter(|&one| side(one)).map(|(size, ..)| *size).sum::<u32>()
            };
            for which in 0..2 {
                // A millionth is two steps.
                let gained = of(&|(_, _, is)| *is == Some(which));
                prop_assert_eq!(gained, 2 * to[which].saturating_sub(from[which]));
                let lost = of(&|(_, was, _)| *was == Some(which));
                prop_assert_eq!(lost, 2 * from[which].saturating_sub(to[which]));
            }
        }

        #[test]
        fn within_even_parts_growth_takes_from_nobody(
            before in prop::collection::vec(0_u32..=62_500, 16), which in 0_usize..16, to in 0_u32..=62_500
        ) {
            let mut after = before.clone();
            after[which] = to;
            for (_, was, is) in moves(&Deal::new(&percents(&before)), &Deal::new(&percents(&after))) {
                let pair = if to > before[which] { (None, Some(which)) } else { (Some(which), None) };
                prop_assert_eq!((was, is), pair);
            }
        }

        #[test]
        fn beyond_even_parts_few_others_move(
            before in shares(4), which in 0_usize..4, growth in 0_u32..=1_000_000
        ) {
            let rest = 1_000_000 - before.iter().sum::<u32>();
            let growth = growth.min(rest);
            let mut after = before.clone();
            after[which] += growth;
            let moved = moves(&Deal::new(&percents(&before)), &Deal::new(&percents(&after)));
            let moved: u32 = moved.iter().map(|(size, ..)| *size).sum();
            // Those that must, and for each of at most three others that reach beyond their part as many at most.
            prop_assert!(moved <= 4 * growth * 4, "{moved} of {growth}");
        }
    }
}
