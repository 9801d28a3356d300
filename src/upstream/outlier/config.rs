//! `outlier_detection` of an upstream: as written, and parsed.

use std::{num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{HumanDuration, KeyPath, Percent, Problems, defaults, deserialize_by_form};

/// The most that `consecutive_failures` can be: so many are counted for one client network.
const MAX_CONSECUTIVE: u32 = 200;

/// `outlier_detection`, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawOutlierDetection {
    /// `false`: none (an inherited one is dropped). `true`: with the defaults.
    Switch(bool),
    /// A table.
    Table(RawOutlierTable),
}

deserialize_by_form!(
    RawOutlierDetection,
    "false, or a table such as { consecutive_failures = 5, ejection = \"30s\" }",
    { bool => Switch, table => Table }
);

/// How endpoints that are worse than the others are found in the traffic, and for how long they get no requests then.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawOutlierTable {
    /// Failed tries in a row that eject an endpoint at once: no connection, a reset, a timeout, an answer that breaks off. Statuses are not among
    /// them. At most 200.
    #[schemars(extend("default" = defaults::CONSECUTIVE_FAILURES))]
    pub consecutive_failures: Option<NonZeroU32>,
    /// The share of the endpoints that may be ejected at once, rounded down, but one of two or more; never the last that gets requests.
    #[schemars(extend("default" = defaults::MAX_EJECTED.to_string()))]
    pub max_ejected: Option<Percent>,
    /// How long the first ejection takes; one that follows soon takes twice as long as the one before it. Then a probe must pass.
    #[schemars(extend("default" = defaults::EJECTION.to_string()))]
    pub ejection: Option<HumanDuration>,
    /// The longest ejection.
    #[schemars(extend("default" = defaults::MAX_EJECTION.to_string()))]
    pub max_ejection: Option<HumanDuration>,
    /// How often the endpoints' failures (statuses of 500 to 599 too) and times are compared.
    #[schemars(extend("default" = defaults::OUTLIER_INTERVAL.to_string()))]
    pub interval: Option<HumanDuration>,
    /// Requests that an endpoint, and the others together, must have had to be compared.
    #[schemars(extend("default" = defaults::OUTLIER_MIN_REQUESTS))]
    pub min_requests: Option<NonZeroU32>,
    /// How much larger the share of failures must be than that of the other endpoints together; it must be significant, too.
    #[schemars(extend("default" = defaults::FAILURE_DIFFERENCE.to_string()))]
    pub failure_difference: Option<Percent>,
    /// Ejects an endpoint whose median time to an answer is so many times the other endpoints': `3`, at least 1.5. 0 is off.
    #[schemars(extend("default" = 0))]
    pub latency_factor: Option<f64>,
    /// And at least so much longer.
    #[schemars(extend("default" = defaults::LATENCY_FLOOR.to_string()))]
    pub latency_floor: Option<HumanDuration>,
}

/// `outlier_detection`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierConfig {
    /// Failures in a row that eject.
    pub consecutive_failures: u32,
    /// The share that may be out at once.
    pub max_ejected: Percent,
    /// The first ejection.
    pub ejection: Duration,
    /// The longest one.
    pub max_ejection: Duration,
    /// Between two comparisons.
    pub interval: Duration,
    /// Requests that a comparison needs on both sides.
    pub min_requests: u64,
    /// The least difference of the shares of failures.
    pub failure_difference: Percent,
    /// How many times slower than the others is too slow.
    pub latency_factor: Option<f64>,
    /// And by how much at least.
    pub latency_floor: Duration,
}

impl RawOutlierDetection {
    /// What is written here, over `base`.
    pub fn or(mine: Option<&Self>, base: Option<&Self>) -> Option<Self> {
        match (mine, base) {
            (Some(Self::Table(mine)), Some(Self::Table(base))) => Some(Self::Table(mine.or(base))),
            (mine, base) => mine.or(base).cloned(),
        }
    }

    /// Fills in the defaults; `path` is where problems point to. `None` where nothing is to be detected.
    pub fn parse(
        raw: Option<&Self>,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<OutlierConfig> {
        match raw {
            None | Some(Self::Switch(true)) => Some(OutlierConfig::default()),
            Some(Self::Switch(false)) => None,
            Some(Self::Table(table)) => Some(table.parse(path, problems)),
        }
    }
}

impl RawOutlierTable {
    fn or(&self, base: &Self) -> Self {
        Self {
            consecutive_failures: self.consecutive_failures.or(base.consecutive_failures),
            max_ejected: self.max_ejected.or(base.max_ejected),
            ejection: self.ejection.or(base.ejection),
            max_ejection: self.max_ejection.or(base.max_ejection),
            interval: self.interval.or(base.interval),
            min_requests: self.min_requests.or(base.min_requests),
            failure_difference: self.failure_difference.or(base.failure_difference),
            latency_factor: self.latency_factor.or(base.latency_factor),
            latency_floor: self.latency_floor.or(base.latency_floor),
        }
    }

    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> OutlierConfig {
        let consecutive = self.consecutive_failures.unwrap_or(defaults::CONSECUTIVE_FAILURES).get();
        if consecutive > MAX_CONSECUTIVE {
            problems.error(
                &path.key("consecutive_failures"),
                format!("{consecutive} failures are too many; at most {MAX_CONSECUTIVE}"),
            );
        }
        let ejection = self.ejection.unwrap_or(defaults::EJECTION);
        if ejection.0.is_zero() {
            problems
                .error(&path.key("ejection"), "an ejection of no time is none")
                .help("write `outlier_detection = false` for none");
        }
        let max_ejection = self.max_ejection.unwrap_or(defaults::MAX_EJECTION.max(ejection));
        if max_ejection < ejection {
            problems.error(
                &path.key("max_ejection"),
                format!("{max_ejection} is shorter than `ejection`, which is {ejection}"),
            );
        }
        let interval = self.interval.unwrap_or(defaults::OUTLIER_INTERVAL);
        if interval.0 < Duration::from_millis(100) {
            problems.error(
                &path.key("interval"),
                format!("comparisons every {interval} are too many; at least 100ms"),
            );
        }
        let factor = self.latency_factor.filter(|factor| *factor != 0.0);
        if factor.is_some_and(|factor| !(1.5..=1_000.0).contains(&factor)) {
            problems
                .error(&path.key("latency_factor"), "this is not a factor from 1.5 to 1000")
                .help("0 is off");
        }
        OutlierConfig {
            consecutive_failures: consecutive.min(MAX_CONSECUTIVE),
            max_ejected: self.max_ejected.unwrap_or(defaults::MAX_EJECTED),
            ejection: ejection.0,
            max_ejection: max_ejection.0,
            interval: interval.0,
            min_requests: self.min_requests.unwrap_or(defaults::OUTLIER_MIN_REQUESTS).get().into(),
            failure_difference: self.failure_difference.unwrap_or(defaults::FAILURE_DIFFERENCE),
            latency_factor: factor,
            latency_floor: self.latency_floor.unwrap_or(defaults::LATENCY_FLOOR).0,
        }
    }
}

impl Default for OutlierConfig {
    fn default() -> Self {
        RawOutlierTable::default().parse(&KeyPath::root(), &mut Problems::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<OutlierConfig>, Vec<String>) {
        #[derive(Deserialize)]
        struct Holder {
            it: RawOutlierDetection,
        }
        let holder: Holder = toml::from_str(&format!("it = {text}")).unwrap();
        let mut problems = Problems::new();
        let parsed = RawOutlierDetection::parse(Some(&holder.it), &KeyPath::root(), &mut problems);
        (parsed, problems.iter().map(|problem| problem.path.to_string()).collect())
    }

    #[test]
    fn it_is_on_unless_it_is_switched_off() {
        let none = RawOutlierDetection::parse(None, &KeyPath::root(), &mut Problems::new());
        assert_eq!(none, Some(OutlierConfig::default()));
        assert_eq!(parse("true").0, Some(OutlierConfig::default()));
        assert_eq!(parse("false").0, None);
        let (longer, problems) = parse("{ ejection = \"10m\", latency_factor = 3 }");
        let longer = longer.unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((longer.max_ejection, longer.latency_factor), (longer.ejection, Some(3.0)));
        assert_eq!(parse("{ latency_factor = 0 }").0, Some(OutlierConfig::default()));
    }

    #[test]
    fn what_can_not_work_is_refused() {
        for (text, key) in [
            ("{ consecutive_failures = 201 }", "consecutive_failures"),
            ("{ ejection = \"0s\" }", "ejection"),
            ("{ ejection = \"10s\", max_ejection = \"5s\" }", "max_ejection"),
            ("{ interval = \"10ms\" }", "interval"),
            ("{ latency_factor = 1 }", "latency_factor"),
            ("{ latency_factor = -3.0 }", "latency_factor"),
        ] {
            assert_eq!(parse(text).1, [key], "{text}");
        }
    }

    #[test]
    fn a_table_is_inherited_key_by_key_and_a_switch_as_a_whole() {
        let table = |consecutive: u32, share: Option<&str>| {
            RawOutlierDetection::Table(RawOutlierTable {
                consecutive_failures: NonZeroU32::new(consecutive),
                max_ejected: share.map(|share| share.parse().unwrap()),
                ..RawOutlierTable::default()
            })
        };
        let off = RawOutlierDetection::Switch(false);
        let or = RawOutlierDetection::or;
        let (mine, base) = (table(5, None), table(7, Some("20%")));
        assert_eq!(or(Some(&mine), Some(&base)), Some(table(5, Some("20%"))));
        assert_eq!(or(Some(&off), Some(&base)), Some(off.clone()));
        assert_eq!(or(None, Some(&base)), Some(base.clone()));
        assert_eq!(or(Some(&mine), Some(&off)), Some(mine.clone()));
    }
}
