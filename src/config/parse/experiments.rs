//! What experiments must not have in common with each other: names of headers.

use std::collections::{BTreeMap, BTreeSet};

use super::{KeyPath, Name, Problems};
use crate::{
    config::SiteConfig,
    policy::{ExperimentConfig, PolicyConfig},
};

/// Reports names that two of them would fight over.
pub(super) fn check(policies: &[PolicyConfig], sites: &[SiteConfig], problems: &mut Problems) {
    let experiments: BTreeMap<&Name, &ExperimentConfig> = policies
        .iter()
        .filter_map(|policy| Some((&policy.name, policy.experiment.as_deref()?)))
        .collect();
    if experiments.is_empty() {
        return;
    }
    let mut told = BTreeSet::new();
    for site in sites {
        for route in &site.routes {
            let kept = site.policies.iter().filter(|name| !route.without.contains(name));
            let mut headers = BTreeMap::new();
            for name in kept.chain(&route.policies) {
                let Some(experiment) = experiments.get(name) else { continue };
                // Endpoints may not tell them apart either.
                let header = experiment.header.as_str().replace('_', "-");
                match headers.insert(header, name) {
                    Some(other) if other != name && told.insert((other, name)) => {
                        problems
                            .error(
                                &experiment_of(name).key("header"),
                                format!("the experiment \"{other}\" writes this header too, and they meet on the route \"{}\" of the site \"{}\"", route.name, site.name),
                            )
                            .help("each experiment has a header of its own")
                            .related(experiment_of(other).key("header"), "the other one");
                    }
                    _ => {}
                }
            }
        }
    }
}

pub(super) fn experiment_of(policy: &Name) -> KeyPath {
    KeyPath::of(&["policies", policy, "experiment"])
}
