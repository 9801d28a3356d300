//! What is told, and how it is written.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::WebhookFormat;
use crate::{telemetry::time::rfc3339, types::Name};

/// What happened.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A rollout has begun.
    Started,
    /// The candidate's share has changed.
    Step,
    /// It waits, because the verdict is not clear or a check does not pass.
    Held,
    /// Somebody stopped it for a while.
    Paused,
    /// And let it go on.
    Resumed,
    /// All steps are done, or a switch has been watched to its end.
    Ready,
    /// The candidate was taken back, because it is worse.
    RolledBack,
    /// Blue and green have changed places.
    Switched,
    /// The candidate has become the stable.
    Promoted,
    /// Somebody ended it; the stable has all requests.
    Aborted,
    /// A side has no healthy endpoint: the other one has its requests.
    SideDown,
    /// It has some again.
    SideUp,
    /// The judgement began anew: the configuration has changed what it is about.
    NewWindow,
    /// Somebody asked whether the webhook works. It is told whatever `events` says.
    #[serde(skip_deserializing)]
    #[schemars(skip)]
    Test,
}

impl EventKind {
    /// What happens to rollouts.
    pub const OF_ROLLOUTS: [Self; 13] = [
        Self::Started,
        Self::Step,
        Self::Held,
        Self::Paused,
        Self::Resumed,
        Self::Ready,
        Self::RolledBack,
        Self::Switched,
        Self::Promoted,
        Self::Aborted,
        Self::SideDown,
        Self::SideUp,
        Self::NewWindow,
    ];

    /// Whether somebody should look.
    pub const fn is_alarm(self) -> bool {
        matches!(self, Self::RolledBack | Self::SideDown)
    }

    /// The word in configurations and bodies.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Step => "step",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Ready => "ready",
            Self::RolledBack => "rolled_back",
            Self::Switched => "switched",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
            Self::SideDown => "side_down",
            Self::SideUp => "side_up",
            Self::NewWindow => "new_window",
            Self::Test => "test",
        }
    }
}

/// Something that people want to know of at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unlike that of any other event; the same in every try and for every webhook.
    pub id: String,
    /// When it happened.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
    /// To what: the rollout.
    pub subject: Name,
    /// One sentence for people.
    pub text: String,
    /// Facts for machines. Never a secret.
    pub data: Value,
}

impl Event {
    /// An event of now, with an id of its own.
    pub fn new(kind: EventKind, subject: Name, text: impl Into<String>, data: Value) -> Self {
        let id = format!("evt_{:032x}", fastrand::u128(..));
        Self { id, at: SystemTime::now(), kind, subject, text: text.into(), data }
    }

    /// The body of the request that tells it.
    pub(super) fn body(&self, format: WebhookFormat) -> Vec<u8> {
        /// In the order in which it is read by people.
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: &'static str,
            timestamp: String,
            id: &'a str,
            subject: &'a str,
            text: &'a str,
            data: &'a Value,
        }
        let body = match format {
            WebhookFormat::Json => serde_json::to_vec(&Body {
                r#type: self.kind.word(),
                timestamp: rfc3339(self.at),
                id: &self.id,
                subject: &self.subject,
                text: &self.text,
                data: &self.data,
            }),
            WebhookFormat::Slack => serde_json::to_vec(&json!({ "text": escaped(&self.text) })),
        };
        // Only a map with keys that are no text can fail, and there is none.
        body.unwrap_or_default()
    }
}

/// The three characters that Slack gives a meaning to
/// (<https://docs.slack.dev/messaging/formatting-message-text/#escaping>).
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn event() -> Event {
        Event {
            id: "evt_1".to_owned(),
            at: UNIX_EPOCH + Duration::from_millis(1_500),
            kind: EventKind::RolledBack,
            subject: "shop-api".parse().unwrap(),
            text: "shop-api: 5 % > 0.1 % & <@here>".to_owned(),
            data: json!({ "weight": 0 }),
        }
    }

    #[test]
    fn an_event_is_written_for_machines_and_for_slack() {
        let text = |format| String::from_utf8(event().body(format)).unwrap();
        assert_eq!(
            text(WebhookFormat::Json),
            r#"{"type":"rolled_back","timestamp":"1970-01-01T00:00:01.500Z","id":"evt_1","subject":"shop-api","text":"shop-api: 5 % > 0.1 % & <@here>","data":{"weight":0}}"#
        );
        assert_eq!(
            text(WebhookFormat::Slack),
            r#"{"text":"shop-api: 5 % &gt; 0.1 % &amp; &lt;@here&gt;"}"#
        );
    }

    #[test]
    fn the_word_of_an_event_is_the_one_of_the_configuration() {
        let kinds = EventKind::OF_ROLLOUTS.into_iter().chain([EventKind::Test]);
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn each_event_has_an_id_of_its_own() {
        let new = || Event::new(EventKind::Test, "a".parse().unwrap(), "text", Value::Null).id;
        assert_ne!(new(), new());
        assert_eq!(new().len(), "evt_".len() + 32);
    }
}
