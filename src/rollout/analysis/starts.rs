//! When bets begin. A change can come after any healthy stretch, in which a bet that began early has lost nearly all of
//! its money; so new money is staked again and again. Its sum over all time is at most 1, which makes the error
//! probability one total and not a rate.
//!
//! Two clocks release money, both known before the block it is staked on:
//! - blocks with an event. At tolerance 0 nothing else moves a bet, so that a service that never fails uses nothing up.
//! - requests of the candidate, where a tolerance makes a bet pay for every request without an event.
//!
//! After `t` ticks the part `1 - (1 + t / scale)^-power` of a clock's money is out: a power law, because how long a
//! stretch will be is not known, and a power law loses only the logarithm of its length.

/// How money is shared over starts. The three parts add up to at most 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Staked before the first block.
    pub(super) first: f64,
    /// Released by blocks with an event.
    pub(super) by_events: f64,
    /// Released by requests of the candidate.
    pub(super) by_requests: f64,
}

impl Schedule {
    /// Without a tolerance only events move a bet.
    pub(super) fn new(tolerance: f64) -> Self {
        if tolerance > 0.0 {
            Self { first: 0.4, by_events: 0.2, by_requests: 0.4 }
        } else {
            Self { first: 0.4, by_events: 0.6, by_requests: 0.0 }
        }
    }
}

const EVENTS_SCALE: f64 = 4.0;
const EVENTS_POWER: f64 = 0.3;
const REQUESTS_SCALE: f64 = 100.0;
const REQUESTS_POWER: f64 = 0.3;

/// Both clocks.
#[derive(Clone, Debug)]
pub(super) struct Starts {
    schedule: Schedule,
    event_blocks: u64,
    requests: u64,
    /// Part of each clock's money that is out.
    out: [f64; 2],
    /// All money that is out.
    released: f64,
}

impl Starts {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { schedule, event_blocks: 0, requests: 0, out: [0.0; 2], released: schedule.first }
    }

    /// Blocks with an event, requests, and what is out: what is kept of it.
    pub(super) fn numbers(&self) -> (u64, u64, [f64; 2], f64) {
        (self.event_blocks, self.requests, self.out, self.released)
    }

    /// The same schedule with what was kept.
    pub(super) fn with(
        &self,
        event_blocks: u64,
        requests: u64,
        out: [f64; 2],
        released: f64,
    ) -> Self {
        Self { schedule: self.schedule, event_blocks, requests, out, released }
    }

    /// Money not staked yet, from 0 to 1.
    pub(super) fn kept(&self) -> f64 {
        (1.0 - self.released).max(0.0)
    }

    /// Tells of a block that has been judged. Returns the money to stake from the next block on.
    pub(super) fn advance(&mut self, has_event: bool, candidate_requests: u64) -> f64 {
        let [events_out, requests_out] = &mut self.out;
        let mut money = 0.0;
        if has_event && self.schedule.by_events > 0.0 {
            self.event_blocks = self.event_blocks.saturating_add(1);
            let out = part_out(self.event_blocks, EVENTS_SCALE, EVENTS_POWER);
            money += self.schedule.by_events * (out - *events_out).max(0.0);
            *events_out = out.max(*events_out);
        }
        if self.schedule.by_requests > 0.0 {
            self.requests = self.requests.saturating_add(candidate_requests);
            let out = part_out(self.requests, REQUESTS_SCALE, REQUESTS_POWER);
            money += self.schedule.by_requests * (out - *requests_out).max(0.0);
            *requests_out = out.max(*requests_out);
        }
        let money = money.min(self.kept());
        self.released += money;
        money
    }
}

/// From 0 towards 1.
fn part_out(ticks: u64, scale: f64, power: f64) -> f64 {
    1.0 - (1.0 + ticks as f64 / scale).powf(-power)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_is_shared_out_than_there_is() {
        for tolerance in [0.0, 0.005] {
            let Schedule { first, by_events, by_requests } = Schedule::new(tolerance);
            assert!(first > 0.0 && (first + by_events + by_requests - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn without_a_tolerance_requests_without_an_event_use_nothing_up() {
        let mut starts = Starts::new(Schedule::new(0.0));
        let before = starts.kept();
        assert!(starts.advance(false, u64::MAX) <= 0.0 && starts.kept() >= before);
        assert!(starts.advance(true, 1) > 0.0 && starts.kept() < before);
    }

    #[test]
    fn with_a_tolerance_requests_release_money_too() {
        let mut starts = Starts::new(Schedule::new(0.005));
        assert!(starts.advance(false, 10) > starts.advance(false, 5));
    }

    #[test]
    fn a_long_stretch_leaves_money_for_what_comes_after_it() {
        let mut starts = Starts::new(Schedule::new(0.0));
        (0..1_000_000).for_each(|_| _ = starts.advance(true, 1));
        assert!(starts.kept() > 0.01);
        assert!(starts.advance(true, 1) > 1e-10);
    }

    proptest! {
        #[test]
        fn what_is_staked_never_exceeds_one(
            blocks in prop::collection::vec((any::<bool>(), any::<u64>()), 0..200),
            tolerance in prop_oneof![Just(0.0), Just(0.005)],
        ) {
            let mut starts = Starts::new(Schedule::new(tolerance));
            let mut staked = Schedule::new(tolerance).first;
            for (has_event, requests) in blocks {
                let money = starts.advance(has_event, requests);
                prop_assert!(money >= 0.0);
                staked += money;
                prop_assert!((staked + starts.kept() - 1.0).abs() < 1e-9);
            }
        }
    }
}
