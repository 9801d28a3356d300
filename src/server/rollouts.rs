//! What the admin listener shows of rollouts, and what it may ask of them.

use std::sync::Arc;

use serde_json::json;

use super::state::Core;
use crate::{
    admin::RolloutOutcome,
    rollout::{Command, CommandError},
    snapshot::Live,
    telemetry::{
        audit::{Actor, AdminPeer, Entry},
        metrics::{MirrorSample, RolloutSample, RolloutSideSample},
        webhooks,
    },
};

/// What happens to rollouts is written down, and told to webhooks.
pub(super) fn tell_of_events(live: &Live) {
    let (audit, webhooks) = (Arc::clone(&live.audit), Arc::clone(&live.webhooks));
    live.rollouts.listen(Box::new(move |event| {
        let data = json!({ "revision": event.revision, "text": event.text });
        let subject = event.rollout.to_string();
        let entry = Entry::new(Actor::Edge, "rollout", subject, event.kind.word());
        audit.record(entry.detail(data));
        let text = format!("{}: {}", event.rollout, event.text);
        let data = json!({ "revision": event.revision });
        webhooks.tell(webhooks::Event::new(event.kind, event.rollout.clone(), text, data));
    }));
}

/// Does what a person asks for; who it was, and what came of it, is written down.
pub(super) async fn command(
    core: &Core,
    name: &str,
    command: Command,
    by: AdminPeer,
) -> RolloutOutcome {
    let outcome = run(core, name, command).await;
    let (word, problem) = match &outcome {
        RolloutOutcome::Done(_) => ("done", None),
        RolloutOutcome::Unknown(problem) | RolloutOutcome::Refused(problem) => {
            ("refused", Some(problem))
        }
        RolloutOutcome::NotKept(problem) => ("not_kept", Some(problem)),
    };
    let entry = Entry::new(Actor::Admin(by), "rollout_command", name, word);
    core.live.audit.record(entry.detail(json!({ "command": command.word(), "problem": problem })));
    outcome
}

async fn run(core: &Core, name: &str, command: Command) -> RolloutOutcome {
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
            mirror: status.mirror.map(|mirror| MirrorSample {
                sent: mirror.sent,
                skipped: mirror.skipped,
                differing: mirror.differing,
            }),
            events: events.into_iter().map(|(kind, count)| (kind.word(), count)).collect(),
        }
    };
    core.live.rollouts.status().into_iter().map(sample).collect()
}
