//! The e-value of one block: a bet that pays when events (failures, slow answers) fall on the candidate.
//!
//! A block has `n_c` requests of the candidate and `n_s` of the stable. With the stake `a`, chosen before the block, and
//! `r = n_c / n_s`, each request of the candidate multiplies by `1 + a (y - tolerance)`, each of the stable by
//! `1 - r a y`, where `y` is 1 for an event and 0 otherwise.
//!
//! **Why it is valid.** Let the requests of a block be independent given whatever both sides have in common at that
//! moment, with event probabilities `p_i` (candidate) and `q_j` (stable), which may differ from request to request, and
//! let their means obey `mean(p) <= mean(q) + tolerance`. By `1 + x <= e^x`
//!
//! ```text
//! ln E[product] <= sum a (p_i - tolerance) - sum r a q_j = a n_c (mean(p) - tolerance - mean(q)) <= 0,
//! ```
//!
//! so that the expectation is at most 1 for every rate of the stable: the rate drops out, it need not be known, and may
//! drift. All factors are positive because `a tolerance < 1` and `r a < 1`.
//!
//! At `tolerance = 0` a block without an event multiplies by exactly 1, and the bet is the conditional one: given an
//! event, whose is it? It then needs no independence either: given that `x` of the `n_c + n_s` requests had an event and
//! that the sides were dealt at random, the candidate's part is hypergeometric, and
//! `E[(1 + a)^X (1 - r a)^(x - X)] <= 1`, since the same expectation under the binomial law with `n_c / (n_c + n_s)` is
//! exactly 1 and a hypergeometric variable is below the binomial one in the convex order (Hoeffding 1963, theorem 4).
//! Outages that hit both sides at once are therefore harmless.
//!
//! The family is that of Turner, Ly and Grünwald (2024), with the part of the base rate in the reverse information
//! projection at 0, read as a bet in the sense of Waudby-Smith and Ramdas (2023).

use super::block::Block;

/// The stake that grows fastest when the candidate's rate is `ratio` times the largest that the null hypothesis allows
/// it (`base + tolerance`), for rare events. `base` is a guess at the stable's rate; a bad guess costs power, not
/// validity. `split` is `r`. Zero means: no bet.
pub(super) fn stake(ratio: f64, base: f64, tolerance: f64, split: f64) -> f64 {
    let candidate = if tolerance > 0.0 {
        // A rate above 1 would stake more than the bet can lose.
        (ratio * (base + tolerance)).min(1.0)
    } else {
        ratio * base
    };
    // The growth p ln(1 + a) - tolerance a + (base / r) ln(1 - r a) has its maximum where a quadratic is 0. This is its
    // smaller root, in the form that loses no digits.
    let square = tolerance * split;
    let linear = tolerance * (1.0 - split) + base + candidate * split;
    let constant = candidate - tolerance - base;
    if constant <= 0.0 {
        return 0.0;
    }
    let root = (linear * linear - 4.0 * square * constant).max(0.0).sqrt();
    // `r a` stays below 1 by at least (tolerance + base) / candidate, `a tolerance` by at least `tolerance`: far more than
    // what is lost by rounding, so that no factor is 0.
    2.0 * constant / (linear + root)
}

/// The logarithm of the block's e-value at this stake. The stake must be one that [`stake`] gives for this block's split.
pub(super) fn ln_value(block: &Block, stake: f64, tolerance: f64) -> f64 {
    let (candidate, stable) = (block.candidate, block.stable);
    let part = |count: u64, gain: f64| if count == 0 { 0.0 } else { count as f64 * gain.ln_1p() };
    part(candidate.events, stake * (1.0 - tolerance))
        + part(candidate.trials.saturating_sub(candidate.events), -stake * tolerance)
        + part(stable.events, -block.split() * stake)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rollout::analysis::{block::Trials, evidence::RATIOS};

    const TOLERANCES: [f64; 4] = [0.0, 0.005, 0.05, 0.3];
    const GUESSES: [f64; 4] = [1e-6, 0.001, 0.05, 0.6];
    const SIZES: [(u64, u64); 6] = [(1, 1), (1, 9), (4, 31), (5, 5), (6, 2), (9, 1)];

    fn block(candidate: (u64, u64), stable: (u64, u64)) -> Block {
        Block {
            candidate: Trials::new(candidate.0, candidate.1),
            stable: Trials::new(stable.0, stable.1),
        }
    }

    /// The law of the number of events among requests with these rates, exactly.
    fn law(rates: &[f64]) -> Vec<f64> {
        let mut law = vec![1.0];
        for rate in rates {
            let mut next = vec![0.0; law.len() + 1];
            for (events, part) in law.iter().enumerate() {
                next[events] += part * (1.0 - rate);
                next[events + 1] += part * rate;
            }
            law = next;
        }
        law
    }

    /// The expectation of the block's e-value, exactly.
    fn expectation(
        candidate: &[f64],
        stable: &[f64],
        ratio: f64,
        guess: f64,
        tolerance: f64,
    ) -> f64 {
        let (of_candidate, of_stable) = (law(candidate), law(stable));
        let split = candidate.len() as f64 / stable.len() as f64;
        let stake = stake(ratio, guess, tolerance, split);
        let mut sum = 0.0;
        for (x, part_x) in of_candidate.iter().enumerate() {
            for (y, part_y) in of_stable.iter().enumerate() {
                let block =
                    block((candidate.len() as u64, x as u64), (stable.len() as u64, y as u64));
                sum += part_x * part_y * ln_value(&block, stake, tolerance).exp();
            }
        }
        sum
    }

    /// Every combination of what a bet is made by.
    fn bets() -> impl Iterator<Item = (f64, f64, f64, (u64, u64))> {
        TOLERANCES.into_iter().flat_map(|tolerance| {
            GUESSES.into_iter().flat_map(move |guess| {
                RATIOS.into_iter().flat_map(move |ratio| {
                    SIZES.into_iter().map(move |size| (tolerance, guess, ratio, size))
                })
            })
        })
    }

    #[test]
    fn no_rate_of_the_stable_makes_the_expectation_exceed_one() {
        for (tolerance, guess, ratio, (n_c, n_s)) in bets() {
            for base in [0.0, 1e-4, 0.001, 0.02, 0.2, 0.5, 0.7, 1.0 - tolerance] {
                let candidate = vec![(base + tolerance).min(1.0); n_c as usize];
                let stable = vec![base; n_s as usize];
                let expectation = expectation(&candidate, &stable, ratio, guess, tolerance);
                assert!(
                    expectation <= 1.0 + 1e-12,
                    "{expectation} at {tolerance} {guess} {ratio} {n_c}:{n_s} {base}"
                );
            }
        }
    }

    #[test]
    fn rates_that_differ_within_a_block_do_not_either() {
        // The means are what counts: some requests of the candidate fail surely, others never do.
        let candidate = [0.0, 1.0, 0.1, 0.0, 0.1];
        let stable = [0.0, 0.9, 0.0, 0.3, 0.0, 0.1, 0.0, 0.0, 0.8, 0.24];
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        assert!((mean(&candidate) - mean(&stable) - 0.006).abs() < 1e-12);
        for ratio in RATIOS {
            for guess in GUESSES {
                assert!(expectation(&candidate, &stable, ratio, guess, 0.006) <= 1.0 + 1e-12);
            }
        }
    }

    #[test]
    fn a_candidate_that_is_worse_makes_it_grow() {
        for (tolerance, guess, ratio, (n_c, n_s)) in bets() {
            if guess > 0.1 || tolerance > 0.05 {
                continue; // the candidate could not be so much worse
            }
            let rate = (ratio * (guess + tolerance)).min(1.0);
            let (candidate, stable) = (vec![rate; n_c as usize], vec![guess; n_s as usize]);
            assert!(expectation(&candidate, &stable, ratio, guess, tolerance) > 1.0);
        }
    }

    /// Given the number of events, the candidate's part of them is hypergeometric where the sides are dealt at random.
    #[test]
    fn given_the_number_of_events_the_expectation_is_at_most_one() {
        let ln_choose = |n: u64, k: u64| -> f64 {
            (1..=k).map(|i| (((n - k + i) as f64) / i as f64).ln()).sum()
        };
        for (n_c, n_s) in SIZES {
            for events in 0..=n_c + n_s {
                for ratio in RATIOS {
                    let stake = stake(ratio, 0.001, 0.0, n_c as f64 / n_s as f64);
                    let mut sum = 0.0;
                    for x in events.saturating_sub(n_s)..=events.min(n_c) {
                        let ln_part = ln_choose(n_c, x) + ln_choose(n_s, events - x)
                            - ln_choose(n_c + n_s, events);
                        let block = block((n_c, x), (n_s, events - x));
                        sum += (ln_part + ln_value(&block, stake, 0.0)).exp();
                    }
                    assert!(sum <= 1.0 + 1e-12, "{sum}: {n_c}:{n_s}, {events} events, {ratio}");
                    if events <= 1 {
                        assert!((sum - 1.0).abs() < 1e-12, "exact for one event: {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_tolerance_a_block_without_an_event_says_nothing() {
        for ratio in RATIOS {
            let block = block((1_000_000, 0), (3, 0));
            let stake = stake(ratio, 0.001, 0.0, block.split());
            assert_eq!(ln_value(&block, stake, 0.0).to_bits(), 0.0_f64.to_bits());
        }
    }

    /// Growth for one request of the candidate, and `1 / split` of the stable.
    fn growth(stake: f64, rate: f64, base: f64, tolerance: f64, split: f64) -> f64 {
        rate * (stake * (1.0 - tolerance)).ln_1p()
            + (1.0 - rate) * (-stake * tolerance).ln_1p()
            + base / split * (-split * stake).ln_1p()
    }

    #[test]
    fn the_stake_is_close_to_the_best() {
        for (tolerance, ratio, base, split) in [
            (0.0, 50.0, 0.001, 1.0 / 9.0),
            (0.0, 5.0, 0.02, 1.0),
            (0.0, 1.5, 0.02, 1.0 / 99.0),
            (0.005, 8.0, 0.001, 1.0 / 9.0),
            (0.005, 100.0, 0.001, 1.0),
            (0.05, 4.0, 0.05, 1.0 / 9.0),
            (0.05, 2.5, 0.05, 1.0),
        ] {
            let rate = ratio * (base + tolerance);
            let ours = growth(stake(ratio, base, tolerance, split), rate, base, tolerance, split);
            let most = 1.0 / f64::max(split, tolerance);
            let best = (1..10_000)
                .map(|n| growth(most * f64::from(n) / 1e4, rate, base, tolerance, split))
                .fold(0.0, f64::max);
            assert!(ours > 0.97 * best, "{ours} of {best} at {tolerance} {ratio} {base} {split}");
        }
    }

    #[test]
    fn the_stake_is_where_the_growth_for_rare_events_has_its_maximum() {
        for (tolerance, base, ratio, split) in
            [(0.0, 0.001, 50.0, 0.1), (0.005, 0.001, 8.0, 1.0), (0.05, 0.05, 4.0, 0.5)]
        {
            let stake = stake(ratio, base, tolerance, split);
            let slope = ratio * (base + tolerance) / (1.0 + stake)
                - tolerance
                - base / (1.0 - split * stake);
            assert!(slope.abs() < 1e-12, "{slope} at {tolerance} {base} {ratio} {split}");
        }
    }

    #[test]
    fn no_alternative_is_a_rate_above_one() {
        let of = |ratio| stake(ratio, 0.2, 0.05, 0.1);
        assert!((of(1_000.0) - of(4.0)).abs() < 1e-12, "4 times 25 % are all");
        assert!(of(3.9) < of(4.0));
    }

    #[test]
    fn there_is_no_bet_where_the_candidate_can_not_be_worse() {
        assert!(stake(1_000.0, 0.96, 0.05, 0.1) <= 0.0);
    }

    proptest! {
        #[test]
        fn a_lopsided_block_has_a_finite_value(trials: u64, stable in 1..5_u64, ratio in 1.0..1e3_f64) {
            let block = block((trials.max(1), 1), (stable, stable));
            for tolerance in [0.0, 0.005] {
                let stake = stake(ratio, 0.5, tolerance, block.split());
                prop_assert!(ln_value(&block, stake, tolerance).is_finite());
            }
        }

        #[test]
        fn every_count_has_a_finite_value(
            counts: (u64, u64, u64, u64),
            ratio in 1.0..1_000.0_f64,
            guess in 1e-6..0.999_999_f64,
            tolerance in prop_oneof![Just(0.0), 0.0..0.999_f64],
        ) {
            let block = block((counts.0.max(1), counts.1), (counts.2.max(1), counts.3));
            let stake = stake(ratio, guess, tolerance, block.split());
            prop_assert!(stake >= 0.0 && stake * tolerance < 1.0 && stake * block.split() < 1.0);
            prop_assert!(ln_value(&block, stake, tolerance).is_finite());
        }
    }
}
