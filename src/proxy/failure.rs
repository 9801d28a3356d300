//! Why a request was not served: the one place that knows status, word and sentence of each cause.
//!
//! What the client is told (`message`) and what is logged and counted (`reason`) are two values.

use std::time::Duration;

use http::{Method, StatusCode};
use pingora_error::{Error, ErrorSource, ErrorType};

use crate::{
    framing::Fault,
    limit::Refused,
    policy::Denied,
    telemetry::metrics::{Limited, RequestRefused},
    types::defaults,
    upstream::{MalformedAnswer, TooManyConnections},
};

/// A request that is answered by the edge itself, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// HTTP/1.1 without Host, or with one that is no host (RFC 9112, section 3.2).
    BadHost,
    /// A path that could mean two things.
    BadPath(crate::route::normalise::PathError),
    /// Over the listener's `max_uri`.
    UriTooLong,
    /// Over the listener's `max_head` or `max_fields`.
    HeadTooLarge,
    /// The listener has no such host.
    UnknownHost {
        /// Whether it is refused as not ours (421) instead of not found (404).
        refuse: bool,
    },
    /// The connection was not made under the TLS policy of the host's site (RFC 9110, section 15.5.20).
    Misdirected,
    /// The site has no certificate and does not serve.
    SiteDisabled,
    /// No route.
    NotFound,
    /// No route takes the method; these are taken.
    MethodNotAllowed(Vec<Method>),
    /// `CONNECT`: the edge opens no tunnels.
    Connect,
    /// Over the route's `max_body`.
    BodyTooLarge,
    /// A policy refused.
    Denied(Denied),
    /// The edge has all that it can take: refused before anything was done for it.
    Overloaded,
    /// The upstream's breaker is open.
    BreakerOpen {
        /// When asking again may help.
        remaining: Duration,
    },
    /// The upstream has no room, or not in time.
    UpstreamFull(Refused),
    /// The upstream has as many connections as it may.
    TooManyConnections,
    /// No endpoint may be used.
    NoHealthyEndpoint,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// Connecting took too long.
    ConnectTimeout,
    /// The endpoint's certificate was refused, or its handshake failed.
    UpstreamTls,
    /// The endpoint closed or reset before its answer was complete.
    UpstreamClosed,
    /// The endpoint did not answer in time.
    UpstreamTimeout,
    /// The route's total time is over.
    TotalTimeout,
    /// The endpoint's answer was not HTTP.
    UpstreamInvalid,
    /// The endpoint answered with a status that counts as a failed try.
    UpstreamStatus(StatusCode),
    /// The answer has no end that HTTP/1.0 knows.
    VersionNotSupported,
    /// The client sent its body too slowly, or stopped.
    ClientTimeout,
    /// The client sent something that is not HTTP.
    ClientInvalid,
    /// The request's body is malformed.
    ClientFraming(Fault),
    /// The client went away: there is nobody to answer.
    ClientGone,
    /// A fault of the edge.
    Internal,
}

impl Failure {
    /// What a Pingora error means. `None` is never returned: what is unknown is [`Failure::Internal`].
    pub(super) fn of(error: &Error) -> Self {
        use ErrorType as E;
        match (error.esource(), error.etype()) {
            // A client that sends more than its request (Pingora's `v1/server.rs` calls it so).
            (ErrorSource::Downstream, E::ConnectError) => Self::ClientInvalid,
            (_, E::ConnectError) if TooManyConnections::of(error).is_some() => {
                Self::TooManyConnections
            }
            (_, E::ConnectTimedout | E::TLSHandshakeTimedout) => Self::ConnectTimeout,
            (
                _,
                E::ConnectRefused
                | E::ConnectNoRoute
                | E::ConnectError
                | E::SocketError
                | E::BindError,
            ) => Self::ConnectFailed,
            (
                ErrorSource::Upstream,
                E::TLSHandshakeFailure | E::InvalidCert | E::HandshakeError | E::TLSWantX509Lookup,
            ) => Self::UpstreamTls,
            (ErrorSource::Upstream, E::ReadTimedout | E::WriteTimedout) => Self::UpstreamTimeout,
            (ErrorSource::Upstream, E::InvalidHTTPHeader | E::InvalidH2) => Self::UpstreamInvalid,
            (ErrorSource::Upstream, E::ReadError) if MalformedAnswer::of(error).is_some() => {
                Self::UpstreamInvalid
            }
            (ErrorSource::Upstream, _) => Self::UpstreamClosed,
            (ErrorSource::Downstream, E::ReadTimedout | E::WriteTimedout) => Self::ClientTimeout,
            (ErrorSource::Downstream, E::ReadError | E::WriteError | E::ConnectionClosed) => {
                Self::ClientGone
            }
            (ErrorSource::Downstream, E::H2Error) => Self::ClientGone,
            (ErrorSource::Downstream, _) => Self::ClientInvalid,
            (ErrorSource::Internal | ErrorSource::Unset, _) => Self::Internal,
        }
    }

    /// The status of the answer; `None` where nobody is there to be answered.
    pub(super) fn status(&self) -> Option<StatusCode> {
        Some(match self {
            Self::BadHost | Self::BadPath(_) | Self::ClientInvalid | Self::ClientFraming(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownHost { refuse: true } | Self::Misdirected => {
                StatusCode::MISDIRECTED_REQUEST
            }
            Self::UnknownHost { refuse: false } | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) | Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied(denied) => denied.status,
            Self::NoHealthyEndpoint
            | Self::SiteDisabled
            | Self::Overloaded
            | Self::BreakerOpen { .. }
            | Self::UpstreamFull(_)
            | Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed
            | Self::UpstreamTls
            | Self::UpstreamClosed
            | Self::UpstreamInvalid => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::UpstreamTimeout | Self::TotalTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::UpstreamStatus(status) => *status,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::VersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::ClientGone => return None,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }

    /// The word for log and metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::UnknownHost { .. } => "unknown_host",
            Self::Misdirected => "misdirected",
            Self::SiteDisabled => "site_disabled",
            Self::NotFound => "no_route",
            Self::MethodNotAllowed(_) => "method",
            Self::Connect => "connect",
            Self::BodyTooLarge => "body_too_large",
            Self::Denied(denied) => denied.reason,
            Self::Overloaded => "overloaded",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::UpstreamFull(Refused::Full | Refused::Overtaken) => "upstream_full",
            Self::UpstreamFull(Refused::Timeout) => "upstream_queue_timeout",
            Self::TooManyConnections => "upstream_connections",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamStatus(_) => "upstream_status",
            Self::ClientTimeout => "client_timeout",
            Self::VersionNotSupported => "version",
            Self::ClientInvalid => "client_invalid",
            Self::ClientFraming(fault) => fault.label(),
            Self::ClientGone => "client_gone",
            Self::Internal => "internal",
        }
    }

    /// More than [`Self::reason`] for the log, where there is more.
    pub(super) fn detail(&self) -> Option<&'static str> {
        match self {
            Self::BadPath(error) => Some(error.sentence()),
            _ => None,
        }
    }

    /// As it is counted where no site was found.
    pub(super) fn refused(&self) -> RequestRefused {
        match self {
            Self::UnknownHost { .. } => RequestRefused::UnknownHost,
            Self::Misdirected => RequestRefused::Misdirected,
            Self::BadPath(_) => RequestRefused::BadPath,
            Self::UriTooLong | Self::HeadTooLarge => RequestRefused::TooLarge,
            Self::NotFound => RequestRefused::NoRoute,
            Self::MethodNotAllowed(_) | Self::Connect => RequestRefused::MethodNotAllowed,
            Self::Internal => RequestRefused::Internal,
            _ => RequestRefused::BadRequest,
        }
    }

    /// The sentence for the client. It says nothing of what is behind the edge.
    pub(super) fn message(&self) -> &'static str {
        match self {
            Self::BadHost => "The Host header is missing or not valid.",
            Self::BadPath(_) => "The path is not valid.",
            Self::UriTooLong => "The address is too long.",
            Self::HeadTooLarge => "The request's headers are too large.",
            Self::UnknownHost { .. } => "This server does not serve that host.",
            Self::Misdirected => "This connection can't be used for that host; open a new one.",
            Self::NotFound => "There is nothing at this address.",
            Self::MethodNotAllowed(_) => "This address does not take that method.",
            Self::Connect => "This server opens no tunnels.",
            Self::BodyTooLarge => "The request's body is too large.",
            Self::Denied(_) => "The request was refused.",
            Self::NoHealthyEndpoint
            | Self::SiteDisabled
            | Self::Overloaded
            | Self::BreakerOpen { .. }
            | Self::UpstreamFull(_)
            | Self::TooManyConnections => "The service is not available right now; try again soon.",
            Self::ConnectFailed
            | Self::UpstreamTls
            | Self::UpstreamClosed
            | Self::UpstreamStatus(_)
            | Self::UpstreamInvalid => "The service gave no valid answer.",
            Self::ConnectTimeout | Self::UpstreamTimeout | Self::TotalTimeout => {
                "The service did not answer in time."
            }
            Self::VersionNotSupported => "This address can't be had by HTTP/1.0.",
            Self::ClientTimeout => "The request took too long to arrive.",
            Self::ClientInvalid | Self::ClientFraming(_) => "The request is not valid.",
            Self::ClientGone | Self::Internal => "Something went wrong.",
        }
    }

    /// Whether it is the upstream that has no answer, so that a route's fallback takes its place.
    pub(super) fn is_of_upstream(&self) -> bool {
        match self {
            // It is the site that does not serve, or the edge, or a policy that refuses.
            Self::SiteDisabled | Self::Overloaded | Self::Denied(_) => false,
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamTls
            | Self::UpstreamClosed
            | Self::UpstreamTimeout
            | Self::TotalTimeout
            | Self::UpstreamInvalid
            | Self::UpstreamStatus(_) => true,
            // No endpoint, and whatever keeps requests from the upstream.
            other => other.status() == Some(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// When asking again may help: `Retry-After` (RFC 9110, section 10.2.3).
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoHealthyEndpoint | Self::SiteDisabled => Some(defaults::RETRY_AFTER.0),
            Self::BreakerOpen { remaining } => Some(*remaining),
            // Requests come and go much faster than that.
            Self::Overloaded | Self::UpstreamFull(_) | Self::TooManyConnections => {
                Some(Duration::from_secs(1))
            }
            Self::Denied(denied) => denied.retry_after,
            _ => None,
        }
    }

    /// As it is counted by its route, where a limit is the cause.
    pub(super) fn limited(&self) -> Option<Limited> {
        Some(match self {
            Self::Overloaded => Limited::Overloaded,
            Self::BreakerOpen { .. } => Limited::BreakerOpen,
            Self::UpstreamFull(Refused::Full | Refused::Overtaken) => Limited::UpstreamFull,
            Self::UpstreamFull(Refused::Timeout) => Limited::UpstreamQueueTimeout,
            Self::TooManyConnections => Limited::UpstreamConnections,
            Self::Denied(Denied { reason, .. }) => {
                let limited = [Limited::ConcurrencyFull, Limited::ConcurrencyTimeout];
                limited.into_iter().find(|limited| limited.label() == *reason)?
            }
            _ => return None,
        })
    }

    /// Whether the connection must end after the answer: what follows on it can't be trusted, or is of no use.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::BadHost
                | Self::Connect
                | Self::HeadTooLarge
                | Self::UriTooLong
                | Self::Misdirected
                | Self::UnknownHost { refuse: true }
                | Self::BodyTooLarge
                | Self::ClientTimeout
                | Self::ClientInvalid
                | Self::ClientFraming(_)
                | Self::ClientGone
                | Self::Internal
        )
    }

    /// As a Pingora error, for hooks that return one; the failure itself waits in the request's context.
    pub(super) fn into_error(self) -> Box<Error> {
        Error::explain(
            ErrorType::HTTPStatus(self.status().map_or(0, |status| status.as_u16())),
            self.reason(),
        )
        .into_in()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_the_right_status() {
        for (error, status) in [
            (Error::new_up(ErrorType::ConnectRefused), Some(502)),
            (Error::new_up(ErrorType::ConnectTimedout), Some(504)),
            (Error::new_up(ErrorType::ReadTimedout), Some(504)),
            (Error::new_up(ErrorType::ConnectionClosed), Some(502)),
            (Error::new_up(ErrorType::InvalidCert), Some(502)),
            (Error::new_up(ErrorType::InvalidHTTPHeader), Some(502)),
            (Error::new_down(ErrorType::ReadTimedout), Some(408)),
            (Error::new_down(ErrorType::ConnectionClosed), None),
            (Error::new_in(ErrorType::InternalError), Some(500)),
        ] {
            assert_eq!(Failure::of(&error).status().map(|s| s.as_u16()), status, "{error}");
        }
    }
}
