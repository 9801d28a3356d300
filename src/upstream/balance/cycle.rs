//! Round-robin: a smooth cycle, made when the eligible endpoints change, and the turns that walk it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The longest cycle: weights that would make a longer one are scaled down, which costs at most 1 part in 10,000 a step.
const MAX_CYCLE: u64 = 10_000;

/// The order of a smooth weighted round-robin: one cycle of indexes in which each stands as often as its weight says, spread
/// as evenly as it can be.
///
/// Each step adds every weight to its endpoint's credit, takes the endpoint with the most credit (the first of equals), and
/// takes the sum of the weights off it, as nginx does at each request; we do it once, so that a pick is one atomic addition and the
/// cycle is exact under concurrency. Weights are divided by their greatest common divisor; zeros never stand in the cycle.
pub(super) fn smooth_cycle(weights: &[u32]) -> Box<[u32]> {
    let weights = scaled(weights);
    if weights.iter().all(|weight| *weight == 1) {
        return (0..weights.len() as u32).collect();
    }
    let total: i64 = weights.iter().copied().map(i64::from).sum();
    let mut credits = vec![0_i64; weights.len()];
    let mut cycle = Vec::new();
    for _ in 0..total {
        let mut best: Option<(usize, i64)> = None;
        for (index, (credit, weight)) in credits.iter_mut().zip(&weights).enumerate() {
            if *weight == 0 {
                continue;
            }
            *credit += i64::from(*weight);
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let Some((index, _)) = best else { break };
        if let Some(credit) = credits.get_mut(index) {
            *credit -= total;
        }
        cycle.push(index as u32);
    }
    cycle.into_boxed_slice()
}

/// The weights divided by their greatest common divisor, and scaled down where their sum is over the longest cycle.
fn scaled(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let divided: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    let sum: u64 = divided.iter().copied().map(u64::from).sum();
    if sum <= MAX_CYCLE {
        return divided;
    }
    let scale = |weight: u32| match weight {
        0 => 0,
        weight => ((u64::from(weight) * MAX_CYCLE / sum) as u32).max(1),
    };
    divided.into_iter().map(scale).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The next index of a cycle that `is_open` lets through, or `None` where it lets none through.
///
/// `turns` counts the picks of the upstream over all its generations. A retry takes no turn: else, of two endpoints, the
/// dead one would have every first try.
pub(super) fn round_robin(
    cycle: &[u32],
    turns: &AtomicU64,
    is_retry: bool,
    is_open: impl Fn(usize) -> bool,
) -> Option<usize> {
    let turn = turns.fetch_add(u64::from(!is_retry), Ordering::Relaxed);
    let start = turn.checked_rem(cycle.len() as u64)? as usize;
    let (before, after) = cycle.split_at_checked(start)?;
    after.iter().chain(before).map(|index| *index as usize).find(|index| is_open(*index))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(weights: &[u32]) -> String {
        smooth_cycle(weights).iter().map(|index| char::from(b'a' + *index as u8)).collect()
    }

    #[test]
    fn cycles_are_smooth_and_exact() {
        for (weights, cycle) in [
            (&[5, 1, 1][..], "aabacaa"),
            (&[10, 2, 2], "aabacaa"),
            (&[1, 1, 1], "abc"),
            (&[7, 7], "ab"),
            (&[4, 2, 1], "abacaba"),
            (&[3, 0, 1], "aaca"),
            (&[1], "a"),
            (&[0, 1], "b"),
            (&[0, 0], ""),
            (&[], ""),
        ] {
            assert_eq!(letters(weights), cycle, "{weights:?}");
        }
    }

    #[test]
    fn a_long_cycle_is_scaled_and_keeps_the_shares() {
        let weights: Vec<u32> = (0..40).map(|i| 997 - i).collect();
        let cycle = smooth_cycle(&weights);
        assert!(cycle.len() as u64 <= MAX_CYCLE + weights.len() as u64);
        let total: u32 = weights.iter().sum();
        for (index, weight) in weights.iter().enumerate() {
            let share =
                cycle.iter().filter(|i| **i as usize == index).count() as f64 / cycle.len() as f64;
            let wanted = f64::from(*weight) / f64::from(total);
            assert!((share / wanted - 1.0).abs() < 0.02, "{index}: {share} for {wanted}");
        }
        // Nobody is scaled away.
        let mut skewed = vec![1_000; 20];
        skewed.push(1);
        assert!(smooth_cycle(&skewed).contains(&20));
    }

    #[test]
    fn round_robin_skips_what_is_closed_and_goes_on() {
        let turns = AtomicU64::new(0);
        let cycle = smooth_cycle(&[1, 1, 1]);
        let pick = |closed: &[usize]| round_robin(&cycle, &turns, false, |i| !closed.contains(&i));
        assert_eq!([pick(&[]), pick(&[]), pick(&[])], [Some(0), Some(1), Some(2)]);
        assert_eq!(pick(&[0]), Some(1));
        assert_eq!(pick(&[1, 2]), Some(0));
        assert_eq!(pick(&[0, 1, 2]), None);
        let retry = |closed: usize| round_robin(&cycle, &turns, true, |i| i != closed);
        assert_eq!([retry(0), retry(0), pick(&[])], [Some(1), Some(1), Some(0)], "no turn taken");
        assert_eq!(round_robin(&[], &turns, false, |_| true), None);
    }

    #[test]
    fn weights_are_exact_under_concurrency() {
        let cycle = smooth_cycle(&[5, 3, 2]);
        let turns = AtomicU64::new(0);
        let counts: [AtomicU64; 3] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_250 {
                        let index = round_robin(&cycle, &turns, false, |_| true).unwrap();
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counts.map(AtomicU64::into_inner), [5_000, 3_000, 2_000]);
    }

    proptest! {
        /// One cycle gives each its weight, and no endpoint is ever a whole turn ahead of its share.
        #[test]
        fn a_cycle_is_fair_at_every_point(weights in prop::collection::vec(0_u32..20, 1..12)) {
            let cycle = smooth_cycle(&weights);
            let divided = scaled(&weights);
            let total: u32 = divided.iter().sum();
            prop_assert_eq!(cycle.len(), total as usize);
            let mut counts = vec![0_u32; weights.len()];
            for (step, index) in cycle.iter().enumerate() {
                counts[*index as usize] += 1;
                for (count, weight) in counts.iter().zip(&divided) {
                    let ideal = (step + 1) as f64 * f64::from(*weight) / f64::from(total);
                    prop_assert!((f64::from(*count) - ideal).abs() < weights.len() as f64);
                }
            }
            prop_assert_eq!(counts, divided);
        }
    }
}
