//! What the live side of a blue-green rollout was like before a switch: the last requests, to judge the other side by.
//!
//! After a switch there is nobody left to compare with at the same moment. So the requests of the side that became live are
//! compared with those of the other side from before, each of which is used once. What holds then is weaker than in a canary:
//! that the world has not changed between. A common trouble that begins after the switch speaks against the new side.
//!
//! A watch must be able to judge until its end. So the slots of each route are dealt out evenly over the time that is left
//! ([`Baseline::earn`]), the newest first: each stretch of the watch meets its part of what there is, however many requests
//! it has. Requests of the live side that come between two slots wait for the next one, in the analysis' open block. When a
//! slot is used depends on time and on numbers of requests, never on what became of them, as the analysis asks for.
//!
//! Bounded: [`MOST_AGE`] old, and [`MOST_SLOTS`] of counts of a route each; with many routes a slot is of several seconds.

use std::{collections::VecDeque, time::Duration};

use crate::rollout::analysis::{Outcomes, Thresholds};

/// What is older says too little of now.
const MOST_AGE: Duration = Duration::from_mins(10);
const MOST_SLOTS: u64 = 4_096;
/// Answers are compared with thresholds that stand so long: what was counted under others says nothing of latency, so that
/// new ones begin without any.
const EPOCH: Duration = Duration::from_hours(1);
/// They stand so long also where the latencies have moved away from them.
const SHORT_EPOCH: Duration = MOST_AGE;

/// What was counted in one stretch of time.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u64,
    outcomes: Outcomes,
}

/// The last requests of one route.
#[derive(Clone, Debug, Default)]
struct Route {
    /// The newest is the last.
    slots: VecDeque<Slot>,
    /// How many of them may be used by now.
    credit: f64,
    thresholds: Option<(Duration, Thresholds)>,
}

/// The last requests of the live side, by route.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    routes: Vec<Route>,
    /// Seconds of a slot.
    width: u64,
}

impl Baseline {
    pub(super) fn new(strata: usize) -> Self {
        let seconds = MOST_AGE.as_secs().saturating_mul(strata as u64);
        let width = seconds.div_ceil(MOST_SLOTS).max(1);
        Self { routes: vec![Route::default(); strata], width }
    }

    /// Adds what was counted.
    pub(super) fn add(&mut self, now: Duration, stratum: usize, outcomes: &Outcomes) {
        let (number, oldest) = (now.as_secs() / self.width, self.oldest(now));
        let Some(route) = self.routes.get_mut(stratum) else { return };
        match route.slots.back_mut() {
            Some(slot) if slot.number == number => slot.outcomes.add(outcomes),
            _ => route.slots.push_back(Slot { number, outcomes: *outcomes }),
        }
        route.forget_before(oldest);
    }

    /// The first slot that is not too old.
    fn oldest(&self, now: Duration) -> u64 {
        now.checked_sub(MOST_AGE).map_or(0, |since| since.as_secs() / self.width + 1)
    }

    /// Whether answers of a route are to be compared with these thresholds from now on. Then what was compared with others
    /// is forgotten.
    pub(super) fn renews(&mut self, now: Duration, stratum: usize, fresh: Thresholds) -> bool {
        let Some(route) = self.routes.get_mut(stratum) else { return false };
        if let Some((since, known)) = &route.thresholds {
            let age = now.saturating_sub(*since);
            if age < SHORT_EPOCH || (age < EPOCH && is_near(known.p95, fresh.p95)) {
                return false;
            }
        }
        route.thresholds = Some((now, fresh));
        for Slot { outcomes, .. } in &mut route.slots {
            (outcomes.timed, outcomes.above_p95, outcomes.above_p99) = (0, 0, 0);
        }
        true
    }

    /// A watch begins: the first slot of each route may be used at once.
    pub(super) fn begin(&mut self, now: Duration) {
        let oldest = self.oldest(now);
        for route in &mut self.routes {
            route.forget_before(oldest);
            route.credit = 1.0;
        }
    }

    /// Time passes in a watch that has `left` to go: of what there is as large a part may be used. While the watch is paused
    /// `left` stays as it is, and what there is never ends.
    pub(super) fn earn(&mut self, passed: Duration, left: Duration) {
        let part = passed.as_secs_f64() / left.max(passed).as_secs_f64().max(1e-3);
        for route in &mut self.routes {
            let waiting = route.slots.len() as f64 - route.credit;
            route.credit += waiting.max(0.0) * part.min(1.0);
        }
    }

    /// Takes out what may be used of a route, the newest first.
    pub(super) fn take(&mut self, stratum: usize) -> Outcomes {
        let mut taken = Outcomes::default();
        let Some(route) = self.routes.get_mut(stratum) else { return taken };
        while route.credit >= 1.0 {
            let Some(slot) = route.slots.pop_back() else { break };
            route.credit -= 1.0;
            taken.add(&slot.outcomes);
        }
        taken
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.routes.len());
    }

    /// What there is.
    pub(super) fn sum(&self) -> Outcomes {
        let mut sum = Outcomes::default();
        for slot in self.routes.iter().flat_map(|route| &route.slots) {
            sum.add(&slot.outcomes);
        }
        sum
    }
}

impl Route {
    fn forget_before(&mut self, oldest: u64) {
        while self.slots.front().is_some_and(|slot| slot.number < oldest) {
            self.slots.pop_front();
        }
    }
}

/// Whether one is at most half as long again as the other.
fn is_near(one: Duration, other: Duration) -> bool {
    let (one, other) = (one.as_secs_f64(), other.as_secs_f64());
    one <= 1.5 * other && other <= 1.5 * one
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn requests(n: u64) -> Outcomes {
        Outcomes { successes: n, timed: n, ..Outcomes::default() }
    }

    fn after(seconds: u64, strata: usize) -> Baseline {
        let mut baseline = Baseline::new(strata);
        for second in 0..seconds {
            for stratum in 0..strata {
                baseline.add(SECOND * second as u32, stratum, &requests(10));
            }
        }
        baseline
    }

    #[test]
    fn it_lasts_for_the_whole_watch() {
        let mut baseline = after(120, 1);
        baseline.begin(SECOND * 120);
        let (look, watch) = (Duration::from_millis(50), SECOND * 300);
        let mut taken = Vec::new();
        for n in 0..6_000 {
            taken.push(baseline.take(0).requests());
            baseline.earn(look, watch.saturating_sub(look * n));
        }
        let of_minute =
            |minute: usize| taken[minute * 1_200..(minute + 1) * 1_200].iter().sum::<u64>();
        assert_eq!(taken[0], 10, "the first at once");
        for minute in 0..5 {
            assert!((230..=250).contains(&of_minute(minute)), "{minute}: {}", of_minute(minute));
        }
        // A pause uses up ever less, and never all.
        let mut baseline = after(120, 1);
        baseline.begin(SECOND * 120);
        for _ in 0..20 * 600 {
            baseline.earn(look, watch);
            baseline.take(0);
        }
        assert!((50..300).contains(&baseline.sum().requests()), "{:?}", baseline.sum());
    }

    #[test]
    fn it_is_bounded_in_age_and_number() {
        for strata in [1, 6, 64] {
            let mut baseline = after(2_000, strata);
            let slots: usize = baseline.routes.iter().map(|route| route.slots.len()).sum();
            assert!(slots as u64 <= MOST_SLOTS, "{strata}: {slots}");
            let of_each = baseline.sum().requests() / strata as u64;
            assert!((5_900..=6_010).contains(&of_each), "ten minutes: {of_each}");
            baseline.begin(SECOND * 2_300);
            assert!((2_900..=3_100).contains(&(baseline.sum().requests() / strata as u64)));
        }
        let mut baseline = after(5, 1);
        baseline.add(SECOND, 7, &requests(1));
        assert_eq!((baseline.sum().requests(), baseline.take(7).requests()), (50, 0));
    }

    #[test]
    fn thresholds_stand_long_and_are_renewed_where_they_are_off() {
        let at = |millis| Thresholds {
            p95: Duration::from_millis(millis),
            p99: Duration::from_millis(2 * millis),
        };
        let mut baseline = after(100, 2);
        let mut renews = |seconds: u32, millis| {
            let is_new = baseline.renews(SECOND * seconds, 1, at(millis));
            let timed = baseline.sum().timed;
            baseline.routes[1].slots.iter_mut().for_each(|slot| slot.outcomes.timed = 10);
            (is_new, timed)
        };
        assert_eq!(renews(100, 20), (true, 1_000), "of the one route only");
        assert_eq!(renews(400, 90), (false, 2_000));
        assert_eq!(renews(1_000, 29), (false, 2_000));
        assert_eq!(renews(1_000, 31), (true, 1_000));
        assert_eq!(renews(4_500, 31), (false, 2_000));
        assert_eq!(renews(4_600, 31), (true, 1_000));
    }
}
