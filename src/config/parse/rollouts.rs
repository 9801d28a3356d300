//! Rollouts: their upstreams exist, and can do what is asked of them.

use std::sync::Arc;

use super::upstreams::Upstreams;
use crate::{
    config::raw::Raw,
    rollout::RolloutConfig,
    types::{KeyPath, Problems},
};

/// Parses `[rollouts]`.
pub(super) fn parse(
    raw: &Raw,
    upstreams: &Upstreams<'_>,
    problems: &mut Problems,
) -> Vec<Arc<RolloutConfig>> {
    let mut rollouts = Vec::with_capacity(raw.rollouts.len());
    for (name, rollout) in &raw.rollouts {
        let path = KeyPath::of(&["rollouts", name]);
        let Some(config) = rollout.parse(name, &path, problems) else { continue };
        upstreams.check(&config.stable, &path.key("stable"), problems);
        if let Some(candidate) = &config.candidate {
            upstreams.check(candidate, &path.key("candidate"), problems);
            if config.preflight.healthy > 0 && upstreams.has_health_check(candidate) == Some(false)
            {
                problems
                    .error(
                        &path.key("candidate"),
                        format!("the upstream \"{candidate}\" has no health check, so that nobody could say whether it may get requests"),
                    )
                    .help("add `health_check = { path = \"/healthz\" }` to it, or set `preflight = { healthy = 0 }`")
                    .related(KeyPath::of(&["upstreams", candidate]), "the upstream");
            }
        }
        rollouts.push(Arc::new(config));
    }
    rollouts
}
