//! After the last byte: counters and the access log line.

use std::time::{Duration, Instant, SystemTime};

use http::Version;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

use super::{connection::ConnectionInfo, context::RequestContext, failure::Failure, relay};
use crate::{
    telemetry::{
        AccessLog, Entry, Try,
        metrics::{LimitReached, Metrics, RequestRefused, RouteMetrics},
    },
    upstream::MAX_TRIES_OF_A_REQUEST,
};

/// How long the rest of a body is read after an answer that did not wait for it.
const LINGER: Duration = Duration::from_secs(2);

/// Counts a finished request and writes its line.
pub(super) fn record(
    session: &Session,
    error: Option<&Error>,
    ctx: &mut RequestContext,
    metrics: &Metrics,
) {
    let ended = Instant::now();
    let took = ended.saturating_duration_since(ctx.started);
    if error.is_some() && !ctx.is_own_answer {
        relay::break_off(session, ctx);
    }
    let upstream = match (ctx.tries.first_byte, ctx.tries.began) {
        (Some(first_byte), _) => Some(ctx.tries.took.unwrap_or(first_byte)),
        (None, Some(began)) => Some(ended.saturating_duration_since(began)),
        (None, None) => None,
    };
    let bytes_out = session.body_bytes_sent() as u64;
    // It may have outlived its try where the answer had no body.
    ctx.tries.watchdog = None;
    let status = session
        .response_written()
        .filter(|head| {
            !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS
        })
        .map_or(0, |head| head.status.as_u16());
    if let (Some(connection), Some(error)) = (&ctx.connection, error) {
        count_limit(connection, error);
    }
    let reason = match (&ctx.failure, error) {
        (Some(failure), _) => Some(failure.reason()),
        (None, Some(error)) => Some(ctx.failure_of(error).reason()),
        (None, None) => None,
    };
    match &ctx.labels.metrics {
        Some(route) => route.finished(status, took, upstream, ctx.body_bytes, bytes_out),
        None => metrics
            .refused(ctx.failure.as_ref().map_or(RequestRefused::BadRequest, Failure::refused)),
    }
    for fault in &ctx.policy.faults {
        metrics.fault_injected(*fault);
    }
    ctx.labels.in_flight = None;
    ctx.let_go_of_permits();
    if let Some(route) = &ctx.labels.metrics {
        count_limits(route, ctx);
    }
    ctx.tries.records.end(reason, ended);
    if let (None, Some(picked)) = (error, &mut ctx.tries.picked) {
        // An answer without a body has no other end.
        picked.ended();
    }
    let log = ctx.labels.access_log.clone();
    // What failed before it was routed has its snapshot still.
    let Some(log) = log.or_else(|| ctx.snapshot.as_ref()?.access_log.clone()) else { return };
    // A refusal with its own answer is whole; an answer that broke off has a status that says nothing of it.
    let is_broken = status == 0 || (reason.is_some() && !ctx.is_own_answer);
    if log.takes(status, is_broken, took) {
        write_line(&log, session, ctx, Measured { status, took, upstream, bytes_out, reason });
    }
}

/// Counts what a limit refused, or let wait.
fn count_limits(route: &RouteMetrics, ctx: &RequestContext) {
    let waited = ctx.waited();
    if !waited.is_zero() {
        route.waited(waited);
    }
    if let Some(limited) = ctx.failure.as_ref().and_then(Failure::limited) {
        route.limited(limited);
    }
}

/// What was found out at the end of a request.
#[derive(Clone, Copy)]
struct Measured {
    status: u16,
    took: Duration,
    upstream: Option<Duration>,
    bytes_out: u64,
    reason: Option<&'static str>,
}

fn write_line(log: &AccessLog, session: &Session, ctx: &RequestContext, measured: Measured) {
    let header = session.req_header();
    let lookup = |name: &str| header.headers.get(name).map(http::HeaderValue::as_bytes);
    let trace = header.headers.get("traceparent").and_then(|value| value.to_str().ok());
    let picked = ctx.tries.picked.as_ref();
    let listener = ctx.connection.as_ref().map(|connection| connection.listener());
    let mut tried = [Try::default(); MAX_TRIES_OF_A_REQUEST as usize];
    let mut count = 0;
    for (place, one) in tried.iter_mut().zip(ctx.tries.records.for_log()) {
        *place = one;
        count += 1;
    }
    log.write(&Entry {
        request_id: ctx.request_id.to_str().ok(),
        // version-trace-parent-flags (W3C Trace Context, section 3.2).
        trace_id: trace.and_then(|text| text.split('-').nth(1)).filter(|id| id.len() == 32),
        client: ctx.client.address,
        listener: listener.as_deref().map(|name| &**name),
        method: Some(header.method.as_str()),
        host: Some(ctx.host.as_bytes()),
        path: Some(header.uri.path().as_bytes()),
        query: header.uri.query().map(str::as_bytes),
        protocol: Some(protocol(header.version)),
        tls_version: ctx
            .connection
            .as_ref()
            .and_then(|connection| Some(connection.tls.as_ref()?.version)),
        status: measured.status,
        bytes_in: ctx.body_bytes,
        bytes_out: measured.bytes_out,
        duration: measured.took,
        upstream_duration: measured.upstream,
        site: ctx.labels.site.as_deref(),
        route: ctx.labels.route.as_deref(),
        upstream: picked.map(|picked| &**picked.endpoint().upstream()),
        endpoint: picked.map(|picked| picked.endpoint().label()),
        queue_duration: Some(ctx.waited()).filter(|waited| !waited.is_zero()),
        tries: ctx.tries.in_all,
        tried: tried.get(..count).unwrap_or_default(),
        fallback: ctx.tries.fallback,
        error: measured.reason,
        detail: detail(ctx),
        header: &lookup,
        ..Entry::at(began_at(measured.took))
    });
}

/// More about a failure than its word.
fn detail(ctx: &RequestContext) -> Option<&'static str> {
    let spent = ctx.tries.is_budget_spent.then_some("not tried again: the retry budget is spent");
    ctx.failure.as_ref().and_then(Failure::detail).or(spent)
}

/// When a request began by the calendar. What it took goes by the monotonic clock, whatever the calendar did meanwhile.
fn began_at(took: Duration) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(took).unwrap_or(now)
}

/// Counts what Pingora's timeouts towards the client ended.
fn count_limit(connection: &ConnectionInfo, error: &Error) {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => {
            connection.limit_reached(LimitReached::BodyIdle);
        }
        // HTTP/2 only, see `arrive::set_limits`.
        (ErrorSource::Downstream, ErrorType::WriteTimedout) => {
            connection.limit_reached(LimitReached::WriteStall);
            connection.life.stream_stalled(connection.limits().http2.max_stalled_streams);
        }
        _ => {}
    }
}

/// Counts a request that was dropped in the silence of its body, and writes its line. Of its head only what the context
/// has is known.
pub(super) fn cut(ctx: &mut RequestContext) {
    let (Some(connection), Some(pace)) = (&ctx.connection, &ctx.body_pace) else { return };
    connection.limit_reached(LimitReached::BodyIdle);
    let took = ctx.started.elapsed();
    let upstream = ctx.tries.began.map(|began| began.elapsed());
    if let Some(route) = &ctx.labels.metrics {
        route.finished(ctx.status, took, upstream, ctx.body_bytes, 0);
    }
    ctx.labels.in_flight = None;
    let Some(log) = &ctx.labels.access_log else { return };
    if !log.takes(ctx.status, true, took) {
        return;
    }
    let picked = ctx.tries.picked.as_ref();
    let listener = connection.listener();
    log.write(&Entry {
        request_id: ctx.request_id.to_str().ok(),
        client: ctx.client.address,
        listener: Some(&listener),
        method: Some(pace.method.as_str()),
        host: Some(ctx.host.as_bytes()),
        path: Some(ctx.path.as_bytes()),
        protocol: Some(protocol(Version::HTTP_2)),
        tls_version: connection.tls.as_ref().map(|tls| tls.version),
        status: ctx.status,
        bytes_in: ctx.body_bytes,
        duration: took,
        upstream_duration: upstream,
        site: ctx.labels.site.as_deref(),
        route: ctx.labels.route.as_deref(),
        upstream: picked.map(|picked| &**picked.endpoint().upstream()),
        endpoint: picked.map(|picked| picked.endpoint().label()),
        tries: ctx.tries.in_all,
        error: Some(Failure::ClientTimeout.reason()),
        ..Entry::at(began_at(took))
    });
}

/// Reads what is left of the request's body, so that the next byte on the connection belongs to a head.
///
/// Pingora would do it later; the I/O type must know when a head begins. It is bounded in time: whoever sends more after an answer has its connection closed.
pub(super) async fn finish(session: &mut Session, ctx: &RequestContext) {
    let Some(connection) = &ctx.connection else { return };
    if session.is_http2() {
        return;
    }
    if session.get_keepalive().is_some() {
        session.set_total_drain_timeout(Some(connection.limits().body_idle.min(LINGER)));
        if session.drain_request_body().await.is_err() {
            session.set_keepalive(None);
        }
    } else if ctx.is_own_answer {
        // A socket that is closed with unread bytes resets, and the client never reads the answer.
        session.set_total_drain_timeout(Some(LINGER));
        drop(session.drain_request_body().await);
    }
    connection.awaiting_head();
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
