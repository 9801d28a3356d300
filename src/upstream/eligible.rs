//! Who of a set may get requests now, and with which weight.
//!
//! Built anew when a verdict or a discovered set changes, never by a request: a pick reads one pointer to it.

use std::sync::{Arc, atomic::AtomicU64};

use super::{
    balance::Chooser,
    health::Verdict,
    member::{Candidate, Member},
    raw::Balance,
};

/// The endpoints that may get requests now.
#[derive(Default)]
pub(super) struct Eligible {
    candidates: Vec<Candidate>,
    chooser: Chooser,
    /// Whether they are known to be healthy, and not only the best there is.
    pub(super) is_healthy: bool,
    /// Whether the upstream has any endpoint, healthy or not.
    pub(super) is_known: bool,
}

impl Eligible {
    /// The healthy ones, or where there are none, those of which nothing is known.
    pub(super) fn of(members: &[Arc<Member>], balance: Balance) -> Self {
        let mut healthy = Vec::with_capacity(members.len());
        let mut unknown = Vec::new();
        for member in members.iter().filter(|member| member.weight > 0) {
            let candidate = || Candidate { member: Arc::clone(member), weight: member.weight };
            match member.verdict() {
                Verdict::Healthy => healthy.push(candidate()),
                Verdict::Unknown => unknown.push(candidate()),
                Verdict::Unhealthy => {}
            }
        }
        let is_healthy = !healthy.is_empty();
        let candidates = if is_healthy { healthy } else { unknown };
        Self {
            chooser: Chooser::new(balance, &candidates),
            candidates,
            is_healthy,
            is_known: !members.is_empty(),
        }
    }

    /// The next one of those that `is_open` lets through.
    pub(super) fn choose(
        &self,
        turns: &AtomicU64,
        is_open: impl Fn(&Member) -> bool,
    ) -> Option<&Arc<Member>> {
        let index =
            self.chooser.choose(&self.candidates, turns, |candidate| is_open(&candidate.member))?;
        self.candidates.get(index).map(|candidate| &candidate.member)
    }
}
