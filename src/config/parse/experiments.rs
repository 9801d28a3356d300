//! What experiments must not have in common with each other, and with upstreams: names of cookies and headers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{KeyPath, Name, Problems};
use crate::{
    config::SiteConfig,
    policy::{ExperimentConfig, PolicyConfig},
    upstream::UpstreamConfig,
};

/// Reports names that two of them would fight over.
pub(super) fn check(
    policies: &[PolicyConfig],
    sites: &[SiteConfig],
    upstreams: &[Arc<UpstreamConfig>],
    problems: &mut Problems,
) {
    let experiments: BTreeMap<&Name, &ExperimentConfig> = policies
        .iter()
        .filter_map(|policy| Some((&policy.name, policy.experiment.as_deref()?)))
        .collect();
    if experiments.is_empty() {
        return;
    }
    check_cookies(&experiments, upstreams, problems);
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

/// A cookie of two would be replaced for ever.
fn check_cookies(
    experiments: &BTreeMap<&Name, &ExperimentConfig>,
    upstreams: &[Arc<UpstreamConfig>],
    problems: &mut Problems,
) {
    let mut cookies: BTreeMap<&str, KeyPath> = upstreams
        .iter()
        .filter_map(|upstream| {
            let cookie = &upstream.sticky.as_ref()?.cookie;
            Some((cookie.as_str(), upstream.path.key("sticky").key("cookie")))
        })
        .collect();
    for (name, experiment) in experiments {
        let Some(cookie) = experiment.cookie() else { continue };
        let path = experiment_of(name).key("sticky").key("cookie");
        match cookies.get(cookie) {
            Some(other) => {
                problems
                    .error(&path, format!("the cookie \"{cookie}\" has another owner"))
                    .help("each experiment, and each upstream's sticky sessions, has a cookie of its own")
                    .related(other.clone(), "this one");
            }
            None => drop(cookies.insert(cookie, path)),
        }
    }
}

fn experiment_of(policy: &Name) -> KeyPath {
    KeyPath::of(&["policies", policy, "experiment"])
}
