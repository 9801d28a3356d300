//! What the edge remembers of one request.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use pingora_error::{Error, ErrorSource};

use super::{
    body_pace::{AnswerPace, BodyPace},
    client_address::ClientAddress,
    connection::ConnectionInfo,
    failure::Failure,
    life::OnConnection,
    outcome,
    tries::Tries,
};
use crate::{
    limit::Admitted,
    policy::PolicyContext,
    snapshot::{Route, Site, Snapshot},
    telemetry::{
        AccessLog,
        metrics::{InFlight, RouteMetrics, UpstreamMetrics},
    },
    types::Name,
};

/// The state of one request. It takes one snapshot when it is made, and lets it go at the response head: a long stream
/// then holds only its endpoint and its counters, so that it does not keep a generation alive.
pub struct RequestContext {
    /// When its head was complete.
    pub(super) started: Instant,
    /// The one generation that it sees.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Its connection.
    pub(super) connection: Option<Arc<ConnectionInfo>>,
    /// Its place among the requests of its connection.
    pub(super) on_connection: Option<OnConnection>,
    /// How fast its body comes.
    pub(super) body_pace: Option<BodyPace>,
    /// How fast its answer is taken, on HTTP/2.
    pub(super) answer_pace: Option<AnswerPace>,
    /// The client.
    pub(super) client: ClientAddress,
    /// Its id.
    pub(super) request_id: HeaderValue,
    /// Where it arrived: site and route.
    pub(super) site: Option<Arc<Site>>,
    /// See [`Self::site`].
    pub(super) route: Option<Arc<Route>>,
    /// What is left of them after the response head: names and counters.
    pub(super) labels: Labels,
    /// Its path, normalised.
    pub(super) path: String,
    /// Host and port as the client wrote them.
    pub(super) host: HeaderValue,
    /// What policies know.
    pub(super) policy: PolicyContext,
    /// Its place among the requests of the edge.
    pub(super) admitted: Option<Admitted>,
    /// Bytes of its body so far.
    pub(super) body_bytes: u64,
    /// The client has sent all of it.
    pub(super) is_sent: bool,
    /// The tries so far.
    pub(super) tries: Tries,
    /// Why it is not served, where a hook found out.
    pub(super) failure: Option<Failure>,
    /// The answer is a stream, whose silence is no fault: events, gRPC messages, a WebSocket.
    pub(super) is_stream: bool,
    /// The response that is written or being written is the edge's own.
    pub(super) is_own_answer: bool,
    /// The status that the client was sent.
    pub(super) status: u16,
}

/// Names and counters of a request, for the time after its snapshot.
#[derive(Default)]
pub(super) struct Labels {
    pub(super) site: Option<Name>,
    pub(super) route: Option<Name>,
    pub(super) metrics: Option<Arc<RouteMetrics>>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) upstream: Option<Arc<UpstreamMetrics>>,
    pub(super) access_log: Option<Arc<AccessLog>>,
}

impl RequestContext {
    /// A new request that sees `snapshot`.
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            started: Instant::now(),
            snapshot: Some(snapshot),
            connection: None,
            on_connection: None,
            body_pace: None,
            answer_pace: None,
            client: ClientAddress { address: None, from_trusted: false },
            request_id: HeaderValue::from_static(""),
            site: None,
            route: None,
            labels: Labels::default(),
            path: String::new(),
            host: HeaderValue::from_static(""),
            policy: PolicyContext::default(),
            admitted: None,
            body_bytes: 0,
            is_sent: false,
            tries: Tries::default(),
            failure: None,
            is_stream: false,
            is_own_answer: false,
            status: 0,
        }
    }

    /// The address of the connection's other end.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.connection
            .as_ref()
            .and_then(|connection| connection.client)
            .map(|address| address.ip())
    }

    /// Why it failed: what a hook found out, what is wrong with its body, or what the error says.
    pub(super) fn failure_of(&self, error: &Error) -> Failure {
        let fault = || self.connection.as_ref().and_then(|connection| connection.fault());
        match (&self.failure, error.esource()) {
            (Some(failure), _) => failure.clone(),
            (None, ErrorSource::Downstream) => {
                fault().map_or_else(|| Failure::of(error), Failure::ClientFraming)
            }
            (None, _) => Failure::of(error),
        }
    }

    /// Whether the rest of its body has yet to come from the client: an endpoint that waits for it is not slow.
    pub(super) fn waits_for_client(&self, now: Instant) -> bool {
        !self.is_sent && self.body_pace.as_ref().is_none_or(|pace| pace.waits_for_client(now))
    }

    /// Whether the client speaks TLS to us.
    pub(super) fn is_tls(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_tls)
    }

    /// It is over, or a long stream from now on: it counts as no request any more, and who waits may have its place.
    pub(super) fn let_go_of_permits(&mut self) {
        self.tries.permit = None;
        self.policy.let_go();
        self.admitted = None;
    }

    /// How long it has waited for room, all in all.
    pub(super) fn waited(&self) -> Duration {
        self.tries.waited + self.policy.waited
    }

    /// The response head is on its way: nothing of the configuration is needed any more.
    pub(super) fn let_go_of_snapshot(&mut self) {
        self.snapshot = None;
        self.site = None;
        self.route = None;
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if self.body_pace.as_ref().is_some_and(BodyPace::is_cut) {
            outcome::cut(self);
        }
    }
}
