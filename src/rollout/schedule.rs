//! When steps of a rollout may be taken: days and times of day in a named time zone.
//!
//! By the wall clock, since it is about people at work. All else of a rollout goes by the monotonic clock; a wall clock that
//! jumps moves no step but through here, and never takes anything back.

use std::cmp::Ordering;

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::TimeZone,
};

use super::raw::RawSchedule;
use crate::types::{KeyPath, Problems};

/// When steps may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    zone: TimeZone,
    /// From Monday on.
    days: [bool; 7],
    /// From, to; equal is the whole day.
    from: Time,
    to: Time,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Schedule {
    /// Whether steps may be taken now.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let local = now.to_zoned(self.zone.clone());
        let (time, weekday) = (local.time(), local.weekday());
        let is_day = |day: Weekday| {
            let place = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
            self.days.get(place).copied().unwrap_or_default()
        };
        match self.from.cmp(&self.to) {
            Ordering::Equal => is_day(weekday),
            Ordering::Less => is_day(weekday) && self.from <= time && time < self.to,
            // Past midnight it is still the day before's.
            Ordering::Greater => {
                (is_day(weekday) && self.from <= time)
                    || (is_day(weekday.previous()) && time < self.to)
            }
        }
    }
}

impl RawSchedule {
    /// Parses it.
    pub(super) fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<Schedule> {
        let zone = TimeZone::get(&self.zone)
            .map_err(|_| {
                problems
                    .error(&path.key("zone"), format!("\"{}\" is not a time zone", self.zone))
                    .help("use a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\"");
            })
            .ok();
        let days = self.parse_days(&path.key("days"), problems);
        let mut time = |key: &str, text: &Option<String>| match text {
            None => Some(Time::midnight()),
            Some(text) => {
                let parsed = text.parse::<Time>().ok().filter(|_| text.len() == 5);
                if parsed.is_none() {
                    problems
                        .error(&path.key(key), format!("\"{text}\" is not a time of day"))
                        .help("write hours and minutes, such as \"09:00\"");
                }
                parsed
            }
        };
        let (from, to) = (time("from", &self.from), time("to", &self.to));
        Some(Schedule { zone: zone?, days: days?, from: from?, to: to? })
    }

    fn parse_days(&self, path: &KeyPath, problems: &mut Problems) -> Option<[bool; 7]> {
        let Some(written) = &self.days else { return Some([true; 7]) };
        let mut days = [false; 7];
        let mut is_good = true;
        let place = |text: &str| DAYS.iter().position(|day| *day == text);
        for (i, text) in written.iter().enumerate() {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (Some(first), Some(last)) = (place(first), place(last)) else {
                problems
                    .error(&path.index(i), format!("\"{text}\" is not a day"))
                    .help("write \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\", or a range: \"mon-fri\"");
                is_good = false;
                continue;
            };
            let length = (last + 7 - first) % 7;
            for place in (0..7).cycle().skip(first).take(length + 1) {
                if let Some(day) = days.get_mut(place) {
                    *day = true;
                }
            }
        }
        if written.is_empty() {
            problems
                .error(path, "the list of days is empty, so that no step could ever be taken")
                .help("leave the key out for all days");
            is_good = false;
        }
        is_good.then_some(days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schedule, String> {
        let raw: RawSchedule = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let schedule = raw.parse(&KeyPath::of(&["schedule"]), &mut problems);
        match problems.iter().next() {
            Some(problem) => Err(format!("{}: {}", problem.path, problem.message)),
            None => Ok(schedule.unwrap()),
        }
    }

    fn open(schedule: &Schedule, at: &str) -> bool {
        schedule.is_open(at.parse().unwrap())
    }

    #[test]
    fn days_and_times_are_of_the_zone() {
        let text =
            "zone = \"Europe/Berlin\"\ndays = [\"mon-fri\"]\nfrom = \"09:00\"\nto = \"16:00\"";
        let schedule = parse(text).unwrap();
        for (at, is_open) in [
            ("2026-01-05T07:59:59Z", false), // Monday, in winter an hour before UTC
            ("2026-01-05T08:00:00Z", true),
            ("2026-01-05T14:59:59Z", true),
            ("2026-01-05T15:00:00Z", false),
            ("2026-07-06T07:00:00Z", true), // in summer two
            ("2026-07-06T14:00:00Z", false),
            ("2026-01-04T12:00:00Z", false), // Sunday
            ("2026-01-03T12:00:00Z", false),
            ("2026-01-09T12:00:00Z", true),
        ] {
            assert_eq!(open(&schedule, at), is_open, "{at}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_it_began_on() {
        let schedule = parse("zone = \"UTC\"\ndays = [\"fri\"]\nfrom = \"22:00\"\nto = \"02:00\"");
        let schedule = schedule.unwrap();
        for (at, is_open) in [
            ("2026-01-09T21:59:00Z", false),
            ("2026-01-09T22:00:00Z", true),
            ("2026-01-10T01:59:00Z", true),
            ("2026-01-10T02:00:00Z", false),
            ("2026-01-09T01:00:00Z", false),
        ] {
            assert_eq!(open(&schedule, at), is_open, "{at}");
        }
        let days = parse("zone = \"UTC\"\ndays = [\"sat-mon\"]").unwrap();
        assert!(open(&days, "2026-01-04T00:00:00Z") && !open(&days, "2026-01-06T00:00:00Z"));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for (text, said) in [
            ("zone = \"Mars/Base\"", "schedule.zone"),
            ("zone = \"UTC\"\ndays = []", "schedule.days"),
            ("zone = \"UTC\"\ndays = [\"monday\"]", "schedule.days[0]"),
            ("zone = \"UTC\"\nfrom = \"9\"", "schedule.from"),
            ("zone = \"UTC\"\nto = \"24:00\"", "schedule.to"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
