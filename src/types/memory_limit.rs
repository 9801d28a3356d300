//! How much memory may be used: a size, a share of what the control group has, or no limit.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{ByteSize, Percent};

/// A limit on memory, as written: `"2GiB"`, `"90%"`, `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryLimit {
    /// None.
    Off,
    /// So much of what the control group may use; none where that has no limit.
    Share(Percent),
    /// So many bytes.
    Size(ByteSize),
}

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        if trimmed == "off" {
            return Ok(Self::Off);
        }
        if trimmed.ends_with('%') {
            return trimmed.parse().map(Self::Share);
        }
        trimmed.parse().map(Self::Size).map_err(|_: String| {
            format!("\"{text}\" is no limit on memory; write \"2GiB\", \"90%\" of the control group's, or \"off\"")
        })
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Share(share) => share.fmt(f),
            Self::Size(size) => size.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a limit on memory such as \"2GiB\" or \"90%\"")
    }
}

impl Serialize for MemoryLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for MemoryLimit {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "memory limit".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\s*(off|[0-9]{1,3}(\.[0-9]{1,4})?\s*%|[0-9]+\s*(B|KiB|MiB|GiB|KB|MB|GB))\s*$",
            "examples": ["90%", "2GiB", "off"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        for text in ["off", "90%", "2GiB"] {
            assert_eq!(text.parse::<MemoryLimit>().unwrap().to_string(), text);
        }
        for text in ["", "2", "on", "101%", "-1B"] {
            assert!(text.parse::<MemoryLimit>().is_err(), "{text}");
        }
    }
}
