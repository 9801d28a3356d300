//! After the last byte: counters and the access log line.

use std::time::{Duration, Instant, SystemTime};

use http::Version;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

use super::{connection::ConnectionInfo, context::RequestContext, failure::Failure, mirror, relay};
use crate::{
    telemetry::{
        Entry, Try,
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
    let measured = Measured { status, took, upstream, bytes_out, reason };
    if ctx.labels.metrics.is_none() {
        metrics.refused(ctx.failure.as_ref().map_or(RequestRefused::BadRequest, Failure::refused));
    }
    settle(ctx, &measured, ended);
    mirror::over(ctx, error.is_none() && !ctx.is_own_answer);
    end_trial(error, ctx, ended);
    let header = session.req_header();
    let lookup = |name: &str| header.headers.get(name).map(http::HeaderValue::as_bytes);
    let head = Head {
        method: header.method.as_str(),
        path: header.uri.path(),
        query: header.uri.query(),
        version: header.version,
        header: &lookup,
    };
    // A refusal with its own answer is whole; an answer that broke off has a status that says nothing of it.
    let is_broken = status == 0 || (reason.is_some() && !ctx.is_own_answer);
    write_line(&head, ctx, &measured, is_broken);
}

/// What a request's end says of the version that it was sent to.
fn end_trial(error: Option<&Error>, ctx: &mut RequestContext, ended: Instant) {
    let Some(error) = error else {
        // An answer without a body has no other end.
        ctx.tries.ended(ended);
        if let Some(trial) = &mut ctx.tries.trial {
            trial.over(ended);
        }
        return;
    };
    let is_clients = *error.esource() == ErrorSource::Downstream && !ctx.waits_for_client(ended);
    let since = ctx.tries.sent.or(ctx.tries.began);
    if let (true, Some(trial), Some(since)) = (is_clients, &mut ctx.tries.trial, since) {
        trial.abandoned(ended.saturating_duration_since(since), ended);
    }
}

/// Counts a request that is over, and gives back what it held.
fn settle(ctx: &mut RequestContext, measured: &Measured, ended: Instant) {
    if let Some(route) = &ctx.labels.metrics {
        let Measured { status, took, upstream, bytes_out, .. } = *measured;
        route.finished(status, took, upstream, ctx.body_bytes, bytes_out);
        count_limits(route, ctx);
    }
    ctx.labels.in_flight = None;
    ctx.let_go_of_permits();
    ctx.tries.records.end(measured.reason, ended);
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
struct Measured {
    status: u16,
    took: Duration,
    upstream: Option<Duration>,
    bytes_out: u64,
    reason: Option<&'static str>,
}

/// What the log wants of a request's head.
struct Head<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    version: Version,
    header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// Writes the line of a request, where the log takes it.
fn write_line(head: &Head<'_>, ctx: &RequestContext, measured: &Measured, is_broken: bool) {
    let log = ctx.labels.access_log.as_ref();
    // What failed before it was routed has its snapshot still.
    let log = log.or_else(|| ctx.snapshot.as_ref()?.access_log.as_ref());
    let Some(log) = log.filter(|log| log.takes(measured.status, is_broken, measured.took)) else {
        return;
    };
    let header = |name: &str| (head.header)(name);
    let trace = header("traceparent").and_then(|value| std::str::from_utf8(value).ok());
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
        method: Some(head.method),
        host: Some(ctx.host.as_bytes()),
        path: Some(head.path.as_bytes()),
        query: head.query.map(str::as_bytes),
        protocol: Some(protocol(head.version)),
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
        header: &header,
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
    let Some(connection) = &ctx.connection else { return };
    connection.limit_reached(LimitReached::BodyIdle);
    let Some(method) = ctx.body_pace.as_ref().map(|pace| pace.method.clone()) else { return };
    let ended = Instant::now();
    let measured = Measured {
        status: ctx.status,
        took: ended.saturating_duration_since(ctx.started),
        upstream: ctx.tries.began.map(|began| ended.saturating_duration_since(began)),
        bytes_out: 0,
        reason: Some(Failure::ClientTimeout.reason()),
    };
    settle(ctx, &measured, ended);
    let head = Head {
        method: method.as_str(),
        path: &ctx.path,
        query: None,
        version: Version::HTTP_2,
        header: &|_| None,
    };
    write_line(&head, ctx, &measured, true);
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
