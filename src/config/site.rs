//! `[sites.<name>]`: as written, and parsed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    route::{RawRedirect, RawRespond, RawRoute, RouteConfig},
    tls::{CertificateHeader, CertificateSource, RawCertificate, RawTls, TlsPolicy},
    types::{ByteSize, HostPattern, KeyPath, Name, defaults},
    upstream::{RawEndpoint, RawTimeouts},
};

/// `[sites.<name>]`: a set of host names with one TLS policy, its routes and their defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawSite {
    /// Host names; a star covers one label: `["shop.example.com", "*.shop.example.com"]`.
    pub hosts: Option<Vec<HostPattern>>,
    /// Listeners by name. Default: all TLS listeners; where there is none, all plain ones.
    pub listeners: Option<Vec<Name>>,
    /// Where the certificate comes from. Default: ACME for names that are public, else the edge's own authority.
    pub certificate: Option<RawCertificate>,
    /// What a handshake must satisfy.
    pub tls: Option<RawTls>,
    /// Policies by name. They always apply; a route adds its own and leaves some out by `without`.
    pub policies: Vec<Name>,
    /// Routes by name: names label metrics and logs.
    pub routes: BTreeMap<Name, RawRoute>,
    /// Own answers in place of the edge's, by status: `{ 404 = { file = "404.html" } }`.
    pub error_pages: BTreeMap<String, RawErrorPage>,
    /// The largest request body of its routes.
    #[schemars(extend("default" = defaults::BODY_SIZE.to_string()))]
    pub max_body: Option<ByteSize>,
    /// Timeouts of its routes; they go before the upstream's.
    pub timeouts: Option<RawTimeouts>,

    /// Target of a route `default` for every path: an upstream, by name.
    pub upstream: Option<Name>,
    /// Target of a route `default` for every path: a rollout, by name.
    pub rollout: Option<Name>,
    /// Target of a route `default` for every path: endpoints of an upstream that only this site has.
    pub endpoints: Option<Vec<RawEndpoint>>,
    /// Target of a route `default` for every path: a redirect.
    pub redirect: Option<RawRedirect>,
    /// Target of a route `default` for every path: an answer given here.
    pub respond: Option<RawRespond>,
}

/// An error page, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawErrorPage {
    /// Its body.
    pub body: Option<String>,
    /// A file with its body, at most 1 MiB, read when the configuration is loaded.
    pub file: Option<PathBuf>,
    /// Its `Content-Type`.
    #[schemars(extend("default" = "text/html; charset=utf-8"))]
    pub content_type: Option<String>,
}

/// A site, parsed.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands in the configuration.
    pub path: KeyPath,
    /// Its host names, none twice.
    pub hosts: Vec<HostPattern>,
    /// The listeners it is on, by name; `None`: the default ones.
    pub listeners: Option<Vec<Name>>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// What a handshake must satisfy.
    pub tls: TlsPolicy,
    /// What endpoints are told of a client's certificate.
    pub client_headers: Arc<[CertificateHeader]>,
    /// Policies that always apply.
    pub policies: Vec<Name>,
    /// Its routes.
    pub routes: Vec<RouteConfig>,
    /// Own answers by status.
    pub error_pages: Vec<ErrorPageConfig>,
    /// The largest request body.
    pub max_body_bytes: u64,
    /// Timeouts that go before the upstream's.
    pub timeouts: RawTimeouts,
}

/// An error page, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPageConfig {
    /// The status it stands for, 400 to 599.
    pub status: u16,
    /// Its body.
    pub body: crate::route::RespondBody,
    /// Its `Content-Type`.
    pub content_type: http::HeaderValue,
}
