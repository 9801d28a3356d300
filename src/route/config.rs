//! `[sites.<name>.routes.<name>]`, parsed: a condition and a target that can't be wrong in themselves.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::{
    fallback::FallbackConfig,
    raw::{RawRedirect, RawRespond, RawRoute},
    template::Template,
};
use crate::{
    limit::Criticality,
    policy::{Conditions, WrittenConditions},
    types::{KeyPath, Name, Problems, defaults},
    upstream::{RawEndpoint, RawRetries, RawTimeouts},
};

/// A route, parsed.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands in the configuration.
    pub path: KeyPath,
    /// Which paths it takes.
    pub path_match: PathMatch,
    /// What else a request must satisfy.
    pub conditions: Conditions,
    /// Asked earlier when higher.
    pub priority: i32,
    /// Go on to the next route where only a condition fails.
    pub fall_through: bool,
    /// Its own policies.
    pub policies: Vec<Name>,
    /// The site's policies that it leaves out.
    pub without: Vec<Name>,
    /// Where requests go.
    pub target: TargetConfig,
    /// Changes towards the upstream.
    pub rewrite: Rewrite,
    /// Timeouts that go before the upstream's.
    pub timeouts: RawTimeouts,
    /// What of `retries` goes before the upstream's.
    pub retries: Option<Box<RawRetries>>,
    /// What is done where the upstream has no answer.
    pub fallback: Option<Box<FallbackConfig>>,
    /// How important its requests are when the edge can't serve all.
    pub criticality: Criticality,
    /// The largest request body, where it is not the site's.
    pub max_body_bytes: Option<u64>,
}

/// Which paths a route takes. Paths are normalised, as in [`super::normalise`].
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// One path.
    Exact(String),
    /// Whole segments; `""` is every path. No trailing slash.
    Prefix(String),
    /// The whole path by expression (anchored).
    Regex(Regex),
}

/// Where a route's requests go.
#[derive(Clone, Debug)]
pub enum TargetConfig {
    /// To an upstream (an implicit one is named after its site and route).
    Upstream(Name),
    /// To one of the two upstreams of a rollout.
    Rollout(Name),
    /// Elsewhere.
    Redirect {
        /// The `Location`.
        to: Template,
        /// The status.
        status: StatusCode,
    },
    /// An answer from here.
    Respond(RespondConfig),
}

/// An answer given here.
#[derive(Clone, Debug)]
pub struct RespondConfig {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, `Content-Type` among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: RespondBody,
}

/// The body of an answer given here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RespondBody {
    /// Text from the configuration.
    Text(String),
    /// A file, read when the configuration is loaded.
    File(PathBuf),
}

/// Changes towards the upstream.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// The new path.
    pub path: Option<Template>,
    /// A prefix taken off, without a trailing slash.
    pub strip_prefix: Option<String>,
    /// The Host header.
    pub host: Option<HeaderValue>,
}

/// The most bytes of a file in `respond`.
pub const MAX_RESPOND_FILE_BYTES: u64 = 1 << 20;

/// Keys that name a target.
const TARGETS: &str = "`upstream`, `endpoints`, `rollout`, `redirect` or `respond`";

impl RawRoute {
    /// Parses the condition and the target. `implicit` takes the endpoints of an implicit upstream and gives its name.
    pub fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        problems: &mut Problems,
        implicit: impl FnOnce(&[RawEndpoint], &mut Problems) -> Name,
    ) -> Option<RouteConfig> {
        let path_match = self.parse_path(path, problems);
        let conditions = Conditions::parse(
            &WrittenConditions {
                methods: self.methods.as_deref(),
                headers: &self.headers,
                query: &self.query,
                cookies: &self.cookies,
                client_address: self.client_address.as_deref(),
            },
            path,
            problems,
        );
        let target = self.parse_target(path, path_match.as_ref(), problems, implicit);
        let rewrite = self.parse_rewrite(path, path_match.as_ref(), problems);
        let timeouts = self.timeouts.unwrap_or_default();
        timeouts.check(&path.key("timeouts"), problems);
        let retries = self.retries.clone();
        if let Some(retries) = &retries {
            retries.check_on_route(&path.key("retries"), problems);
        }
        let mut fallback = None;
        if let (Some(TargetConfig::Upstream(name) | TargetConfig::Rollout(name)), Some(raw)) =
            (&target, &self.fallback)
        {
            let own = matches!(target, Some(TargetConfig::Upstream(_))).then_some(name);
            fallback = raw.parse(own, &path.key("fallback"), problems);
        }
        if !matches!(target, Some(TargetConfig::Upstream(_) | TargetConfig::Rollout(_)) | None) {
            for (key, is_set) in [
                ("rewrite", self.rewrite.is_some()),
                ("timeouts", self.timeouts.is_some()),
                ("retries", self.retries.is_some()),
                ("fallback", self.fallback.is_some()),
            ] {
                if is_set {
                    problems
                        .error(
                            &path.key(key),
                            format!(
                                "`{key}` is for routes with an upstream; this one answers itself"
                            ),
                        )
                        .at_key();
                }
            }
        }
        Some(RouteConfig {
            name: name.clone(),
            path: path.clone(),
            path_match: path_match?,
            conditions,
            priority: self.priority.unwrap_or(0),
            fall_through: self.fall_through.unwrap_or(false),
            policies: self.policies.clone(),
            without: self.without.clone(),
            target: target?,
            rewrite,
            timeouts,
            retries,
            fallback: fallback.map(Box::new),
            criticality: self.criticality.unwrap_or_default(),
            max_body_bytes: self.max_body.map(|size| size.0),
        })
    }

    fn parse_path(&self, path: &KeyPath, problems: &mut Problems) -> Option<PathMatch> {
        let given = [
            ("path", self.path.is_some()),
            ("path_exact", self.path_exact.is_some()),
            ("path_regex", self.path_regex.is_some()),
        ];
        let mut set = given.iter().filter(|(_, is_set)| *is_set);
        let (first, second) = (set.next(), set.next());
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            problems
                .error(&path.key(second), format!("the route has both `{first}` and `{second}`"))
                .at_key()
                .help("keep one of them; two conditions on a path are two routes")
                .related(path.key(first), "and here");
            return None;
        }
        if let Some(exact) = &self.path_exact {
            return plain_path(exact, &path.key("path_exact"), problems).map(PathMatch::Exact);
        }
        if let Some(expression) = &self.path_regex {
            let at = path.key("path_regex");
            return match regex::RegexBuilder::new(&format!("^(?:{expression})$"))
                .size_limit(1 << 20)
                .build()
            {
                Ok(regex) => Some(PathMatch::Regex(regex)),
                Err(error) => {
                    let reason = error.to_string();
                    let reason =
                        reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    problems.error(&at, format!("this is not a regular expression: {reason}"));
                    None
                }
            };
        }
        let prefix = self.path.as_deref().unwrap_or("/");
        let prefix = plain_path(prefix, &path.key("path"), problems)?;
        Some(PathMatch::Prefix(prefix.strip_suffix('/').unwrap_or(&prefix).to_owned()))
    }

    fn parse_target(
        &self,
        path: &KeyPath,
        path_match: Option<&PathMatch>,
        problems: &mut Problems,
        implicit: impl FnOnce(&[RawEndpoint], &mut Problems) -> Name,
    ) -> Option<TargetConfig> {
        let given = [
            ("upstream", self.upstream.is_some()),
            ("endpoints", self.endpoints.is_some()),
            ("rollout", self.rollout.is_some()),
            ("redirect", self.redirect.is_some()),
            ("respond", self.respond.is_some()),
            ("files", self.files.is_some()),
        ];
        let named: Vec<&str> =
            given.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| *key).collect();
        match *named.as_slice() {
            [] => {
                problems
                    .error(path, "the route has no target")
                    .at_key()
                    .help(format!("add one of {TARGETS}"));
                return None;
            }
            [_] => {}
            [first, second, ..] => {
                problems
                    .error(
                        &path.key(second),
                        format!("the route has two targets, `{first}` and `{second}`"),
                    )
                    .at_key()
                    .help(format!("keep exactly one of {TARGETS}"))
                    .related(path.key(first), "and here");
                return None;
            }
        }
        if self.files.is_some() {
            problems
                .error(&path.key("files"), "this version has no `files` target yet")
                .at_key()
                .help(format!("use one of {TARGETS}"));
            return None;
        }
        if let Some(name) = &self.rollout {
            return Some(TargetConfig::Rollout(name.clone()));
        }
        if let Some(name) = &self.upstream {
            return Some(TargetConfig::Upstream(name.clone()));
        }
        if let Some(endpoints) = &self.endpoints {
            return Some(TargetConfig::Upstream(implicit(endpoints, problems)));
        }
        if let Some(redirect) = &self.redirect {
            return parse_redirect(redirect, &path.key("redirect"), path_match, problems);
        }
        self.respond
            .as_ref()
            .and_then(|respond| respond.parse(&path.key("respond"), problems))
            .map(TargetConfig::Respond)
    }

    fn parse_rewrite(
        &self,
        path: &KeyPath,
        path_match: Option<&PathMatch>,
        problems: &mut Problems,
    ) -> Rewrite {
        let Some(raw) = &self.rewrite else { return Rewrite::default() };
        let path = path.key("rewrite");
        if let (Some(_), Some(_)) = (&raw.path, &raw.strip_prefix) {
            problems
                .error(&path.key("strip_prefix"), "`path` and `strip_prefix` can't both be")
                .at_key()
                .help("keep one of them");
        }
        let template = raw.path.as_ref().and_then(|text| {
            let at = path.key("path");
            if !text.starts_with('/') && !text.starts_with('{') {
                problems
                    .error(&at, format!("\"{text}\" is not a path"))
                    .help("a path starts with \"/\"");
                return None;
            }
            Template::parse_or_report(text, &capture_names(path_match), &at, problems)
        });
        let strip_prefix = raw.strip_prefix.as_ref().and_then(|text| {
            let prefix = plain_path(text, &path.key("strip_prefix"), problems)?;
            Some(prefix.strip_suffix('/').unwrap_or(&prefix).to_owned())
        });
        let host = raw.host.as_ref().and_then(|text| match HeaderValue::from_str(text) {
            Ok(value) if !text.is_empty() && !text.contains(['/', ' ', '@']) => Some(value),
            _ => {
                problems
                    .error(&path.key("host"), format!("\"{text}\" is not a host"))
                    .help("write a host name, with a port where it needs one");
                None
            }
        });
        Rewrite { path: template, strip_prefix, host }
    }
}

impl RawRespond {
    /// Parses the answer.
    pub(super) fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<RespondConfig> {
        let code = self.status.unwrap_or(200);
        let status =
            StatusCode::from_u16(code).ok().filter(|status| (200..=599).contains(&status.as_u16()));
        if status.is_none() {
            problems
                .error(&path.key("status"), format!("{code} is not a final status"))
                .help("a status is a number from 200 to 599");
        }
        if self.body.is_some() && self.file.is_some() {
            problems
                .error(&path.key("file"), "the answer has both `body` and `file`")
                .at_key()
                .help("keep one of them");
        }
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, value) in &self.headers {
            let at = path.key("headers").key(name);
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                (Ok(name), Ok(_))
                    if matches!(
                        name.as_str(),
                        "content-length" | "transfer-encoding" | "connection"
                    ) =>
                {
                    problems.error(&at, format!("the edge sets `{name}` itself")).at_key();
                }
                (Ok(name), Ok(value)) => headers.push((name, value)),
                _ => {
                    problems.error(&at, "this is not a header");
                }
            }
        }
        if !headers.iter().any(|(name, _)| name == http::header::CONTENT_TYPE) {
            headers.push((
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            ));
        }
        let body = match (&self.file, &self.body) {
            (Some(file), _) => RespondBody::File(file.clone()),
            (None, body) => RespondBody::Text(body.clone().unwrap_or_default()),
        };
        Some(RespondConfig { status: status?, headers, body })
    }
}

fn parse_redirect(
    raw: &RawRedirect,
    path: &KeyPath,
    path_match: Option<&PathMatch>,
    problems: &mut Problems,
) -> Option<TargetConfig> {
    let (to, to_path, code) = match raw {
        RawRedirect::To(to) => (to, path.clone(), 308),
        RawRedirect::Table(table) => (&table.to, path.key("to"), table.status.unwrap_or(308)),
    };
    let status =
        StatusCode::from_u16(code).ok().filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308));
    if status.is_none() {
        problems
            .error(&path.key("status"), format!("{code} is not a redirect"))
            .help("write 301, 302, 303, 307 or 308");
    }
    let mut names = capture_names(path_match);
    names.extend(["path", "query", "host", "scheme"].map(str::to_owned));
    let to = Template::parse_or_report(to, &names, &to_path, problems)?;
    Some(TargetConfig::Redirect { to, status: status? })
}

/// Names that a template may use: the numbers and the names of the expression's groups.
fn capture_names(path_match: Option<&PathMatch>) -> Vec<String> {
    match path_match {
        Some(PathMatch::Regex(regex)) => (1..regex.captures_len())
            .map(|i| i.to_string())
            .chain(regex.capture_names().flatten().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// A path that is already in the form in which requests are compared.
fn plain_path(text: &str, path: &KeyPath, problems: &mut Problems) -> Option<String> {
    if !text.starts_with('/') {
        problems
            .error(path, format!("\"{text}\" is not a path"))
            .help(format!("a path starts with \"/\": \"/{text}\""));
        return None;
    }
    match super::normalise::normalise(text, super::normalise::Slashes::Merge) {
        Ok(normal) if normal == text => Some(text.to_owned()),
        Ok(normal) => {
            problems
                .error(
                    path,
                    format!("\"{text}\" can never match, since paths are normalised first"),
                )
                .help(format!("write \"{normal}\""));
            None
        }
        Err(reason) => {
            problems.error(path, format!("\"{text}\" can never match: {reason}"));
            None
        }
    }
}

/// The default of `max_body`.
pub const fn default_max_body_bytes() -> u64 {
    defaults::BODY_SIZE.0
}
