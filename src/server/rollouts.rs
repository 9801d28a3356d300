//! What the admin listener shows of rollouts, and what it may ask of them.

use super::state::Core;
use crate::{
    admin::RolloutOutcome,
    rollout::{Command, CommandError},
    telemetry::metrics::{RolloutSample, RolloutSideSample},
};

pub(super) async fn command(core: &Core, name: &str, command: Command) -> RolloutOutcome {
    match core.live.rollouts.command(name, command).await {
        Ok(status) => RolloutOutcome::Done(Box::new(status)),
        Err(error @ CommandError::Unknown(..)) => RolloutOutcome::Unknown(error.to_string()),
        Err(error @ CommandError::Refused(_)) => RolloutOutcome::Refused(error.to_string()),
        Err(error @ CommandError::NotKept(_)) => RolloutOutcome::NotKept(error.to_string()),
    }
}

pub(super) fn samples(core: &Core) -> Vec<RolloutSample> {
    let mut counts = core.live.rollouts.event_counts();
    let sample = |status: crate::rollout::RolloutStatus| {
        let place = counts.iter().position(|(name, _)| *name == status.name);
        let events = place.map(|place| counts.swap_remove(place).1).unwrap_or_default();
        let sides = [("stable", Some(status.stable)), ("candidate", status.candidate)];
        RolloutSample {
            rollout: status.name,
            phase: status.phase.label(),
            file_differs: status.file_differs,
            doubt: status.doubt,
            sides: sides
                .into_iter()
                .filter_map(|(side, known)| {
                    let known = known?;
                    Some(RolloutSideSample {
                        side,
                        upstream: known.upstream,
                        share: f64::from(known.share) / 1e6,
                        requests: known.requests,
                        failures: known.failures,
                    })
                })
                .collect(),
            events: events.into_iter().map(|(kind, count)| (kind.word(), count)).collect(),
        }
    };
    core.live.rollouts.status().into_iter().map(sample).collect()
}
