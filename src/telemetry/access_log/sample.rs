//! Which requests get a line: decided from status and time alone, before anything is formatted.
//!
//! The choice is made by chance, not by the request's id: a client may name its id, and must not be able to choose one
//! that is never written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{HumanDuration, KeyPath, Percent, Problems, did_you_mean};

/// `access_log.sample`: which requests get a line.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawSample {
    /// The share of requests that get a line, those of `always` and `slower_than` apart.
    #[schemars(extend("default" = "100%"))]
    pub rate: Option<Percent>,
    /// Requests that always get one: statuses (`"404"`), ranges (`"500-599"`), classes (`"4xx"`), and `"broken"`: no answer, or one that broke off.
    #[schemars(extend("default" = DEFAULT_ALWAYS))]
    pub always: Option<Vec<String>>,
    /// Requests that took at least so long always get one. Default: none.
    pub slower_than: Option<HumanDuration>,
}

const DEFAULT_ALWAYS: [&str; 3] = ["4xx", "5xx", "broken"];
const BROKEN: &str = "broken";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A bit a status, from 0 to 639.
type Statuses = [u64; 10];

/// Which requests get a line, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleConfig {
    rate: Percent,
    statuses: Statuses,
    is_broken_written: bool,
    slower_than: Option<Duration>,
}

impl RawSample {
    /// Fills in the defaults; `path` is where problems point to.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> SampleConfig {
        let mut config = SampleConfig {
            rate: self.rate.unwrap_or(Percent::ALL),
            statuses: Statuses::default(),
            is_broken_written: false,
            slower_than: self.slower_than.map(|duration| duration.0),
        };
        let path = path.key("always");
        match &self.always {
            None => DEFAULT_ALWAYS.iter().for_each(|word| _ = config.always(word)),
            Some(words) => {
                for (index, word) in words.iter().enumerate() {
                    if config.always(word).is_none() {
                        let known = CLASSES.into_iter().chain([BROKEN]);
                        let help = match did_you_mean(word, known) {
                            Some(near) => format!("did you mean \"{near}\"?"),
                            None => "write \"404\", \"500-599\", \"4xx\" or \"broken\"".to_owned(),
                        };
                        problems
                            .error(&path.index(index), format!("\"{word}\" names no statuses"))
                            .help(help);
                    }
                }
            }
        }
        config
    }
}

impl SampleConfig {
    /// Adds what a word of `always` names; `None` where it names nothing.
    fn always(&mut self, word: &str) -> Option<()> {
        if word == BROKEN {
            self.is_broken_written = true;
            return Some(());
        }
        let (low, high): (u16, u16) = if let Some(class) = word.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
            (class * 100, class * 100 + 99)
        } else {
            let (low, high) = word.split_once('-').unwrap_or((word, word));
            (low.trim().parse().ok()?, high.trim().parse().ok()?)
        };
        if !(100..=599).contains(&low) || !(low..=599).contains(&high) {
            return None;
        }
        for status in low..=high {
            *self.statuses.get_mut(usize::from(status / 64))? |= 1 << (status % 64);
        }
        Some(())
    }

    /// Whether a request gets a line. `random` is asked only where chance decides; it is even over all its values.
    pub(super) fn takes(
        &self,
        status: u16,
        is_broken: bool,
        took: Duration,
        random: impl FnOnce() -> u32,
    ) -> bool {
        let word = self.statuses.get(usize::from(status / 64)).copied().unwrap_or_default();
        if word >> (status % 64) & 1 == 1
            || is_broken && self.is_broken_written
            || self.slower_than.is_some_and(|limit| took >= limit)
        {
            return true;
        }
        let all = u64::from(Percent::ALL.millionths());
        u64::from(random()) * all < u64::from(self.rate.millionths()) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(toml: &str) -> (SampleConfig, Vec<String>) {
        let mut problems = Problems::new();
        let raw: RawSample = toml::from_str(toml).unwrap();
        let config = raw.parse(&KeyPath::of(&["access_log", "sample"]), &mut problems);
        let said = problems.iter().map(|problem| {
            format!("{} {}", problem.path, problem.help.as_deref().unwrap_or_default())
        });
        (config, said.collect())
    }

    fn never() -> u32 {
        u32::MAX
    }

    #[test]
    fn what_always_gets_a_line_is_told_by_status_time_and_breaking() {
        let (config, said) =
            sample("rate = \"0%\"\nalways = [\"404\", \"500-502\", \"2xx\"]\nslower_than = \"1s\"");
        assert!(said.is_empty(), "{said:?}");
        let fast = Duration::from_millis(999);
        for (status, is_taken) in [
            (0, false),
            (101, false),
            (200, true),
            (299, true),
            (300, false),
            (403, false),
            (404, true),
            (405, false),
            (499, false),
            (500, true),
            (502, true),
            (503, false),
            (999, false),
            (u16::MAX, false),
        ] {
            assert_eq!(config.takes(status, false, fast, never), is_taken, "{status}");
        }
        assert!(config.takes(304, false, Duration::from_secs(1), never));
        assert!(!config.takes(304, true, fast, never));
        let (broken, _) = sample("rate = \"0%\"\nalways = [\"broken\"]");
        assert!(broken.takes(304, true, fast, never) && !broken.takes(500, false, fast, never));
    }

    #[test]
    fn failures_are_kept_unless_something_else_is_said() {
        let (config, _) = sample("rate = \"0%\"");
        let taken = [0, 200, 301, 400, 499, 500, 599]
            .map(|status| config.takes(status, false, Duration::ZERO, never));
        assert_eq!(taken, [false, false, false, true, true, true, true]);
        assert!(config.takes(200, true, Duration::ZERO, never));
        let (nothing, _) = sample("rate = \"0%\"\nalways = []");
        assert!(!nothing.takes(500, true, Duration::from_hours(1), || 0));
    }

    #[test]
    fn the_rate_is_kept() {
        for (rate, share) in [("100%", 1.0), ("50%", 0.5), ("10%", 0.1), ("0.5%", 0.005)] {
            let (config, _) = sample(&format!("rate = \"{rate}\""));
            let mut random = fastrand::Rng::with_seed(7);
            let tries = 200_000;
            let taken = (0..tries)
                .filter(|_| config.takes(200, false, Duration::ZERO, || random.u32(..)))
                .count();
            let expected = share * f64::from(tries);
            assert!((taken as f64 - expected).abs() <= expected * 0.1, "{rate}: {taken}");
        }
        let (all, _) = sample("");
        assert!(all.takes(200, false, Duration::ZERO, never));
    }

    #[test]
    fn wrong_words_are_reported_with_what_would_be_right() {
        let (_, said) = sample("always = [\"5xx\", \"4x\", \"600\", \"500-400\", \"broke\", \"\"]");
        assert_eq!(
            said,
            [
                "access_log.sample.always[1] did you mean \"4xx\"?",
                "access_log.sample.always[2] write \"404\", \"500-599\", \"4xx\" or \"broken\"",
                "access_log.sample.always[3] write \"404\", \"500-599\", \"4xx\" or \"broken\"",
                "access_log.sample.always[4] did you mean \"broken\"?",
                "access_log.sample.always[5] write \"404\", \"500-599\", \"4xx\" or \"broken\"",
            ]
        );
    }
}
