//! After the last byte: counters and the access log line.

use std::time::SystemTime;

use http::{HeaderName, Version};
use pingora_error::Error;
use pingora_proxy::Session;

use super::{arrive::client_of, context::RequestContext, failure::Failure};
use crate::telemetry::{Entry, Metrics};

/// Counts a finished request and writes its line.
pub(super) fn record(session: &Session, error: Option<&Error>, ctx: &mut RequestContext, metrics: &Metrics) {
    let took = ctx.started.elapsed();
    let upstream = match (ctx.tries.first_byte, ctx.tries.began) {
        (Some(first_byte), _) => Some(ctx.tries.took.unwrap_or(first_byte)),
        (None, Some(began)) => Some(began.elapsed()),
        (None, None) => None,
    };
    let bytes_out = session.body_bytes_sent() as u64;
    let status = session.response_written().map_or(0, |head| head.status.as_u16());
    let reason = match (&ctx.failure, error) {
        (Some(failure), _) => Some(failure.reason()),
        (None, Some(error)) => Some(Failure::of(error).reason()),
        (None, None) => None,
    };
    match &ctx.labels.metrics {
        Some(route) => route.finished(status, took, upstream, ctx.body_bytes, bytes_out),
        None => metrics.refused(reason.unwrap_or("none")),
    }
    ctx.labels.in_flight = None;
    if let Some(log) = ctx.labels.access_log.clone() {
        let header = session.req_header();
        let lookup = |name: &HeaderName| header.headers.get(name).map(http::HeaderValue::as_bytes);
        log.write(&Entry {
            time: SystemTime::now(),
            request_id: ctx.request_id.to_str().unwrap_or_default(),
            client: client_of(ctx),
            method: header.method.as_str(),
            host: &ctx.host,
            path: header.uri.path(),
            query: header.uri.query(),
            protocol: protocol(header.version),
            status,
            bytes_in: ctx.body_bytes,
            bytes_out,
            duration: took,
            upstream_duration: upstream,
            site: ctx.labels.site.as_deref(),
            route: ctx.labels.route.as_deref(),
            upstream: ctx.tries.picked.as_ref().map(|picked| picked.upstream_name()),
            endpoint: ctx.tries.picked.as_ref().map(|picked| picked.endpoint_label()),
            tries: ctx.tries.count,
            tls: ctx.connection.as_ref().and_then(|connection| connection.tls_version()),
            header: &lookup,
            reason,
        });
    }
    if let Some(connection) = &ctx.connection {
        connection.awaiting_head();
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}
