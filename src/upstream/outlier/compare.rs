//! Whether an endpoint is worse than its siblings, by what was seen of all of them in one window.
//!
//! By a test that needs enough requests and a difference that is both significant and large, not by distance in standard
//! deviations from a mean, which over three endpoints says nothing. Where there are several client networks the result must hold
//! without any one of them: neither the one that fails most here, nor the one that succeeds most elsewhere, decides.

use std::time::Duration;

use super::{OutlierConfig, networks::SLOTS};
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
    pub(super) fn and(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }

    /// What is left without a part of it. Of counts that are read one after the other a part may be more than the whole.
    pub(super) fn without(self, part: Self) -> Self {
        let failures = self.failures.saturating_sub(part.failures);
        Self { requests: self.requests.saturating_sub(part.requests).max(failures), failures }
    }

    /// The share of failures; 0 of nothing.
    pub(super) fn rate(self) -> f64 {
        self.failures as f64 / self.requests.max(1) as f64
    }
}

/// What was seen of one endpoint in one window.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Seen {
    /// For each slot of networks that came, in order.
    slots: Vec<(usize, Tally)>,
    /// One of each that got an answer, in microseconds.
    medians: Vec<u32>,
    all: Tally,
}

impl Seen {
    /// What the next slot of networks saw; a median of 0 is none.
    pub(super) fn add(&mut self, slot: usize, tally: Tally, median: u32) {
        self.slots.push((slot, tally));
        self.medians.extend(Some(median).filter(|median| *median > 0));
        self.all = self.all.and(tally);
    }

    /// Its tries.
    pub(in crate::upstream) fn requests(&self) -> u64 {
        self.all.requests
    }

    #[cfg(test)]
    pub(super) fn median_micros(&self) -> &[u32] {
        &self.medians
    }

    fn slot(&self, slot: usize) -> Tally {
        let place = self.slots.binary_search_by_key(&slot, |(index, _)| *index);
        place
            .ok()
            .and_then(|place| self.slots.get(place))
            .map(|(_, tally)| *tally)
            .unwrap_or_default()
    }
}

/// What was seen of all endpoints together, so that the siblings of each are all without it.
struct Together {
    slots: [Tally; SLOTS],
    all: Tally,
    /// Of those that had requests enough, in order.
    medians: Vec<u32>,
}

impl Together {
    fn of(seen: &[Seen], settings: &OutlierConfig) -> Self {
        let mut together =
            Self { slots: [Tally::default(); SLOTS], all: Tally::default(), medians: Vec::new() };
        for one in seen {
            for (index, tally) in &one.slots {
                if let Some(slot) = together.slots.get_mut(*index) {
                    *slot = slot.and(*tally);
                }
            }
            together.all = together.all.and(one.all);
            if one.requests() >= settings.min_requests {
                together.medians.extend(&one.medians);
            }
        }
        together.medians.sort_unstable();
        together
    }

    fn slot(&self, slot: usize) -> Tally {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    /// The median of the medians without those of one endpoint, which are among them; `None` where fewer than `least` are left.
    fn median_without(&self, mine: &[u32], least: usize) -> Option<u32> {
        let left = self.medians.len().checked_sub(mine.len()).filter(|left| *left >= least)?;
        let mut place = left / 2;
        let mut seen = (0, 0);
        for median in mine {
            // Of equal ones each has a place of its own.
            seen = (*median, if seen.0 == *median { seen.1 + 1 } else { 0 });
            let own = self.medians.partition_point(|other| other < median) + seen.1;
            if own > place {
                break;
            }
            place += 1;
        }
        self.medians.get(place).copied()
    }
}

/// Which of these endpoints should be ejected, and why.
pub(in crate::upstream) fn worse(
    seen: &[Seen],
    settings: &OutlierConfig,
    networks: u32,
) -> Vec<(usize, EjectionReason)> {
    let together = Together::of(seen, settings);
    let has_several = networks > 1;
    let reason = |mine: &Seen| {
        if mine.requests() < settings.min_requests {
            return None;
        }
        if fails_more(mine, &together, settings, has_several) {
            return Some(EjectionReason::FailureRate);
        }
        let factor = settings.latency_factor?;
        is_slower(mine, &together, settings, factor, has_several).then_some(EjectionReason::Latency)
    };
    seen.iter().enumerate().filter_map(|(index, mine)| Some((index, reason(mine)?))).collect()
}

fn fails_more(
    mine: &Seen,
    together: &Together,
    settings: &OutlierConfig,
    has_several: bool,
) -> bool {
    let siblings = together.all.without(mine.all);
    if !has_several {
        return differs(mine.all, siblings, settings);
    }
    // The slot that failed most often here, and that which had the most good answers elsewhere.
    let failed = |slot: &usize| mine.slot(*slot).failures;
    let good = |slot: &usize| {
        let elsewhere = together.slot(*slot).without(mine.slot(*slot));
        elsewhere.requests - elsewhere.failures
    };
    [(0..SLOTS).max_by_key(failed), (0..SLOTS).max_by_key(good)].into_iter().flatten().all(|slot| {
        let own = mine.slot(slot);
        let others = together.slot(slot).without(own);
        differs(mine.all.without(own), siblings.without(others), settings)
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

/// Medians, one of each network: whatever a single one asks for moves nothing.
fn is_slower(
    mine: &Seen,
    together: &Together,
    settings: &OutlierConfig,
    factor: f64,
    has_several: bool,
) -> bool {
    let least = if has_several { LEAST_MEDIANS } else { 1 };
    let mut medians = mine.medians.clone();
    medians.sort_unstable();
    let own = medians.get(medians.len() / 2).filter(|_| medians.len() >= least);
    let (Some(own), Some(others)) = (own, together.median_without(&medians, least)) else {
        return false;
    };
    let [own, others] = [*own, others].map(|micros| Duration::from_micros(micros.into()));
    own >= others.mul_f64(factor) && own >= others + settings.latency_floor
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

    /// The siblings' median, against one that lists the siblings' medians.
    #[test]
    fn the_median_of_the_others_is_that_of_all_without_the_own_ones() {
        let mut random = fastrand::Rng::with_seed(3);
        let settings = OutlierConfig { min_requests: 1, ..OutlierConfig::default() };
        for _ in 0..2_000 {
            let seen: Vec<Seen> = (0..random.usize(1..6))
                .map(|_| {
                    let mut seen = Seen::default();
                    for slot in 0..random.usize(1..6) {
                        seen.add(slot, of(1, 0), random.u32(0..8));
                    }
                    seen
                })
                .collect();
            let together = Together::of(&seen, &settings);
            for (index, one) in seen.iter().enumerate() {
                let mut own = one.medians.clone();
                own.sort_unstable();
                let siblings = seen.iter().enumerate().filter(|(other, _)| *other != index);
                let mut others: Vec<u32> =
                    siblings.flat_map(|(_, other)| other.medians.clone()).collect();
                others.sort_unstable();
                let expected = others.get(others.len() / 2).copied();
                assert_eq!(together.median_without(&own, 1), expected, "{own:?} {others:?}");
            }
        }
    }

    /// With each network that is left out just enough tries of the siblings remain: none of them may be taken for another's.
    #[test]
    fn the_siblings_are_all_without_the_endpoint_itself() {
        let of_slots = |slots: &[(u64, u64)]| {
            let mut seen = Seen::default();
            for (slot, (requests, failures)) in slots.iter().enumerate() {
                seen.add(slot, of(*requests, *failures), 0);
            }
            seen
        };
        let ill = of_slots(&[(90, 90), (60, 60)]);
        let well = of_slots(&[(10, 0), (60, 0), (60, 0)]);
        let found = worse(&[well, ill], &OutlierConfig::default(), 3);
        assert_eq!(found, [(1, EjectionReason::FailureRate)]);
    }

    /// An endpoint among many, compared in a time that grows with their number and not with its square.
    #[test]
    fn one_of_thousands_is_found() {
        let settings = OutlierConfig { latency_factor: Some(3.0), ..OutlierConfig::default() };
        let endpoint = |index: u32| {
            let mut seen = Seen::default();
            for slot in 0..SLOTS {
                let failures = if index == 1_234 { 50 } else { 1 };
                seen.add(
                    slot,
                    of(100, failures),
                    if index == 77 { 900_000 } else { 1_000 + index },
                );
            }
            seen
        };
        let seen: Vec<Seen> = (0..5_000).map(endpoint).collect();
        let found = worse(&seen, &settings, 60);
        assert_eq!(found, [(77, EjectionReason::Latency), (1_234, EjectionReason::FailureRate)]);
    }
}
