//! Sides without endpoints: who is to blame for it, and who is told.

use std::time::Duration;

use super::{
    event::EventKind,
    hold::Hold,
    machine::{Facts, Machine},
};
use crate::rollout::dial::Side;

/// A side that went down together with the other one is not blamed for so long after the other one is back: what both depend
/// on was down, and one of them is always the first to be seen to be healthy again.
const COMMON_OUTAGE: Duration = Duration::from_secs(30);

impl Machine {
    /// How both sides stand at this look.
    pub(super) fn see_sides(&mut self, now: Duration, facts: &Facts) {
        let up = [Side::Stable, Side::Candidate].map(|side| facts.of(side).in_service > 0);
        for (was_up, up) in self.was_up.iter_mut().zip(up) {
            *was_up |= up;
        }
        match up {
            [false, false] => self.both_down = Some(now),
            [true, true] => self.both_down = None,
            _ => {}
        }
    }

    /// Whether a side alone has no endpoint in service, and the other one is not to be thanked for having come back first.
    pub(super) fn is_to_blame(&self, side: Side, now: Duration, facts: &Facts) -> bool {
        let was_up = self.was_up.get(side as usize).copied().unwrap_or_default();
        let is_common = self.both_down.is_some_and(|at| now < at + COMMON_OUTAGE);
        was_up
            && !is_common
            && facts.of(side).in_service == 0
            && facts.of(side.other()).in_service > 0
    }

    /// What there is to wait for where a side has no endpoint in service and is not to blame.
    pub(super) fn outage_hold(&self, side: Side, facts: &Facts) -> Option<Hold> {
        let was_up = self.was_up.get(side as usize).copied().unwrap_or_default();
        (was_up && facts.of(side).in_service == 0).then_some(Hold::BothDown)
    }

    /// A side without endpoints, whose requests the other one serves.
    pub(super) fn watch_sides(&mut self, facts: &Facts) {
        let is_in_play = self.setting().is_in_play;
        for side in [Side::Stable, Side::Candidate] {
            let place = side as usize;
            let was_up = self.was_up.get(place).copied().unwrap_or_default();
            let is_down = is_in_play
                && was_up
                && facts.of(side).in_service == 0
                && facts.of(side.other()).in_service > 0;
            let Some(told) = self.is_down.get_mut(place) else { continue };
            if std::mem::replace(told, is_down) == is_down {
                continue;
            }
            if is_down {
                let (down, other) = (side.word(), side.other().word());
                self.tell(
                    EventKind::SideDown,
                    format!(
                        "no endpoint of the {down} is in service: the {other} serves its requests"
                    ),
                );
            } else if is_in_play {
                self.tell(
                    EventKind::SideUp,
                    format!("the {} has endpoints in service again", side.word()),
                );
            }
        }
    }
}
