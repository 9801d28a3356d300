//! Secrets: referred to in files, never written there, never shown.

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor, value::MapAccessDeserializer},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Where a secret is read from. The secret itself never stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretSource {
    /// An environment variable: `{ env = "EDGE_TOKEN" }`.
    Env(String),
    /// A file, such as `{ file = "/run/secrets/edge_token" }`; a line end after the secret is dropped.
    File(PathBuf),
}

/// What is said where the secret itself was written. Such a line is not shown.
pub const SECRET_IN_PLACE: &str = "a secret does not stand in the configuration itself";

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Table {
            env: Option<String>,
            file: Option<PathBuf>,
        }

        struct Reference;

        impl<'de> Visitor<'de> for Reference {
            type Value = SecretSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ env = \"NAME\" } or { file = \"/path\" }")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(SECRET_IN_PLACE))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
                match Table::deserialize(MapAccessDeserializer::new(table))? {
                    Table { env: Some(name), file: None } => Ok(SecretSource::Env(name)),
                    Table { env: None, file: Some(path) } => Ok(SecretSource::File(path)),
                    _ => Err(de::Error::custom("a secret comes from either `env` or `file`")),
                }
            }
        }

        deserializer.deserialize_any(Reference)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A secret value. No `Display`, a `Debug` that hides it, wiped when dropped, compared in constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes of a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Compares in time that depends on the lengths only.
    pub fn matches(&self, other: &[u8]) -> bool {
        bool::from(self.0.ct_eq(other))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_compares() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(secret.matches(b"hunter2") && !secret.matches(b"hunter3") && !secret.matches(b""));
    }
}
