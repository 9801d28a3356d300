//! Every metric name, label and label value of the edge.
//!
//! Names start with `tidegate_`, times are in seconds, sizes in bytes. Labels come from the configuration or from the
//! lists in this file, never from clients. The reference (`docs/reference/metrics.md`) is made from these definitions.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! definitions {
    ($($section:literal: { $($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)* })*) => {
        $($(
            pub(super) const $id: Definition = Definition {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*)*

        /// All of them, by section, in the order of the reference.
        pub(super) const SECTIONS: &[(&str, &[&Definition])] = &[$(($section, &[$(&$id),*])),*];
    };
}

definitions! {
    "Requests": {
        REQUESTS: Counter "tidegate_requests_total" ["site", "route", "upstream", "status"]
            "Finished requests by status class: 1xx to 5xx, or none where the client went away before an answer.";
        REQUEST_DURATION: Histogram "tidegate_request_duration_seconds" ["site", "route", "upstream"]
            "Time from the request's head to the end of the answer.";
        UPSTREAM_DURATION: Histogram "tidegate_upstream_duration_seconds" ["site", "route", "upstream"]
            "Time spent waiting for the upstream, all tries together.";
        OWN_DURATION: Histogram "tidegate_own_duration_seconds" ["site", "route", "upstream"]
            "Time that the edge itself and the client took: the whole request less the upstream.";
        REQUESTS_IN_FLIGHT: Gauge "tidegate_requests_in_flight" ["site", "route", "upstream"]
            "Requests being served.";
        REQUEST_BYTES: Counter "tidegate_request_body_bytes_total" ["site", "route", "upstream"]
            "Bytes of request bodies taken from clients.";
        RESPONSE_BYTES: Counter "tidegate_response_body_bytes_total" ["site", "route", "upstream"]
            "Bytes of response bodies sent to clients.";
        FALLBACKS: Counter "tidegate_fallbacks_total" ["site", "route", "upstream"]
            "Requests that the route's fallback took over, by the upstream that had no answer.";
        REQUESTS_REFUSED: Counter "tidegate_requests_refused_total" ["reason"]
            "Requests refused before a route was found.";
        FAULTS_INJECTED: Counter "tidegate_faults_injected_total" ["fault"]
            "Faults that policies made on purpose.";
    }
    "Connections": {
        CONNECTIONS: Gauge "tidegate_connections" ["listener"]
            "Open client connections.";
        CONNECTIONS_TOTAL: Counter "tidegate_connections_total" ["listener"]
            "Accepted client connections.";
        CONNECTIONS_REFUSED: Counter "tidegate_connections_refused_total" ["listener", "reason"]
            "Client connections closed before their first request.";
        TLS_HANDSHAKES: Counter "tidegate_tls_handshakes_total" ["listener", "version"]
            "Finished TLS handshakes.";
        TLS_HANDSHAKE_FAILURES: Counter "tidegate_tls_handshake_failures_total" ["listener", "reason"]
            "TLS handshakes that failed.";
        HEADS_REFUSED: Counter "tidegate_heads_refused_total" ["listener", "reason"]
            "Requests refused by the listener before they were routed: by a limit, a deadline, or their framing.";
        LIMITS_REACHED: Counter "tidegate_limits_reached_total" ["listener", "reason"]
            "Connections, or streams of HTTP/2, that a limit of the listener ended after their first head.";
    }
    "Connections sent on": {
        TUNNELS: Gauge "tidegate_tunnels" ["listener", "passthrough", "upstream"]
            "Open connections that are sent on as they are. `passthrough` is empty where the listener sends everything on.";
        TUNNELS_TOTAL: Counter "tidegate_tunnels_total" ["listener", "passthrough", "upstream", "end"]
            "Ended connections that were sent on, or should have been, by how they ended.";
        TUNNEL_RECEIVED: Counter "tidegate_tunnel_received_bytes_total" ["listener", "passthrough", "upstream"]
            "Bytes taken from clients and sent on to endpoints.";
        TUNNEL_SENT: Counter "tidegate_tunnel_sent_bytes_total" ["listener", "passthrough", "upstream"]
            "Bytes taken from endpoints and sent to clients.";
        TUNNEL_DURATION: Histogram "tidegate_tunnel_duration_seconds" ["listener", "passthrough", "upstream"]
            "How long connections that were sent on lived.";
    }
    "Upstreams": {
        RETRIES: Counter "tidegate_upstream_retries_total" ["upstream"]
            "Tries after the first one.";
        RETRIES_REFUSED: Counter "tidegate_upstream_retries_refused_total" ["upstream"]
            "Tries that there were not, because the upstream's retry budget was spent.";
        ENDPOINT_HEALTHY: Gauge "tidegate_endpoint_healthy" ["upstream", "endpoint"]
            "1 where probes find the endpoint healthy or nothing probes it, else 0.";
        ENDPOINT_IN_FLIGHT: Gauge "tidegate_endpoint_requests_in_flight" ["upstream", "endpoint"]
            "Requests being served by the endpoint.";
        ENDPOINT_REQUESTS: Counter "tidegate_endpoint_requests_total" ["upstream", "endpoint"]
            "Tries sent to the endpoint.";
        ENDPOINT_FAULTS: Counter "tidegate_endpoint_faults_total" ["upstream", "endpoint", "fault"]
            "Tries that the endpoint failed: what the client or the edge did is not among them.";
        ENDPOINT_EJECTED: Gauge "tidegate_endpoint_ejected" ["upstream", "endpoint"]
            "1 where the endpoint is ejected by outlier detection, else 0.";
        ENDPOINT_EJECTIONS: Counter "tidegate_endpoint_ejections_total" ["upstream", "endpoint", "reason"]
            "Ejections of the endpoint.";
        UPSTREAM_PANIC: Gauge "tidegate_upstream_panic" ["upstream"]
            "1 where fewer endpoints than `panic_threshold` are healthy, so that all get requests, else 0.";
        UPSTREAM_BELOW_STABLE_MIN: Gauge "tidegate_upstream_below_stable_min" ["upstream"]
            "1 where fewer endpoints than `stable_min` may get requests, else 0.";
        LOOK_UPS: Counter "tidegate_dns_lookups_total" ["result"]
            "Look-ups of endpoints' names by their result.";
    }
    "Limits": {
        LIMITED: Counter "tidegate_requests_limited_total" ["site", "route", "upstream", "reason"]
            "Requests that got 503 because of a limit. Series are there from the first one on.";
        SHED: Counter "tidegate_requests_shed_total" ["site", "route", "upstream", "criticality"]
            "Requests that got 503 because the edge had all it can take (`reason` is `overloaded` there), by the route's criticality.";
        QUEUE_DURATION: Histogram "tidegate_queue_duration_seconds" ["site", "route", "upstream"]
            "Time that requests waited for room: those that had to wait.";
        UPSTREAM_REQUESTS: Gauge "tidegate_upstream_requests_in_flight" ["upstream"]
            "Requests at an upstream whose requests have a limit, without long streams.";
        UPSTREAM_REQUEST_LIMIT: Gauge "tidegate_upstream_request_limit" ["upstream"]
            "How many there may be now.";
        UPSTREAM_WAITING: Gauge "tidegate_upstream_requests_waiting" ["upstream"]
            "Requests that wait for room at the upstream.";
        UPSTREAM_CONNECTIONS: Gauge "tidegate_upstream_connections" ["upstream"]
            "Open connections of HTTP/1.1 and TCP to the upstream's endpoints, unused ones too; HTTP/2 is not counted.";
        BREAKER_STATE: Gauge "tidegate_breaker_state" ["upstream"]
            "0 where the upstream's breaker is closed, 1 half-open, 2 open.";
        BREAKER_CHANGES: Counter "tidegate_breaker_changes_total" ["upstream", "state"]
            "How often the breaker came into each state.";
        EDGE_REQUESTS: Gauge "tidegate_edge_requests_in_flight" []
            "Requests of all routes that are being served, without long streams.";
        SHEDDING: Gauge "tidegate_overload_shedding" []
            "1 where requests are refused because the edge has all it can take, or were in the last two seconds; else 0.";
        EDGE_MEMORY: Gauge "tidegate_resident_memory_bytes" []
            "Resident memory, where `server.overload.max_memory` is in force.";
    }
    "Rollouts": {
        ROLLOUT_SHARE: Gauge "tidegate_rollout_share_ratio" ["rollout", "side", "upstream"]
            "The side's share of the requests that are dealt, from 0 to 1.";
        ROLLOUT_PHASE: Gauge "tidegate_rollout_phase" ["rollout", "phase"]
            "1 for the phase that the rollout is in.";
        ROLLOUT_REQUESTS: Counter "tidegate_rollout_requests_total" ["rollout", "side"]
            "Tries that were compared since the attempt began.";
        ROLLOUT_FAILURES: Counter "tidegate_rollout_failures_total" ["rollout", "side"]
            "Those of them that failed.";
        ROLLOUT_DOUBT: Gauge "tidegate_rollout_healthy_probability_ratio" ["rollout"]
            "The probability that a healthy candidate would ever look as bad as this one does, at most. Only while it is judged.";
        ROLLOUT_FILE_DIFFERS: Gauge "tidegate_rollout_file_differs" ["rollout"]
            "1 where what is live is not what the file says, and holds only as long as the state directory does; else 0.";
        ROLLOUT_EVENTS: Counter "tidegate_rollout_events_total" ["rollout", "event"]
            "What happened to the rollout.";
        ROLLOUT_MIRROR_COPIES: Counter "tidegate_rollout_mirror_copies_total" ["rollout"]
            "Copies of requests that were sent to the candidate.";
        ROLLOUT_MIRROR_SKIPPED: Counter "tidegate_rollout_mirror_skipped_total" ["rollout", "reason"]
            "Requests that were chosen for a copy, and were not copied.";
        ROLLOUT_MIRROR_DIFFERENCES: Counter "tidegate_rollout_mirror_differences_total" ["rollout", "what"]
            "Answers to copies that differ from the live ones: in `status`, `header` or `body`, or there was `no_answer`.";
    }
    "Experiments": {
        EXPOSURES: Counter "tidegate_experiment_exposures_total" ["experiment", "variant", "by"]
            "Requests that endpoints were told a variant of, by how it was found: by the shares, or by a segment.";
        EXPERIMENT_ON: Gauge "tidegate_experiment_on" ["experiment"]
            "1 where the experiment is on, else 0.";
        EXPERIMENT_FILE_DIFFERS: Gauge "tidegate_experiment_file_differs" ["experiment"]
            "1 where the API has switched the experiment and the file says otherwise, else 0.";
    }
    "Certificates": {
        CERTIFICATE_NOT_AFTER: Gauge "tidegate_certificate_not_after_seconds" ["site"]
            "When the site's certificate ends, in seconds since 1970; the earliest of several.";
        CERTIFICATE_ISSUED: Gauge "tidegate_certificate_issued_seconds" ["site"]
            "When the site's certificate by ACME was issued, in seconds since 1970.";
        CERTIFICATE_NEXT_RENEWAL: Gauge "tidegate_certificate_next_renewal_seconds" ["site"]
            "When the site's certificate by ACME is ordered anew, or tried again, in seconds since 1970.";
        CERTIFICATE_RENEWAL_FAILURES: Counter "tidegate_certificate_renewal_failures_total" ["site"]
            "Failed orders of the site's certificate by ACME.";
        CERTIFICATE_STANDING_IN: Gauge "tidegate_certificate_standing_in" ["site"]
            "1 where the certificate of the edge's own authority stands in for one by ACME, else 0.";
    }
    "Webhooks": {
        WEBHOOK_EVENTS: Counter "tidegate_webhook_events_total" ["webhook", "result"]
            "Events for a webhook by what became of them.";
        WEBHOOK_FAILED_TRIES: Counter "tidegate_webhook_failed_tries_total" ["webhook"]
            "Tries to tell an event that failed; most of them are followed by another one.";
        WEBHOOK_WAITING: Gauge "tidegate_webhook_events_waiting" ["webhook"]
            "Events that wait to be told, or to be told again.";
    }
    "Configuration": {
        CONFIG_GENERATION: Gauge "tidegate_config_generation" []
            "Number of the configuration in force.";
        CONFIG_IN_SYNC: Gauge "tidegate_config_in_sync" []
            "1 where the files on disk are the configuration in force, else 0.";
        RELOADS: Counter "tidegate_config_reloads_total" ["result"]
            "Reloads by their result.";
        LAST_RELOAD: Gauge "tidegate_config_last_reload_timestamp_seconds" []
            "When the last reload ended, in seconds since 1970; 0 before the first.";
        LAST_RELOAD_SUCCESSFUL: Gauge "tidegate_config_last_reload_successful" []
            "1 where the last reload was not refused (or there was none), else 0.";
        SNAPSHOTS: Gauge "tidegate_config_snapshots" []
            "Compiled configurations in memory: the one in force and older ones that requests still hold.";
    }
    "Process": {
        ACCESS_LOG_DROPPED: Counter "tidegate_access_log_dropped_total" []
            "Access log lines that were lost: the queue was full, or the write failed.";
        ACCESS_LOG_SAMPLED_OUT: Counter "tidegate_access_log_sampled_out_total" []
            "Requests without an access log line, by `access_log.sample`.";
        AUDIT_LOG_FAILURES: Counter "tidegate_audit_log_failures_total" []
            "Entries of the audit log that could not be written to its file; they went to the edge's own log.";
        BUILD_INFO: Gauge "tidegate_build_info" ["version", "pingora"]
            "Always 1; the labels name the build.";
        START_TIME: Gauge "tidegate_process_start_time_seconds" []
            "When the process started, in seconds since 1970.";
    }
}

/// Upper bounds of the whole request and of the upstream's part, in seconds.
pub(super) const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// Upper bounds of the edge's own share, in seconds: it is far below a millisecond where nobody is slow.
pub(super) const OWN_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0,
    60.0,
];

/// Upper bounds of the life of a connection that is sent on, in seconds: up to half a day.
pub(super) const TUNNEL_BUCKETS: &[f64] =
    &[0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0];

/// Values of `status`, by index; the last is for requests without an answer.
pub(super) const STATUS_CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// Values of `criticality`, the least important first.
pub(super) const CRITICALITIES: [&str; 4] = ["low", "normal", "high", "critical"];

/// Values of `state` of a breaker, as the gauge counts them.
pub(super) const BREAKER_STATES: [&str; 3] = ["closed", "half_open", "open"];

macro_rules! label_values {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The value of the metric's label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }

        impl LabelValue for $name {
            const ALL: &'static [Self] = Self::ALL;

            fn label(self) -> &'static str {
                self.label()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

/// A closed list of label values.
pub(super) trait LabelValue: Copy + 'static {
    const ALL: &'static [Self];
    fn label(self) -> &'static str;
    /// Its place in `ALL`.
    fn index(self) -> usize;
}

label_values! {
    /// Why a request was refused before a route was found.
    RequestRefused {
        /// What the client sent is no HTTP, or is HTTP that can be read in two ways.
        BadRequest = "bad_request",
        /// No site has the host.
        UnknownHost = "unknown_host",
        /// The connection was made under another TLS policy (421).
        Misdirected = "misdirected",
        /// No route of the site matches.
        NoRoute = "no_route",
        /// A route has the path, and not the method.
        MethodNotAllowed = "method_not_allowed",
        /// The path does not decode, or leaves its root.
        BadPath = "bad_path",
        /// The target or the head is larger than the listener takes (414, 431).
        TooLarge = "too_large",
        /// The edge failed.
        Internal = "internal",
    }
    /// Which limit refused a request.
    Limited {
        /// The edge has all that it can take.
        Overloaded = "overloaded",
        /// The policy `concurrency`: no room, and none in its queue.
        ConcurrencyFull = "concurrency_full",
        /// The policy `concurrency`: no room in time.
        ConcurrencyTimeout = "concurrency_timeout",
        /// The upstream's breaker is open.
        BreakerOpen = "breaker_open",
        /// The upstream has no room, and none in its queue.
        UpstreamFull = "upstream_full",
        /// The upstream has no room in time.
        UpstreamQueueTimeout = "upstream_queue_timeout",
        /// The upstream has as many connections as it may.
        UpstreamConnections = "upstream_connections",
    }
    /// Why a connection was closed before its first request.
    ConnectionRefused {
        /// The listener has as many as it may.
        Limit = "limit",
        /// The client network has as many as it may.
        ClientLimit = "client_limit",
        /// The client network has as many TLS handshakes under way as it may.
        HandshakeLimit = "handshake_limit",
        /// The PROXY header is missing, malformed, or did not come in time.
        ProxyHeader = "proxy_header",
        /// The edge is ending.
        Draining = "draining",
        /// The socket failed.
        Socket = "socket",
    }
    /// The TLS version of a handshake.
    TlsVersion {
        /// TLS 1.2 (RFC 5246).
        Tls12 = "TLSv1.2",
        /// TLS 1.3 (RFC 8446).
        Tls13 = "TLSv1.3",
    }
    /// Why a handshake failed.
    HandshakeFailure {
        /// The deadline passed.
        Timeout = "timeout",
        /// The client went away.
        Closed = "closed",
        /// The first bytes are no TLS.
        NotTls = "not_tls",
        /// The client's first message is too long.
        HelloTooLong = "hello_too_long",
        /// No site has the name asked for, or none was asked for.
        UnknownHost = "unknown_host",
        /// The site has no certificate that can be used.
        NoCertificate = "no_certificate",
        /// No version in common.
        Version = "version",
        /// No cipher suite, group or signature scheme in common.
        Parameters = "parameters",
        /// The client's certificate is missing or not accepted.
        ClientCertificate = "client_certificate",
        /// The client refused with an alert: it does not trust our certificate, for one.
        Alert = "alert",
        /// Anything else.
        Other = "other",
    }
    /// Why a listener refused a request, before the first hook. Endpoints' answers are judged by the same list, and not
    /// counted here.
    HeadRefused {
        /// The head did not come in time (408).
        Timeout = "timeout",
        /// The request target is too long (414).
        UriTooLong = "uri_too_long",
        /// The head is too large (431).
        TooLarge = "too_large",
        /// It has too many fields (431).
        TooManyFields = "too_many_fields",
        /// The request line is not a method, a target and a version with a space between (400).
        StartLine = "start_line",
        /// The version is not HTTP/1.1 or HTTP/1.0 (400).
        Version = "version",
        /// The target has no known form, or forbidden characters (400).
        Target = "target",
        /// A line does not end with CRLF, or a CR stands inside of it (400).
        LineEnd = "line_end",
        /// NUL or another control character (400).
        Control = "control",
        /// A field's name is no token: white space before the colon, for one (400).
        FieldName = "field_name",
        /// A line begins with white space (400).
        Folded = "folded",
        /// No host in HTTP/1.1, several, one that is no host, or another than the target's (400).
        Host = "host",
        /// Several `Content-Length`, or one that is no plain number (400).
        ContentLength = "content_length",
        /// `Transfer-Encoding` is not exactly `chunked`, once, in HTTP/1.1 (400).
        TransferEncoding = "transfer_encoding",
        /// `Content-Length` and `Transfer-Encoding` (400).
        LengthAndCoding = "length_and_coding",
        /// `CONNECT` (405).
        Connect = "connect",
        /// A chunk's size or end is malformed (400, or the connection is closed).
        Chunk = "chunk",
        /// A trailer, or the end of the body, is malformed (400, or the connection is closed).
        Trailer = "trailer",
        /// HTTP/2: a request that can't be read, or in two ways; the stream is reset, or answered with 400, or the
        /// connection is ended.
        Http2 = "http2",
    }
    /// A fault that a policy made on purpose.
    InjectedFault {
        /// The request was kept waiting.
        Delay = "delay",
        /// It was answered with an error.
        Abort = "abort",
        /// The body of its answer was sent slowly.
        SlowBody = "slow_body",
    }
    /// How the variant of a request was found.
    DealtBy {
        /// By its client's place among the shares.
        Share = "share",
        /// By a segment, whatever the shares say.
        Segment = "segment",
    }
    /// A fault of an endpoint in a try. What the client did, or the edge itself, is never one.
    Fault {
        /// It took no connection, or shook no hands.
        Connect = "connect",
        /// It closed or reset before the head of its answer, or its answer was not HTTP.
        Reset = "reset",
        /// It was silent for too long.
        Timeout = "timeout",
        /// It broke off its answer after the head.
        CutAnswer = "cut_answer",
        /// It answered with a status of 500 to 599.
        ServerError = "server_error",
    }
    /// Why an endpoint was ejected.
    #[derive(serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    EjectionReason {
        /// Tries failed in a row.
        ConsecutiveFailures = "consecutive_failures",
        /// More of its tries failed than of the others'.
        FailureRate = "failure_rate",
        /// It answered more slowly than the others.
        Latency = "latency",
    }
    /// How a connection that was sent on ended.
    TunnelEnd {
        /// Both sides had said all they had to say.
        Closed = "closed",
        /// Neither side said anything for too long.
        Idle = "idle",
        /// The client broke it off.
        ClientReset = "client_reset",
        /// The endpoint broke it off.
        EndpointReset = "endpoint_reset",
        /// The listener or the edge has ended.
        Drained = "drained",
        /// No endpoint is healthy, or none is known.
        NoEndpoint = "no_endpoint",
        /// The upstream has as many connections as it may.
        ConnectionLimit = "connection_limit",
        /// The upstream's breaker is open.
        BreakerOpen = "breaker_open",
        /// The edge has no file descriptor, port or memory left to connect with.
        NoResources = "no_resources",
        /// No endpoint took it.
        ConnectFailed = "connect_failed",
        /// No endpoint took it in time.
        ConnectTimeout = "connect_timeout",
    }

    /// What came of a look-up by DNS.
    LookUpResult {
        /// Records.
        Found = "found",
        /// There is no such name (NXDOMAIN).
        NoName = "no_name",
        /// The name has no records of this kind: usual for AAAA.
        NoRecords = "no_records",
        /// No name server answered in time.
        Timeout = "timeout",
        /// A name server failed, or none could be asked.
        Failed = "failed",
    }
    /// Which limit ended a connection, or a stream of HTTP/2.
    LimitReached {
        /// A request body was silent for too long.
        BodyIdle = "body_idle",
        /// A request body came too slowly.
        BodyRate = "body_rate",
        /// The client took no byte of an answer for too long.
        WriteStall = "write_stall",
        /// The client took an answer too slowly.
        SendRate = "send_rate",
        /// No request came for too long.
        KeepAlive = "keep_alive",
        /// The connection had as many requests as it may.
        Requests = "requests",
        /// The connection was too old.
        Age = "age",
        /// The client opened more streams than it may (`REFUSED_STREAM`).
        Streams = "streams",
        /// The client reset too many streams.
        Resets = "resets",
        /// A head of HTTP/2 came in too many pieces.
        Continuation = "continuation",
        /// Too many PING frames.
        Ping = "ping",
        /// Too many SETTINGS frames.
        Settings = "settings",
        /// Too many `WINDOW_UPDATE` frames.
        WindowUpdate = "window_update",
        /// Too many PRIORITY or unknown frames.
        OtherFrames = "other_frames",
        /// The client left too many streams without a window.
        ZeroWindow = "zero_window",
        /// What else HTTP/2 calls too much (`ENHANCE_YOUR_CALM`): heads far too large, empty or tiny DATA, faulty streams.
        Calm = "calm",
        /// The client broke the rules of HTTP/2.
        Protocol = "protocol",
    }
    /// What became of an event for a webhook.
    WebhookResult {
        /// It was taken.
        Sent = "sent",
        /// The webhook refused it, or did not take it in time: nobody was told.
        Failed = "failed",
        /// Too many waited and it was the oldest, or the webhook is gone: nobody was told.
        Dropped = "dropped",
    }
    /// How a reload ended.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    ReloadResult {
        /// A new configuration is in force.
        Taken = "taken",
        /// The files say what is in force already.
        Unchanged = "unchanged",
        /// The old one stays.
        Refused = "refused",
    }
}

/// A label's values as they stand in this file, for the reference.
pub(super) fn values_of(definition: &Definition, label: &str) -> Option<Vec<&'static str>> {
    fn all<L: LabelValue>() -> Vec<&'static str> {
        L::ALL.iter().map(|value| value.label()).collect()
    }
    match (definition.name, label) {
        (_, "criticality") => Some(CRITICALITIES.to_vec()),
        (_, "by") => Some(all::<DealtBy>()),
        (_, "state") => Some(BREAKER_STATES.to_vec()),
        (name, "reason") if name == LIMITED.name => Some(all::<Limited>()),
        (_, "status") => Some(STATUS_CLASSES.to_vec()),
        (_, "end") => Some(all::<TunnelEnd>()),
        (name, "result") if name == LOOK_UPS.name => Some(all::<LookUpResult>()),
        (name, "result") if name == WEBHOOK_EVENTS.name => Some(all::<WebhookResult>()),
        (_, "result") => Some(all::<ReloadResult>()),
        (name, "reason") if name == REQUESTS_REFUSED.name => Some(all::<RequestRefused>()),
        (name, "reason") if name == CONNECTIONS_REFUSED.name => Some(all::<ConnectionRefused>()),
        (name, "reason") if name == TLS_HANDSHAKE_FAILURES.name => Some(all::<HandshakeFailure>()),
        (name, "reason") if name == HEADS_REFUSED.name => Some(all::<HeadRefused>()),
        (name, "reason") if name == LIMITS_REACHED.name => Some(all::<LimitReached>()),
        (name, "version") if name == TLS_HANDSHAKES.name => Some(all::<TlsVersion>()),
        _ => None,
    }
}
