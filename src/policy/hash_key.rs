//! Which part of a request is its key: what consistent hashing follows, and what an experiment deals by.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::cookies;
use crate::types::{ClientNetwork, KeyPath, Problems};

/// The key of a request, as written: one of them.
#[derive(Clone, Copy, Debug)]
pub struct WrittenHashKey<'a> {
    /// A header.
    pub header: Option<&'a str>,
    /// A cookie.
    pub cookie: Option<&'a str>,
    /// A parameter of the query.
    pub query: Option<&'a str>,
    /// The path.
    pub path: Option<bool>,
    /// The client's address.
    pub client_address: Option<bool>,
    /// A claim of a token, which can't be one yet.
    pub claim: Option<&'a str>,
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
    /// Parses what is written in the table `name` at `path`; `None` where something is wrong, which is reported.
    pub fn parse(
        written: &WrittenHashKey<'_>,
        name: &str,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<Self> {
        if written.claim.is_some() {
            problems
                .error(&path.key("claim"), "claims of tokens can't be keys yet: they come with the policy `jwt`")
                .at_key()
                .help("use a header, a cookie, a parameter of the query, the path or the client's address");
            return None;
        }
        for (key, switch) in [("path", written.path), ("client_address", written.client_address)] {
            if switch == Some(false) {
                problems
                    .error(&path.key(key), format!("`{key}` is either true or not there"))
                    .help("leave it out");
                return None;
            }
        }
        let header = written.header.map(|name| {
            HeaderName::from_bytes(name.as_bytes()).map(HashKey::Header).map_err(|_| name)
        });
        let mut keys = [
            header.transpose().unwrap_or_else(|name| {
                problems.error(&path.key("header"), format!("\"{name}\" is not a header name"));
                None
            }),
            written.cookie.map(|name| Self::Cookie(name.to_owned())),
            written.query.map(|name| Self::Query(name.to_owned())),
            written.path.map(|_| Self::Path),
            written.client_address.map(|_| Self::ClientAddress),
        ]
        .into_iter()
        .flatten();
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            (None, _) => {
                if written.header.is_none() {
                    problems
                        .error(path, format!("`{name}` does not say what to hash"))
                        .at_key()
                        .help("write one of `header`, `cookie`, `query`, `path = true`, `client_address = true`");
                }
                None
            }
            (Some(_), Some(_)) => {
                problems
                    .error(path, format!("a request has one key: `{name}` names several"))
                    .at_key()
                    .help("keep one of `header`, `cookie`, `query`, `path`, `client_address`");
                None
            }
        }
    }

    /// The hash of a key: the same on every replica, in every version and after a restart. Different keys do not collapse: SHA-256,
    /// its first 64 bits. Whoever chooses keys can choose where
    /// they lead; of an upstream `max_load` bounds what that does.
    pub fn hash(key: &[u8]) -> u64 {
        first_bits(Sha256::digest(key))
    }

    /// What `hash` makes of the request's key. An empty key is none.
    pub fn of<T>(
        &self,
        headers: &HeaderMap,
        path: &str,
        query: Option<&str>,
        client: Option<IpAddr>,
        hash: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| hash(bytes));
        match self {
            Self::Header(name) => some(headers.get(name)?.as_bytes()),
            Self::Cookie(name) => some(cookies::find(headers, name)?.as_bytes()),
            Self::Query(name) => {
                let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
                let (_, value): (_, Cow<'_, str>) = pairs.find(|(key, _)| key == name)?;
                some(value.as_bytes())
            }
            Self::Path => some(path.as_bytes()),
            Self::ClientAddress => some(&ClientNetwork::of(client?).number().to_be_bytes()),
        }
    }
}

/// The first 64 bits of a digest.
pub(super) fn first_bits(digest: impl AsRef<[u8]>) -> u64 {
    digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    #[test]
    fn keys_are_read_from_their_place() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "ada".parse().unwrap());
        headers.insert("x-empty", "".parse().unwrap());
        headers.insert(COOKIE, "a=1; u=ada".parse().unwrap());
        let hash = |key: HashKey| {
            let client = Some("2001:db8::1".parse().unwrap());
            key.of(&headers, "/ada", Some("a=1&u=%61da"), client, HashKey::hash)
        };
        let ada = Some(HashKey::hash(b"ada"));
        assert_eq!(hash(HashKey::Header("x-user".parse().unwrap())), ada);
        assert_eq!(hash(HashKey::Cookie("u".to_owned())), ada);
        assert_eq!(hash(HashKey::Query("u".to_owned())), ada);
        assert_eq!(hash(HashKey::Path), Some(HashKey::hash(b"/ada")));
        let neighbour = Some("2001:db8::2".parse().unwrap());
        let key = HashKey::ClientAddress;
        assert_eq!(hash(key.clone()), key.of(&headers, "", None, neighbour, HashKey::hash));
        for none in [
            HashKey::Header("x-empty".parse().unwrap()),
            HashKey::Header("x-other".parse().unwrap()),
            HashKey::Cookie("v".to_owned()),
            HashKey::Query("v".to_owned()),
        ] {
            assert_eq!(hash(none.clone()), None, "{none:?}");
        }
        assert_eq!(key.of(&headers, "", None, None, HashKey::hash), None);
    }

    #[test]
    fn hashes_are_the_same_for_ever() {
        // The first 64 bits of SHA-256 of the empty string and of "abc" (FIPS 180-2, appendix B).
        assert_eq!(HashKey::hash(b""), 0xe3b0_c442_98fc_1c14);
        assert_eq!(HashKey::hash(b"abc"), 0xba78_16bf_8f01_cfea);
    }
}
