//! A bound above the average, as people write it: `"125%"`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::defaults;

/// How much of the average one may have: a whole percentage from 101 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxLoad(u16);

impl MaxLoad {
    /// So many percent; at least 101.
    pub(super) const fn of_percent(percent: u16) -> Self {
        Self(if percent < 101 { 101 } else { percent })
    }

    /// 1.25 for 125 %.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl Default for MaxLoad {
    fn default() -> Self {
        defaults::MAX_LOAD
    }
}

impl FromStr for MaxLoad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "\"{text}\" is not a whole percentage from 101% to 1000%; write one such as \"125%\""
            )
        };
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim_end();
        let is_digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let percent: u16 = number.parse().map_err(|_| bad())?;
        if is_digits && (101..=1_000).contains(&percent) { Ok(Self(percent)) } else { Err(bad()) }
    }
}

impl fmt::Display for MaxLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl<'de> Deserialize<'de> for MaxLoad {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a percentage above 100 such as \"125%\"")
    }
}

impl Serialize for MaxLoad {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for MaxLoad {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "percentage above 100".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\s*[0-9]{3,4}\s*%\s*$",
            "examples": ["125%"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_above_the_average_reads_back_and_others_are_refused() {
        for text in ["101%", "125%", "1000%"] {
            assert_eq!(text.parse::<MaxLoad>().unwrap().to_string(), text);
        }
        assert!((" 150 % ".parse::<MaxLoad>().unwrap().factor() - 1.5).abs() < 1e-9);
        for text in ["100%", "1001%", "99%", "", "%", "125", "+125%", "1.25", "12.5%"] {
            assert!(text.parse::<MaxLoad>().is_err(), "{text}");
        }
    }
}
