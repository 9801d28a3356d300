//! What endpoints are asked in a preflight: from what is written, and whether an answer is good.

use http::{HeaderValue, Method, StatusCode, uri::PathAndQuery};

use super::{
    plan::{Preflight, PreflightRequest, WarmUp},
    raw::{RawPreflight, RawPreflightRequest, RawWarmUp},
};
use crate::types::{KeyPath, Problems, defaults};

/// The most requests that a preflight lists.
const MOST_REQUESTS: usize = 64;
/// The most requests that warm up an endpoint.
const MOST_WARM_UP: u32 = 10_000;

impl RawPreflight {
    pub(super) fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Preflight {
        let at = path.key("requests");
        if self.requests.len() > MOST_REQUESTS {
            problems.error(&at, format!("a preflight lists {MOST_REQUESTS} requests at most"));
        }
        let requests = self.requests.iter().enumerate();
        Preflight {
            healthy: self.healthy.unwrap_or(defaults::PREFLIGHT_HEALTHY),
            min_endpoints: self.min_endpoints.map_or(1, Into::into),
            requests: requests.map(|(i, check)| check.parse(&at.index(i), problems)).collect(),
            warm_up: self
                .warm_up
                .as_ref()
                .map(|warm_up| warm_up.parse(&path.key("warm_up"), problems)),
        }
    }
}

impl RawPreflightRequest {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> PreflightRequest {
        let method = self.method.as_deref().unwrap_or("GET");
        let parsed = Method::from_bytes(method.as_bytes()).unwrap_or_else(|_| {
            problems.error(&path.key("method"), format!("\"{method}\" is not a method"));
            Method::GET
        });
        check_path(&self.path, &path.key("path"), problems);
        let mut statuses = Vec::new();
        match &self.status {
            None => statuses.push((200, 299)),
            Some(raw) => raw.parse_into(&path.key("status"), &mut statuses, problems),
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            problems.error(&path.key("timeout"), "nothing answers within that");
        }
        PreflightRequest {
            method: parsed,
            path: self.path.clone(),
            host: parse_host(self.host.as_deref(), &path.key("host"), problems),
            statuses,
            body_contains: self.body_contains.clone(),
            timeout: self.timeout.unwrap_or(defaults::PREFLIGHT_TIMEOUT).0,
        }
    }
}

impl RawWarmUp {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> WarmUp {
        let requests = self.requests.unwrap_or(defaults::WARM_UP_REQUESTS);
        if requests == 0 || requests > MOST_WARM_UP {
            problems.error(
                &path.key("requests"),
                format!("an endpoint is warmed up by 1 to {MOST_WARM_UP} requests"),
            );
        }
        let paths = self.paths.clone().unwrap_or_else(|| vec!["/".to_owned()]);
        let at = path.key("paths");
        if paths.is_empty() {
            problems.error(&at, "there is no path to ask for").help("write `paths = [\"/\"]`");
        }
        for (i, path) in paths.iter().enumerate() {
            check_path(path, &at.index(i), problems);
        }
        let host = parse_host(self.host.as_deref(), &path.key("host"), problems);
        WarmUp { requests, paths, host }
    }
}

fn check_path(path: &str, at: &KeyPath, problems: &mut Problems) {
    if !path.starts_with('/') || PathAndQuery::try_from(path).is_err() {
        problems
            .error(at, format!("\"{path}\" is not a path"))
            .help("a path begins with a slash: \"/healthz\"");
    }
}

fn parse_host(host: Option<&str>, at: &KeyPath, problems: &mut Problems) -> Option<HeaderValue> {
    let host = host?;
    if host.parse::<http::uri::Authority>().is_err() {
        problems
            .error(at, format!("\"{host}\" is not a Host header value"))
            .help("write a host name, with a port where it is not the usual one");
    }
    HeaderValue::from_str(host).ok()
}

impl PreflightRequest {
    /// Whether an answer is good; else what is wrong with it.
    pub(super) fn judge(&self, status: StatusCode, body: &[u8]) -> Result<(), String> {
        let code = status.as_u16();
        if !self.statuses.iter().any(|(low, high)| (*low..=*high).contains(&code)) {
            let range = |&(low, high): &(u16, u16)| {
                if low == high { low.to_string() } else { format!("{low}-{high}") }
            };
            let ranges = self.statuses.iter().map(range);
            let expected = ranges.collect::<Vec<_>>().join(", ");
            return Err(format!("answered {code}, expected {expected}"));
        }
        match self.body_contains.as_deref().map(str::as_bytes) {
            Some(text)
                if !text.is_empty() && !body.windows(text.len()).any(|part| part == text) =>
            {
                Err("answered without the expected text in its body".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Preflight, String> {
        let raw: RawPreflight = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let preflight = raw.parse(&KeyPath::of(&["preflight"]), &mut problems);
        match problems.iter().next() {
            Some(problem) => Err(format!("{}: {}", problem.path, problem.message)),
            None => Ok(preflight),
        }
    }

    #[test]
    fn answers_are_judged_by_status_and_text() {
        let preflight = parse(
            "requests = [{ path = \"/a\" }, { path = \"/b\", status = [204, \"300-301\"], body_contains = \"ready\" }]",
        )
        .unwrap();
        for (check, status, body, said) in [
            (0, 200, "", ""),
            (0, 299, "", ""),
            (0, 503, "", "answered 503, expected 200-299"),
            (1, 204, "is ready.", ""),
            (1, 301, "ready", ""),
            (1, 301, "read", "answered without the expected text in its body"),
            (1, 302, "ready", "answered 302, expected 204, 300-301"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let judged = preflight.requests[check].judge(status, body.as_bytes());
            assert_eq!(judged.err().unwrap_or_default(), said, "{check} {status} {body}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, said) in [
            ("requests = [{ path = \"a\" }]", "requests[0].path"),
            ("requests = [{ path = \"/a\", method = \"G E\" }]", "requests[0].method"),
            ("requests = [{ path = \"/a\", host = \"a b\" }]", "requests[0].host"),
            ("requests = [{ path = \"/a\", status = 99 }]", "requests[0].status"),
            ("requests = [{ path = \"/a\", timeout = \"0s\" }]", "requests[0].timeout"),
            ("warm_up = { requests = 0 }", "warm_up.requests"),
            ("warm_up = { requests = 10001 }", "warm_up.requests"),
            ("warm_up = { paths = [] }", "warm_up.paths"),
            ("warm_up = { paths = [\"/\", \"x\"] }", "warm_up.paths[1]"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("preflight.{said}: ")), "{text}: {error}");
        }
        let usual = parse("warm_up = {}").unwrap().warm_up.unwrap();
        assert_eq!((usual.requests, usual.paths), (100, vec!["/".to_owned()]));
    }
}
