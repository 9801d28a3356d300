//! `[rollouts.<name>]` parsed: a plan, or what is wrong with it.

use http::HeaderName;

use super::{
    plan::{AnalysisConfig, BlueGreen, Canary, Failures, Forced, RolloutConfig, Sticky, Strategy},
    raw::{
        RawAnalysis, RawBlueGreen, RawFailures, RawRollout, RawRolloutSticky, RawStickyWord, RawWho,
    },
    steps,
};
use crate::{
    policy::{Conditions, WrittenConditions},
    types::{GRPC_STATUSES, KeyPath, Name, Problems, RawStickyCookie, defaults, did_you_mean},
    upstream::RawStatuses,
};

impl RawRollout {
    /// Parses it; `None` where it has no stable. That its upstreams exist is checked elsewhere.
    pub fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<RolloutConfig> {
        let Some(stable) = self.stable.clone() else {
            problems
                .error(path, "the rollout has no stable upstream")
                .at_key()
                .help("add `stable = \"…\"`: the upstream that serves now");
            return None;
        };
        if self.candidate.as_ref() == Some(&stable) {
            problems
                .error(
                    &path.key("candidate"),
                    format!("stable and candidate are both \"{stable}\""),
                )
                .help("name the upstream with the new version, or leave `candidate` out")
                .related(path.key("stable"), "the stable");
        }
        let strategy = self.parse_strategy(&stable, path, problems);
        let is_blue_green = matches!(strategy, Strategy::BlueGreen(_));
        if self.candidate.is_some() && self.revision.is_none() && !is_blue_green {
            problems
                .error(path, "nothing names this attempt")
                .at_key()
                .help("add `revision = \"…\"`: what was rolled back stays at 0 until it changes");
        }
        let who = |key: &str, list: &[RawWho], problems: &mut Problems| {
            let path = path.key(key);
            list.iter().enumerate().map(|(i, who)| who.parse(&path.index(i), problems)).collect()
        };
        Some(RolloutConfig {
            name: name.clone(),
            path: path.clone(),
            stable,
            candidate: self.candidate.clone(),
            revision: self.revision.clone(),
            stable_min_endpoints: self.stable_min_endpoints.map_or(1, Into::into),
            sticky: self.parse_sticky(name, &path.key("sticky"), problems),
            forced: Forced {
                always: who("always", &self.always, problems),
                never: who("never", &self.never, problems),
            },
            schedule: self
                .schedule
                .as_ref()
                .and_then(|schedule| schedule.parse(&path.key("schedule"), problems)),
            failures: self.failures.parse(&path.key("failures"), problems),
            preflight: self.preflight.parse(&path.key("preflight"), problems),
            analysis: self.parse_analysis(path, problems),
            checks: self
                .analysis
                .checks
                .iter()
                .filter_map(|(name, check)| {
                    let at = path.key("analysis").key("checks").key(name);
                    check.parse(name, &at, problems)
                })
                .collect(),
            strategy,
        })
    }

    fn parse_analysis(&self, path: &KeyPath, problems: &mut Problems) -> AnalysisConfig {
        let mut analysis = self.analysis.parse(&path.key("analysis"), problems);
        let is_sticky = !matches!(self.sticky, None | Some(RawRolloutSticky::Switch(false)));
        if is_sticky && self.analysis.max_client_failures.is_none() {
            // Clients are dealt then, and not requests: several failures of one would count as that many chances, and a client
            // may leave its cookie until it has the side that it wants.
            analysis.max_client_failures = 1;
        }
        analysis
    }

    fn parse_strategy(&self, stable: &Name, path: &KeyPath, problems: &mut Problems) -> Strategy {
        let written = [
            ("canary", self.canary.is_some()),
            ("blue-green", self.blue_green.is_some()),
            ("mirror", self.mirror.is_some()),
        ];
        let mut written = written.into_iter().filter_map(|(key, is_there)| is_there.then_some(key));
        if let (Some(first), Some(second)) = (written.next(), written.next()) {
            let problem = problems
                .error(&path.key(second), format!("the rollout has both `{first}` and `{second}`"))
                .at_key();
            let help = if second == "mirror" && first == "canary" {
                "keep one of them; a canary that comes after the mirror is written in it: `mirror = { canary = { … } }`"
            } else {
                "keep one of them"
            };
            problem.help(help).related(path.key(first), "and here");
        }
        if let Some(mirror) = &self.mirror {
            return Strategy::Mirror(mirror.parse(&path.key("mirror"), problems));
        }
        if let Some(blue_green) = &self.blue_green {
            let path = path.key("blue-green");
            return self.parse_blue_green(blue_green, stable, &path, problems);
        }
        let canary = self.canary.clone().unwrap_or_default();
        let at = path.key("canary").key("steps");
        Strategy::Canary(Canary {
            steps: steps::parse(canary.steps.as_deref(), &at, problems),
            finish: canary.finish.unwrap_or_default(),
        })
    }

    fn parse_blue_green(
        &self,
        raw: &RawBlueGreen,
        stable: &Name,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Strategy {
        let sides = [Some(stable), self.candidate.as_ref()];
        let live = raw.live.clone().unwrap_or_else(|| stable.clone());
        if !sides.contains(&Some(&live)) {
            let names: Vec<String> =
                sides.iter().flatten().map(|name| format!("\"{name}\"")).collect();
            problems
                .error(&path.key("live"), format!("\"{live}\" is not one of the two upstreams"))
                .help(format!("write {}", names.join(" or ")));
        }
        let all = "one side has all requests";
        let no_steps = "there are no steps";
        for (key, is_set, why) in [
            ("sticky", self.sticky.is_some(), all),
            ("always", !self.always.is_empty(), all),
            ("never", !self.never.is_empty(), all),
            ("schedule", self.schedule.is_some(), no_steps),
            ("stable_min_endpoints", self.stable_min_endpoints.is_some(), no_steps),
        ] {
            if is_set {
                let rollout = path.parent().cloned().unwrap_or_else(KeyPath::root);
                problems
                    .error(&rollout.key(key), format!("`{key}` is of no use in blue-green: {why}"))
                    .at_key()
                    .help("leave it out, or use `canary`");
            }
        }
        let watch = raw.watch.unwrap_or(defaults::BLUE_GREEN_WATCH).0;
        Strategy::BlueGreen(BlueGreen { live, watch })
    }

    fn parse_sticky(&self, name: &Name, path: &KeyPath, problems: &mut Problems) -> Option<Sticky> {
        let cookie = |table: RawStickyCookie, path: &KeyPath, problems: &mut Problems| {
            Some(Sticky::Cookie(table.parse(path, problems)))
        };
        match self.sticky.as_ref()? {
            RawRolloutSticky::Switch(false) => None,
            RawRolloutSticky::Switch(true) => {
                problems
                    .error(path, "what tells clients apart?")
                    .help("write `sticky = \"cookie\"` or `sticky = \"client-address\"`");
                None
            }
            RawRolloutSticky::Word(RawStickyWord::ClientAddress) => Some(Sticky::ClientAddress),
            RawRolloutSticky::Word(RawStickyWord::Cookie) => {
                let table =
                    RawStickyCookie { cookie: format!("tidegate-{name}"), ..Default::default() };
                cookie(table, path, problems)
            }
            RawRolloutSticky::Table(table) => {
                if table.claim.is_some() {
                    problems
                        .error(
                            &path.key("claim"),
                            "claims of tokens can't tell clients apart yet: they come with the policy `jwt`",
                        )
                        .at_key()
                        .help("use a cookie, a header or the client's address");
                    return None;
                }
                match (&table.cookie, &table.header) {
                    (Some(table), None) => cookie(table.clone(), &path.key("cookie"), problems),
                    (None, Some(header)) => {
                        let parsed = HeaderName::from_bytes(header.as_bytes());
                        if parsed.is_err() {
                            let problem = format!("\"{header}\" is not a header name");
                            problems.error(&path.key("header"), problem);
                        }
                        parsed.ok().map(Sticky::Header)
                    }
                    _ => {
                        problems
                            .error(path, "a client is known by one thing: `cookie` or `header`")
                            .help("write one of them, or `sticky = \"client-address\"`");
                        None
                    }
                }
            }
        }
    }
}

impl RawWho {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Conditions {
        if self.claims.is_some() {
            problems
                .error(
                    &path.key("claims"),
                    "claims of tokens can't choose a version yet: they come with the policy `jwt`",
                )
                .at_key()
                .help("use `headers`, `cookies`, `query` or `client_address`");
        }
        let written = WrittenConditions {
            methods: None,
            headers: &self.headers,
            query: &self.query,
            cookies: &self.cookies,
            client_address: self.client_address.as_deref(),
        };
        let conditions = Conditions::parse(&written, path, problems);
        let is_empty = self.headers.is_empty() && self.cookies.is_empty() && self.query.is_empty();
        if is_empty && self.claims.is_none() && self.client_address.is_none() {
            problems
                .error(path, "this names nobody")
                .help("write a condition, such as `headers = { X-Canary = \"yes\" }`");
        }
        conditions
    }
}

impl RawFailures {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Failures {
        let mut statuses = Vec::new();
        match &self.statuses {
            None => statuses.push((500, 599)),
            Some(RawStatuses::List(list)) if list.is_empty() => {}
            Some(raw) => raw.parse_into(&path.key("statuses"), &mut statuses, problems),
        }
        let mut grpc = 0;
        for (i, word) in self.grpc.iter().enumerate() {
            let at = path.key("grpc").index(i);
            match GRPC_STATUSES.iter().position(|status| status == word) {
                Some(0) => {
                    problems.error(&at, "\"OK\" is no failure");
                }
                Some(number) => grpc |= 1 << number,
                None => {
                    let message = format!("there is no gRPC status \"{word}\"");
                    match did_you_mean(word, GRPC_STATUSES.iter().copied()) {
                        Some(near) => {
                            problems.error(&at, format!("{message}; did you mean \"{near}\"?"));
                        }
                        None => {
                            problems
                                .error(&at, message)
                                .help("write a name such as \"UNAVAILABLE\"");
                        }
                    }
                }
            }
        }
        if self.slower_than.is_some_and(|most| most.0.is_zero()) {
            problems.error(&path.key("slower_than"), "every answer is slower than that");
        }
        Failures { statuses, grpc, slower_than: self.slower_than.map(|most| most.0) }
    }
}

impl RawAnalysis {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> AnalysisConfig {
        let share = |percent: crate::types::Percent| f64::from(percent.millionths()) / 1e6;
        let config = AnalysisConfig {
            confidence: self.confidence.unwrap_or(defaults::ROLLOUT_CONFIDENCE),
            max_error_increase: self.max_error_increase.map_or(defaults::MAX_ERROR_INCREASE, share),
            max_latency_increase: self
                .max_latency_increase
                .map_or(defaults::MAX_LATENCY_INCREASE, share),
            max_client_failures: self
                .max_client_failures
                .unwrap_or(defaults::MAX_CLIENT_FAILURES)
                .get(),
        };
        if let Err(error) = config.settings(1) {
            use super::analysis::SettingsError as E;
            let key = match error {
                E::Confidence => "confidence",
                E::Tolerance if config.max_error_increase >= 1.0 => "max_error_increase",
                E::Tolerance | E::Strata => "max_latency_increase",
            };
            problems.error(&path.key(key), error.to_string());
        }
        config
    }
}
