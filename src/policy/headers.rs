//! Policy `headers`: sets, adds and removes headers of requests and responses.
//!
//! Place: last in the chain. On the way back it acts on every response but 1xx, our own answers too, so that HSTS is
//! there on a 404. It does not touch framing or hop-by-hop fields; those names are refused in the configuration.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, header::STRICT_TRANSPORT_SECURITY};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Flow, Policy, PolicyContext, RequestHead, ResponseHead, Step, WireName};
use crate::types::{KeyPath, Problems};

/// `headers`, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHeaders {
    /// `strict`: HSTS of a year on TLS, nosniff, frames denied, a strict referrer policy, no camera, microphone or location, and no `Server` or `X-Powered-By`.
    pub preset: Option<HeadersPreset>,
    /// Changes to the request that goes to the endpoint.
    pub request: Option<RawHeaderChanges>,
    /// Changes to the response that goes to the client. They go before the preset.
    pub response: Option<RawHeaderChanges>,
}

/// A named set of response headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadersPreset {
    /// What a security scanner asks for and few applications break on.
    Strict,
}

/// Changes to one direction, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHeaderChanges {
    /// Replaces a header: `{ X-Frame-Options = "SAMEORIGIN" }`.
    pub set: BTreeMap<String, String>,
    /// Adds a header and keeps those that are there.
    pub add: BTreeMap<String, String>,
    /// Removes headers, before the others are set.
    pub remove: Vec<String>,
}

/// `headers`, parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadersConfig {
    request: Changes,
    response: Changes,
    /// Only on responses to requests that came over TLS (RFC 6797, section 7.2).
    hsts: Option<HeaderValue>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Changes {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Names that frame a message or belong to one connection: the edge sets them itself.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const STRICT: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cross-origin-opener-policy", "same-origin"),
    ("x-permitted-cross-domain-policies", "none"),
];
const STRICT_REMOVES: [&str; 2] = ["server", "x-powered-by"];
const STRICT_TRANSPORT: &str = "max-age=31536000; includeSubDomains";

impl RawHeaders {
    /// Parses names and values.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> HeadersConfig {
        let mut config = HeadersConfig::default();
        if self.preset.is_none() && self.request.is_none() && self.response.is_none() {
            problems.error(path, "the headers policy changes nothing").help("write `preset = \"strict\"`, or `request` or `response` with `set`, `add` or `remove`");
        }
        if let Some(request) = &self.request {
            config.request = request.parse(&path.key("request"), problems);
        }
        if let Some(response) = &self.response {
            config.response = response.parse(&path.key("response"), problems);
        }
        if self.preset == Some(HeadersPreset::Strict) {
            config.add_strict();
        }
        config
    }
}

impl RawHeaderChanges {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Changes {
        let mut pairs = |key: &str, map: &BTreeMap<String, String>| {
            let mut list = Vec::with_capacity(map.len());
            for (name, value) in map {
                let at = path.key(key).key(name);
                let parsed_name = header_name(name, &at, problems);
                let parsed_value = HeaderValue::from_str(value);
                if parsed_value.is_err() {
                    problems.error(
                        &at,
                        "this is not a header value: it has control or non-ASCII characters",
                    );
                }
                list.extend(parsed_name.zip(parsed_value.ok()));
            }
            list
        };
        let set = pairs("set", &self.set);
        let add = pairs("add", &self.add);
        let mut remove = Vec::new();
        for (i, name) in self.remove.iter().enumerate() {
            remove.extend(header_name(name, &path.key("remove").index(i), problems));
        }
        Changes { remove, set, add }
    }
}

/// A name that a policy may set or remove.
pub(super) fn header_name(
    name: &str,
    path: &KeyPath,
    problems: &mut Problems,
) -> Option<HeaderName> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        problems.error(path, format!("\"{name}\" is not a header name"));
        return None;
    };
    if RESERVED.contains(&parsed.as_str()) {
        problems
            .error(path, format!("the edge sets `{parsed}` itself; a policy can't change it"))
            .help(match parsed.as_str() {
                "host" => "use `rewrite = { host = \"…\" }` on the route",
                _ => "leave it out",
            });
        return None;
    }
    Some(parsed)
}

impl HeadersConfig {
    fn add_strict(&mut self) {
        let own: Vec<HeaderName> = self.response.set.iter().map(|(name, _)| name.clone()).collect();
        let hsts = HeaderName::from_static("strict-transport-security");
        if !own.contains(&hsts) {
            self.hsts = Some(HeaderValue::from_static(STRICT_TRANSPORT));
        }
        for (name, value) in STRICT {
            let name = HeaderName::from_static(name);
            if !own.contains(&name) {
                self.response.set.push((name, HeaderValue::from_static(value)));
            }
        }
        self.response.remove.extend(
            STRICT_REMOVES
                .map(HeaderName::from_static)
                .into_iter()
                .filter(|name| !own.contains(name)),
        );
    }
}

/// The policy itself.
#[derive(Debug)]
pub struct Headers {
    request: Edits,
    response: Edits,
    hsts: Option<(WireName, HeaderValue)>,
}

/// [`Changes`] as they are made to each message.
#[derive(Debug)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(WireName, HeaderValue)>,
    add: Vec<(WireName, HeaderValue)>,
}

impl From<Changes> for Edits {
    fn from(changes: Changes) -> Self {
        let wire = |list: Vec<(HeaderName, HeaderValue)>| {
            list.into_iter().map(|(name, value)| (WireName::from(&name), value)).collect()
        };
        Self { remove: changes.remove, set: wire(changes.set), add: wire(changes.add) }
    }
}

impl Headers {
    /// A policy with this configuration.
    pub fn new(config: HeadersConfig) -> Self {
        let hsts = |value| (WireName::from(&STRICT_TRANSPORT_SECURITY), value);
        Self {
            request: config.request.into(),
            response: config.response.into(),
            hsts: config.hsts.map(hsts),
        }
    }
}

impl Policy for Headers {
    fn on_request<'a>(
        &'a self,
        request: &'a mut RequestHead<'_>,
        _: &'a mut PolicyContext,
    ) -> Step<'a> {
        let changes = &self.request;
        for name in &changes.remove {
            request.remove_header(name);
        }
        for (name, value) in &changes.set {
            request.set_header(name, value);
        }
        for (name, value) in &changes.add {
            request.add_header(name, value);
        }
        Step::Now(Ok(Flow::Continue))
    }

    fn on_response(&self, response: &mut ResponseHead<'_>, context: &PolicyContext) {
        let changes = &self.response;
        for name in &changes.remove {
            response.remove_header(name);
        }
        for (name, value) in &changes.set {
            response.set_header(name, value);
        }
        for (name, value) in &changes.add {
            response.add_header(name, value);
        }
        if let Some((name, value)) = &self.hsts
            && context.is_tls
        {
            response.set_header(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::ResponseHeader;

    use super::*;

    #[test]
    fn responses_are_edited_and_names_keep_their_written_form() {
        let raw: RawHeaders = toml::from_str(
            "preset = 'strict'\n[response]\nset = { x-frame-options = 'SAMEORIGIN', cache-control = 'no-store' }\nadd = { x-hop = 'two' }",
        )
        .unwrap();
        let mut problems = Problems::new();
        let policy = Headers::new(raw.parse(&KeyPath::root(), &mut problems));
        assert!(problems.is_empty(), "{problems:?}");
        for is_tls in [true, false] {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for (name, value) in [("Server", "origin"), ("X-Hop", "one")] {
                response.append_header(name, value).unwrap();
            }
            let context = PolicyContext::new(None, is_tls);
            policy.on_response(&mut ResponseHead(&mut response), &context);
            let mut wire = Vec::new();
            response.header_to_h1_wire(&mut wire);
            let wire = String::from_utf8(wire).unwrap();
            for line in [
                "Cache-Control: no-store",
                "x-frame-options: SAMEORIGIN",
                "X-Hop: one",
                "x-hop: two",
                "x-content-type-options: nosniff",
            ] {
                assert!(wire.contains(&format!("{line}\r\n")), "{line} in {wire}");
            }
            assert!(!wire.contains("Server") && !wire.contains("DENY"), "{wire}");
            assert_eq!(wire.contains("strict-transport-security: max-age="), is_tls, "{wire}");
        }
    }
}
