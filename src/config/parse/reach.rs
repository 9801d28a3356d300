//! Routes that no request can come to.
//!
//! A route is reported where another one is asked earlier, takes every path that it takes, and has no condition or the same
//! ones. Expressions are compared as text only.

use std::collections::HashMap;

use crate::{
    config::SiteConfig,
    policy::Conditions,
    route::{PathMatch, RouteConfig},
    types::Problems,
};

/// Warns of routes of a site that can never match.
pub(super) fn warn_of_unreachable(site: &SiteConfig, problems: &mut Problems) {
    let lowest = site.routes.iter().map(|route| route.priority).min();
    let raised: Vec<&RouteConfig> =
        site.routes.iter().filter(|route| Some(route.priority) > lowest).collect();
    let mut by_path: HashMap<(u8, &str), Vec<&RouteConfig>> = HashMap::new();
    for route in &site.routes {
        by_path.entry(path_of(route)).or_default().push(route);
    }
    for route in &site.routes {
        // A route on another path is only asked earlier where its priority is raised.
        let same_path = by_path.get(&path_of(route)).into_iter().flatten();
        let earlier = same_path.chain(&raised).find(|other| hides(other, route));
        if let Some(earlier) = earlier {
            problems
                .warning(
                    &route.path,
                    format!(
                        "no request can come to this route: \"{}\" takes them all",
                        earlier.name
                    ),
                )
                .at_key()
                .related(earlier.path.clone(), "this one is asked first");
        }
    }
}

/// The kind of a route's path, and its text.
fn path_of(route: &RouteConfig) -> (u8, &str) {
    match &route.path_match {
        PathMatch::Exact(path) => (0, path),
        PathMatch::Prefix(path) => (1, path),
        PathMatch::Regex(regex) => (2, regex.as_str()),
    }
}

fn hides(earlier: &RouteConfig, route: &RouteConfig) -> bool {
    if earlier.name == route.name {
        return false;
    }
    let same_path = path_of(earlier) == path_of(route);
    let same_conditions = are_same(&earlier.conditions, &route.conditions);
    let is_before = earlier.priority > route.priority
        || (earlier.priority == route.priority
            && same_path
            && same_conditions
            && earlier.name < route.name);
    is_before
        && (same_path || covers(&earlier.path_match, &route.path_match))
        && (same_conditions || earlier.conditions.count() == 0)
}

fn covers(wide: &PathMatch, narrow: &PathMatch) -> bool {
    let PathMatch::Prefix(prefix) = wide else { return false };
    if prefix.is_empty() {
        return true;
    }
    match narrow {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(_) => false,
    }
}

fn are_same(a: &Conditions, b: &Conditions) -> bool {
    fn same<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        a.len() == b.len() && a.iter().all(|item| b.contains(item))
    }
    same(&a.methods, &b.methods)
        && same(&a.headers, &b.headers)
        && same(&a.query, &b.query)
        && same(&a.cookies, &b.cookies)
        && same(&a.client_networks, &b.client_networks)
}
