//! What the edge remembers of one request.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;

use super::{
    body_pace::{AnswerPace, BodyPace},
    client_address::ClientAddress,
    connection::ConnectionInfo,
    failure::Failure,
    life::OnConnection,
    outcome,
    watchdog::Watchdog,
};
use crate::{
    policy::PolicyContext,
    snapshot::{Route, Site, Snapshot},
    telemetry::{
        AccessLog,
        metrics::{InFlight, RouteMetrics, UpstreamMetrics},
    },
    types::Name,
    upstream::{Picked, Timeouts, Tried},
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
    pub(super) host: String,
    /// What policies know.
    pub(super) policy: PolicyContext,
    /// Bytes of its body so far.
    pub(super) body_bytes: u64,
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

/// What a request asks for, as far as its timeouts differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Exchange {
    /// An answer.
    #[default]
    Answer,
    /// Events or gRPC messages: once the head says so, silence is no fault.
    Stream,
    /// A WebSocket: silence is no fault from the start.
    WebSocket,
}

/// The tries of a request on endpoints.
#[derive(Default)]
pub(super) struct Tries {
    /// The upstream, by its place in the snapshot.
    pub(super) upstream: Option<usize>,
    /// Timeouts of this route.
    pub(super) timeouts: Timeouts,
    /// How many there were.
    pub(super) count: u32,
    /// The endpoints that were tried.
    pub(super) tried: Tried,
    /// The present one; its in-flight guard ends with the request.
    pub(super) picked: Option<Picked>,
    /// When the first try began.
    pub(super) began: Option<Instant>,
    /// From then to the first byte of the answer.
    pub(super) first_byte: Option<Duration>,
    /// From then to the end of the answer.
    pub(super) took: Option<Duration>,
    /// Ends a try that takes too long.
    pub(super) watchdog: Option<Watchdog>,
    /// What the request asks for.
    pub(super) exchange: Exchange,
    /// The largest request body; `None` where there is no limit.
    pub(super) max_body_bytes: Option<u64>,
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
            host: String::new(),
            policy: PolicyContext { client: None, is_tls: false },
            body_bytes: 0,
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

    /// Whether the client speaks TLS to us.
    pub(super) fn is_tls(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_tls)
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
