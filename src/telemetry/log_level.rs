//! Which log level holds: what the start fixed, what the configuration says, and what somebody changed for a while. Pure.
//!
//! A change through the API goes before everything. It ends by its time, by a word, or when a reload brings another
//! `log.level`: then the operator has spoken anew. A reload with the same `log.level` leaves it alone.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::{config::LogLevel, time::rfc3339};

/// The level in force and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelStatus {
    /// What holds: a level, or the filter of `RUST_LOG`.
    pub level: String,
    /// What holds without the change through the API.
    pub configured: String,
    /// Somebody has changed it through the API.
    pub changed: bool,
    /// When that ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Levels {
    /// By `--log-level` or `RUST_LOG`: goes before the configuration, for the life of the process.
    fixed: Option<Setting>,
    configured: LogLevel,
    change: Option<Change>,
}

/// A level, or a whole filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Level(LogLevel),
    Filter(String),
}

#[derive(Debug)]
struct Change {
    level: LogLevel,
    until: Option<Instant>,
}

impl Levels {
    pub(super) fn new(configured: LogLevel, fixed: Option<Setting>) -> Self {
        Self { fixed, configured, change: None }
    }

    /// What holds now.
    pub(super) fn in_force(&self) -> Setting {
        match &self.change {
            Some(change) => Setting::Level(change.level),
            None => self.without_change(),
        }
    }

    fn without_change(&self) -> Setting {
        self.fixed.clone().unwrap_or(Setting::Level(self.configured))
    }

    /// Takes the level of a configuration. Says whether a change ended by it.
    pub(super) fn configure(&mut self, level: LogLevel) -> bool {
        if level == self.configured {
            return false;
        }
        self.configured = level;
        self.change.take().is_some()
    }

    /// Changes the level, for a while or until further notice.
    pub(super) fn change(&mut self, level: LogLevel, until: Option<Instant>) {
        self.change = Some(Change { level, until });
    }

    /// Ends the change. Says whether there was one.
    pub(super) fn end_change(&mut self) -> bool {
        self.change.take().is_some()
    }

    /// Ends the change if its time is over. Says whether it did.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_over =
            self.change.as_ref().and_then(|change| change.until).is_some_and(|until| until <= now);
        is_over && self.end_change()
    }

    /// What the API shows.
    pub(super) fn status(&self, now: Instant, clock: SystemTime) -> LogLevelStatus {
        let until = self.change.as_ref().and_then(|change| change.until);
        let left = until.map(|until| until.saturating_duration_since(now));
        LogLevelStatus {
            level: self.in_force().text(),
            configured: self.without_change().text(),
            changed: self.change.is_some(),
            until: left.and_then(|left: Duration| Some(rfc3339(clock.checked_add(left)?))),
        }
    }
}

impl Setting {
    fn text(&self) -> String {
        match self {
            Self::Level(level) => level.word().to_owned(),
            Self::Filter(filter) => filter.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(levels: &Levels) -> (String, String, bool) {
        let status = levels.status(Instant::now(), SystemTime::now());
        (status.level, status.configured, status.changed)
    }

    #[test]
    fn a_change_holds_until_the_configured_level_changes() {
        let mut levels = Levels::new(LogLevel::Info, None);
        levels.change(LogLevel::Debug, None);
        assert!(!levels.configure(LogLevel::Info), "a reload that says the same");
        assert_eq!(shown(&levels), ("debug".into(), "info".into(), true));
        assert!(levels.configure(LogLevel::Warn));
        assert_eq!(shown(&levels), ("warn".into(), "warn".into(), false));
        assert!(!levels.end_change());
    }

    #[test]
    fn a_change_ends_by_its_time_and_not_before() {
        let mut levels = Levels::new(LogLevel::Info, None);
        let now = Instant::now();
        let end = now + Duration::from_mins(10);
        levels.change(LogLevel::Trace, Some(end));
        assert!(!levels.expire(now + Duration::from_secs(599)));
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_246_936);
        let until = levels.status(now + Duration::from_mins(4), clock).until;
        assert_eq!(until.as_deref(), Some("2026-11-21T07:48:16.000Z"));
        // Another change has another end; the first one's says nothing of it.
        levels.change(LogLevel::Debug, Some(end + Duration::from_secs(1)));
        assert!(!levels.expire(end));
        assert!(levels.expire(end + Duration::from_secs(1)));
        assert_eq!(shown(&levels), ("info".into(), "info".into(), false));
        levels.change(LogLevel::Debug, None);
        assert!(!levels.expire(end + Duration::from_hours(10_000)), "until further notice");
    }

    #[test]
    fn what_the_start_fixed_goes_before_the_configuration_and_comes_back_after_a_change() {
        let filter = "info,tidegate::proxy=debug";
        let mut levels = Levels::new(LogLevel::Info, Some(Setting::Filter(filter.into())));
        assert!(!levels.configure(LogLevel::Error));
        assert_eq!(shown(&levels), (filter.into(), filter.into(), false));
        levels.change(LogLevel::Trace, None);
        assert_eq!(shown(&levels), ("trace".into(), filter.into(), true));
        assert!(levels.end_change());
        assert_eq!(levels.in_force(), Setting::Filter(filter.into()));
    }
}
