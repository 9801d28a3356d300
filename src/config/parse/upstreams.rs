//! Upstreams: `like`, `upstream_defaults`, and those that only one site or route has.

use std::{collections::BTreeMap, sync::Arc};

use super::{Context, Known};
use crate::{
    config::raw::Raw,
    types::{KeyPath, Name, Problem, Problems},
    upstream::{RawEndpoint, RawUpstream, UpstreamConfig},
};

/// The upstreams as they are found.
pub(super) struct Upstreams<'a> {
    raw: &'a Raw,
    context: &'a Context<'a>,
    known: Known<'a>,
    parsed: BTreeMap<Name, Arc<UpstreamConfig>>,
}

impl<'a> Upstreams<'a> {
    /// Parses `[upstreams]`.
    pub(super) fn parse(raw: &'a Raw, context: &'a Context<'a>, problems: &mut Problems) -> Self {
        let known = Known::new("upstream", "upstreams", raw.upstreams.keys(), context);
        let mut upstreams = Self { raw, context, known, parsed: BTreeMap::new() };
        upstreams.check_defaults(problems);
        for (name, upstream) in &raw.upstreams {
            let path = path_of(name);
            let Some(bases) = upstreams.bases(name, upstream, problems) else { continue };
            let sources: Vec<KeyPath> = bases.iter().map(|(base, _)| path_of(base)).collect();
            let mut full = upstream.clone();
            for (_, base) in bases {
                full = full.or(base, true);
            }
            upstreams.add(name, &full, &path, &sources, problems);
        }
        upstreams
    }

    /// Reports an upstream that does not exist.
    pub(super) fn check(&self, name: &Name, path: &KeyPath, problems: &mut Problems) {
        self.known.check(name, path, problems);
    }

    /// Whether an upstream has a health check, if there is such an upstream.
    pub(super) fn has_health_check(&self, name: &Name) -> Option<bool> {
        self.parsed.get(name).map(|upstream| upstream.health_check.is_some())
    }

    /// Where an upstream says that it speaks TLS to its endpoints, if it does.
    pub(super) fn tls_of(&self, name: &Name) -> Option<KeyPath> {
        let upstream = self.parsed.get(name).filter(|upstream| upstream.tls.is_some())?;
        let own = upstream.path.key("tls");
        let defaults = KeyPath::of(&["upstream_defaults", "tls"]);
        // What neither of them has is taken from another by `like`.
        let written = [own, defaults].into_iter().find(|path| self.context.is_written(path));
        Some(written.unwrap_or_else(|| upstream.path.clone()))
    }

    /// Adds the upstream that only the site or route at `path` has.
    pub(super) fn add_implicit(
        &mut self,
        name: &str,
        endpoints: &[RawEndpoint],
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<Name> {
        let at = path.key("endpoints");
        let Ok(name) = name.parse::<Name>() else {
            problems
                .error(
                    &at,
                    format!("the upstream of these endpoints would be called \"{name}\", which is too long"),
                )
                .at_key()
                .help("shorten the name of the site or the route, or name the upstream yourself");
            return None;
        };
        let taken = if self.raw.upstreams.contains_key(&name) {
            Some(path_of(&name))
        } else {
            self.parsed.get(&name).map(|other| other.path.key("endpoints"))
        };
        if let Some(taken) = taken {
            problems
                .error(&at, format!("the upstream of these endpoints would be called \"{name}\", and there is one"))
                .at_key()
                .help("use `upstream` here, or rename one of them")
                .related(taken, "this one");
            return None;
        }
        let raw = RawUpstream { endpoints: Some(endpoints.to_vec()), ..Default::default() };
        self.add(&name, &raw, path, &[], problems);
        Some(name)
    }

    /// All of them, by name.
    pub(super) fn into_sorted(self) -> Vec<Arc<UpstreamConfig>> {
        self.parsed.into_values().collect()
    }

    /// Parses one over the defaults. What is wrong with an inherited key is reported where the key stands.
    fn add(
        &mut self,
        name: &Name,
        raw: &RawUpstream,
        path: &KeyPath,
        bases: &[KeyPath],
        problems: &mut Problems,
    ) {
        let mut found = Problems::new();
        let full = raw.or(&self.raw.upstream_defaults, false);
        let mut config = full.parse(name, path, &mut found);
        config.eligibility.own_zone.clone_from(&self.raw.server.zone);
        let defaults = KeyPath::of(&["upstream_defaults"]);
        for mut problem in found {
            let origin =
                std::iter::once(path).chain(bases).chain(std::iter::once(&defaults)).find_map(
                    |base| rebased(&problem, path, base).filter(|p| self.context.is_written(p)),
                );
            if let Some(origin) = origin {
                problem.path = origin;
            }
            let is_known =
                problems.iter().any(|p| p.path == problem.path && p.message == problem.message);
            if !is_known {
                problems.push(problem);
            }
        }
        self.parsed.insert(name.clone(), Arc::new(config));
    }

    /// The upstreams that this one is like, nearest first; `None` where one is missing or they go round.
    fn bases(
        &self,
        name: &Name,
        upstream: &RawUpstream,
        problems: &mut Problems,
    ) -> Option<Vec<(&'a Name, &'a RawUpstream)>> {
        let mut bases: Vec<(&Name, &RawUpstream)> = Vec::new();
        let mut next = upstream.like.as_ref();
        while let Some(like) = next {
            if let Some((base, raw)) = self.raw.upstreams.get_key_value(like) {
                let is_round = base == name || bases.iter().any(|(seen, _)| *seen == base);
                if is_round {
                    // Each member of a round sees it; its first name reports it.
                    let is_first = base == name && bases.iter().all(|(other, _)| name <= *other);
                    if is_first {
                        let round: Vec<&str> = bases.iter().map(|(other, _)| &***other).collect();
                        let message = match round.join("\", \"") {
                            way if way.is_empty() => format!("\"{name}\" is like itself"),
                            way => format!("\"{name}\" is like itself, by way of \"{way}\""),
                        };
                        problems.error(&path_of(name).key("like"), message);
                    }
                    return None;
                }
                bases.push((base, raw));
                next = raw.like.as_ref();
            } else {
                // What a base is like is reported there.
                if bases.is_empty() {
                    self.check(like, &path_of(name).key("like"), problems);
                }
                return None;
            }
        }
        Some(bases)
    }

    fn check_defaults(&self, problems: &mut Problems) {
        let defaults = &self.raw.upstream_defaults;
        for (key, is_set) in
            [("endpoints", defaults.endpoints.is_some()), ("like", defaults.like.is_some())]
        {
            if is_set {
                problems
                    .error(
                        &KeyPath::of(&["upstream_defaults", key]),
                        format!("`{key}` is not a default: each upstream has its own"),
                    )
                    .at_key();
            }
        }
    }
}

fn path_of(name: &Name) -> KeyPath {
    KeyPath::of(&["upstreams", name])
}

/// The problem's path, with `to` in place of `from`.
fn rebased(problem: &Problem, from: &KeyPath, to: &KeyPath) -> Option<KeyPath> {
    let segments = problem.path.segments();
    let rest = segments.strip_prefix(from.segments().as_slice())?;
    if rest.is_empty() && from != to {
        return None;
    }
    Some(rest.iter().fold(to.clone(), |path, segment| path.step((*segment).clone())))
}
