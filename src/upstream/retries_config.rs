//! `retries` of an upstream and of a route: when a request is tried again, how often, and after which pause.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{config::MAX_TRIES, retry_budget::RetryBudgetConfig};
use crate::types::{
    HumanDuration, KeyPath, Percent, Problems, Rate, defaults, deserialize_by_form, did_you_mean,
};

/// The longest pause that may be written: a client waits through it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// When a request is tried again, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRetries {
    /// Tries in all, the first included: 1 turns retries off. At most 4.
    #[schemars(extend("default" = defaults::TRIES))]
    pub tries: Option<NonZeroU32>,
    /// What is tried again: `"connect-failure"`, `"reset"` (the connection ended before the head of an answer), `"timeout"` (`per_try_timeout`, or
    /// `timeouts.first_byte`), and answers by their status: `503`, `"500-504"`.
    #[schemars(extend("default" = "connect-failure and reset; timeout too where `per_try_timeout` is set"))]
    pub on: Option<Vec<RawRetryOn>>,
    /// Methods that may be repeated once something was sent. When nothing was, every method is.
    #[schemars(extend("default" = DEFAULT_METHODS.each_ref().map(ToString::to_string)))]
    pub methods: Option<Vec<String>>,
    /// From the beginning of a try to the head of its answer; a try that takes longer is ended. Default: none.
    pub per_try_timeout: Option<HumanDuration>,
    /// The longest pause before the first retry; it doubles with each further one. The pause is a random part of it.
    #[schemars(extend("default" = defaults::BACKOFF.to_string()))]
    pub backoff: Option<HumanDuration>,
    /// The longest pause before any retry. At most 10s.
    #[schemars(extend("default" = defaults::MAX_BACKOFF.to_string()))]
    pub max_backoff: Option<HumanDuration>,
    /// How many retries all requests of the upstream may have together. Only on an upstream.
    pub budget: Option<RawRetryBudget>,
}

/// What is tried again, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawRetryOn {
    /// One status.
    Status(u16),
    /// A word, a status, or a range of statuses.
    Text(String),
}

deserialize_by_form!(
    RawRetryOn,
    "\"connect-failure\", \"reset\", \"timeout\", a status such as 503, or a range such as \"500-504\"",
    { number => Status, text => Text }
);

/// `retries.budget`, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRetryBudget {
    /// Retries as a share of the requests of the last ten seconds.
    #[schemars(extend("default" = defaults::RETRY_SHARE.to_string()))]
    pub share: Option<Percent>,
    /// Retries beside that share, so that a quiet upstream has some too.
    #[schemars(extend("default" = defaults::RETRY_FLOOR.to_string()))]
    pub floor: Option<Rate>,
}

/// When a request is tried again. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Tries in all, 1 to [`MAX_TRIES`].
    pub tries: u32,
    /// From the beginning of a try to the head of its answer.
    pub per_try_timeout: Option<Duration>,
    /// Of the upstream.
    pub budget: RetryBudgetConfig,
    /// `None`: what [`Self::on`] gives by itself.
    on: Option<Arc<RetryOn>>,
    /// `None`: [`DEFAULT_METHODS`].
    methods: Option<Arc<[Method]>>,
    pub(super) backoff: Duration,
    pub(super) max_backoff: Duration,
}

/// What is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RetryOn {
    pub(super) connect_failure: bool,
    pub(super) reset: bool,
    pub(super) timeout: bool,
    /// Inclusive ranges.
    statuses: Vec<(u16, u16)>,
}

/// What is tried again where nothing is written.
static DEFAULT_ON: RetryOn =
    RetryOn { connect_failure: true, reset: true, timeout: false, statuses: Vec::new() };
/// And with a limit on each try: it would be of no use without.
static DEFAULT_ON_WITH_LIMIT: RetryOn =
    RetryOn { connect_failure: true, reset: true, timeout: true, statuses: Vec::new() };
static DEFAULT_METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::OPTIONS];
const WORDS: [&str; 3] = ["connect-failure", "reset", "timeout"];

impl Default for Retries {
    fn default() -> Self {
        Self {
            tries: defaults::TRIES.get(),
            per_try_timeout: None,
            budget: RetryBudgetConfig {
                share: defaults::RETRY_SHARE,
                floor: defaults::RETRY_FLOOR,
            },
            on: None,
            methods: None,
            backoff: defaults::BACKOFF.0,
            max_backoff: defaults::MAX_BACKOFF.0,
        }
    }
}

impl Retries {
    /// What is tried again.
    pub(super) fn on(&self) -> &RetryOn {
        match (&self.on, self.per_try_timeout) {
            (Some(on), _) => on,
            (None, None) => &DEFAULT_ON,
            (None, Some(_)) => &DEFAULT_ON_WITH_LIMIT,
        }
    }

    /// Whether requests of this method may be repeated once something was sent.
    pub(super) fn repeats(&self, method: &Method) -> bool {
        self.methods().contains(method)
    }

    /// Methods of requests that may be repeated.
    pub(super) fn methods(&self) -> &[Method] {
        self.methods.as_deref().unwrap_or(&DEFAULT_METHODS)
    }

    /// Whether an answer with this status is a failed try.
    pub fn refuses(&self, status: StatusCode) -> bool {
        self.on().takes(status)
    }
}

impl RetryOn {
    pub(super) fn takes(&self, status: StatusCode) -> bool {
        let code = status.as_u16();
        self.statuses.iter().any(|(low, high)| (*low..=*high).contains(&code))
    }

    /// Adds what is written, or says what is wrong with it, and what to write.
    fn add(&mut self, written: &RawRetryOn) -> Result<(), (String, String)> {
        let text = match written {
            RawRetryOn::Status(code) => code.to_string(),
            RawRetryOn::Text(text) => text.clone(),
        };
        match text.as_str() {
            "connect-failure" => self.connect_failure = true,
            "reset" => self.reset = true,
            "timeout" => self.timeout = true,
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                self.statuses.push(statuses(&text)?);
            }
            _ => {
                let near = did_you_mean(&text, WORDS);
                let near = near.map(|near| format!("; did you mean \"{near}\"?"));
                return Err((
                    format!("\"{text}\" is nothing that can be tried again{}", near.unwrap_or_default()),
                    "write \"connect-failure\", \"reset\", \"timeout\", or a status such as 503 or \"500-504\"".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

/// A status, or a range of them.
fn statuses(text: &str) -> Result<(u16, u16), (String, String)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = low.trim().parse::<u16>().ok().zip(high.trim().parse::<u16>().ok());
    range.filter(|(low, high)| *low >= 400 && low <= high && *high <= 599).ok_or_else(|| {
        (
            format!("{text} is no status of a failure, nor a range of them"),
            "a status from 400 to 599, such as 503 or \"500-504\"".to_owned(),
        )
    })
}

impl RawRetries {
    /// This one's keys, then `base`'s.
    pub fn or(&self, base: &Self) -> Self {
        Self {
            tries: self.tries.or(base.tries),
            on: self.on.clone().or_else(|| base.on.clone()),
            methods: self.methods.clone().or_else(|| base.methods.clone()),
            per_try_timeout: self.per_try_timeout.or(base.per_try_timeout),
            backoff: self.backoff.or(base.backoff),
            max_backoff: self.max_backoff.or(base.max_backoff),
            budget: match (self.budget, base.budget) {
                (Some(mine), Some(theirs)) => Some(RawRetryBudget {
                    share: mine.share.or(theirs.share),
                    floor: mine.floor.or(theirs.floor),
                }),
                (mine, theirs) => mine.or(theirs),
            },
        }
    }

    /// This one's values, then `base`'s. What [`Self::check`] reports is left out.
    pub fn over(&self, base: &Retries) -> Retries {
        let duration = |written: Option<HumanDuration>, base| written.map_or(base, |d| d.0);
        let on = self.on.as_ref().map(|list| {
            let mut on = RetryOn::default();
            for written in list {
                drop(on.add(written));
            }
            Arc::new(on)
        });
        let methods = self.methods.as_ref().map(|list| {
            list.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
        });
        let budget = self.budget.unwrap_or_default();
        Retries {
            tries: self.tries.map_or(base.tries, |tries| tries.get().min(MAX_TRIES)),
            per_try_timeout: self.per_try_timeout.map(|d| d.0).or(base.per_try_timeout),
            budget: RetryBudgetConfig {
                share: budget.share.unwrap_or(base.budget.share),
                floor: budget.floor.unwrap_or(base.budget.floor),
            },
            on: on.or_else(|| base.on.clone()),
            methods: methods.or_else(|| base.methods.clone()),
            backoff: duration(self.backoff, base.backoff),
            max_backoff: duration(self.max_backoff, base.max_backoff),
        }
    }

    /// Reports what is wrong with the keys.
    pub fn check(&self, path: &KeyPath, problems: &mut Problems) {
        if let Some(tries) = self.tries.filter(|tries| tries.get() > MAX_TRIES) {
            problems.error(
                &path.key("tries"),
                format!("{tries} tries are too many; at most {MAX_TRIES}"),
            );
        }
        for (i, written) in self.on.iter().flatten().enumerate() {
            if let Err((message, help)) = RetryOn::default().add(written) {
                problems.error(&path.key("on").index(i), message).help(help);
            }
        }
        for (i, name) in self.methods.iter().flatten().enumerate() {
            let is_method = Method::from_bytes(name.as_bytes()).is_ok();
            if !is_method || name.bytes().any(|byte| byte.is_ascii_lowercase()) {
                problems
                    .error(&path.key("methods").index(i), format!("\"{name}\" is not a method"))
                    .help("methods are upper case: \"GET\"");
            }
        }
        if self.per_try_timeout.is_some_and(|d| d.0.is_zero()) {
            problems
                .error(&path.key("per_try_timeout"), "a timeout of zero would end every try")
                .help("leave the key out for none");
        }
        for (key, pause) in [("backoff", self.backoff), ("max_backoff", self.max_backoff)] {
            if pause.is_some_and(|pause| pause.0 > LONGEST_PAUSE) {
                problems.error(&path.key(key), "a client waits through the pause; at most 10s");
            }
        }
        if let (Some(backoff), Some(max)) = (self.backoff, self.max_backoff)
            && backoff > max
        {
            problems
                .error(&path.key("backoff"), format!("{backoff} is over `max_backoff`, {max}"))
                .related(path.key("max_backoff"), "set here");
        }
    }

    /// Reports keys that a route can't have.
    pub fn check_on_route(&self, path: &KeyPath, problems: &mut Problems) {
        self.check(path, problems);
        if self.budget.is_some() {
            problems
                .error(&path.key("budget"), "all routes of an upstream share its budget of retries")
                .at_key()
                .help("write it on the upstream: `retries = { budget = { share = \"20%\" } }`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> RawRetries {
        toml::from_str(text).unwrap()
    }

    fn parse(text: &str) -> Retries {
        let raw = raw(text);
        let mut problems = Problems::new();
        raw.check(&KeyPath::root(), &mut problems);
        assert!(!problems.has_errors(), "{text}: {problems:?}");
        raw.over(&Retries::default())
    }

    #[test]
    fn what_is_tried_again() {
        // connect-failure, reset, timeout, 500, 503, 504
        for (text, expected) in [
            ("", [true, true, false, false, false, false]),
            ("per_try_timeout = \"1s\"", [true, true, true, false, false, false]),
            ("on = []", [false; 6]),
            (
                "on = [\"reset\"]\nper_try_timeout = \"1s\"",
                [false, true, false, false, false, false],
            ),
            ("on = [\"timeout\", 503]", [false, false, true, false, true, false]),
            ("on = [\"503\", \"connect-failure\"]", [true, false, false, false, true, false]),
            ("on = [\"500-503\"]", [false, false, false, true, true, false]),
        ] {
            let retries = parse(text);
            let on = retries.on();
            let takes = |code| retries.refuses(StatusCode::from_u16(code).unwrap());
            let found =
                [on.connect_failure, on.reset, on.timeout, takes(500), takes(503), takes(504)];
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_routes_keys_go_before_the_upstreams() {
        let upstream = parse("tries = 3\non = [503]\nmethods = [\"GET\"]\nbackoff = \"1ms\"");
        let route = raw("methods = [\"POST\"]\nper_try_timeout = \"1s\"").over(&upstream);
        assert_eq!((route.tries, route.backoff), (3, Duration::from_millis(1)));
        assert!(route.repeats(&Method::POST) && !route.repeats(&Method::GET));
        assert!(!route.on().timeout, "the upstream says what is tried again");
        assert!(raw("per_try_timeout = \"1s\"").over(&parse("")).on().timeout);
        let merged = raw("budget = { share = \"1%\" }").or(&raw("budget = { floor = \"9/s\" }"));
        let budget = merged.over(&Retries::default()).budget;
        assert_eq!((budget.share, budget.floor), (Percent::whole(1), Rate::per_second(9)));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (text, at, message) in [
            ("tries = 5", "tries", "too many"),
            ("on = [\"resett\"]", "on[0]", "did you mean \"reset\"?"),
            ("on = [200]", "on[0]", "no status of a failure"),
            ("on = [\"504-500\"]", "on[0]", "no status of a failure"),
            ("on = [\"500-\"]", "on[0]", "no status of a failure"),
            ("methods = [\"get\"]", "methods[0]", "not a method"),
            ("per_try_timeout = \"0s\"", "per_try_timeout", "zero"),
            ("backoff = \"11s\"", "backoff", "at most 10s"),
            ("backoff = \"2s\"\nmax_backoff = \"1s\"", "backoff", "over `max_backoff`"),
        ] {
            let mut problems = Problems::new();
            raw(text).check(&KeyPath::root(), &mut problems);
            let problem = problems.iter().next().unwrap();
            assert_eq!(problem.path.to_string(), at, "{text}");
            assert!(problem.message.contains(message), "{text}: {}", problem.message);
        }
        let mut problems = Problems::new();
        raw("budget = {}").check_on_route(&KeyPath::root(), &mut problems);
        assert!(problems.has_errors());
    }
}
