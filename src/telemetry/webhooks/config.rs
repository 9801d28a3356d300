//! `[webhooks.<name>]`: as written, and parsed.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EventKind;
use crate::types::{
    HttpUrl, HttpUrlError, HumanDuration, KeyPath, Name, Problems, SECRET_IN_PLACE, SecretSource,
    defaults, deserialize_by_form,
};

/// As long as the longest pause between tries.
const LONGEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(300);

/// A webhook: where events of rollouts are told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawWebhook {
    /// Where to: a URL of http or https, or where it is read from, since many such URLs are secrets. Read anew for each try.
    pub url: Option<RawWebhookUrl>,
    /// What requests are signed with (Standard Webhooks): bytes as they are, or `whsec_` and base64. Read anew for each try. Without it they
    /// are not signed.
    pub secret: Option<SecretSource>,
    /// `json`, or `slack`: `{"text": "…"}`, which Mattermost and others take too.
    #[schemars(extend("default" = "json"))]
    pub format: Option<WebhookFormat>,
    /// Which events are told. Default: all.
    pub events: Option<Vec<EventKind>>,
    /// One try, from the look-up of the name to the answer's head. At most five minutes.
    #[schemars(extend("default" = defaults::WEBHOOK_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
    /// A PEM file with authorities that are trusted beside the system's.
    pub ca: Option<PathBuf>,
}

/// `url` of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawWebhookUrl {
    /// The URL itself.
    Plain(String),
    /// Where it is read from.
    Secret(SecretSource),
}

deserialize_by_form!(
    RawWebhookUrl,
    "a URL such as \"https://host/path\", or { env = \"NAME\" } or { file = \"/path\" }",
    { text => Plain, table => Secret }
);

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// All of it, as one JSON object.
    #[default]
    Json,
    /// Its sentence, as Slack takes it.
    Slack,
}

/// A webhook, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Its name.
    pub name: Name,
    /// Where to.
    pub url: WebhookUrl,
    /// What requests are signed with.
    pub secret: Option<SecretSource>,
    /// How an event is written.
    pub format: WebhookFormat,
    /// Which events are told; `None` is all.
    pub events: Option<Vec<EventKind>>,
    /// One try.
    pub timeout: Duration,
    /// Authorities beside the system's.
    pub ca: Option<PathBuf>,
}

/// Where a webhook's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookUrl {
    /// There.
    Plain(HttpUrl),
    /// To where this says.
    Secret(SecretSource),
}

impl WebhookConfig {
    /// Whether an event of this kind is told.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.events.as_ref().is_none_or(|events| events.contains(&kind))
    }
}

impl RawWebhook {
    /// Fills in the defaults. There is none where the URL is wrong, which is reported.
    pub fn parse(
        &self,
        name: &Name,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<WebhookConfig> {
        let at = path.key("url");
        let url = match &self.url {
            None => {
                problems.error(path, "the webhook has no URL").at_key().help(
                    "add `url = \"https://…\"`, or `url = { file = \"/run/secrets/…\" }` where it is a secret",
                );
                None
            }
            Some(RawWebhookUrl::Secret(source)) => Some(WebhookUrl::Secret(source.clone())),
            Some(RawWebhookUrl::Plain(text)) => match text.parse() {
                Ok(url) => Some(WebhookUrl::Plain(url)),
                Err(HttpUrlError::Credentials) => {
                    problems
                        .error(&at, SECRET_IN_PLACE)
                        .help("leave the credentials out, and sign with `secret`");
                    None
                }
                Err(error) => {
                    problems.error(&at, format!("no request can be sent there: {error}"));
                    None
                }
            },
        };
        if self.events.as_ref().is_some_and(Vec::is_empty) {
            problems
                .error(&path.key("events"), "a webhook without events is never told anything")
                .help("leave it out for all events");
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            problems.error(&path.key("timeout"), "no try can end within no time");
        }
        if self.timeout.is_some_and(|timeout| timeout.0 > LONGEST_TIMEOUT.0) {
            problems.error(
                &path.key("timeout"),
                format!(
                    "a try that takes longer than {LONGEST_TIMEOUT} holds up the events behind it"
                ),
            );
        }
        Some(WebhookConfig {
            name: name.clone(),
            url: url?,
            secret: self.secret.clone(),
            format: self.format.unwrap_or_default(),
            events: self.events.clone(),
            timeout: self.timeout.unwrap_or(defaults::WEBHOOK_TIMEOUT).0,
            ca: self.ca.clone(),
        })
    }
}
