//! [`Raw`] to [`Config`]: names resolve, defaults are filled in, what a key alone can't say is checked.
//!
//! Everything that is wrong is reported. What the decoder took out is known here, so that nothing is reported twice.

mod cookies;
mod experiments;
mod reach;
mod rollouts;
mod sent_on;
mod sites;
mod upstreams;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{Config, ListenerConfig, raw::Raw, sent_on::RawSendTo, tree::Node};
use crate::{
    telemetry::webhooks::MAX_WEBHOOKS,
    types::{Cidr, KeyPath, ListenAddress, Name, Problems, Segment, did_you_mean},
};

/// What the parser is told beside [`Raw`].
pub(super) struct Context<'a> {
    /// Where keys stand, to tell written ones from inherited ones.
    pub(super) tree: &'a Node,
    /// What the decoder took out.
    pub(super) removed: &'a [KeyPath],
}

/// Parses a whole configuration. There is none where an error was reported.
pub(super) fn parse(raw: &Raw, context: &Context<'_>, problems: &mut Problems) -> Option<Config> {
    let mut found = Problems::new();
    let config = parse_all(raw, context, &mut found);
    for problem in found {
        if !context.is_consequence(&problem) {
            problems.push(problem);
        }
    }
    (!problems.has_errors()).then_some(config)
}

fn parse_all(raw: &Raw, context: &Context<'_>, problems: &mut Problems) -> Config {
    let root = KeyPath::root();
    let server = raw.server.parse(&root.key("server"), problems);
    let admin = raw.admin.parse(&root.key("admin"), problems);
    let mut upstreams = upstreams::Upstreams::parse(raw, context, problems);
    let listeners =
        parse_listeners(raw, context, &server.trusted_proxies, &mut upstreams, problems);
    check_addresses(&listeners, admin.address.as_ref(), problems);
    let policies: Vec<_> = raw
        .policies
        .iter()
        .map(|(name, policy)| policy.parse(name, &root.key("policies").key(name), problems))
        .collect();
    let rollouts = rollouts::parse(raw, &upstreams, problems);
    if raw.webhooks.len() > MAX_WEBHOOKS {
        problems.error(
            &root.key("webhooks"),
            format!(
                "there are more than {MAX_WEBHOOKS} webhooks; each may have a request under way"
            ),
        );
    }
    let webhooks = raw
        .webhooks
        .iter()
        .filter_map(|(name, hook)| hook.parse(name, &root.key("webhooks").key(name), problems))
        .collect();
    let acme = raw.acme.parse(&root.key("acme"), problems);
    let sites = sites::parse(raw, context, &listeners, &acme, &mut upstreams, problems);
    for site in &sites {
        reach::warn_of_unreachable(site, problems);
    }
    let upstreams = upstreams.into_sorted();
    cookies::check(&upstreams, &rollouts, &policies, problems);
    experiments::check(&policies, &sites, problems);
    let names = Names::of(raw, context, &listeners);
    for listener in &listeners {
        if let super::UnknownHost::Site(site) = &listener.unknown_host {
            names.sites.check(site, &listener.path.key("unknown_host").key("site"), problems);
        }
    }
    // What is misspelled where it is used would be named a second time.
    if !problems.has_errors() {
        warn_of_unused(raw, problems);
    }
    let sends_on = listeners.iter().any(|listener| {
        !listener.protocol.is_http() || !listener.protocol.passthrough().is_empty()
    });
    if raw.sites.is_empty() && !sends_on && raw.allow_empty != Some(true) {
        problems
            .error(&root.key("sites"), "the configuration has no sites")
            .at_key()
            .help("add `[sites.<name>]`; if that is meant, set `allow_empty = true`");
    }
    Config {
        server,
        reload: raw.reload.parse(),
        admin,
        log_level: raw.log.level.unwrap_or_default(),
        log_format: raw.log.format.unwrap_or_default(),
        acme,
        dns: raw.dns.parse(&root.key("dns"), problems),
        access_log: raw.access_log.parse(&root.key("access_log"), problems),
        audit_log: raw.audit_log.parse(&root.key("audit_log"), problems),
        listeners,
        sites,
        policies,
        rollouts,
        webhooks,
        upstreams,
    }
}

impl Context<'_> {
    /// Whether a problem only exists because the decoder took something out: the table or list that held it is
    /// incomplete, and so is everything that counts what is used.
    fn is_consequence(&self, problem: &crate::types::Problem) -> bool {
        if self.removed.is_empty() {
            return false;
        }
        problem.severity == crate::types::Severity::Warning
            || self
                .removed
                .iter()
                .any(|path| *path == problem.path || path.parent() == Some(&problem.path))
    }

    /// Names in a section that were taken out: they are not unknown.
    fn removed_names(&self, section: &str) -> impl Iterator<Item = &str> {
        self.removed.iter().filter_map(move |path| match path.segments().as_slice() {
            [Segment::Key(first), Segment::Key(name)] if **first == *section => Some(&**name),
            _ => None,
        })
    }

    fn is_written(&self, path: &KeyPath) -> bool {
        self.tree.at(path).is_some()
    }
}

/// The names of one kind of thing.
struct Known<'a> {
    what: &'static str,
    names: BTreeSet<&'a str>,
    /// All were taken out, so that nothing can be said.
    is_open: bool,
}

impl<'a> Known<'a> {
    fn new(
        what: &'static str,
        section: &str,
        names: impl Iterator<Item = &'a Name>,
        context: &'a Context<'_>,
    ) -> Self {
        let mut names: BTreeSet<&str> = names.map(|name| &**name).collect();
        names.extend(context.removed_names(section));
        let is_open = context.removed.contains(&KeyPath::of(&[section]));
        Self { what, names, is_open }
    }

    /// Reports a name that is not among them.
    fn check(&self, name: &Name, path: &KeyPath, problems: &mut Problems) -> bool {
        if self.is_open || self.names.contains(&**name) {
            return true;
        }
        let message = format!("no {} \"{name}\"", self.what);
        match did_you_mean(name, self.names.iter().copied()) {
            Some(near) => problems.error(path, format!("{message}; did you mean \"{near}\"?")),
            None if self.names.is_empty() => problems.error(path, message),
            None => {
                let names: Vec<&str> = self.names.iter().copied().take(20).collect();
                problems.error(path, message).help(format!(
                    "there are {}",
                    super::decode::words(&names).replace(" or ", " and ")
                ))
            }
        };
        false
    }
}

/// All names that can be referred to.
struct Names<'a> {
    listeners: Known<'a>,
    rollouts: Known<'a>,
    sites: Known<'a>,
    policies: Known<'a>,
}

impl<'a> Names<'a> {
    fn of(raw: &'a Raw, context: &'a Context<'_>, listeners: &'a [ListenerConfig]) -> Self {
        let bound = raw.listeners.keys().chain(listeners.iter().map(|listener| &listener.name));
        Self {
            listeners: Known::new("listener", "listeners", bound, context),
            rollouts: Known::new("rollout", "rollouts", raw.rollouts.keys(), context),
            sites: Known::new("site", "sites", raw.sites.keys(), context),
            policies: Known::new("policy", "policies", raw.policies.keys(), context),
        }
    }
}

fn parse_listeners(
    raw: &Raw,
    context: &Context<'_>,
    trusted_proxies: &[Cidr],
    upstreams: &mut upstreams::Upstreams<'_>,
    problems: &mut Problems,
) -> Vec<ListenerConfig> {
    let path = KeyPath::of(&["listeners"]);
    let mut parse = |listener: &super::RawListener, name: &Name, problems: &mut Problems| {
        let upstream = |to: &RawSendTo<'_>, path: &KeyPath, problems: &mut Problems| {
            sent_on::upstream(to, path, upstreams, problems)
        };
        listener.parse(name, &path.key(name), trusted_proxies, upstream, problems)
    };
    let is_section_empty = raw.listeners.is_empty() && context.is_written(&path);
    if is_section_empty && raw.allow_empty != Some(true) {
        problems
            .error(&path, "the configuration has no listeners")
            .at_key()
            .help("leave the section out for ports 80 and 443, or add `[listeners.<name>]`");
    }
    if !raw.listeners.is_empty() || is_section_empty {
        return raw
            .listeners
            .iter()
            .filter_map(|(name, listener)| parse(listener, name, problems))
            .collect();
    }
    [("http", "[::]:80", false), ("https", "[::]:443", true)]
        .iter()
        .filter_map(|(name, address, tls)| {
            let listener = super::RawListener {
                address: address.parse().ok(),
                tls: Some(*tls),
                ..Default::default()
            };
            parse(&listener, &name.parse().ok()?, problems)
        })
        .collect()
}

/// Two sockets on one address: the second would not be bound.
fn check_addresses(
    listeners: &[ListenerConfig],
    admin: Option<&ListenAddress>,
    problems: &mut Problems,
) {
    let mut bound: BTreeMap<ListenAddress, (String, KeyPath)> = BTreeMap::new();
    let admin =
        admin.map(|address| ("the admin listener".to_owned(), KeyPath::of(&["admin"]), address));
    let others = listeners.iter().map(|listener| {
        let who = format!("the listener \"{}\"", listener.name);
        (who, listener.path.clone(), &listener.address)
    });
    for (who, path, address) in admin.into_iter().chain(others) {
        let Some(key) = comparable(address) else { continue };
        let at = path.key("address");
        if let Some((first, place)) = bound.get(&key) {
            problems
                .error(&at, format!("{first} is bound to {address} already"))
                .related(place.clone(), "first here");
        } else {
            bound.insert(key, (who, at));
        }
    }
}

/// The address under which two conflicting ones are equal: `[::]` also takes IPv4. Port 0 never conflicts.
fn comparable(address: &ListenAddress) -> Option<ListenAddress> {
    match address {
        ListenAddress::Tcp(address) if address.port() == 0 => None,
        ListenAddress::Tcp(address) if address.ip().is_unspecified() => {
            let any = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
            Some(ListenAddress::Tcp(SocketAddr::new(any, address.port())))
        }
        other => Some(other.clone()),
    }
}

/// Upstreams, policies and rollouts that nothing refers to are most likely misspelled somewhere.
fn warn_of_unused(raw: &Raw, problems: &mut Problems) {
    let mut upstreams = BTreeSet::new();
    let mut policies = BTreeSet::new();
    let mut rollouts = BTreeSet::new();
    for rollout in raw.rollouts.values() {
        upstreams.extend(&rollout.stable);
        upstreams.extend(&rollout.candidate);
    }
    for site in raw.sites.values() {
        upstreams.extend(&site.upstream);
        rollouts.extend(&site.rollout);
        policies.extend(&site.policies);
        for route in site.routes.values() {
            upstreams.extend(&route.upstream);
            rollouts.extend(&route.rollout);
            upstreams.extend(route.fallback.as_ref().and_then(|other| other.upstream.as_ref()));
            policies.extend(&route.policies);
        }
    }
    for listener in raw.listeners.values() {
        upstreams.extend(listener.tcp.as_ref().and_then(|tcp| tcp.upstream.as_ref()));
        upstreams.extend(listener.passthrough.values().flat_map(|sent_on| &sent_on.upstream));
    }
    upstreams.extend(raw.upstreams.values().filter_map(|upstream| upstream.like.as_ref()));
    for name in raw.upstreams.keys().filter(|name| !upstreams.contains(name)) {
        problems
            .warning(
                &KeyPath::of(&["upstreams", name]),
                "no route and no listener uses this upstream",
            )
            .at_key();
    }
    for name in raw.rollouts.keys().filter(|name| !rollouts.contains(name)) {
        problems.warning(&KeyPath::of(&["rollouts", name]), "no route uses this rollout").at_key();
    }
    for name in raw.policies.keys().filter(|name| !policies.contains(name)) {
        problems
            .warning(&KeyPath::of(&["policies", name]), "no site or route uses this policy")
            .at_key();
    }
}
