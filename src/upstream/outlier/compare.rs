//! Whether an endpoint is worse than its siblings, by what was seen of all of them in one window.
//!
//! By a test that needs enough requests and a difference that is both significant and large, not by distance in standard
//! deviations from a mean, which over three endpoints says nothing. Where there are several client networks the result must hold
//! without any one of them: neither the one that fails most here, nor the one that succeeds most elsewhere, decides.

use std::time::Duration;

use super::{Observed, OutlierConfig, observed::SLOTS};
use crate::telemetry::metrics::EjectionReason;

/// The difference in units of its standard error from which on it is no chance: one in 30,000 comparisons of equal endpoints.
const SIGNIFICANT: f64 = 4.0;

/// Networks whose medians are needed where there are several, so that one is never the middle.
const LEAST_MEDIANS: usize = 3;

/// Tries, and those that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }

    fn rate(self) -> f64 {
        self.failures as f64 / self.requests.max(1) as f64
    }
}

/// Why `mine` should be ejected, if it should: its tries in `window` beside those of its siblings.
pub(in crate::upstream) fn worse(
    mine: &Observed,
    siblings: &[&Observed],
    settings: &OutlierConfig,
    networks: u32,
    window: u16,
) -> Option<EjectionReason> {
    let has_several = networks > 1;
    if fails_more(mine, siblings, settings, has_several, window) {
        return Some(EjectionReason::FailureRate);
    }
    let factor = settings.latency_factor?;
    is_slower(mine, siblings, settings, factor, has_several, window)
        .then_some(EjectionReason::Latency)
}

fn fails_more(
    mine: &Observed,
    siblings: &[&Observed],
    settings: &OutlierConfig,
    has_several: bool,
    window: u16,
) -> bool {
    if mine.requests(window) < settings.min_requests {
        return false;
    }
    let without: &[Option<usize>] = if has_several {
        &[most_failing(mine, window), most_successful(siblings, window)]
    } else {
        &[None]
    };
    without.iter().all(|without| {
        let mine = mine.tally(window, *without);
        let others = siblings
            .iter()
            .map(|sibling| sibling.tally(window, *without))
            .fold(Tally::default(), Tally::and);
        differs(mine, others, settings)
    })
}

/// The pooled two-proportion z-test, one-sided (NIST/SEMATECH e-Handbook of Statistical Methods, section 7.3.3), and a
/// difference that matters.
fn differs(mine: Tally, others: Tally, settings: &OutlierConfig) -> bool {
    if mine.requests.min(others.requests) < settings.min_requests {
        return false;
    }
    let difference = mine.rate() - others.rate();
    let least = f64::from(settings.failure_difference.millionths()) / 1e6;
    if difference <= 0.0 || difference < least {
        return false;
    }
    let pooled = mine.and(others).rate();
    let parts = 1.0 / mine.requests as f64 + 1.0 / others.requests as f64;
    let error = (pooled * (1.0 - pooled) * parts).sqrt();
    difference >= SIGNIFICANT * error
}

/// The slot that failed most often here.
fn most_failing(mine: &Observed, window: u16) -> Option<usize> {
    largest(mine.by_slot(window).into_iter().map(|(failed, _)| failed))
}

/// The slot that had the most good answers elsewhere.
fn most_successful(siblings: &[&Observed], window: u16) -> Option<usize> {
    let mut good = [0; SLOTS];
    for sibling in siblings {
        for (sum, (_, count)) in good.iter_mut().zip(sibling.by_slot(window)) {
            *sum += count;
        }
    }
    largest(good.into_iter())
}

fn largest(counts: impl Iterator<Item = u64>) -> Option<usize> {
    let (index, count) = counts.enumerate().max_by_key(|(_, count)| *count)?;
    (count > 0).then_some(index)
}

/// Medians, one of each network: whatever a single one asks for moves nothing.
fn is_slower(
    mine: &Observed,
    siblings: &[&Observed],
    settings: &OutlierConfig,
    factor: f64,
    has_several: bool,
    window: u16,
) -> bool {
    if mine.requests(window) < settings.min_requests {
        return false;
    }
    let least = if has_several { LEAST_MEDIANS } else { 1 };
    let median = |mut medians: Vec<u32>| {
        medians.sort_unstable();
        let micros = *medians.get(medians.len() / 2).filter(|_| medians.len() >= least)?;
        Some(Duration::from_micros(u64::from(micros)))
    };
    let enough = |sibling: &&&Observed| sibling.requests(window) >= settings.min_requests;
    let others = siblings.iter().filter(enough).flat_map(|it| it.medians(window));
    let (Some(mine), Some(others)) = (median(mine.medians(window)), median(others.collect()))
    else {
        return false;
    };
    mine >= others.mul_f64(factor) && mine >= others + settings.latency_floor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(requests: u64, failures: u64) -> Tally {
        Tally { requests, failures }
    }

    #[test]
    fn a_difference_must_be_significant_and_large() {
        let settings = OutlierConfig::default();
        for (mine, others, is_worse) in [
            (of(100, 100), of(200, 0), true),
            (of(100, 30), of(200, 0), true),
            (of(100, 30), of(200, 60), false),  // all fail alike
            (of(100, 90), of(200, 100), true),  // all fail, this one much more
            (of(100, 10), of(2_000, 0), false), // significant, not large
            (of(50, 11), of(50, 1), false),     // large, not significant
            (of(20, 20), of(200, 0), false),    // too few
            (of(200, 200), of(20, 0), false),   // nobody to compare with
            (of(100, 0), of(200, 200), false),  // better
        ] {
            assert_eq!(differs(mine, others, &settings), is_worse, "{mine:?} {others:?}");
        }
    }
}
