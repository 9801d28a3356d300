//! What a line in JSON may hold, by the names that stand in the configuration and in the line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A field of an access log line in JSON. A value that a request does not have is left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum AccessLogField { $($(#[doc = $doc])* $variant,)* }

        impl AccessLogField {
            /// All of them, in the order of a line that nothing was chosen for.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

fields! {
    /// When the request's head was read (RFC 3339, UTC).
    Time = "time",
    /// The request's id.
    RequestId = "request_id",
    /// The trace of its `traceparent`.
    TraceId = "trace_id",
    /// The client's address.
    Client = "client",
    /// The listener that took the connection.
    Listener = "listener",
    /// The method.
    Method = "method",
    /// The host asked for.
    Host = "host",
    /// The path.
    Path = "path",
    /// What follows the `?`, masked.
    Query = "query",
    /// `HTTP/1.1`, `HTTP/2.0`.
    Protocol = "protocol",
    /// The version of TLS.
    Tls = "tls",
    /// The status; 0 where the client went away before an answer.
    Status = "status",
    /// Bytes of the request's body.
    BytesIn = "bytes_in",
    /// Bytes of the response's body.
    BytesOut = "bytes_out",
    /// From the request's head to the end of the answer.
    DurationMs = "duration_ms",
    /// The part of it in which the edge waited for the upstream.
    UpstreamDurationMs = "upstream_duration_ms",
    /// How long it waited for room at a limit; absent where it did not.
    QueueMs = "queue_ms",
    /// The site.
    Site = "site",
    /// The route.
    Route = "route",
    /// The upstream.
    Upstream = "upstream",
    /// The endpoint that was tried last.
    Endpoint = "endpoint",
    /// How many tries there were.
    Tries = "tries",
    /// Each try: `endpoint`, `connect_ms` (absent on a connection that was open already), `first_byte_ms`, `duration_ms`, `outcome`.
    Tried = "tried",
    /// Why the route's fallback took the request over: the word that `error` would have been.
    Fallback = "fallback",
    /// Why the edge itself answered, or the request failed: a word.
    Error = "error",
    /// More about it, where there is more: a sentence.
    Detail = "detail",
    /// The request headers that `headers` lists.
    Headers = "headers",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_configuration() {
        for field in AccessLogField::ALL {
            assert_eq!(serde_json::to_value(field).unwrap(), field.name());
        }
    }
}
