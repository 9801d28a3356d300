//! Sites and routes as the request path sees them: names resolved, expressions built, files read.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use crate::{
    limit::Criticality,
    policy::Chain,
    rollout::{Assignment, Side},
    route::{Rewrite, RouteTable, Template},
    telemetry::metrics::{RouteMetrics, UpstreamMetrics},
    tls::{CertificateHeader, SiteTls},
    types::{HostPattern, Name},
    upstream::{Retries, Timeouts},
};

/// A site of one generation.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: Name,
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// Its TLS, where a TLS listener has it. `None` with `is_disabled`: its certificate is broken.
    pub tls: Option<Arc<SiteTls>>,
    /// It does not serve: its certificate could not be loaded when the edge started.
    pub is_disabled: bool,
    /// Connections must have been made under this site's own TLS policy: it asks for more than the least.
    pub demands_own_policy: bool,
    /// It asks clients for certificates: it answers over TLS only.
    pub asks_for_certificates: bool,
    /// What endpoints are told of a client's certificate.
    pub client_headers: Arc<[CertificateHeader]>,
    /// Its routes.
    pub routes: RouteTable<Arc<Route>>,
    /// Own answers by status.
    pub error_pages: HashMap<u16, StaticBody, RandomState>,
    /// The site's policies, for answers where no route was found.
    pub chain: Chain,
    /// Counts requests that found no route.
    pub metrics: Arc<RouteMetrics>,
}

/// A route of one generation.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// Its policies, the site's among them.
    pub chain: Chain,
    /// Where its requests go.
    pub target: Target,
    /// The expression of its path, for captures.
    pub expression: Option<Regex>,
    /// What is done where the upstream has no answer.
    pub fallback: Option<Box<Fallback>>,
    /// Changes towards the upstream.
    pub rewrite: Rewrite,
    /// The largest request body.
    pub max_body_bytes: u64,
    /// How important its requests are when the edge can't serve all.
    pub criticality: Criticality,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
}

/// Where a route's requests go.
#[derive(Debug)]
pub enum Target {
    /// To an upstream.
    Forward(Forward),
    /// To one of the two upstreams of a rollout.
    Split(Box<Split>),
    /// Elsewhere.
    Redirect {
        /// The `Location`.
        to: Template,
        /// The status.
        status: StatusCode,
    },
    /// An answer from here.
    Respond(StaticAnswer),
}

/// Both ways of a route with a rollout.
#[derive(Debug)]
pub struct Split {
    /// To the stable.
    pub stable: Forward,
    /// To the candidate, and who goes there; `None` in the steady state.
    pub candidate: Option<(Forward, Arc<Assignment>)>,
}

impl Split {
    /// The way to a side; the stable's where there is no other.
    pub fn to(&self, side: Side) -> &Forward {
        match (&self.candidate, side) {
            (Some((candidate, _)), Side::Candidate) => candidate,
            _ => &self.stable,
        }
    }
}

/// How a route's requests go to their upstream.
#[derive(Debug)]
pub struct Forward {
    /// The upstream's place in [`super::Snapshot::upstreams`].
    pub index: usize,
    /// Route before site before upstream.
    pub timeouts: Timeouts,
    /// Route before upstream; the upstream's own where the route says nothing.
    pub retries: Arc<Retries>,
    /// The Host header that its endpoints see, where it is not the client's.
    pub host: Option<HeaderValue>,
    /// Counts its retries.
    pub metrics: Arc<UpstreamMetrics>,
}

/// What is done where a route's upstream has no answer.
#[derive(Debug)]
pub enum Fallback {
    /// The request goes to another upstream.
    Forward(Forward),
    /// An answer from here.
    Respond(StaticAnswer),
}

/// An answer that is the same for every request.
#[derive(Debug)]
pub struct StaticAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, `Content-Type` among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

/// A body with its type.
#[derive(Clone, Debug)]
pub struct StaticBody {
    /// Its `Content-Type`.
    pub content_type: HeaderValue,
    /// Its bytes.
    pub bytes: Bytes,
}
