//! Policy `fault`: delays, aborts and slows some requests on purpose, until a stated time, to see what breaks.
//!
//! Place: early in the chain, before who asks is known, so that an exercise also hits what comes after. Each fault draws
//! for itself. The slow body is only decided here; `proxy/relay.rs` keeps to it, for answers of endpoints.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Conditions, Denied, Flow, Policy, PolicyContext, RawValueMatch, RequestHead, RequestView, Step,
    WrittenConditions,
};
use crate::{
    telemetry::metrics::InjectedFault,
    types::{ByteSize, Cidr, HumanDuration, KeyPath, Percent, Problems},
};

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_mins(5);

/// `fault`, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawFault {
    /// When it ends, as in `"2026-12-01T18:00:00Z"`. Required: an exercise that nobody ends is an outage.
    pub until: Option<String>,
    /// Which requests; every condition must hold. Default: all of the route.
    pub r#match: Option<RawFaultMatch>,
    /// Keeps requests waiting before they go on.
    pub delay: Option<RawFaultDelay>,
    /// Answers requests with a status instead of sending them on.
    pub abort: Option<RawFaultAbort>,
    /// Sends the bodies of endpoints' answers slowly.
    pub slow_body: Option<RawFaultSlowBody>,
}

/// Which requests have faults, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawFaultMatch {
    /// Methods, such as `["GET", "HEAD"]`.
    pub methods: Option<Vec<String>>,
    /// Headers that must be there: `true`, or the value that one of them must have.
    pub headers: BTreeMap<String, RawValueMatch>,
    /// Query parameters that must be there: `true`, or the value (after percent-decoding).
    pub query: BTreeMap<String, RawValueMatch>,
    /// Cookies that must be there: `true`, or the value.
    pub cookies: BTreeMap<String, RawValueMatch>,
    /// Networks that the client's address must be in.
    pub client_address: Option<Vec<Cidr>>,
}

/// A delay, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFaultDelay {
    /// The share of the requests.
    pub share: Percent,
    /// How long; at most 5 minutes.
    pub time: HumanDuration,
}

/// An abort, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFaultAbort {
    /// The share of the requests.
    pub share: Percent,
    /// The status of the answer, 400 to 599.
    #[serde(default)]
    #[schemars(extend("default" = 503))]
    pub status: Option<u16>,
}

/// A slow body, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFaultSlowBody {
    /// The share of the requests.
    pub share: Percent,
    /// Bytes a second.
    pub rate: ByteSize,
}

/// `fault`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultConfig {
    until: SystemTime,
    conditions: Conditions,
    delay: Option<(Percent, Duration)>,
    abort: Option<(Percent, StatusCode)>,
    slow_body: Option<(Percent, u64)>,
}

impl RawFault {
    /// Parses it; `None` where something is wrong.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<FaultConfig> {
        let until = self.parse_until(path, problems);
        if self.delay.is_none() && self.abort.is_none() && self.slow_body.is_none() {
            problems
                .error(path, "the fault policy does nothing")
                .help("add `delay`, `abort` or `slow_body`");
        }
        let written = self.r#match.clone().unwrap_or_default();
        let conditions = Conditions::parse(
            &WrittenConditions {
                methods: written.methods.as_deref(),
                headers: &written.headers,
                query: &written.query,
                cookies: &written.cookies,
                client_address: written.client_address.as_deref(),
            },
            &path.key("match"),
            problems,
        );
        if self.delay.is_some_and(|delay| delay.time.0 > MAX_DELAY) {
            problems
                .error(&path.key("delay").key("time"), "a delay is at most 5 minutes")
                .help("each delayed request holds its connection");
        }
        let abort = self.abort.map(|abort| {
            let code = abort.status.unwrap_or(503);
            let status = StatusCode::from_u16(code)
                .ok()
                .filter(|status| status.is_client_error() || status.is_server_error());
            if status.is_none() {
                problems
                    .error(
                        &path.key("abort").key("status"),
                        format!("{code} is not the status of an error"),
                    )
                    .help("a status is a number from 400 to 599");
            }
            (abort.share, status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE))
        });
        if self.slow_body.is_some_and(|slow| slow.rate.0 == 0) {
            problems.error(
                &path.key("slow_body").key("rate"),
                "at no bytes a second an answer would never end",
            );
        }
        Some(FaultConfig {
            until: until?,
            conditions,
            delay: self.delay.map(|delay| (delay.share, delay.time.0)),
            abort,
            slow_body: self.slow_body.map(|slow| (slow.share, slow.rate.0)),
        })
    }

    fn parse_until(&self, path: &KeyPath, problems: &mut Problems) -> Option<SystemTime> {
        let Some(text) = &self.until else {
            problems
                .error(path, "faults on purpose need an end")
                .at_key()
                .help("add `until = \"2026-12-01T18:00:00Z\"`");
            return None;
        };
        let at = path.key("until");
        let Ok(time) = text.parse::<Timestamp>() else {
            problems
                .error(&at, format!("\"{text}\" is not a point in time"))
                .help("write it as RFC 3339 has it, with its offset: \"2026-12-01T18:00:00Z\"");
            return None;
        };
        let time = SystemTime::from(time);
        if time <= SystemTime::now() {
            problems
                .warning(&at, "this exercise is over; the policy does nothing")
                .help("take the policy out, or set another end");
        }
        Some(time)
    }
}

/// The policy.
#[derive(Debug)]
pub struct Fault {
    config: FaultConfig,
}

impl Fault {
    /// A policy of this configuration.
    pub fn new(config: FaultConfig) -> Self {
        Self { config }
    }

    /// What happens to a request: pure but for `draw`, which says of a share whether the request is in it.
    fn decide(
        &self,
        request: &RequestView<'_>,
        now: SystemTime,
        mut draw: impl FnMut(Percent) -> bool,
    ) -> Decision {
        let config = &self.config;
        let conditions = &config.conditions;
        if now >= config.until
            || !conditions.take_method(request.method)
            || !conditions.hold_but_for_method(request)
        {
            return Decision::default();
        }
        Decision {
            delay: config.delay.filter(|(share, _)| draw(*share)).map(|(_, time)| time),
            abort: config.abort.filter(|(share, _)| draw(*share)).map(|(_, status)| status),
            slow_body: config.slow_body.filter(|(share, _)| draw(*share)).map(|(_, rate)| rate),
        }
    }
}

/// What happens to one request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decision {
    delay: Option<Duration>,
    abort: Option<StatusCode>,
    slow_body: Option<u64>,
}

impl Policy for Fault {
    fn on_request<'a>(
        &'a self,
        request: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        let view = request.view(context.client);
        let draw =
            |share: Percent| fastrand::u32(0..Percent::ALL.millionths()) < share.millionths();
        let decision = self.decide(&view, SystemTime::now(), draw);
        let answer = if let Some(status) = decision.abort {
            context.faults.push(InjectedFault::Abort);
            Err(Denied { status, reason: "fault", retry_after: None })
        } else {
            if let Some(rate) = decision.slow_body {
                context.faults.push(InjectedFault::SlowBody);
                context.body_rate = Some(rate);
            }
            Ok(Flow::Continue)
        };
        let Some(time) = decision.delay else { return Step::Now(answer) };
        context.faults.push(InjectedFault::Delay);
        Step::Later(Box::pin(async move {
            tokio::time::sleep(time).await;
            answer
        }))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    fn policy(text: &str) -> Fault {
        let mut problems = Problems::new();
        let raw: RawFault = toml::from_str(text).unwrap();
        let config = raw.parse(&KeyPath::root(), &mut problems).unwrap();
        assert!(!problems.has_errors(), "{problems:?}");
        Fault::new(config)
    }

    #[test]
    fn faults_hit_what_matches_until_their_end() {
        let fault = policy(
            r#"
            until = "2100-01-01T00:00:00+02:00"
            match = { methods = ["GET"], headers = { x-drill = "yes" } }
            delay = { share = "10%", time = "2s" }
            abort = { share = "5%" }
            slow_body = { share = "1%", rate = "1KiB" }
            "#,
        );
        let end = SystemTime::from("2099-12-31T22:00:00Z".parse::<Timestamp>().unwrap());
        let mut headers = HeaderMap::new();
        let mut decide = |method: &Method, marked: bool, now, shares: &mut Vec<String>| {
            headers.clear();
            if marked {
                headers.insert("x-drill", HeaderValue::from_static("yes"));
            }
            let request =
                RequestView { method, path: "/", query: None, headers: &headers, client: None };
            fault.decide(&request, now, |share| {
                shares.push(share.to_string());
                true
            })
        };
        let before = end - Duration::from_millis(1);
        let mut shares = Vec::new();
        let all = decide(&Method::GET, true, before, &mut shares);
        assert_eq!(
            all,
            Decision {
                delay: Some(Duration::from_secs(2)),
                abort: Some(StatusCode::SERVICE_UNAVAILABLE),
                slow_body: Some(1_024),
            }
        );
        assert_eq!(shares, ["10%", "5%", "1%"], "each draws for itself");
        for (method, marked, now) in
            [(Method::POST, true, before), (Method::GET, false, before), (Method::GET, true, end)]
        {
            let mut shares = Vec::new();
            assert_eq!(decide(&method, marked, now, &mut shares), Decision::default());
            assert!(shares.is_empty());
        }
    }

    #[test]
    fn without_an_end_or_with_nonsense_it_is_refused() {
        for (text, message) in [
            ("delay = { share = \"1%\", time = \"1s\" }", "need an end"),
            ("until = \"tomorrow\"\nabort = { share = \"1%\" }", "not a point in time"),
            ("until = \"2100-01-01T00:00:00Z\"", "does nothing"),
            (
                "until = \"2100-01-01T00:00:00Z\"\nabort = { share = \"1%\", status = 200 }",
                "200 is not",
            ),
            (
                "until = \"2100-01-01T00:00:00Z\"\ndelay = { share = \"1%\", time = \"1h\" }",
                "5 minutes",
            ),
            (
                "until = \"2100-01-01T00:00:00Z\"\nslow_body = { share = \"1%\", rate = \"0B\" }",
                "never end",
            ),
        ] {
            let mut problems = Problems::new();
            let raw: RawFault = toml::from_str(text).unwrap();
            raw.parse(&KeyPath::root(), &mut problems);
            assert!(problems.has_errors(), "{text}");
            assert!(
                problems.into_iter().any(|problem| problem.message.contains(message)),
                "{text}"
            );
        }
        let mut problems = Problems::new();
        let past = "until = \"2020-01-01T00:00:00Z\"\nabort = { share = \"1%\" }";
        toml::from_str::<RawFault>(past).unwrap().parse(&KeyPath::root(), &mut problems);
        assert!(!problems.has_errors() && !problems.is_empty(), "a warning");
    }
}
