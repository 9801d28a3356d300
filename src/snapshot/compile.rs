//! From a configuration to a blueprint: everything that can fail, and nothing that changes anything.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderValue, StatusCode};

use super::{
    secret,
    site::{StaticAnswer, StaticBody},
};
use crate::{
    config::{Config, ErrorPageConfig, SiteConfig},
    limit::Criticality,
    policy::{Chain, Concurrency, Experiment, Fault, Headers, Kind, Policy},
    rollout::RolloutConfig,
    route::{
        FallbackConfig, MAX_RESPOND_FILE_BYTES, PathMatch, RespondBody, RespondConfig, Rewrite,
        RouteConfig, RouteRule, RouteTable, TargetConfig, Template,
    },
    state::EdgeSecret,
    tls::{self, CertificateHeader, TlsBlueprint},
    types::{KeyPath, Name, Problems},
    upstream::{self, Retries, Timeouts},
};

/// Whether a broken certificate refuses the configuration or disables its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leniency {
    /// At a reload and in `check`: refuse.
    Strict,
    /// At the start: one bad certificate disables its site, not the edge.
    DisableSites,
}

/// A compiled configuration without its live state.
#[derive(Debug)]
pub struct Blueprint {
    /// What it was compiled from.
    pub config: Arc<Config>,
    pub(super) sites: Vec<SiteBlueprint>,
    pub(super) upstreams: Vec<upstream::Blueprint>,
    /// What replicas have in common.
    pub(super) shared_secret: Option<EdgeSecret>,
}

#[derive(Debug)]
pub(super) struct SiteBlueprint {
    pub(super) name: Name,
    pub(super) hosts: Vec<crate::types::HostPattern>,
    /// Names of the listeners it is on, defaults filled in.
    pub(super) listeners: Vec<Name>,
    pub(super) tls: Option<TlsBlueprint>,
    pub(super) is_disabled: bool,
    pub(super) demands_own_policy: bool,
    pub(super) asks_for_certificates: bool,
    pub(super) client_headers: Arc<[CertificateHeader]>,
    pub(super) routes: RouteTable<RouteBlueprint>,
    pub(super) error_pages: HashMap<u16, StaticBody, RandomState>,
    pub(super) chain: Chain,
}

#[derive(Debug)]
pub(super) struct RouteBlueprint {
    pub(super) name: Name,
    /// The expression of its path, for captures.
    pub(super) expression: Option<regex::Regex>,
    pub(super) rewrite: Rewrite,
    pub(super) chain: Chain,
    pub(super) target: TargetBlueprint,
    pub(super) fallback: Option<Box<FallbackBlueprint>>,
    pub(super) max_body_bytes: u64,
    pub(super) criticality: Criticality,
}

#[derive(Debug)]
pub(super) enum TargetBlueprint {
    Upstream(ForwardBlueprint),
    Split(Box<SplitBlueprint>),
    Redirect { to: Template, status: StatusCode },
    Respond(StaticAnswer),
}

#[derive(Debug)]
pub(super) struct SplitBlueprint {
    pub(super) rollout: Arc<RolloutConfig>,
    pub(super) stable: ForwardBlueprint,
    pub(super) candidate: Option<ForwardBlueprint>,
}

#[derive(Debug)]
pub(super) enum FallbackBlueprint {
    Upstream(ForwardBlueprint),
    Respond(StaticAnswer),
}

#[derive(Debug)]
pub(super) struct ForwardBlueprint {
    pub(super) upstream: Name,
    pub(super) index: usize,
    pub(super) timeouts: Timeouts,
    pub(super) retries: Arc<Retries>,
    pub(super) host: Option<HeaderValue>,
}

/// Compiles `config`. Reports every problem; `None` where one of them is an error.
pub fn compile(
    config: &Arc<Config>,
    leniency: Leniency,
    problems: &mut Problems,
) -> Option<Blueprint> {
    let mut found = Problems::new();
    let upstreams: Vec<_> =
        config.upstreams.iter().map(|upstream| upstream::compile(upstream, &mut found)).collect();
    let indices: HashMap<&Name, usize> =
        config.upstreams.iter().enumerate().map(|(i, u)| (&u.name, i)).collect();
    let policies = build_policies(config);
    let mut sites = Vec::with_capacity(config.sites.len());
    for site in &config.sites {
        sites.extend(compile_site(config, site, &indices, &policies, leniency, &mut found));
    }
    let shared_secret = secret::read_shared(config, &mut found);
    secret::warn_of_unread(config, &mut found);
    let has_errors = found.has_errors();
    problems.extend(found);
    if has_errors {
        return None;
    }
    Some(Blueprint {
        config: config.clone(),
        sites,
        upstreams: upstreams.into_iter().flatten().collect(),
        shared_secret,
    })
}

type Policies<'a> = HashMap<&'a Name, Vec<(Kind, Arc<dyn Policy>)>>;

fn build_policies(config: &Config) -> Policies<'_> {
    let build = |policy: &crate::policy::PolicyConfig| {
        let headers = policy
            .headers
            .clone()
            .map(|headers| (Kind::Headers, Arc::new(Headers::new(headers)) as Arc<dyn Policy>));
        let fault = policy
            .fault
            .clone()
            .map(|fault| (Kind::Fault, Arc::new(Fault::new(fault)) as Arc<dyn Policy>));
        let concurrency = policy.concurrency.map(|config| {
            let concurrency = Concurrency::new(policy.name.clone(), config);
            (Kind::Concurrency, Arc::new(concurrency) as Arc<dyn Policy>)
        });
        let experiment = policy.experiment.clone().map(|config| {
            let experiment = Experiment::new(policy.name.clone(), config);
            (Kind::Experiment, Arc::new(experiment) as Arc<dyn Policy>)
        });
        fault.into_iter().chain(concurrency).chain(experiment).chain(headers).collect()
    };
    config.policies.iter().map(|policy| (&policy.name, build(policy))).collect()
}

/// Every listener that a site is on: those it names, else all TLS listeners, else all plain ones.
fn listeners_of(config: &Config, site: &SiteConfig) -> Vec<Name> {
    if let Some(names) = &site.listeners {
        return names.clone();
    }
    let has_tls = config.listeners.iter().any(|listener| listener.protocol.is_tls());
    config
        .listeners
        .iter()
        .filter(|listener| listener.protocol.is_http() && listener.protocol.is_tls() == has_tls)
        .map(|listener| listener.name.clone())
        .collect()
}

fn compile_site(
    config: &Config,
    site: &SiteConfig,
    indices: &HashMap<&Name, usize>,
    policies: &Policies<'_>,
    leniency: Leniency,
    problems: &mut Problems,
) -> Option<SiteBlueprint> {
    let listeners = listeners_of(config, site);
    let on_tls = config
        .listeners
        .iter()
        .any(|listener| listener.protocol.is_tls() && listeners.contains(&listener.name));
    check_client_auth(config, site, &listeners, problems);
    let (tls, is_disabled) =
        if on_tls { compile_tls(site, leniency, problems) } else { (None, false) };
    let chain_of = |names: &mut dyn Iterator<Item = &Name>| {
        Chain::new(names.filter_map(|name| policies.get(name)).flatten().cloned().collect())
    };
    let mut rules = Vec::with_capacity(site.routes.len());
    for route in &site.routes {
        let kept = site.policies.iter().filter(|name| !route.without.contains(name));
        let chain = chain_of(&mut kept.chain(&route.policies));
        let Some(blueprint) = compile_route(config, site, route, chain, indices, problems) else {
            continue;
        };
        rules.push(RouteRule {
            name: route.name.to_string(),
            path: route.path_match.clone(),
            conditions: route.conditions.clone(),
            priority: route.priority,
            fall_through: route.fall_through,
            route: blueprint,
        });
    }
    let routes = match RouteTable::new(rules) {
        Ok(routes) => routes,
        Err(error) => {
            problems
                .error(
                    &site.path.key("routes"),
                    format!("the regular expressions of this site are too large together: {error}"),
                )
                .at_key();
            return None;
        }
    };
    let mut error_pages = HashMap::default();
    for page in &site.error_pages {
        error_pages.extend(compile_error_page(page, &site.path, problems));
    }
    Some(SiteBlueprint {
        name: site.name.clone(),
        hosts: site.hosts.clone(),
        listeners,
        tls,
        is_disabled,
        demands_own_policy: site.tls.demands_own_connections(),
        asks_for_certificates: site.tls.client_auth.is_some(),
        client_headers: site.client_headers.clone(),
        routes,
        error_pages,
        chain: chain_of(&mut site.policies.iter()),
    })
}

/// Who is to show a certificate can't do it where no TLS is spoken.
fn check_client_auth(
    config: &Config,
    site: &SiteConfig,
    listeners: &[Name],
    problems: &mut Problems,
) {
    if site.tls.client_auth.is_none() {
        return;
    }
    let plain = config
        .listeners
        .iter()
        .filter(|listener| !listener.protocol.is_tls() && listeners.contains(&listener.name));
    for listener in plain {
        problems
            .error(
                &site.path.key("tls").key("client_auth"),
                format!("the site is on the plain listener {:?}, where no client can show a certificate", &*listener.name),
            )
            .at_key()
            .help("name TLS listeners only: `listeners = [\"https\"]`");
    }
}

/// The site's TLS, and whether the site is disabled for want of it.
fn compile_tls(
    site: &SiteConfig,
    leniency: Leniency,
    problems: &mut Problems,
) -> (Option<TlsBlueprint>, bool) {
    let mut found = Problems::new();
    let compiled =
        tls::compile(&site.name, &site.certificate, &site.hosts, &site.tls, &site.path, &mut found);
    let is_disabled = compiled.is_none() || found.has_errors();
    for problem in found {
        if leniency == Leniency::DisableSites && problem.severity == crate::types::Severity::Error {
            problems.warning(
                &problem.path,
                format!("{}; the site does not serve until this is mended", problem.message),
            );
        } else {
            problems.push(problem);
        }
    }
    (compiled, is_disabled)
}

fn compile_route(
    config: &Config,
    site: &SiteConfig,
    route: &RouteConfig,
    chain: Chain,
    indices: &HashMap<&Name, usize>,
    problems: &mut Problems,
) -> Option<RouteBlueprint> {
    let forward = |name| compile_forward(config, site, route, name, indices);
    let answer = |respond: &RespondConfig, path: &KeyPath, problems: &mut Problems| {
        Some(StaticAnswer {
            status: respond.status,
            headers: respond.headers.clone(),
            body: read_body(&respond.body, &path.key("respond").key("file"), problems)?,
        })
    };
    let is_own_time = |forward: &ForwardBlueprint| {
        let upstream = config.upstreams.get(forward.index);
        upstream.is_some_and(|upstream| upstream.timeouts != forward.timeouts)
    };
    let reported = problems.iter().count();
    let target = match &route.target {
        TargetConfig::Upstream(name) => {
            let forward = forward(name)?;
            // What holds for the whole upstream is reported there.
            if route.retries.is_some() || is_own_time(&forward) {
                upstream::warn_of_tries(&forward.retries, &forward.timeouts, &route.path, problems);
            }
            TargetBlueprint::Upstream(forward)
        }
        TargetConfig::Rollout(name) => {
            let rollout = config.rollouts.iter().find(|rollout| rollout.name == *name)?;
            let stable = forward(&rollout.stable)?;
            let mut candidate = match &rollout.candidate {
                Some(candidate) => Some(forward(candidate)?),
                None => None,
            };
            if let Some(candidate) = &mut candidate {
                // One promise to the client, whichever version it meets.
                candidate.timeouts.total = stable.timeouts.total;
            }
            if route.retries.is_some() || is_own_time(&stable) {
                upstream::warn_of_tries(&stable.retries, &stable.timeouts, &route.path, problems);
            }
            let rollout = rollout.clone();
            TargetBlueprint::Split(Box::new(SplitBlueprint { rollout, stable, candidate }))
        }
        TargetConfig::Redirect { to, status } => {
            TargetBlueprint::Redirect { to: to.clone(), status: *status }
        }
        TargetConfig::Respond(respond) => {
            TargetBlueprint::Respond(answer(respond, &route.path, problems)?)
        }
    };
    let fallback = match route.fallback.as_deref() {
        None => None,
        Some(FallbackConfig::Respond(respond)) => Some(FallbackBlueprint::Respond(answer(
            respond,
            &route.path.key("fallback"),
            problems,
        )?)),
        Some(FallbackConfig::Upstream(name)) => {
            let mut forward = forward(name)?;
            // What the route says holds here too. Where it fights its own upstream, that was reported.
            let is_reported = problems.iter().count() > reported;
            if !is_reported && (route.retries.is_some() || is_own_time(&forward)) {
                upstream::warn_of_tries(&forward.retries, &forward.timeouts, &route.path, problems);
            }
            // The client was promised an end of the whole exchange: it holds for what comes after the first upstream too.
            match &target {
                TargetBlueprint::Upstream(first) => {
                    forward.timeouts.total = first.timeouts.total;
                }
                TargetBlueprint::Split(split) => {
                    forward.timeouts.total = split.stable.timeouts.total;
                }
                _ => {}
            }
            Some(FallbackBlueprint::Upstream(forward))
        }
    };
    Some(RouteBlueprint {
        name: route.name.clone(),
        expression: expression(&route.path_match),
        rewrite: route.rewrite.clone(),
        chain,
        target,
        fallback: fallback.map(Box::new),
        criticality: route.criticality,
        max_body_bytes: route.max_body_bytes.unwrap_or(site.max_body_bytes),
    })
}

/// How the requests of a route go to an upstream.
fn compile_forward(
    config: &Config,
    site: &SiteConfig,
    route: &RouteConfig,
    name: &Name,
    indices: &HashMap<&Name, usize>,
) -> Option<ForwardBlueprint> {
    let index = *indices.get(name)?;
    let upstream = config.upstreams.get(index)?;
    Some(ForwardBlueprint {
        upstream: name.clone(),
        index,
        timeouts: route.timeouts.or(site.timeouts).over(upstream.timeouts),
        retries: match &route.retries {
            Some(own) => Arc::new(own.over(&upstream.retries)),
            None => Arc::clone(&upstream.retries),
        },
        // The parser has checked it.
        host: upstream.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
    })
}

fn compile_error_page(
    page: &ErrorPageConfig,
    site: &KeyPath,
    problems: &mut Problems,
) -> Option<(u16, StaticBody)> {
    let path = site.key("error_pages").key(&page.status.to_string()).key("file");
    let bytes = read_body(&page.body, &path, problems)?;
    Some((page.status, StaticBody { content_type: page.content_type.clone(), bytes }))
}

fn read_body(body: &RespondBody, path: &KeyPath, problems: &mut Problems) -> Option<Bytes> {
    let file = match body {
        RespondBody::Text(text) => return Some(Bytes::from(text.clone())),
        RespondBody::File(file) => file,
    };
    let size = std::fs::metadata(file).map(|metadata| metadata.len());
    match size.and_then(|size| {
        if size > MAX_RESPOND_FILE_BYTES { Ok(None) } else { std::fs::read(file).map(Some) }
    }) {
        Ok(Some(bytes)) => Some(Bytes::from(bytes)),
        Ok(None) => {
            problems.error(
                path,
                format!("{} is larger than 1 MiB, the most that is kept in memory", file.display()),
            );
            None
        }
        Err(error) => {
            problems.error(path, format!("{} can't be read: {error}", file.display()));
            None
        }
    }
}

/// The expression of a path, for captures.
fn expression(path: &PathMatch) -> Option<regex::Regex> {
    match path {
        PathMatch::Regex(regex) => Some(regex.clone()),
        PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
    }
}
