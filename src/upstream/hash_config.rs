//! `hash`: which part of a request is its key for `balance = "consistent-hash"`; as written, and parsed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::{Balance, RawUpstream};
use crate::{
    policy::{HashKey, WrittenHashKey},
    types::{KeyPath, MaxLoad, Problems, defaults},
};

/// The key of a request, as written: exactly one of the keys but `max_load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHash {
    /// The value of this request header.
    pub header: Option<String>,
    /// The value of this cookie.
    pub cookie: Option<String>,
    /// The value of this parameter of the query.
    pub query: Option<String>,
    /// The path, normalised, without the query.
    pub path: Option<bool>,
    /// The client's address; of IPv6 its network of 64 bits.
    pub client_address: Option<bool>,
    /// Not there yet.
    #[schemars(skip)]
    pub claim: Option<String>,
    /// How much of the average load per weight an endpoint may have; keys beyond it go to the next endpoint.
    #[schemars(extend("default" = defaults::MAX_LOAD.to_string()))]
    pub max_load: Option<MaxLoad>,
}

/// Consistent hashing, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// The key of a request.
    pub key: HashKey,
    /// How much of the average an endpoint may have.
    pub max_load: MaxLoad,
}

impl RawUpstream {
    /// `hash`, where `balance` asks for it.
    pub(super) fn parse_hash(&self, path: &KeyPath, problems: &mut Problems) -> Option<HashConfig> {
        let is_hashed = self.balance == Some(Balance::ConsistentHash);
        match &self.hash {
            None if is_hashed => {
                problems
                    .error(&path.key("balance"), "consistent-hash needs to know what to hash")
                    .help("add `hash = { header = \"x-user\" }`; or `cookie`, `query`, `path = true`, `client_address = true`");
                None
            }
            Some(_) if !is_hashed => {
                problems
                    .error(
                        &path.key("hash"),
                        "only `balance = \"consistent-hash\"` looks at `hash`",
                    )
                    .at_key()
                    .help("add that, or leave `hash` out");
                None
            }
            None => None,
            Some(hash) => hash.parse(&path.key("hash"), problems),
        }
    }
}

impl RawHash {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<HashConfig> {
        let written = WrittenHashKey {
            header: self.header.as_deref(),
            cookie: self.cookie.as_deref(),
            query: self.query.as_deref(),
            path: self.path,
            client_address: self.client_address,
            claim: self.claim.as_deref(),
        };
        let key = HashKey::parse(&written, "hash", path, problems)?;
        Some(HashConfig { key, max_load: self.max_load.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn parse(text: &str) -> Result<Option<HashConfig>, String> {
        let raw: RawUpstream = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let hash = raw.parse_hash(&KeyPath::of(&["upstreams", "web"]), &mut problems);
        match problems.iter().next() {
            None => Ok(hash),
            Some(problem) => Err(format!("{}: {}", problem.path, problem.message)),
        }
    }

    #[test]
    fn a_key_is_exactly_one_part_of_the_request() {
        let hashed = |hash: &str| parse(&format!("balance = \"consistent-hash\"\nhash = {hash}"));
        let key = |hash| hashed(hash).unwrap().unwrap().key;
        assert_eq!(
            key("{ header = \"X-User\" }"),
            HashKey::Header(HeaderName::from_static("x-user"))
        );
        assert_eq!(key("{ cookie = \"a\" }"), HashKey::Cookie("a".to_owned()));
        assert_eq!(key("{ query = \"a\" }"), HashKey::Query("a".to_owned()));
        assert_eq!(key("{ path = true }"), HashKey::Path);
        assert_eq!(key("{ client_address = true }"), HashKey::ClientAddress);
        let config = hashed("{ path = true, max_load = \"200%\" }").unwrap().unwrap();
        assert_eq!(config.max_load.to_string(), "200%");
        assert_eq!(hashed("{ path = true }").unwrap().unwrap().max_load.to_string(), "125%");
        for (hash, said) in [
            ("{}", "does not say"),
            ("{ max_load = \"150%\" }", "does not say"),
            ("{ path = true, header = \"a\" }", "names several"),
            ("{ path = false }", "either true"),
            ("{ header = \"a b\" }", "not a header name"),
            ("{ claim = \"sub\" }", "policy `jwt`"),
        ] {
            let error = hashed(hash).unwrap_err();
            assert!(error.contains(said), "{hash}: {error}");
        }
    }

    #[test]
    fn a_key_and_its_balance_go_together() {
        assert_eq!(parse("balance = \"peak-ewma\"").unwrap(), None);
        let error = parse("balance = \"consistent-hash\"").unwrap_err();
        assert!(error.starts_with("upstreams.web.balance: "), "{error}");
        for balance in ["", "balance = \"least-conn\"\n"] {
            let error = parse(&format!("{balance}hash = {{ path = true }}")).unwrap_err();
            assert!(error.starts_with("upstreams.web.hash: "), "{error}");
        }
    }
}
