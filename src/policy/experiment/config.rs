//! `[policies.<name>.experiment]`: as written, and parsed.

use std::collections::BTreeMap;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    policy::{
        Conditions, HashKey, RawValueMatch, WrittenConditions, WrittenHashKey, headers::header_name,
    },
    types::{
        Cidr, KeyPath, Name, Percent, Problems, RawStickyCookie, StickyCookie, defaults,
        deserialize_by_form, did_you_mean,
    },
};

/// The most variants of one experiment: each has series of its own.
const MAX_VARIANTS: usize = 16;

/// Names beside those that frame a message which no experiment can have: the edge writes them behind it, or clients need them.
const TAKEN: [&str; 18] = [
    "authorization",
    "client-cert",
    "client-cert-chain",
    "content-encoding",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "range",
    "x-attempt-count",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-tidegate-mirror",
];

/// `experiment`, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawExperiment {
    /// Whether it is on where nobody has switched it by the API: that goes before this key until it is reset.
    #[schemars(extend("default" = defaults::EXPERIMENT_ENABLED))]
    pub enabled: Option<bool>,
    /// The request header that tells endpoints the variant. What clients send under this name is always removed, also while the
    /// experiment is off. Must be there.
    pub header: Option<String>,
    /// The variants with their shares of the clients, at most 16, together at most 100%; the rest is in no variant: no header,
    /// not counted. One variant with 100% is a feature flag. A share that grows takes clients from the rest as long as there is one.
    pub variants: BTreeMap<Name, Percent>,
    /// Which requests are in a variant, or in none, whatever the shares say; the first that holds decides.
    pub segments: Vec<RawSegment>,
    /// A signed cookie keeps the client in its variant. Its place among the shares is drawn once, and it can't choose. Instead of
    /// `key`.
    pub sticky: Option<RawStickyCookie>,
    /// What tells clients apart where there is no `sticky`: its hash is the client's place among the shares, the same on every
    /// replica. A request without it is in no variant. Default: `{ client_address = true }`.
    pub key: Option<RawExperimentKey>,
    /// Any text; another one deals all clients anew.
    #[schemars(extend("default" = ""))]
    pub salt: Option<String>,
}

/// The key of a request, as written: exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawExperimentKey {
    /// The value of this request header. Clients can choose it, and so their variant.
    pub header: Option<String>,
    /// The value of this cookie, such as one of the application.
    pub cookie: Option<String>,
    /// The value of this parameter of the query.
    pub query: Option<String>,
    /// The path, normalised, without the query: pages are dealt, not clients.
    pub path: Option<bool>,
    /// The client's address; of IPv6 its network of 64 bits.
    pub client_address: Option<bool>,
    /// Not there yet.
    #[schemars(skip)]
    pub claim: Option<String>,
}

/// A segment, as written: every condition must hold, and there must be one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSegment {
    /// The variant of these requests, or `false`: in none.
    pub variant: RawSegmentVariant,
    /// Methods, such as `["GET", "HEAD"]`.
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// Headers that must be there: `true`, or the value that one of them must have.
    #[serde(default)]
    pub headers: BTreeMap<String, RawValueMatch>,
    /// Query parameters that must be there: `true`, or the value (after percent-decoding).
    #[serde(default)]
    pub query: BTreeMap<String, RawValueMatch>,
    /// Cookies that must be there: `true`, or the value.
    #[serde(default)]
    pub cookies: BTreeMap<String, RawValueMatch>,
    /// Networks that the client's address must be in.
    #[serde(default)]
    pub client_address: Option<Vec<Cidr>>,
    /// Not there yet.
    #[serde(default)]
    #[schemars(skip)]
    pub claims: Option<BTreeMap<String, RawValueMatch>>,
}

/// Where a segment leads, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawSegmentVariant {
    /// `false`: in no variant.
    None(bool),
    /// To a variant.
    Variant(Name),
}

deserialize_by_form!(
    RawSegmentVariant,
    "the name of a variant, or false",
    { bool => None, text => Variant }
);

/// `experiment`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentConfig {
    /// Whether it is on where nobody has switched it.
    pub enabled: bool,
    /// The request header that tells endpoints the variant.
    pub header: HeaderName,
    /// Variants and shares, by name.
    pub variants: Vec<(Name, Percent)>,
    /// Which requests are where, whatever the shares say: conditions, and the place of the variant.
    pub segments: Vec<(Conditions, Option<usize>)>,
    /// How a client's place among the shares is found.
    pub place: PlaceOf,
    /// Deals anew.
    pub salt: String,
}

/// How a client's place among the shares is found.
#[derive(Clone, Debug, PartialEq)]
pub enum PlaceOf {
    /// It was drawn, and stands in a signed cookie.
    Cookie(StickyCookie),
    /// It is the hash of a key.
    Key(HashKey),
}

impl RawExperiment {
    /// Parses it; `None` where something is wrong.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<ExperimentConfig> {
        let header = self.parse_header(path, problems);
        self.check_variants(path, problems);
        let segments = self
            .segments
            .iter()
            .enumerate()
            .map(|(i, raw)| self.parse_segment(raw, &path.key("segments").index(i), problems))
            .collect();
        let place = self.parse_place(path, problems);
        if let Some(header) = &header {
            self.check_own_header(header, path, problems);
        }
        Some(ExperimentConfig {
            enabled: self.enabled.unwrap_or(defaults::EXPERIMENT_ENABLED),
            header: header?,
            variants: self.variants.iter().map(|(name, share)| (name.clone(), *share)).collect(),
            segments,
            place: place?,
            salt: self.salt.clone().unwrap_or_default(),
        })
    }

    fn parse_header(&self, path: &KeyPath, problems: &mut Problems) -> Option<HeaderName> {
        let Some(name) = &self.header else {
            problems
                .error(path, "the experiment does not say which header tells endpoints the variant")
                .at_key()
                .help("add `header = \"X-Experiment-Checkout\"`");
            return None;
        };
        let at = path.key("header");
        let header = header_name(name, &at, problems)?;
        if TAKEN.contains(&header.as_str()) {
            problems
                .error(&at, format!("`{header}` has another meaning; clients would lose theirs"))
                .help("choose a name that nothing else uses, such as \"X-Experiment-Checkout\"");
            return None;
        }
        Some(header)
    }

    /// What is removed from every request can't tell them apart.
    fn check_own_header(&self, own: &HeaderName, path: &KeyPath, problems: &mut Problems) {
        let key = self.key.as_ref().and_then(|key| key.header.as_ref());
        let key = key.map(|name| (path.key("key").key("header"), name));
        let segments = self.segments.iter().enumerate().flat_map(|(i, segment)| {
            let at = path.key("segments").index(i).key("headers");
            segment.headers.keys().map(move |name| (at.key(name), name))
        });
        for (at, name) in segments.chain(key) {
            if HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| reads_like(&name, own)) {
                problems
                    .error(&at, "the experiment's own header is removed from what clients send")
                    .help("use another header, a cookie, or another name in `header`");
            }
        }
    }

    fn check_variants(&self, path: &KeyPath, problems: &mut Problems) {
        let at = path.key("variants");
        if self.variants.is_empty() {
            problems
                .error(path, "the experiment has no variants")
                .at_key()
                .help("a flag has one: `variants = { on = \"100%\" }`");
        }
        if self.variants.len() > MAX_VARIANTS {
            problems
                .error(&at, format!("there are {} variants", self.variants.len()))
                .at_key()
                .help(format!("an experiment has at most {MAX_VARIANTS}"));
        }
        let millionths: u64 =
            self.variants.values().map(|share| u64::from(share.millionths())).sum();
        let excess = millionths.saturating_sub(u64::from(Percent::ALL.millionths()));
        if excess > 0 {
            problems
                .error(&at, "the shares of the variants are more than 100% together")
                .at_key()
                .help("what is left of 100% is in no variant");
        }
    }

    fn parse_segment(
        &self,
        raw: &RawSegment,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> (Conditions, Option<usize>) {
        let conditions = Conditions::parse(
            &WrittenConditions {
                methods: raw.methods.as_deref(),
                headers: &raw.headers,
                query: &raw.query,
                cookies: &raw.cookies,
                client_address: raw.client_address.as_deref(),
            },
            path,
            problems,
        );
        if raw.claims.is_some() {
            problems
                .error(
                    &path.key("claims"),
                    "claims of tokens can't be conditions yet: they come with the policy `jwt`",
                )
                .at_key()
                .help("use headers, query, cookies, client_address or methods");
        } else if raw.methods.is_none()
            && raw.client_address.is_none()
            && raw.headers.is_empty()
            && raw.query.is_empty()
            && raw.cookies.is_empty()
        {
            problems
                .error(path, "the segment has no condition, so that it takes every request")
                .help("add `headers`, `query`, `cookies`, `client_address` or `methods`; a share is what is for all clients");
        }
        (conditions, self.parse_variant(&raw.variant, &path.key("variant"), problems))
    }

    /// The place of a segment's variant.
    fn parse_variant(
        &self,
        raw: &RawSegmentVariant,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<usize> {
        let name = match raw {
            RawSegmentVariant::Variant(name) => name,
            RawSegmentVariant::None(false) => return None,
            RawSegmentVariant::None(true) => {
                problems
                    .error(path, "a segment leads to one variant, or to none")
                    .help("write the variant's name, or false");
                return None;
            }
        };
        let place = self.variants.keys().position(|known| known == name);
        if place.is_none() {
            let near = did_you_mean(name, self.variants.keys().map(|known| &**known));
            let near = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            problems.error(path, format!("there is no variant \"{name}\"{near}"));
        }
        place
    }

    fn parse_place(&self, path: &KeyPath, problems: &mut Problems) -> Option<PlaceOf> {
        match (&self.sticky, &self.key) {
            (Some(cookie), Some(_)) => {
                cookie.parse(&path.key("sticky"), problems);
                problems
                    .error(
                        &path.key("key"),
                        "a cookie tells clients apart already: nothing would be hashed",
                    )
                    .at_key()
                    .help("keep `sticky` or `key`");
                None
            }
            (Some(cookie), None) => {
                Some(PlaceOf::Cookie(cookie.parse(&path.key("sticky"), problems)))
            }
            (None, Some(key)) => {
                let written = WrittenHashKey {
                    header: key.header.as_deref(),
                    cookie: key.cookie.as_deref(),
                    query: key.query.as_deref(),
                    path: key.path,
                    client_address: key.client_address,
                    claim: key.claim.as_deref(),
                };
                HashKey::parse(&written, "key", &path.key("key"), problems).map(PlaceOf::Key)
            }
            (None, None) => Some(PlaceOf::Key(HashKey::ClientAddress)),
        }
    }
}

/// Gateways that turn "-" into "_" can't tell such names apart.
pub(super) fn reads_like(name: &HeaderName, own: &HeaderName) -> bool {
    let even = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let [name, own] = [name, own].map(|name| name.as_str().bytes());
    name.len() == own.len() && name.map(even).eq(own.map(even))
}

impl ExperimentConfig {
    /// The name of the cookie, where there is one.
    pub fn cookie(&self) -> Option<&str> {
        match &self.place {
            PlaceOf::Cookie(cookie) => Some(&cookie.cookie),
            PlaceOf::Key(_) => None,
        }
    }
}
