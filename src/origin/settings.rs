//! What the demo origin does to requests: latency, jitter, error rate, health. Set at the start, changed while it runs.

use std::{fmt, str::FromStr, time::Duration};

use http::StatusCode;
use serde::{Serialize, Serializer};

use crate::types::HumanDuration;

/// The longest latency, jitter or `/slow` that is taken, so that a mistyped value does not look like a dead server.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// A share of requests: `"5%"`, `"0.5%"`. 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// Whether `roll`, a number from 0 (included) to 1 (excluded), falls into the share.
    pub fn takes(self, roll: f64) -> bool {
        roll * 100.0 < self.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim();
        let number = number.strip_suffix('%').unwrap_or(number).trim_end();
        match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err(format!("\"{text}\" is not a share; write \"5%\", from 0% to 100%")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the demo origin does to requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Waited before each answer.
    pub latency: Duration,
    /// Up to this is waited more, at random and evenly.
    pub jitter: Duration,
    /// Share of the answers that are a 500.
    pub error_rate: Percent,
    /// The status of `/healthz`.
    pub health: StatusCode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            error_rate: Percent::default(),
            health: StatusCode::OK,
        }
    }
}

/// [`Settings`] as `GET /-/origin` shows them.
#[derive(Clone, Debug, Serialize)]
pub struct SettingsView {
    latency: HumanDuration,
    jitter: HumanDuration,
    error_rate: Percent,
    health: u16,
}

impl From<Settings> for SettingsView {
    fn from(settings: Settings) -> Self {
        Self {
            latency: HumanDuration(settings.latency),
            jitter: HumanDuration(settings.jitter),
            error_rate: settings.error_rate,
            health: settings.health.as_u16(),
        }
    }
}

/// Why a change was not taken. Nothing is changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no such setting.
    #[error("there is no setting \"{0}\"; there are latency, jitter, error_rate and health")]
    Unknown(String),
    /// The value does not fit.
    #[error("{name}: {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Settings {
    /// These settings, changed as a query says: `latency=50ms&error_rate=5%&health=503`.
    ///
    /// A percent sign may stand as it is or encoded (`5%25`).
    ///
    /// # Errors
    /// The first setting that is unknown or whose value does not fit.
    pub fn changed_by(self, query: &str) -> Result<Self, SettingsError> {
        let mut changed = self;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace("%25", "%").replace("%20", " ").replace('+', " ");
            match name {
                "latency" => changed.latency = wait("latency", &value)?,
                "jitter" => changed.jitter = wait("jitter", &value)?,
                "error_rate" => {
                    changed.error_rate = value
                        .parse()
                        .map_err(|reason| SettingsError::Value { name: "error_rate", reason })?;
                }
                "health" => {
                    changed.health = health(&value)
                        .map_err(|reason| SettingsError::Value { name: "health", reason })?;
                }
                _ => return Err(SettingsError::Unknown(name.to_owned())),
            }
        }
        Ok(changed)
    }

    /// How long to wait before an answer. `roll` is a number from 0 to 1.
    pub fn wait(&self, roll: f64) -> Duration {
        self.latency + self.jitter.mul_f64(roll.clamp(0.0, 1.0))
    }
}

fn wait(name: &'static str, value: &str) -> Result<Duration, SettingsError> {
    wait_of(value).map_err(|reason| SettingsError::Value { name, reason })
}

/// A duration that the origin is willing to wait.
///
/// # Errors
/// The text is no duration, or one over ten minutes.
pub(super) fn wait_of(value: &str) -> Result<Duration, String> {
    let HumanDuration(duration) = value.parse()?;
    if duration > LONGEST_WAIT {
        return Err(format!("at most {}", HumanDuration(LONGEST_WAIT)));
    }
    Ok(duration)
}

/// A final status, 200 to 599.
///
/// # Errors
/// What is no such number.
pub fn health(value: &str) -> Result<StatusCode, String> {
    value
        .parse()
        .ok()
        .filter(|status: &StatusCode| (200..=599).contains(&status.as_u16()))
        .ok_or_else(|| format!("\"{value}\" is not a status; write a number from 200 to 599"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_changes_what_it_names_and_nothing_else() {
        let before = Settings { latency: Duration::from_millis(5), ..Settings::default() };
        let after = before.changed_by("error_rate=2.5%&health=503").unwrap();
        assert_eq!(after.latency, Duration::from_millis(5));
        assert_eq!(after.error_rate.to_string(), "2.5%");
        assert_eq!(after.health, StatusCode::SERVICE_UNAVAILABLE);
        let encoded = before.changed_by("error_rate=5%25&latency=1m+30s").unwrap();
        assert_eq!(encoded.error_rate, "5%".parse().unwrap());
        assert_eq!(encoded.latency, Duration::from_secs(90));
        assert_eq!(before.changed_by("").unwrap(), before);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let settings = Settings::default();
        for (query, said) in [
            ("latncy=5ms", "there is no setting \"latncy\""),
            ("latency=5", "latency: \"5\" is not a duration"),
            ("jitter=1h", "jitter: at most 10m"),
            ("error_rate=101%", "error_rate: \"101%\" is not a share"),
            ("error_rate=NaN", "error_rate: \"NaN\" is not a share"),
            ("health=99", "health: \"99\" is not a status"),
            ("health", "health: \"\" is not a status"),
        ] {
            let error = settings.changed_by(query).unwrap_err().to_string();
            assert!(error.starts_with(said), "{query}: {error}");
        }
    }

    #[test]
    fn shares_and_waits_follow_the_roll() {
        let five: Percent = "5%".parse().unwrap();
        assert!(five.takes(0.0) && five.takes(0.049) && !five.takes(0.05) && !five.takes(0.99));
        assert!(!Percent::default().takes(0.0));
        assert!("100%".parse::<Percent>().unwrap().takes(0.999_999));
        let settings = Settings {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(20),
            ..Settings::default()
        };
        assert_eq!(settings.wait(0.0), Duration::from_millis(10));
        assert_eq!(settings.wait(0.5), Duration::from_millis(20));
    }
}
