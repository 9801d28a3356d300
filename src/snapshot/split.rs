//! Routes with a rollout: both ways, and what the controller of the rollout has to know of a generation.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::{Live, Split, compile::SplitBlueprint};
use crate::{
    config::Config,
    rollout::{Assignment, AttemptKey, Plan, RolloutConfig},
    types::Name,
    upstream::Upstream,
};

/// The routes of each rollout, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct RolloutRoutes(BTreeMap<Name, Vec<(Name, Name)>>);

impl RolloutRoutes {
    /// The number of a route.
    fn add(&mut self, rollout: &Name, site: &Name, route: &Name) -> usize {
        let routes = self.0.entry(rollout.clone()).or_default();
        routes.push((site.clone(), route.clone()));
        routes.len() - 1
    }
}

impl Live {
    pub(super) fn attach_split(
        &self,
        site: &Name,
        route: &Name,
        split: SplitBlueprint,
        routes: &mut RolloutRoutes,
    ) -> Split {
        let number = routes.add(&split.rollout.name, site, route);
        let candidate = split.candidate.map(|forward| {
            let forward = self.attach_forward(forward);
            let attempt = attempt_of(&split.rollout).map(|key| self.rollouts.attempt(key));
            attempt.map(|attempt| {
                let key = self.rollouts.cookies(attempt.key());
                let assignment = Assignment::new(attempt, split.rollout.clone(), number, key);
                (forward, Arc::new(assignment))
            })
        });
        Split { stable: self.attach_forward(split.stable), candidate: candidate.flatten() }
    }

    /// What the rollouts' controller is told when the generation comes into force.
    pub(super) fn plans(
        &self,
        config: &Config,
        upstreams: &[Arc<Upstream>],
        mut routes: RolloutRoutes,
    ) -> Vec<Plan> {
        let upstream = |name: &Name| {
            upstreams.iter().find(|upstream| upstream.config().name == *name).cloned()
        };
        let plan = |rollout: &Arc<RolloutConfig>| {
            let routes = routes.0.remove(&rollout.name).unwrap_or_default();
            Some(Plan {
                fingerprint: fingerprint(config, rollout, &routes),
                attempt: attempt_of(rollout).map(|key| self.rollouts.attempt(key)),
                stable: upstream(&rollout.stable)?,
                candidate: rollout.candidate.as_ref().and_then(upstream),
                routes: routes.iter().map(|(site, route)| format!("{site}.{route}")).collect(),
                config: rollout.clone(),
            })
        };
        config.rollouts.iter().filter_map(plan).collect()
    }
}

fn attempt_of(rollout: &RolloutConfig) -> Option<AttemptKey> {
    Some(AttemptKey {
        rollout: rollout.name.clone(),
        revision: rollout.revision.clone(),
        stable: rollout.stable.clone(),
        candidate: rollout.candidate.clone()?,
    })
}

/// Differs where something differs that shapes what happens to the rollout's requests: its routes, its upstreams.
fn fingerprint(config: &Config, rollout: &RolloutConfig, routes: &[(Name, Name)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let sides = [Some(&rollout.stable), rollout.candidate.as_ref()];
    for upstream in &config.upstreams {
        if sides.contains(&Some(&upstream.name)) {
            format!("{upstream:?}").hash(&mut hasher);
        }
    }
    for site in &config.sites {
        for route in &site.routes {
            if routes.iter().any(|(of, name)| *of == site.name && *name == route.name) {
                format!("{route:?} {:?} {:?}", site.policies, site.timeouts).hash(&mut hasher);
            }
        }
    }
    format!("{:?}", config.policies).hash(&mut hasher);
    // Pairs that were compared by other rules.
    format!("{:?}", rollout.strategy.mirror()).hash(&mut hasher);
    hasher.finish()
}
