//! A span of time as people write it: `"5s"`, `"250ms"`, `"1h"`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A duration written with a unit: `ms`, `s`, `m`, `h` or `d`; parts may follow each other (`"1m 30s"`).
///
/// In code it is a [`Duration`]; this type exists for files and for `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// `n` seconds.
    pub const fn from_secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// `n` milliseconds.
    pub const fn from_millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "\"{text}\" is not a duration; write a number and a unit, such as \"250ms\", \"5s\" or \"1m 30s\""
            )
        };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| bad())?;
            let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let millis = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            let part = number.checked_mul(millis).ok_or_else(bad)?;
            total = total.checked_add(Duration::from_millis(part)).ok_or_else(bad)?;
            rest = after.trim_start();
        }
        Ok(Self(total))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (number, unit) = match millis {
            0 => (0, "s"),
            m if m % 86_400_000 == 0 => (m / 86_400_000, "d"),
            m if m % 3_600_000 == 0 => (m / 3_600_000, "h"),
            m if m % 60_000 == 0 => (m / 60_000, "m"),
            m if m % 1_000 == 0 => (m / 1_000, "s"),
            m => (m, "ms"),
        };
        write!(f, "{number}{unit}")
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a duration such as \"5s\"")
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\s*(0|([0-9]+(ms|s|m|min|h|d)\s*)+)$|\$\{[A-Za-z_][A-Za-z0-9_]*\}",
            "examples": ["250ms", "5s", "1m 30s"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis, shown) in [
            ("250ms", 250, "250ms"),
            ("5s", 5_000, "5s"),
            ("90s", 90_000, "90s"),
            ("1m 30s", 90_000, "90s"),
            ("1m30s", 90_000, "90s"),
            ("2h", 7_200_000, "2h"),
            ("1d", 86_400_000, "1d"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ] {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed.0, Duration::from_millis(millis), "{text}");
            assert_eq!(parsed.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5 s 3",
            "-1s",
            "5parsecs",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }
}
