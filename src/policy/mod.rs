//! Policies: what is done to the requests of a site or route, in one fixed order.
//!
//! A policy is one file: its configuration, its pure core, its [`Policy`] impl, its tests. Nothing here sees Pingora's
//! `Session`; a request is a [`RequestHead`] that borrows Pingora's header.
//!
//! The order is [`ORDER`]: it is safe by construction and not configurable. `ip_filter` → `request_limits` → `cors` →
//! `rate_limit` (by address) → `fault` → `client_certificate`, `jwt`, `api_key`, `basic_auth`, `oidc` → `forward_auth` →
//! `authorize` → `rate_limit` (by identity) → `concurrency` → `experiment` → `rewrite` → `headers`.

mod concurrency;
mod conditions;
mod config;
mod cookies;
mod experiment;
mod fault;
mod hash_key;
mod headers;

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, StatusCode, header::SET_COOKIE};
use pingora_http::{IntoCaseHeaderName as _, RequestHeader, ResponseHeader};

pub use concurrency::{Concurrency, ConcurrencyConfig, Per, RawConcurrency};
pub use conditions::{Conditions, RawValueMatch, RequestView, ValueMatch, WrittenConditions};
pub use config::{PLANNED_KINDS, PolicyConfig, RawPolicy};
pub use experiment::{
    Experiment, ExperimentConfig, LiveExperiments, PlaceOf, RawExperiment, RawExperimentKey,
    RawSegment, RawSegmentVariant, Switched,
};
pub use fault::{
    Fault, FaultConfig, RawFault, RawFaultAbort, RawFaultDelay, RawFaultMatch, RawFaultSlowBody,
};
pub use hash_key::{HashKey, WrittenHashKey};
pub use headers::{Headers, HeadersConfig, HeadersPreset, RawHeaderChanges, RawHeaders};

use crate::{
    state::Registry,
    telemetry::metrics::{InjectedFault, Metrics},
    types::Name,
};

/// The kinds of policy that exist, in the order in which they act on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Fault`].
    Fault,
    /// [`Concurrency`].
    Concurrency,
    /// [`Experiment`].
    Experiment,
    /// [`Headers`].
    Headers,
}

/// [`Kind`]s in the order in which they act; the way back is the same list from its end.
pub const ORDER: [Kind; 4] = [Kind::Fault, Kind::Concurrency, Kind::Experiment, Kind::Headers];

/// One thing done to the requests of a site or route.
pub trait Policy: Send + Sync {
    /// Decides on a request, before an endpoint is chosen.
    fn on_request<'a>(
        &'a self,
        request: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a>;

    /// Edits the head of every response, ours too, never of a 1xx. Infallible.
    fn on_response(&self, _response: &mut ResponseHead<'_>, _context: &PolicyContext) {}

    /// The policy with its live state, for one route, where it has one.
    fn attached(&self, _place: &Place<'_>, _live: &Live) -> Option<Arc<dyn Policy>> {
        None
    }

    /// Gives its live state its settings: to be called when the generation comes into force, and never before, since the one
    /// before it uses the same state.
    fn put_in_force(&self, _generation: u64) {}
}

/// Where a policy is in force.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The site.
    pub site: &'a Name,
    /// The route.
    pub route: &'a Name,
}

/// What outlives snapshots of all policies. One for an edge.
#[derive(Debug)]
pub struct Live {
    limiters: Registry<concurrency::Key, concurrency::Shared>,
    clients: Registry<concurrency::Key, concurrency::Clients>,
    /// Experiments.
    pub experiments: LiveExperiments,
}

impl Live {
    /// Of an edge that keeps its state there. Reads what is kept; blocks.
    pub fn new(state_dir: &Path, metrics: Arc<Metrics>) -> Self {
        Self {
            limiters: Registry::new(),
            clients: Registry::new(),
            experiments: LiveExperiments::new(state_dir, metrics),
        }
    }

    /// Ends what no policy of this generation limits any more. To be called when all of them are in force.
    pub fn lift_others(&self, generation: u64) {
        concurrency::lift_others(self, generation);
    }

    /// Drops state that nothing has used for ten minutes. To be called every minute or so.
    pub fn sweep(&self, now: Instant) {
        self.limiters.sweep(now);
        self.clients.sweep(now);
        self.experiments.sweep(now);
    }
}

/// What a policy says of a request: at once, or later.
pub enum Step<'a> {
    /// Known without waiting: no future is boxed.
    Now(Result<Flow, Denied>),
    /// Known after waiting for something.
    Later(BoxFuture<'a, Result<Flow, Denied>>),
}

/// How a request goes on.
pub enum Flow {
    /// To the next policy.
    Continue,
    /// It is answered here.
    Respond(PolicyResponse),
}

/// An answer that a policy gives itself.
pub struct PolicyResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, framing excepted.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

/// A refusal: what the client is told. `reason` goes to log and metric only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// A 4xx or 5xx status.
    pub status: StatusCode,
    /// A constant word for log and metric.
    pub reason: &'static str,
    /// When asking again may help: `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// What policies know of a request, and what they leave for later ones.
#[derive(Debug, Default)]
pub struct PolicyContext {
    /// The client's address, behind trusted proxies too. `None` on a Unix socket without a believed header.
    pub client: Option<IpAddr>,
    /// Whether the client speaks TLS to us.
    pub is_tls: bool,
    /// Bytes a second at which the body of the answer goes to the client, where a fault says so.
    pub body_rate: Option<u64>,
    /// Faults that were made on purpose. Empty, and without memory of its own, where there are none.
    pub faults: Vec<InjectedFault>,
    /// How long it has waited for room.
    pub waited: Duration,
    /// Cookies for the client: values of `Set-Cookie`. Empty, and without memory of its own, where there are none.
    cookies: Vec<HeaderValue>,
    /// What it holds until its end.
    held: Vec<concurrency::Held>,
}

impl PolicyContext {
    /// Of a request that has just come.
    pub fn new(client: Option<IpAddr>, is_tls: bool) -> Self {
        Self { client, is_tls, ..Self::default() }
    }

    /// It is no request any more that others wait for: its permits are given back.
    pub fn let_go(&mut self) {
        self.held.clear();
    }
}

/// A header's name in the form in which it is written, made once for many edits.
///
/// Pingora would copy a `HeaderName` into that form at each edit; this one is shared.
#[derive(Clone, Debug)]
pub struct WireName(Bytes);

impl From<&HeaderName> for WireName {
    fn from(name: &HeaderName) -> Self {
        Self(Bytes::copy_from_slice(name.into_case_header_name().as_slice()))
    }
}

/// The head of a request: Pingora's, borrowed.
pub struct RequestHead<'a>(pub &'a mut RequestHeader);

impl RequestHead<'_> {
    /// What conditions and keys are read from.
    pub fn view(&self, client: Option<IpAddr>) -> RequestView<'_> {
        RequestView {
            method: &self.0.method,
            path: self.0.uri.path(),
            query: self.0.uri.query(),
            headers: &self.0.headers,
            client,
        }
    }

    /// Replaces a header.
    pub fn set_header(&mut self, name: &WireName, value: &HeaderValue) {
        // It can only fail on an invalid name or value; both are valid by their types.
        let _ = self.0.insert_header(name.0.clone(), value);
    }

    /// Adds a header beside those of the same name.
    pub fn add_header(&mut self, name: &WireName, value: &HeaderValue) {
        let _ = self.0.append_header(name.0.clone(), value);
    }

    /// Removes a header in all its lines.
    pub fn remove_header(&mut self, name: &HeaderName) {
        self.0.remove_header(name);
    }

    /// Takes every cookie of this name out, and returns the value of the first. All other bytes of `Cookie` stay as they are; a
    /// line without another cookie goes.
    pub fn take_cookie(&mut self, name: &str) -> Option<String> {
        cookies::take(self.0, name)
    }
}

/// The head of a response: Pingora's, borrowed.
pub struct ResponseHead<'a>(pub &'a mut ResponseHeader);

impl ResponseHead<'_> {
    /// Replaces a header.
    pub fn set_header(&mut self, name: &WireName, value: &HeaderValue) {
        let _ = self.0.insert_header(name.0.clone(), value);
    }

    /// Adds a header beside those of the same name.
    pub fn add_header(&mut self, name: &WireName, value: &HeaderValue) {
        let _ = self.0.append_header(name.0.clone(), value);
    }

    /// Removes a header in all its lines.
    pub fn remove_header(&mut self, name: &HeaderName) {
        self.0.remove_header(name);
    }
}

/// The policies of one route, in [`ORDER`].
#[derive(Clone, Default)]
pub struct Chain {
    policies: Arc<[Arc<dyn Policy>]>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({})", self.policies.len())
    }
}

impl Chain {
    /// Sorts policies into the one order; those of one kind keep the order in which they are given (the site's first).
    pub fn new(mut policies: Vec<(Kind, Arc<dyn Policy>)>) -> Self {
        policies.sort_by_key(|(kind, _)| *kind);
        Self { policies: policies.into_iter().map(|(_, policy)| policy).collect() }
    }

    /// The chain of one route, with the live state of its policies; that is changed when it is put in force.
    #[must_use]
    pub fn attached(&self, place: &Place<'_>, live: &Live) -> Self {
        let mut attached: Option<Vec<Arc<dyn Policy>>> = None;
        for (index, policy) in self.policies.iter().enumerate() {
            if let Some(alive) = policy.attached(place, live)
                && let Some(slot) =
                    attached.get_or_insert_with(|| self.policies.to_vec()).get_mut(index)
            {
                *slot = alive;
            }
        }
        // Most chains have nothing alive: they stay as they were compiled.
        attached.map_or_else(|| self.clone(), |policies| Self { policies: policies.into() })
    }

    /// Its generation comes into force: live state takes its settings.
    pub fn put_in_force(&self, generation: u64) {
        for policy in self.policies.iter() {
            policy.put_in_force(generation);
        }
    }

    /// Asks each policy in turn, until one answers or refuses.
    pub async fn on_request(
        &self,
        request: &mut RequestHead<'_>,
        context: &mut PolicyContext,
    ) -> Result<Flow, Denied> {
        for policy in self.policies.iter() {
            let flow = match policy.on_request(request, context) {
                Step::Now(result) => result?,
                Step::Later(later) => later.await?,
            };
            if let Flow::Respond(_) = flow {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    /// Lets each policy edit the response, the last one of the request first, and gives the client its cookies.
    pub fn on_response(&self, response: &mut ResponseHead<'_>, context: &PolicyContext) {
        for cookie in &context.cookies {
            // The value is valid by its type.
            let _ = response.0.append_header(SET_COOKIE, cookie.clone());
        }
        for policy in self.policies.iter().rev() {
            policy.on_response(response, context);
        }
    }
}
