//! So many in a time as people write it: `"3/s"`, `"100/m"`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// The units of time, in seconds.
const UNITS: [(&str, u32); 3] = [("s", 1), ("m", 60), ("h", 3_600)];

/// A whole number in a second, a minute or an hour; 0 is none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    seconds: u32,
}

impl Rate {
    /// `n` in a second.
    pub const fn per_second(n: u32) -> Self {
        Self { count: n, seconds: 1 }
    }

    /// The time from one to the next where they are spread evenly; `None` where there are none.
    pub fn interval(self) -> Option<Duration> {
        Duration::from_secs(self.seconds.into()).checked_div(self.count)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "\"{text}\" is not a rate; write a whole number and a unit of time, such as \"3/s\", \"100/m\" or \"1000/h\""
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let count = count.trim();
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let count = count.parse().map_err(|_| bad())?;
        let unit = unit.trim();
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        Ok(Self { count, seconds: *seconds })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| *seconds == self.seconds);
        write!(f, "{}/{}", self.count, unit.map_or("s", |(name, _)| name))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a rate such as \"3/s\"")
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\s*[0-9]+\s*/\s*(s|m|h)\s*$|\$\{[A-Za-z_][A-Za-z0-9_]*\}",
            "examples": ["3/s", "100/m", "1000/h"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, interval) in [
            ("3/s", Some(Duration::from_secs(1) / 3)),
            ("1/s", Some(Duration::from_secs(1))),
            ("30/m", Some(Duration::from_secs(2))),
            ("600/m", Some(Duration::from_millis(100))),
            ("2/h", Some(Duration::from_mins(30))),
            ("0/s", None),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.interval(), interval, "{text}");
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(" 3 / s ".parse::<Rate>().unwrap(), Rate::per_second(3));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "3", "/s", "3/", "3/d", "-1/s", "+1/s", "1.5/s", "3 per s", "9999999999/s"]
        {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
