//! Conditions on a request beside its host: those of routes, and of policies that act on some requests only.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use http::{HeaderMap, HeaderName, Method};
use schemars::JsonSchema;
use serde::Serialize;

use crate::types::{Cidr, KeyPath, Problems, deserialize_by_form};

/// A condition on a value, as written: `true` (it is there) or its text.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawValueMatch {
    /// `true`: it is there; `false`: it is not.
    Present(bool),
    /// It has this value.
    Equals(String),
}

deserialize_by_form!(
    RawValueMatch,
    "true (it must be there) or the text it must have",
    { bool => Present, text => Equals }
);

/// Conditions, as written.
#[derive(Clone, Copy, Debug)]
pub struct WrittenConditions<'a> {
    /// Methods; `None` means all.
    pub methods: Option<&'a [String]>,
    /// Headers.
    pub headers: &'a BTreeMap<String, RawValueMatch>,
    /// Query parameters.
    pub query: &'a BTreeMap<String, RawValueMatch>,
    /// Cookies.
    pub cookies: &'a BTreeMap<String, RawValueMatch>,
    /// Networks of the client; `None` means any.
    pub client_address: Option<&'a [Cidr]>,
}

/// What a look-up needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, normalised.
    pub path: &'a str,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub client: Option<IpAddr>,
}

/// Conditions beside host and path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// One of these methods; empty means any.
    pub methods: Vec<Method>,
    /// Headers.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters.
    pub query: Vec<(String, ValueMatch)>,
    /// Cookies.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Networks of the client; empty means any.
    pub client_networks: Vec<Cidr>,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It has this value.
    Equals(String),
}

impl Conditions {
    /// How many there are: more go before fewer.
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + self.cookies.len()
            + usize::from(!self.client_networks.is_empty())
    }

    /// Whether `address` is in one of the networks, where there are some.
    pub fn takes_client(&self, address: Option<IpAddr>) -> bool {
        self.client_networks.is_empty()
            || address.is_some_and(|address| {
                self.client_networks.iter().any(|network| network.contains(address))
            })
    }
    /// Parses what is written at `path`.
    pub fn parse(written: &WrittenConditions<'_>, path: &KeyPath, problems: &mut Problems) -> Self {
        let mut conditions = Self::default();
        for (i, method) in written.methods.unwrap_or_default().iter().enumerate() {
            let at = path.key("methods").index(i);
            match Method::from_bytes(method.as_bytes()) {
                Ok(parsed) if method.bytes().all(|b| !b.is_ascii_lowercase()) => {
                    conditions.methods.push(parsed);
                }
                Ok(_) => {
                    problems
                        .error(
                            &at,
                            format!("methods are case-sensitive; \"{method}\" would never come"),
                        )
                        .help(format!("write \"{}\"", method.to_ascii_uppercase()));
                }
                Err(_) => {
                    problems.error(&at, format!("\"{method}\" is not a method"));
                }
            }
        }
        if written.methods.is_some_and(<[_]>::is_empty) {
            problems
                .error(
                    &path.key("methods"),
                    "the list of methods is empty, so that no request would fit",
                )
                .help("leave the key out for all methods");
        }
        for (name, value) in written.headers {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(parsed) => conditions.headers.push((parsed, value.parse())),
                Err(_) => {
                    problems.error(
                        &path.key("headers").key(name),
                        format!("\"{name}\" is not a header name"),
                    );
                }
            }
        }
        conditions.query =
            written.query.iter().map(|(name, value)| (name.clone(), value.parse())).collect();
        conditions.cookies =
            written.cookies.iter().map(|(name, value)| (name.clone(), value.parse())).collect();
        conditions.client_networks = written.client_address.unwrap_or_default().to_vec();
        if written.client_address.is_some_and(<[_]>::is_empty) {
            problems
                .error(
                    &path.key("client_address"),
                    "the list of networks is empty, so that no client would fit",
                )
                .help("leave the key out for all clients");
        }
        conditions
    }

    /// Whether they take the method: an empty list takes every one; GET stands for HEAD too (RFC 9110, section 9.3.2).
    pub fn take_method(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    /// Whether all of them hold but for the method.
    pub fn hold_but_for_method(&self, request: &RequestView<'_>) -> bool {
        let headers = || {
            self.headers.iter().all(|(name, wanted)| {
                let values = || request.headers.get_all(name).iter();
                match wanted {
                    ValueMatch::Present => request.headers.contains_key(name),
                    ValueMatch::Absent => !request.headers.contains_key(name),
                    ValueMatch::Equals(text) => {
                        values().any(|value| value.as_bytes() == text.as_bytes())
                    }
                }
            })
        };
        self.takes_client(request.client)
            && headers()
            && pairs_hold(&self.query, || {
                form_urlencoded::parse(request.query.unwrap_or_default().as_bytes())
            })
            && pairs_hold(&self.cookies, || {
                request
                    .headers
                    .get_all(http::header::COOKIE)
                    .iter()
                    .filter_map(|value| value.to_str().ok())
                    .flat_map(|text| {
                        cookie::Cookie::split_parse(text).filter_map(Result::ok).map(|cookie| {
                            (cookie.name().to_owned().into(), cookie.value().to_owned().into())
                        })
                    })
            })
    }
}

impl RawValueMatch {
    fn parse(&self) -> ValueMatch {
        match self {
            Self::Present(true) => ValueMatch::Present,
            Self::Present(false) => ValueMatch::Absent,
            Self::Equals(text) => ValueMatch::Equals(text.clone()),
        }
    }
}

fn pairs_hold<'a, I>(wanted: &[(String, ValueMatch)], pairs: impl Fn() -> I) -> bool
where
    I: Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
{
    wanted.iter().all(|(name, wanted)| {
        let mut values = pairs().filter(|(key, _)| key == name).map(|(_, value)| value);
        match wanted {
            ValueMatch::Present => values.next().is_some(),
            ValueMatch::Absent => values.next().is_none(),
            ValueMatch::Equals(text) => values.any(|value| value == text.as_str()),
        }
    })
}
