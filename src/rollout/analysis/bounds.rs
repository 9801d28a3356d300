//! Confidence bounds of one side's rate, valid at every number of requests at once: they may be looked at all the time.
//!
//! The bounds hold every rate `p` that the beta-binomial mixture can't refuse (Robbins 1970; Howard, Ramdas,
//! `McAuliffe` and Sekhon 2021): with `x` events in `n` requests and a uniform mixture, those with
//!
//! ```text
//! B(x + 1, n - x + 1) / (p^x (1 - p)^(n - x)) < 1 / error
//! ```
//!
//! They hold for requests with one rate. They are for showing; the verdict does not use them.

/// Where a rate is, with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Not below this.
    pub low: f64,
    /// Not above this.
    pub high: f64,
}

/// Halvings of an interval of length 1: down to 2^-60.
const HALVINGS: u32 = 60;

/// The bounds of the rate of `events` in `trials`; wrong at any time with probability at most `error`.
pub fn bounds(trials: u64, events: u64, error: f64) -> Bounds {
    let events = events.min(trials);
    if trials == 0 {
        return Bounds { low: 0.0, high: 1.0 };
    }
    let (n, x) = (trials as f64, events as f64);
    let rate = x / n;
    // ln of (mixture over the likelihood at the observed rate), at most 0, and the divergence it may be away from that.
    let at_rate = ln_beta(x + 1.0, n - x + 1.0) - x_ln_y(x, rate) - x_ln_y(n - x, 1.0 - rate);
    let room = -error.clamp(f64::MIN_POSITIVE, 1.0).ln() - at_rate;
    let is_inside = |p: f64| n * divergence(rate, p) < room;
    let search = |mut outside: f64, mut inside: f64| {
        if is_inside(outside) {
            return outside;
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(outside, inside);
            *(if is_inside(middle) { &mut inside } else { &mut outside }) = middle;
        }
        outside
    };
    Bounds { low: search(0.0, rate), high: search(1.0, rate) }
}

/// Kullback-Leibler divergence of a coin with `rate` from one with `p`.
fn divergence(rate: f64, p: f64) -> f64 {
    let part = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a * (a / b).ln() };
    (part(rate, p) + part(1.0 - rate, 1.0 - p)).max(0.0)
}

fn x_ln_y(x: f64, y: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x * y.ln() }
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Stirling's series from 10 on, where its next term is below 1e-12 (Abramowitz and Stegun, 6.1.41); smaller values by
/// the recurrence. For `x` of at least 1.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ln_gamma_is_that_of_factorials() {
        let mut factorial = 1.0_f64;
        for n in 1..30 {
            assert!((ln_gamma(f64::from(n)) - factorial.ln()).abs() < 1e-10, "{n}");
            factorial *= f64::from(n);
        }
    }

    #[test]
    fn few_requests_say_little_and_many_say_much() {
        assert_eq!(bounds(0, 0, 0.001), Bounds { low: 0.0, high: 1.0 });
        let few = bounds(20, 1, 0.001);
        assert!(few.low < 0.005 && few.high > 0.3, "{few:?}");
        let many = bounds(4_000_000_000, 200_000_000, 0.001);
        assert!(many.low > 0.049_97 && many.low < 0.05, "{many:?}");
        assert!(many.high < 0.050_03 && many.high > 0.05, "{many:?}");
        let none = bounds(100_000, 0, 0.001);
        assert!(none.low <= 0.0 && none.high < 3e-4 && none.high > 1e-5, "{none:?}");
        let all = bounds(1_000, 1_000, 0.001);
        assert!(all.high >= 1.0 && all.low > 0.98, "{all:?}");
    }

    /// The probability that the rate is ever outside within `n` requests, exactly, over all paths.
    fn missed(rate: f64, n: usize, error: f64) -> f64 {
        let mut paths = vec![1.0]; // by the number of events, those that were never outside
        let mut missed = 0.0;
        for trials in 1..=n {
            let mut next = vec![0.0; trials + 1];
            for (events, part) in paths.iter().enumerate() {
                next[events] += part * (1.0 - rate);
                next[events + 1] += part * rate;
            }
            for (events, part) in next.iter_mut().enumerate() {
                let Bounds { low, high } = bounds(trials as u64, events as u64, error);
                if rate < low || rate > high {
                    missed += std::mem::take(part);
                }
            }
            paths = next;
        }
        missed
    }

    #[test]
    fn the_rate_is_ever_outside_no_more_often_than_stated() {
        for rate in [0.01, 0.1, 0.5, 0.9] {
            let missed = missed(rate, 300, 0.1);
            assert!(missed > 0.002 && missed <= 0.1, "{rate}: {missed}");
        }
    }

    proptest! {
        #[test]
        fn bounds_are_around_the_rate_and_finite(trials: u64, events: u64, error in 0.0..1.0_f64) {
            let Bounds { low, high } = bounds(trials, events, error);
            let rate = events.min(trials) as f64 / trials.max(1) as f64;
            prop_assert!(0.0 <= low && low <= rate && high <= 1.0);
            prop_assert!(rate <= high || trials == 0);
        }
    }
}
