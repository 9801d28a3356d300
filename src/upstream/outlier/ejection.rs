//! How long an endpoint stays out, when it is asked whether it is well again, and how many may be out at once.

use std::time::{Duration, Instant};

use super::OutlierConfig;
use crate::{telemetry::metrics::EjectionReason, types::Percent};

/// An endpoint forgets one ejection when it has behaved for so many times as long as that one took.
const FORGIVEN_AFTER: u32 = 3;

/// In need an endpoint is asked so long after it was ejected: two that fail by turns do not change places with each request.
const EARLIEST_PROBE: Duration = Duration::from_secs(1);

/// Why an endpoint is out, and for how long at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Out {
    pub(in crate::upstream) reason: EjectionReason,
    pub(in crate::upstream) since: Instant,
    pub(in crate::upstream) until: Instant,
}

/// Whether an endpoint is ejected, and what it was before.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Ejection {
    out: Option<Out>,
    /// How often the next ejection's time is doubled.
    doublings: u32,
    returned: Option<Instant>,
    /// The ejection's number: a probe of an earlier one says nothing.
    number: u64,
    /// Not before this; `None` while a probe runs.
    next_probe: Option<Instant>,
}

impl Ejection {
    pub(in crate::upstream) fn out(&self) -> Option<Out> {
        self.out
    }

    /// Ejects it. The time doubles with each ejection that follows soon; it is never over the longest.
    pub(in crate::upstream) fn eject(
        &mut self,
        reason: EjectionReason,
        settings: &OutlierConfig,
        now: Instant,
    ) -> Duration {
        if let Some(returned) = self.returned.take() {
            let mut behaved = now.saturating_duration_since(returned);
            while let Some(last) = self.doublings.checked_sub(1) {
                let price = length(settings, last).saturating_mul(FORGIVEN_AFTER);
                if behaved < price {
                    break;
                }
                behaved -= price;
                self.doublings = last;
            }
        }
        let length = length(settings, self.doublings);
        let until = now.checked_add(length).unwrap_or(now);
        self.out = Some(Out { reason, since: now, until });
        self.next_probe = Some(until);
        self.number += 1;
        // More would change nothing.
        if length < settings.max_ejection {
            self.doublings += 1;
        }
        length
    }

    /// Where its time is over and nobody asks already: the number to answer [`Self::probed`] with. Where nobody else is well
    /// (`is_in_need`) its time need not be over.
    pub(in crate::upstream) fn begin_probe(
        &mut self,
        is_in_need: bool,
        now: Instant,
    ) -> Option<u64> {
        let out = self.out?;
        let mut due = self.next_probe?;
        // Not asked yet.
        if is_in_need && due == out.until {
            due = due.min(out.since.checked_add(EARLIEST_PROBE)?);
        }
        if due > now {
            return None;
        }
        self.next_probe = None;
        Some(self.number)
    }

    /// A probe has ended. Whether the endpoint is back; else the next may begin `pause`
    /// from now.
    pub(in crate::upstream) fn probed(
        &mut self,
        number: u64,
        is_well: bool,
        pause: Duration,
        now: Instant,
    ) -> bool {
        if self.number != number || self.out.is_none() {
            return false;
        }
        if is_well {
            return self.take_back(now);
        }
        self.next_probe = Some(now.checked_add(pause).unwrap_or(now));
        false
    }

    /// Takes it back, whatever was known. Whether it was out.
    pub(in crate::upstream) fn take_back(&mut self, now: Instant) -> bool {
        self.next_probe = None;
        let was_out = self.out.take().is_some();
        if was_out {
            self.returned = Some(now);
        }
        was_out
    }
}

fn length(settings: &OutlierConfig, doublings: u32) -> Duration {
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    settings.ejection.saturating_mul(factor).min(settings.max_ejection)
}

/// Whether one more endpoint may be ejected: of `total`, `ejected` are out already; `others` beside it get requests.
/// At most the share is out, rounded down, but one of two or more may be (unless the share is nothing); never the last.
pub(in crate::upstream) fn has_room(
    total: usize,
    ejected: usize,
    others: usize,
    share: Percent,
) -> bool {
    let part = total as u64 * u64::from(share.millionths()) / u64::from(Percent::ALL.millionths());
    let least = u64::from(total >= 2 && share.millionths() > 0);
    others > 0 && (ejected as u64) < part.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_double_are_bounded_and_are_forgiven() {
        let settings = OutlierConfig::default();
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        let mut out_and_back = |behaves: Duration| {
            now += behaves;
            let length = ejection.eject(EjectionReason::FailureRate, &settings, now);
            now += length;
            assert!(ejection.take_back(now) && !ejection.take_back(now));
            length.as_secs()
        };
        let soon: Vec<u64> = (0..8).map(|_| out_and_back(SECOND)).collect();
        assert_eq!(soon, [10, 20, 40, 80, 160, 300, 300, 300]);
        // As long as three times the last one for each step: 5 doublings stood.
        assert_eq!(out_and_back(3 * 160 * SECOND), 160);
        assert_eq!(out_and_back(3 * 150 * SECOND), 300, "not quite");
        assert_eq!(out_and_back(3_600 * SECOND), 10);
    }

    #[test]
    fn only_a_probe_after_the_time_takes_back_and_a_failed_one_keeps_out() {
        let settings = OutlierConfig::default();
        let start = Instant::now();
        let at = |seconds: u32| start + seconds * SECOND;
        let mut ejection = Ejection::default();
        assert_eq!(ejection.begin_probe(false, at(0)), None);
        ejection.eject(EjectionReason::ConsecutiveFailures, &settings, at(0));
        assert_eq!(ejection.begin_probe(false, at(9)), None);
        let first = ejection.begin_probe(false, at(10)).unwrap();
        assert_eq!(ejection.begin_probe(false, at(11)), None, "one at a time");
        assert!(!ejection.probed(first, false, 5 * SECOND, at(12)) && ejection.out().is_some());
        assert_eq!(ejection.begin_probe(false, at(16)), None);
        let second = ejection.begin_probe(false, at(17)).unwrap();
        // Taken back and ejected again meanwhile.
        ejection.take_back(at(18));
        ejection.eject(EjectionReason::ConsecutiveFailures, &settings, at(19));
        assert!(!ejection.probed(second, true, SECOND, at(19)) && ejection.out().is_some());
        let third = ejection.begin_probe(false, at(39)).unwrap();
        assert!(ejection.probed(third, true, SECOND, at(40)) && ejection.out().is_none());
    }

    #[test]
    fn in_need_it_is_asked_early_and_then_now_and_then() {
        let settings = OutlierConfig::default();
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut ejection = Ejection::default();
        ejection.eject(EjectionReason::ConsecutiveFailures, &settings, at(0));
        assert_eq!(ejection.begin_probe(true, at(999)), None);
        assert_eq!(ejection.begin_probe(false, at(1_000)), None);
        let first = ejection.begin_probe(true, at(1_000)).unwrap();
        assert!(!ejection.probed(first, false, 5 * SECOND, at(1_100)));
        assert_eq!(ejection.begin_probe(true, at(6_000)), None);
        let second = ejection.begin_probe(true, at(6_100)).unwrap();
        assert!(ejection.probed(second, true, 5 * SECOND, at(6_200)) && ejection.out().is_none());
    }

    #[test]
    fn a_share_is_rounded_down_and_the_last_one_stays() {
        let share = |text: &str| text.parse::<Percent>().unwrap();
        for (total, ejected, others, percent, may) in [
            (1, 0, 0, "50%", false),
            (2, 0, 1, "50%", true),
            (2, 1, 0, "100%", false),
            (2, 0, 0, "50%", false), // its sibling is unhealthy
            (3, 0, 2, "50%", true),
            (3, 1, 1, "50%", false),
            (5, 1, 3, "50%", true),
            (5, 2, 2, "50%", false),
            (3, 0, 2, "10%", true),
            (30, 2, 27, "10%", true),
            (30, 3, 26, "10%", false),
            (3, 0, 2, "0%", false),
            (3, 2, 1, "100%", true),
        ] {
            let room = has_room(total, ejected, others, share(percent));
            assert_eq!(room, may, "{total} {ejected} {others} {percent}");
        }
    }
}
