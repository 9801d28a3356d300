//! Who of a set may get requests now, and with which weight; and who may get a retry that has tried all of these.
//!
//! Built anew when a verdict, an ejection, a step of a slow start, or a discovered set changes, never by a request: a pick reads one
//! pointer to it. The rules stand in `selection.rs`, slow start in `ramp.rs`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use super::{
    balance::Chooser,
    config::UpstreamConfig,
    endpoint::Endpoint,
    health::Verdict,
    member::{Candidate, Member},
    ramp,
    raw::Balance,
    selection::{Row, Selection, Standing, select},
    sticky::{StickyKey, StickyTable, StickyValue},
    wish::Wish,
};

/// The endpoints that may get requests now.
#[derive(Default)]
pub(super) struct Eligible {
    /// Every endpoint of the set, eligible or not.
    pub(super) members: Box<[Arc<Member>]>,
    candidates: Vec<Candidate>,
    chooser: Chooser,
    /// For retries that have tried all of them: each is better than those after it.
    reserve: Box<[Group]>,
    /// Where the upstream has sticky sessions.
    sticky: Option<StickyTable>,
    /// Whether they are known to be healthy, and not only the best there is.
    pub(super) is_healthy: bool,
    /// Whether they are all there are, because too few are healthy.
    pub(super) is_panicking: bool,
    /// How many nothing speaks against.
    pub(super) in_service: usize,
    /// Whether some are ejected.
    pub(super) has_ejected: bool,
    /// When the next step of a slow start is due.
    pub(super) next_step: Option<Instant>,
}

/// Some of those that get no first tries.
struct Group {
    members: Vec<Arc<Member>>,
    chooser: Chooser,
}

impl Group {
    /// By the fewest requests in flight, whatever the upstream asks for: a retry that comes here has no place of its own.
    fn new(members: Vec<Arc<Member>>) -> Self {
        let candidates: Vec<Candidate> = members
            .iter()
            .map(|member| Candidate { member: Arc::clone(member), weight: member.weight })
            .collect();
        Self { chooser: Chooser::new(Balance::LeastConn, None, &candidates), members }
    }
}

impl Eligible {
    /// Those that the rules of `config` choose.
    pub(super) fn of(
        members: &[Arc<Member>],
        config: &UpstreamConfig,
        key: Option<&StickyKey>,
        now: Instant,
    ) -> Self {
        let weighty: Vec<&Arc<Member>> =
            members.iter().filter(|member| member.weight > 0).collect();
        let rows: Vec<Row> = weighty.iter().map(|member| row(member, config)).collect();
        let Selection { chosen, reserve, is_panicking, is_healthy, in_service } =
            select(&rows, &config.eligibility);
        let member_at = |index: usize| weighty.get(index).map(|member| Arc::clone(member));
        let reserve = reserve
            .into_iter()
            .map(|group| Group::new(group.into_iter().filter_map(member_at).collect()));
        let chosen = chosen.into_iter().filter_map(|index| weighty.get(index).copied());
        let steps: Vec<_> = chosen
            .map(|member| {
                let step = member.endpoint.ramp.step(config.eligibility.slow_start, now);
                (member, step)
            })
            .collect();
        // Weights are whole numbers: while somebody has a part of its own, all are counted in thousandths.
        let unit = if steps.iter().any(|(_, step)| step.thousandths < ramp::WHOLE) {
            1
        } else {
            ramp::WHOLE
        };
        let candidates: Vec<Candidate> = steps
            .iter()
            .map(|(member, step)| Candidate {
                member: Arc::clone(member),
                weight: (member.weight * step.thousandths / unit).max(1),
            })
            .collect();
        let sticky = config.sticky.as_ref().and(key);
        Self {
            sticky: sticky.map(|key| StickyTable::new(key, &config.name, &candidates)),
            next_step: steps.iter().filter_map(|(_, step)| step.until).min(),
            chooser: Chooser::new(config.balance, config.hash.as_ref(), &candidates),
            candidates,
            reserve: reserve.collect(),
            is_healthy,
            is_panicking,
            in_service,
            members: members.into(),
            has_ejected: members.iter().any(|member| member.endpoint.is_ejected()),
        }
    }

    /// Those of them that are about to recover.
    pub(super) fn recovering(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.candidates
            .iter()
            .map(|one| &one.member)
            .filter(|member| member.verdict() == Verdict::Unhealthy && member.is_recovering())
    }

    /// One for the next try of a request, with the value of its cookie: one that it has not tried, while there is any, of the
    /// reserve too.
    pub(super) fn pick(
        &self,
        wish: &Wish,
        turns: &AtomicU64,
    ) -> Option<(&Arc<Member>, Option<StickyValue>)> {
        if wish.tried.is_empty() {
            return self.choose(wish, turns, |_| true);
        }
        let is_untried = |endpoint: &Endpoint| !wish.tried.contains(endpoint);
        self.choose(wish, turns, is_untried)
            .or_else(|| {
                let mut members = self.reserve.iter().filter_map(|group| {
                    let index = group.chooser.choose(None, turns, true, is_untried)?;
                    group.members.get(index)
                });
                members.next().map(|member| (member, None))
            })
            // Rather a tried one again than none.
            .or_else(|| self.choose(wish, turns, |_| true))
    }

    /// The one that `wish` asks for, or the next one, of those that `is_open` lets through; with the value of its cookie.
    fn choose(
        &self,
        wish: &Wish,
        turns: &AtomicU64,
        is_open: impl Fn(&Endpoint) -> bool,
    ) -> Option<(&Arc<Member>, Option<StickyValue>)> {
        let known = self.sticky.as_ref().zip(wish.sticky.as_ref());
        let index = known
            .and_then(|(table, value)| table.find(value))
            .filter(|index| {
                self.candidates.get(*index).is_some_and(|one| is_open(&one.member.endpoint))
            })
            .or_else(|| self.chooser.choose(wish.hash, turns, !wish.tried.is_empty(), is_open))?;
        let sticky = self.sticky.as_ref().and_then(|table| table.value(index));
        self.candidates.get(index).map(|candidate| (&candidate.member, sticky))
    }
}

impl Member {
    /// Whether nothing speaks against it: neither probes nor traffic.
    pub(super) fn is_in_service(&self, config: &UpstreamConfig) -> bool {
        row(self, config).standing <= Standing::Unknown
    }
}

/// What the rules look at.
fn row(member: &Member, config: &UpstreamConfig) -> Row {
    let is_ejected = config.outlier_detection.is_some() && member.endpoint.is_ejected();
    let own_zone = config.eligibility.own_zone.as_ref();
    Row {
        standing: match member.verdict() {
            Verdict::Unhealthy if member.is_recovering() => Standing::Recovering,
            Verdict::Unhealthy => Standing::Unhealthy,
            _ if is_ejected => Standing::Ejected,
            Verdict::Unknown => Standing::Unknown,
            Verdict::Healthy => Standing::Healthy,
        },
        weight: member.weight,
        priority: member.priority,
        is_own_zone: own_zone.is_some() && member.zone.as_ref() == own_zone,
    }
}
