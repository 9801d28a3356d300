//! `hash`: which part of a request is its key for `balance = "consistent-hash"`; as written, and parsed.

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::raw::{Balance, RawUpstream};
use crate::types::{KeyPath, MaxLoad, Problems, defaults};

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

/// Which part of a request is its key. Requests that do not have it go anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The first line of a header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(String),
    /// The normalised path.
    Path,
    /// The client's network.
    ClientAddress,
}

impl HashKey {
    /// The hash of a key: the same on every replica, in every version and after a restart. Different keys do not collapse: SHA-256,
    /// its first 64 bits. Whoever chooses keys can choose their endpoint; `max_load` bounds what that does.
    pub fn hash(key: &[u8]) -> u64 {
        Sha256::digest(key).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
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
        if self.claim.is_some() {
            problems
                .error(&path.key("claim"), "claims of tokens can't be keys yet: they come with the policy `jwt`")
                .at_key()
                .help("use a header, a cookie, a parameter of the query, the path or the client's address");
            return None;
        }
        for (key, switch) in [("path", self.path), ("client_address", self.client_address)] {
            if switch == Some(false) {
                problems
                    .error(&path.key(key), format!("`{key}` is either true or not there"))
                    .help("leave it out");
                return None;
            }
        }
        let header = self.header.as_ref().map(|name| {
            HeaderName::from_bytes(name.as_bytes()).map(HashKey::Header).map_err(|_| name)
        });
        let mut keys = [
            header.transpose().unwrap_or_else(|name| {
                problems.error(&path.key("header"), format!("\"{name}\" is not a header name"));
                None
            }),
            self.cookie.clone().map(HashKey::Cookie),
            self.query.clone().map(HashKey::Query),
            self.path.map(|_| HashKey::Path),
            self.client_address.map(|_| HashKey::ClientAddress),
        ]
        .into_iter()
        .flatten();
        match (keys.next(), keys.next()) {
            (Some(key), None) => {
                Some(HashConfig { key, max_load: self.max_load.unwrap_or_default() })
            }
            (None, _) => {
                if self.header.is_none() {
                    problems
                        .error(path, "`hash` does not say what to hash")
                        .at_key()
                        .help("write one of `header`, `cookie`, `query`, `path = true`, `client_address = true`");
                }
                None
            }
            (Some(_), Some(_)) => {
                problems
                    .error(path, "a request has one key: `hash` names several")
                    .at_key()
                    .help("keep one of `header`, `cookie`, `query`, `path`, `client_address`");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn hashes_are_the_same_for_ever() {
        // The first 64 bits of SHA-256 of the empty string and of "abc" (FIPS 180-2, appendix B).
        assert_eq!(HashKey::hash(b""), 0xe3b0_c442_98fc_1c14);
        assert_eq!(HashKey::hash(b"abc"), 0xba78_16bf_8f01_cfea);
    }
}
