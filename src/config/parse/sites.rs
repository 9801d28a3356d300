//! Sites: hosts, certificate, policies, routes, error pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::HeaderValue;

use super::{Context, Names, sent_on, upstreams::Upstreams};
use crate::{
    config::{ErrorPageConfig, ListenerConfig, RawErrorPage, RawSite, SiteConfig, raw::Raw},
    route::{RawRoute, RespondBody, RouteConfig, default_max_body_bytes},
    tls::{CertificateHeader, CertificateSource, RawClientAuth, acme::AcmeConfig},
    types::{HostPattern, KeyPath, Name, Problems, did_you_mean},
};

/// The route that a target of the site itself becomes.
const DEFAULT_ROUTE: &str = "default";

/// Parses `[sites]` and checks them against each other.
pub(super) fn parse(
    raw: &Raw,
    context: &Context<'_>,
    listeners: &[ListenerConfig],
    acme: &AcmeConfig,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Problems,
) -> Vec<SiteConfig> {
    let names = Names::of(raw, context, listeners);
    let mut sites = Vec::with_capacity(raw.sites.len());
    for (name, site) in &raw.sites {
        let path = KeyPath::of(&["sites", name]);
        let mut parser = Parser { name, site, path: &path, names: &names, acme, problems };
        sites.push(parser.parse(upstreams));
    }
    check_hosts(&sites, listeners, problems);
    check_listeners(&sites, listeners, problems);
    let names_of = |site: &SiteConfig| {
        listeners_of(site, listeners).iter().map(|listener| listener.name.clone()).collect()
    };
    sent_on::check_hosts(&sites, names_of, listeners, problems);
    if !problems.has_errors() && acme.dns.is_none() {
        warn_of_wildcards(&sites, listeners, problems);
    }
    sites
}

struct Parser<'a> {
    name: &'a Name,
    site: &'a RawSite,
    path: &'a KeyPath,
    names: &'a Names<'a>,
    acme: &'a AcmeConfig,
    problems: &'a mut Problems,
}

impl Parser<'_> {
    fn parse(&mut self, upstreams: &mut Upstreams<'_>) -> SiteConfig {
        let timeouts = self.site.timeouts.unwrap_or_default();
        timeouts.check(&self.path.key("timeouts"), self.problems);
        self.check_listeners();
        self.check_policies(&self.site.policies, &self.path.key("policies"));
        let hosts = self.parse_hosts();
        SiteConfig {
            name: self.name.clone(),
            path: self.path.clone(),
            certificate: self.parse_certificate(&hosts),
            hosts,
            listeners: self.site.listeners.clone(),
            tls: self
                .site
                .tls
                .clone()
                .unwrap_or_default()
                .parse(&self.path.key("tls"), self.problems),
            client_headers: self.client_headers(),
            policies: self.site.policies.clone(),
            routes: self.parse_routes(upstreams),
            error_pages: self.parse_error_pages(),
            max_body_bytes: self.site.max_body.map_or(default_max_body_bytes(), |size| size.0),
            timeouts,
        }
    }

    fn client_headers(&self) -> Arc<[CertificateHeader]> {
        let auth = self.site.tls.as_ref().and_then(|tls| tls.client_auth.as_ref());
        auth.map(RawClientAuth::headers).unwrap_or_default().into()
    }

    fn parse_hosts(&mut self) -> Vec<HostPattern> {
        let path = self.path.key("hosts");
        let Some(raw) = self.site.hosts.as_deref().filter(|hosts| !hosts.is_empty()) else {
            // Without the key, the caret goes to the site.
            let at = if self.site.hosts.is_some() { &path } else { self.path };
            self.problems
                .error(at, "the site has no hosts")
                .at_key()
                .help("add `hosts = [\"shop.example.com\"]`");
            return Vec::new();
        };
        let mut hosts = Vec::with_capacity(raw.len());
        for (i, host) in raw.iter().enumerate() {
            match hosts.iter().position(|known| known == host) {
                Some(first) => {
                    self.problems
                        .error(&path.index(i), format!("the host {host} stands here twice"))
                        .related(path.index(first), "first here");
                }
                None => hosts.push(host.clone()),
            }
        }
        hosts
    }

    fn check_listeners(&mut self) {
        let path = self.path.key("listeners");
        let Some(listeners) = &self.site.listeners else { return };
        if listeners.is_empty() {
            self.problems
                .error(&path, "the list of listeners is empty, so that nobody could reach the site")
                .help("leave the key out for all TLS listeners");
        }
        for (i, name) in listeners.iter().enumerate() {
            self.names.listeners.check(name, &path.index(i), self.problems);
        }
        self.warn_of_repeated(listeners, &path);
    }

    fn check_policies(&mut self, policies: &[Name], path: &KeyPath) {
        for (i, name) in policies.iter().enumerate() {
            self.names.policies.check(name, &path.index(i), self.problems);
        }
        self.warn_of_repeated(policies, path);
    }

    fn warn_of_repeated(&mut self, names: &[Name], path: &KeyPath) {
        let mut seen = BTreeMap::new();
        for (i, name) in names.iter().enumerate() {
            if let Some(first) = seen.insert(name, i) {
                self.problems
                    .warning(&path.index(i), format!("\"{name}\" stands here twice"))
                    .related(path.index(first), "first here");
            }
        }
    }

    fn parse_certificate(&mut self, hosts: &[HostPattern]) -> CertificateSource {
        let path = self.path.key("certificate");
        let private = hosts.iter().position(|host| !host.is_public());
        let Some(raw) = &self.site.certificate else {
            return match private {
                None if !hosts.is_empty() => CertificateSource::Acme(self.acme.key_type),
                _ => CertificateSource::Internal,
            };
        };
        let source = raw.parse(&path, self.acme.key_type, self.problems);
        // Somebody's own authority may certify any name.
        let is_public = self.acme.authorities.iter().all(|authority| authority.caa.is_some());
        if matches!(source, CertificateSource::Acme(_))
            && is_public
            && let Some((i, host)) = private.and_then(|i| Some((i, hosts.get(i)?)))
        {
            self.problems
                .error(
                    &self.path.key("hosts").index(i),
                    format!("no public authority certifies {host}, so ACME can't order a certificate for this site"),
                )
                .help("write `certificate = { internal = true }`, make it a site of its own, or name an authority of yours in [acme.authorities]")
                .related(path.key("acme"), "ordered here");
        }
        source
    }

    fn parse_routes(&mut self, upstreams: &mut Upstreams<'_>) -> Vec<RouteConfig> {
        let mut routes = Vec::with_capacity(self.site.routes.len() + 1);
        for (name, route) in &self.site.routes {
            let path = self.path.key("routes").key(name);
            let implicit = format!("{}.{name}", self.name);
            routes.extend(self.parse_route(name, route, &path, &implicit, upstreams));
        }
        if let Some((name, route)) = self.default_route() {
            let path = self.path.clone();
            let implicit = self.name.to_string();
            routes.extend(self.parse_route(&name, &route, &path, &implicit, upstreams));
        } else if self.site.routes.is_empty() {
            self.problems
                .error(self.path, "the site has no route")
                .at_key()
                .help("add `endpoints = [\"10.0.0.11:8080\"]`, or a route: `[sites.<name>.routes.<name>]`");
        }
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        routes
    }

    fn parse_route(
        &mut self,
        name: &Name,
        route: &RawRoute,
        path: &KeyPath,
        implicit: &str,
        upstreams: &mut Upstreams<'_>,
    ) -> Option<RouteConfig> {
        self.check_policies(&route.policies, &path.key("policies"));
        self.check_without(route, path);
        if let Some(upstream) = &route.upstream {
            upstreams.check(upstream, &path.key("upstream"), self.problems);
        }
        if let Some(rollout) = &route.rollout {
            self.names.rollouts.check(rollout, &path.key("rollout"), self.problems);
        }
        if let Some(upstream) = route.fallback.as_ref().and_then(|other| other.upstream.as_ref()) {
            upstreams.check(upstream, &path.key("fallback").key("upstream"), self.problems);
        }
        let mut is_named = true;
        let parsed = route.parse(name, path, self.problems, |endpoints, problems| {
            upstreams.add_implicit(implicit, endpoints, path, problems).unwrap_or_else(|| {
                is_named = false;
                name.clone()
            })
        });
        parsed.filter(|_| is_named)
    }

    /// The route that the site's own target stands for.
    fn default_route(&mut self) -> Option<(Name, RawRoute)> {
        let site = self.site;
        let targets = [
            ("upstream", site.upstream.is_some()),
            ("endpoints", site.endpoints.is_some()),
            ("rollout", site.rollout.is_some()),
            ("redirect", site.redirect.is_some()),
            ("respond", site.respond.is_some()),
        ];
        let (target, _) = targets.iter().find(|(_, is_set)| *is_set)?;
        if site.routes.contains_key(DEFAULT_ROUTE) {
            self.problems
                .error(
                    &self.path.key(target),
                    format!(
                        "the site's own target is its route \"{DEFAULT_ROUTE}\", and there is one"
                    ),
                )
                .at_key()
                .help("keep one of them")
                .related(self.path.key("routes").key(DEFAULT_ROUTE), "this one");
            return None;
        }
        let route = RawRoute {
            upstream: site.upstream.clone(),
            endpoints: site.endpoints.clone(),
            rollout: site.rollout.clone(),
            redirect: site.redirect.clone(),
            respond: site.respond.clone(),
            ..Default::default()
        };
        Some((DEFAULT_ROUTE.parse().ok()?, route))
    }

    /// `without` of a policy that does not apply anyway is a mistake: the one that was meant still applies.
    fn check_without(&mut self, route: &RawRoute, path: &KeyPath) {
        for (i, name) in route.without.iter().enumerate() {
            if self.site.policies.contains(name) {
                continue;
            }
            let near = did_you_mean(name, self.site.policies.iter().map(|policy| &**policy));
            let message = format!("the site has no policy \"{name}\" that could be left out");
            let at = path.key("without").index(i);
            match near {
                Some(near) => {
                    self.problems.error(&at, format!("{message}; did you mean \"{near}\"?"));
                }
                None => {
                    self.problems
                        .error(&at, message)
                        .help("`without` names policies in the site's `policies`");
                }
            }
        }
        if let Some((i, name)) =
            route.policies.iter().enumerate().find(|(_, name)| route.without.contains(name))
        {
            self.problems.error(
                &path.key("policies").index(i),
                format!("the route has \"{name}\" in both `policies` and `without`"),
            );
        }
    }

    fn parse_error_pages(&mut self) -> Vec<ErrorPageConfig> {
        let path = self.path.key("error_pages");
        let mut pages = Vec::with_capacity(self.site.error_pages.len());
        for (key, page) in &self.site.error_pages {
            let at = path.key(key);
            let status = key.parse().ok().filter(|status| (400..=599).contains(status));
            if status.is_none() {
                self.problems
                    .error(&at, format!("\"{key}\" is not the status of an error"))
                    .at_key()
                    .help("a status from 400 to 599");
            }
            let parsed = self.parse_error_page(page, &at);
            pages.extend(status.zip(parsed).map(|(status, (body, content_type))| {
                ErrorPageConfig { status, body, content_type }
            }));
        }
        pages
    }

    fn parse_error_page(
        &mut self,
        page: &RawErrorPage,
        path: &KeyPath,
    ) -> Option<(RespondBody, HeaderValue)> {
        let body = match (&page.body, &page.file) {
            (Some(body), None) => Some(RespondBody::Text(body.clone())),
            (None, Some(file)) => Some(RespondBody::File(file.clone())),
            (Some(_), Some(_)) => {
                self.problems
                    .error(&path.key("file"), "the page has both `body` and `file`")
                    .at_key()
                    .help("keep one of them");
                None
            }
            (None, None) => {
                self.problems.error(path, "the page has no content").help("add `body` or `file`");
                None
            }
        };
        let content_type = page.content_type.as_deref().unwrap_or("text/html; charset=utf-8");
        let Ok(content_type) = HeaderValue::from_str(content_type) else {
            self.problems.error(&path.key("content_type"), "this is not a header value");
            return None;
        };
        Some((body?, content_type))
    }
}

/// The listeners a site is on: those it names, else those that speak TLS, else all that speak HTTP.
fn listeners_of<'a>(site: &SiteConfig, listeners: &'a [ListenerConfig]) -> Vec<&'a ListenerConfig> {
    let has_tls = listeners.iter().any(|listener| listener.protocol.is_tls());
    listeners
        .iter()
        .filter(|listener| match &site.listeners {
            Some(named) => named.contains(&listener.name),
            None => listener.protocol.is_http() && listener.protocol.is_tls() == has_tls,
        })
        .collect()
}

/// A site is on listeners that speak HTTP, and on one of them at least.
fn check_listeners(sites: &[SiteConfig], listeners: &[ListenerConfig], problems: &mut Problems) {
    for site in sites {
        let Some(names) = &site.listeners else {
            if !listeners.is_empty() && listeners_of(site, listeners).is_empty() {
                problems
                    .error(
                        &site.path,
                        "no listener speaks HTTP, so that nobody could reach the site",
                    )
                    .at_key()
                    .help("add a listener without `tcp`");
            }
            continue;
        };
        for (i, name) in names.iter().enumerate() {
            let sends_on = listeners
                .iter()
                .find(|listener| listener.name == *name && !listener.protocol.is_http());
            if let Some(listener) = sends_on {
                problems
                    .error(
                        &site.path.key("listeners").index(i),
                        format!("the listener \"{name}\" sends TCP on and speaks no HTTP"),
                    )
                    .related(listener.path.key("tcp"), "sent on by this");
            }
        }
    }
}

/// One host on one listener belongs to one site.
fn check_hosts(sites: &[SiteConfig], listeners: &[ListenerConfig], problems: &mut Problems) {
    let mut owners: BTreeMap<(&Name, &HostPattern), (&SiteConfig, usize)> = BTreeMap::new();
    for site in sites {
        let mut reported = BTreeSet::new();
        for listener in listeners_of(site, listeners) {
            for (i, host) in site.hosts.iter().enumerate() {
                let (first, at) = *owners.entry((&listener.name, host)).or_insert((site, i));
                if first.name == site.name || !reported.insert(i) {
                    continue;
                }
                problems
                    .error(
                        &site.path.key("hosts").index(i),
                        format!(
                            "the host {host} belongs to the site \"{}\" on the listener \"{}\" already",
                            first.name, listener.name
                        ),
                    )
                    .related(first.path.key("hosts").index(at), "first here");
            }
        }
    }
}

/// Wildcards are validated by dns-01 only (RFC 8555, section 8.4), and nothing says how records get into DNS.
fn warn_of_wildcards(sites: &[SiteConfig], listeners: &[ListenerConfig], problems: &mut Problems) {
    for site in sites {
        let is_ordered = matches!(site.certificate, CertificateSource::Acme(_))
            && listeners_of(site, listeners).iter().any(|listener| listener.protocol.is_tls());
        let star = site.hosts.iter().position(|host| matches!(host, HostPattern::Wildcard(_)));
        let Some((at, host)) = star.and_then(|at| Some((at, site.hosts.get(at)?))) else {
            continue;
        };
        if is_ordered {
            problems
                .warning(
                    &site.path.key("hosts").index(at),
                    format!("no certificate can be ordered for {host}: authorities validate a wildcard by DNS, and [acme.dns] is missing"),
                )
                .help("add it, with `rfc2136` or `command`; until then the site has the internal authority's certificate");
        }
    }
}
