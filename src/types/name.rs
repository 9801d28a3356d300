//! The name of a thing in the configuration: a site, a route, an upstream, a listener, a policy.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// The longest name: names label metrics and logs.
const MAX_LENGTH: usize = 64;

/// A name of letters, digits, `-`, `_` and `.`, at most 64 bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The shared text, for places that keep many copies.
    pub fn as_arc(&self) -> &Arc<str> {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = !text.is_empty()
            && text.len() <= MAX_LENGTH
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits {
            Ok(Self(Arc::from(text)))
        } else {
            Err(format!(
                "\"{text}\" is not a name; names have letters, digits, \"-\", \"_\" and \".\", at most {MAX_LENGTH} of them"
            ))
        }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::deserialize(deserializer, "a name, in quotes")
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "name".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9._-]{1,64}$|\$\{[A-Za-z_][A-Za-z0-9_]*\}" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("shop-api_v1.2".parse::<Name>().is_ok());
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
