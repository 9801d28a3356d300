//! A check as it is written, and parsed.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{
    types::{
        HttpUrl, HttpUrlError, HumanDuration, KeyPath, Name, Problems, SECRET_IN_PLACE,
        SecretSource, defaults,
    },
    upstream::RawStatuses,
};

/// A check: another system is asked whether the candidate does well. Either `prometheus` or `http`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawCheck {
    /// Asks a Prometheus server.
    pub prometheus: Option<RawPrometheusCheck>,
    /// Asks for a URL.
    pub http: Option<RawHttpCheck>,
    /// Time from the beginning of one run to that of the next. The first is at once.
    #[schemars(extend("default" = defaults::CHECK_EVERY.to_string()))]
    pub every: Option<HumanDuration>,
    /// One run.
    #[schemars(extend("default" = defaults::CHECK_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
    /// What no answer means: `hold` (no step is taken until there is one) or `ignore` (as if the check were not there).
    #[schemars(extend("default" = "hold"))]
    pub on_error: Option<OnError>,
    /// What is sent as `Authorization: Bearer`. Read anew for each run.
    pub token: Option<SecretSource>,
    /// Failing results in a row that make the check fail. No answer in between does not count, and begins nothing anew.
    #[schemars(extend("default" = defaults::CHECK_FAILURES))]
    pub failures: Option<NonZeroU32>,
    /// A PEM file with authorities that are trusted beside the system's.
    pub ca: Option<PathBuf>,
}

/// A check by an instant query of Prometheus. One of `max` and `min` at least.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawPrometheusCheck {
    /// The server, such as `"http://prometheus:9090"`; `/api/v1/query` is asked for below it.
    pub url: Option<String>,
    /// What is asked (`PromQL`). It must give a scalar, or a vector with exactly one sample.
    pub query: Option<String>,
    /// A larger number fails.
    pub max: Option<f64>,
    /// A smaller number fails.
    pub min: Option<f64>,
}

/// A check by `GET` of a URL. Redirects are not followed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHttpCheck {
    /// What is asked for.
    pub url: Option<String>,
    /// Statuses that pass: `200`, `"200-299"`, or a list of them.
    #[schemars(extend("default" = 200))]
    pub status: Option<RawStatuses>,
    /// Text that the body must contain.
    pub body_contains: Option<String>,
}

/// What it means that a check has no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// No step is taken until there is one.
    #[default]
    Hold,
    /// As if the check were not there.
    Ignore,
}

/// A check, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckConfig {
    /// Its name.
    pub name: Name,
    /// Where it asks, with the query.
    pub url: HttpUrl,
    /// How the answer is judged.
    pub kind: CheckKind,
    /// From one run to the next.
    pub every: Duration,
    /// One run.
    pub timeout: Duration,
    /// What no answer means.
    pub on_error: OnError,
    /// The bearer token.
    pub token: Option<SecretSource>,
    /// Failing results in a row that make it fail.
    pub failures: u32,
    /// Authorities beside the system's.
    pub ca: Option<PathBuf>,
}

/// How an answer is judged.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// By the number that a query gives.
    Prometheus(Bounds),
    /// By status and body.
    Http(HttpExpectation),
}

/// What a number must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// At least this.
    pub min: Option<f64>,
    /// At most this.
    pub max: Option<f64>,
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpExpectation {
    /// Its status, in one of these inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// Its body has this in it.
    pub body_contains: Option<String>,
}

impl Bounds {
    /// Judges a number that is not NaN.
    pub(super) fn judge(&self, value: f64) -> Outcome {
        match self {
            Self { max: Some(max), .. } if value > *max => {
                Outcome::fails(format!("the query gives {value}, wanted at most {max}"))
            }
            Self { min: Some(min), .. } if value < *min => {
                Outcome::fails(format!("the query gives {value}, wanted at least {min}"))
            }
            _ => Outcome::Passes,
        }
    }
}

impl RawCheck {
    /// Fills in the defaults; `path` is where problems point to. `None` where it does not say what is asked, which is
    /// reported.
    pub fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<CheckConfig> {
        let every = self.every.unwrap_or(defaults::CHECK_EVERY).0;
        let timeout = self.timeout.unwrap_or(defaults::CHECK_TIMEOUT).0;
        for (key, written) in [("every", self.every), ("timeout", self.timeout)] {
            if written.is_some_and(|duration| duration.0.is_zero()) {
                problems.error(&path.key(key), "it must be longer than no time");
            }
        }
        let asked = match (&self.prometheus, &self.http) {
            (Some(prometheus), None) => prometheus.parse(&path.key("prometheus"), problems),
            (None, Some(http)) => http.parse(&path.key("http"), problems),
            (None, None) => {
                problems.error(path, "the check asks nobody").at_key().help(
                    "add `prometheus = { url = …, query = …, max = … }` or `http = { url = … }`",
                );
                None
            }
            (Some(_), Some(_)) => {
                problems
                    .error(&path.key("http"), "a check asks either `prometheus` or `http`")
                    .at_key()
                    .related(path.key("prometheus"), "the other one is here")
                    .help("write two checks");
                None
            }
        };
        let (url, kind) = asked?;
        Some(CheckConfig {
            name: name.clone(),
            url,
            kind,
            every,
            timeout,
            on_error: self.on_error.unwrap_or_default(),
            token: self.token.clone(),
            failures: self.failures.unwrap_or(defaults::CHECK_FAILURES).get(),
            ca: self.ca.clone(),
        })
    }
}

impl RawPrometheusCheck {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<(HttpUrl, CheckKind)> {
        let base = parse_url(self.url.as_ref(), path, problems);
        let query = self.query.as_deref().map(str::trim).filter(|query| !query.is_empty());
        if query.is_none() {
            problems
                .error(path, "the check asks nothing of Prometheus")
                .at_key()
                .help("add `query = \"…\"`, which gives one number");
        }
        let bounds = Bounds { min: self.min, max: self.max };
        for (key, bound) in [("min", self.min), ("max", self.max)] {
            if bound.is_some_and(f64::is_nan) {
                problems.error(&path.key(key), "no number can be compared with NaN");
            }
        }
        match (self.min, self.max) {
            (None, None) => {
                problems
                    .error(path, "nothing says which numbers are good")
                    .at_key()
                    .help("add `max = …` or `min = …`");
            }
            (Some(min), Some(max)) if min > max => {
                problems
                    .error(
                        &path.key("min"),
                        format!("no number is at least {min} and at most {max}"),
                    )
                    .related(path.key("max"), "set here");
            }
            _ => {}
        }
        let (base, query) = (base?, query?);
        let at = path.key("url");
        if base.expose().query().is_some() {
            problems
                .error(&at, "the query stands in `query`, not in the URL")
                .help("write the server's address, such as \"http://prometheus:9090\"");
            return None;
        }
        let asked =
            form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let base = base.expose().to_string();
        let whole = format!("{}/api/v1/query?{asked}", base.trim_end_matches('/'));
        let Ok(url) = whole.parse() else {
            problems.error(&path.key("query"), "the query is too long for a URL");
            return None;
        };
        Some((url, CheckKind::Prometheus(bounds)))
    }
}

impl RawHttpCheck {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<(HttpUrl, CheckKind)> {
        let url = parse_url(self.url.as_ref(), path, problems);
        let mut statuses = Vec::new();
        match &self.status {
            None => statuses.push((200, 200)),
            Some(written) => {
                let at = path.key("status");
                written.parse_into(&at, &mut statuses, problems);
                if matches!(written, RawStatuses::List(list) if list.is_empty()) {
                    problems.error(&at, "without a status no answer passes");
                }
            }
        }
        let expected = HttpExpectation { statuses, body_contains: self.body_contains.clone() };
        Some((url?, CheckKind::Http(expected)))
    }
}

fn parse_url(written: Option<&String>, path: &KeyPath, problems: &mut Problems) -> Option<HttpUrl> {
    let Some(text) = written else {
        problems.error(path, "the check has no URL").at_key().help("add `url = \"https://…\"`");
        return None;
    };
    text.parse()
        .inspect_err(|error| {
            let at = path.key("url");
            if *error == HttpUrlError::Credentials {
                problems.error(&at, SECRET_IN_PLACE).help("write `token = { file = \"/path\" }`");
            } else {
                problems.error(&at, format!("no request can be sent there: {error}"));
            }
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(toml: &str) -> (Option<CheckConfig>, Vec<String>) {
        let raw: RawCheck = toml::from_str(toml).unwrap();
        let mut problems = Problems::new();
        let path = KeyPath::of(&["checks", "errors"]);
        let config = raw.parse(&"errors".parse().unwrap(), &path, &mut problems);
        (config, problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect())
    }

    #[test]
    fn a_check_has_defaults_and_asks_the_api_of_prometheus() {
        let (config, said) = parsed(
            r#"prometheus = { url = "http://prometheus:9090/base/", query = "sum(rate(x[1m])) > 0", max = 5 }"#,
        );
        assert!(said.is_empty(), "{said:?}");
        let config = config.unwrap();
        assert_eq!(
            config.url.expose().to_string(),
            "http://prometheus:9090/base/api/v1/query?query=sum%28rate%28x%5B1m%5D%29%29+%3E+0"
        );
        assert_eq!(config.kind, CheckKind::Prometheus(Bounds { min: None, max: Some(5.0) }));
        assert_eq!((config.every.as_secs(), config.timeout.as_secs()), (30, 5));
        assert_eq!((config.on_error, config.failures), (OnError::Hold, 1));
        let (config, said) = parsed(
            "http = { url = \"https://smoke.test/ready\", status = [200, \"300-399\"], body_contains = \"ok\" }\non_error = \"ignore\"\nfailures = 3",
        );
        assert!(said.is_empty(), "{said:?}");
        let CheckKind::Http(expected) = config.unwrap().kind else { panic!("not by HTTP") };
        assert_eq!(expected.statuses, [(200, 200), (300, 399)]);
    }

    #[test]
    fn what_can_not_be_checked_is_reported() {
        for (toml, said) in [
            ("", vec!["checks.errors: the check asks nobody"]),
            (
                "prometheus = { url = \"http://p\", query = \"x\", max = 1 }\nhttp = { url = \"http://h\" }",
                vec!["checks.errors.http: a check asks either `prometheus` or `http`"],
            ),
            (
                "prometheus = {}",
                vec![
                    "checks.errors.prometheus: the check has no URL",
                    "checks.errors.prometheus: the check asks nothing of Prometheus",
                    "checks.errors.prometheus: nothing says which numbers are good",
                ],
            ),
            (
                "prometheus = { url = \"p:9090\", query = \" \", min = 2, max = 1 }",
                vec![
                    "checks.errors.prometheus.url: no request can be sent there: it begins neither with \"https://\" nor with \"http://\"",
                    "checks.errors.prometheus: the check asks nothing of Prometheus",
                    "checks.errors.prometheus.min: no number is at least 2 and at most 1",
                ],
            ),
            (
                "prometheus = { url = \"http://p/?query=x\", query = \"x\", max = nan }",
                vec![
                    "checks.errors.prometheus.max: no number can be compared with NaN",
                    "checks.errors.prometheus.url: the query stands in `query`, not in the URL",
                ],
            ),
            (
                "http = { url = \"http://h\", status = [99, []] }\nevery = \"0s\"\ntimeout = \"0s\"",
                vec![
                    "checks.errors.every: it must be longer than no time",
                    "checks.errors.timeout: it must be longer than no time",
                    "checks.errors.http.status[0]: this is not a status or a range of statuses",
                ],
            ),
            (
                "http = { url = \"http://user:word@h\" }",
                vec!["checks.errors.http.url: a secret does not stand in the configuration itself"],
            ),
            (
                "http = { url = \"http://h\", status = [] }",
                vec!["checks.errors.http.status: without a status no answer passes"],
            ),
        ] {
            assert_eq!(parsed(toml).1, said, "{toml}");
        }
    }
}
