//! A share of a whole as people write it: `"10%"`, `"0.5%"`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// One percent, in the unit of [`Percent`].
const ONE: u32 = 10_000;

/// A percentage from 0 to 100 with at most four decimals. Held in millionths, so that it compares and hashes exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(100 * ONE);

    /// Whole percents; more than 100 are 100.
    pub const fn whole(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent as u32 } * ONE)
    }

    /// Millionths of the whole.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "\"{text}\" is not a percentage from 0% to 100%; write a number with at most four decimals and a percent sign, such as \"10%\" or \"0.5%\""
            )
        };
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(whole) || !is_digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let parts: u32 = format!("{decimals:0<4}").parse().map_err(|_| bad())?;
        let value = whole * ONE + parts;
        if value > Self::ALL.0 { Err(bad()) } else { Ok(Self(value)) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, parts) = (self.0 / ONE, self.0 % ONE);
        if parts == 0 {
            return write!(f, "{whole}%");
        }
        write!(f, "{whole}.{}%", format!("{parts:04}").trim_end_matches('0'))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a percentage such as \"10%\"")
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "percentage".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\s*[0-9]{1,3}(\.[0-9]{1,4})?\s*%\s*$",
            "examples": ["10%", "0.5%"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_and_read_back() {
        for (text, millionths) in [
            ("0%", 0),
            ("10%", 100_000),
            ("100%", 1_000_000),
            ("0.5%", 5_000),
            ("0.0001%", 1),
            ("99.9999%", 999_999),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent.millionths(), millionths, "{text}");
            assert_eq!(percent.to_string(), text);
        }
        assert_eq!(" 7 % ".parse::<Percent>().unwrap().to_string(), "7%");
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        for text in ["", "%", "10", "101%", "100.0001%", "-1%", "1.%", ".5%", "0.00001%", "1e1%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
