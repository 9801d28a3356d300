//! Cookies of the edge's own: each name has one owner. A cookie of two would be replaced for ever.

use std::{collections::BTreeMap, sync::Arc};

use super::{KeyPath, Problems, experiments::experiment_of};
use crate::{
    policy::PolicyConfig,
    rollout::{RolloutConfig, Sticky},
    upstream::UpstreamConfig,
};

/// Reports names that two would fight over: sticky sessions, rollouts, experiments. Several upstreams may share one.
pub(super) fn check(
    upstreams: &[Arc<UpstreamConfig>],
    rollouts: &[Arc<RolloutConfig>],
    policies: &[PolicyConfig],
    problems: &mut Problems,
) {
    let mut owners: BTreeMap<&str, KeyPath> = upstreams
        .iter()
        .filter_map(|upstream| {
            let cookie = &upstream.sticky.as_ref()?.cookie;
            Some((cookie.as_str(), upstream.path.key("sticky").key("cookie")))
        })
        .collect();
    let of_rollouts = rollouts.iter().filter_map(|rollout| match &rollout.sticky {
        Some(Sticky::Cookie(cookie)) => Some((cookie.cookie.as_str(), rollout.path.key("sticky"))),
        _ => None,
    });
    let of_experiments = policies.iter().filter_map(|policy| {
        let cookie = policy.experiment.as_ref()?.cookie()?;
        Some((cookie, experiment_of(&policy.name).key("sticky").key("cookie")))
    });
    for (cookie, path) in of_rollouts.chain(of_experiments) {
        match owners.get(cookie) {
            Some(other) => {
                problems
                    .error(&path, format!("the cookie \"{cookie}\" has another owner"))
                    .help("each experiment, each rollout, and each upstream's sticky sessions, has a cookie of its own")
                    .related(other.clone(), "this one");
            }
            None => drop(owners.insert(cookie, path)),
        }
    }
}
