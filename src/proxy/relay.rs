//! What passes between client and endpoint: heads are edited, bytes are counted, failures are answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
        CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPIRES, HOST, LOCATION, PRAGMA, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, RANGE, RETRY_AFTER, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE, VARY, VIA, WWW_AUTHENTICATE,
    },
};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, Session};

use super::{
    again,
    body_pace::AnswerPace,
    context::RequestContext,
    endpoint,
    failure::Failure,
    fallback,
    forward::{self, Forwarding},
    mirror, respond, split,
    tries::Exchange,
    wish,
};
use crate::{framing::check_fields, rollout::grpc_status, upstream::parse_keep_alive};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What may not stand in a trailer, as far as somebody could believe it there.
const FORBIDDEN_TRAILERS: [HeaderName; 28] = [
    AGE,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    EXPIRES,
    HOST,
    KEEP_ALIVE,
    LOCATION,
    PRAGMA,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    RANGE,
    RETRY_AFTER,
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VARY,
    VIA,
    WWW_AUTHENTICATE,
];

/// The request's head on its way to the endpoint.
///
/// # Errors
/// The endpoint is to be connected to in another way.
pub(super) fn request_head(request: &mut RequestHeader, ctx: &mut RequestContext) -> Result<()> {
    endpoint::check_judged(request.version, ctx)?;
    edit_head(request, ctx);
    mirror::request_head(request, ctx);
    Ok(())
}

/// Writes what the endpoint is to see of the request's head.
pub(super) fn edit_head(request: &mut RequestHeader, ctx: &RequestContext) {
    if let Some(connection) = &ctx.connection {
        let forwarding = Forwarding {
            hop: &connection.hop,
            client: ctx.client,
            host: &ctx.host,
            request_id: &ctx.request_id,
            certificate: connection.tls.as_ref().and_then(|tls| tls.client.as_deref()),
            certificate_headers: ctx.site.as_ref().map_or(&[], |site| &site.client_headers),
            attempt: ctx.tries.in_all,
        };
        forward::set_forwarding_headers(request, &forwarding);
    }
    join_cookies(request);
    let Some(route) = &ctx.route else { return };
    let upstream_host = endpoint::forward_of(ctx).and_then(|forward| forward.host.as_ref());
    forward::rewrite(request, &route.rewrite, route.expression.as_ref(), upstream_host, &ctx.path);
}

/// Cookies that HTTP/2 sent in pieces become one line (RFC 9113, section 8.2.3).
fn join_cookies(request: &mut RequestHeader) {
    let mut lines = request.headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        // The value is valid by its type.
        drop(request.insert_header(COOKIE, joined));
    }
}

/// A piece of the request's body: counted against the route's limit.
pub(super) fn request_body(
    session: &Session,
    body: &mut Option<Bytes>,
    is_last: bool,
    ctx: &mut RequestContext,
) -> Result<()> {
    if let Some(pace) = &mut ctx.body_pace
        && !pace.came(body, is_last)
    {
        return Err(fail(ctx, Failure::ClientTimeout));
    }
    if is_last {
        if !ctx.is_sent {
            ctx.tries.sent = Some(Instant::now());
        }
        ctx.is_sent = true;
        if let Some(watchdog) = &ctx.tries.watchdog {
            watchdog.saw_request_end();
        }
    }
    mirror::request_body(body.as_ref(), is_last, ctx);
    let Some(body) = body else { return Ok(()) };
    ctx.body_bytes += body.len() as u64;
    if session.was_upgraded()
        || ctx.tries.max_body_bytes.is_none_or(|limit| ctx.body_bytes <= limit)
    {
        return Ok(());
    }
    Err(fail(ctx, Failure::BodyTooLarge))
}

fn fail(ctx: &mut RequestContext, failure: Failure) -> Box<Error> {
    ctx.failure = Some(failure.clone());
    failure.into_error()
}

/// The endpoint's head came, a 1xx too.
///
/// # Errors
/// It switches to a protocol that nobody asked for, could be read in two ways once its fields are lines (HTTP/1.1 is
/// judged before Pingora reads it), has no end that the client's version knows, or counts as a failed try.
pub(super) fn upstream_head(
    session: &mut Session,
    response: &ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        if ctx.tries.exchange != Exchange::WebSocket {
            return Err(fail(ctx, Failure::UpstreamInvalid));
        }
    } else if response.status.is_informational() {
        return Ok(());
    }
    if response.version == Version::HTTP_2 {
        let fields = response.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        check_fields(fields).map_err(|_| fail(ctx, Failure::UpstreamInvalid))?;
        let has_length = response.headers.contains_key(CONTENT_LENGTH);
        if session.req_header().version == Version::HTTP_10 && !has_length {
            // Pingora sends it in chunks, behind the last hook.
            return Err(fail(ctx, Failure::VersionNotSupported));
        }
    }
    let tries = &mut ctx.tries;
    let is_stream = is_stream(response, tries.exchange);
    if let Some(watchdog) = &tries.watchdog {
        if is_stream {
            watchdog.became_stream(tries.timeouts.stream_idle);
        }
        watchdog.saw_byte();
    }
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        // Bytes of either side are signs of life from here on: Pingora's timeout sees both.
        tries.watchdog = None;
    }
    if tries.first_byte.is_none() {
        let now = Instant::now();
        tries.first_byte = tries.began.map(|began| now.saturating_duration_since(began));
        let after = tries.records.answered(now);
        tries.answered(response, after.unwrap_or_default(), is_stream, now);
        mirror::response_head(response, is_stream, now, ctx);
    }
    if let Some(picked) = &ctx.tries.picked {
        let announced =
            response.headers.get(KEEP_ALIVE).and_then(|value| parse_keep_alive(value.as_bytes()));
        picked.endpoint().learn_keep_alive(announced);
    }
    again::check_status(session, response.status, ctx)?;
    if is_stream {
        ctx.is_stream = true;
        ctx.tries.over = None;
        ctx.let_go_of_permits();
    }
    Ok(())
}

/// Whether an answer to what was asked for is a stream, as the endpoint says: a WebSocket, events, gRPC messages.
fn is_stream(response: &ResponseHeader, exchange: Exchange) -> bool {
    if exchange != Exchange::Stream || !response.status.is_success() {
        return response.status == http::StatusCode::SWITCHING_PROTOCOLS;
    }
    let kind = response
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    kind.starts_with("text/event-stream") || kind.starts_with("application/grpc")
}

/// The response's head on its way to the client.
pub(super) fn response_head(
    session: &mut Session,
    response: &mut ResponseHeader,
    ctx: &mut RequestContext,
) {
    if response.status.is_informational()
        && response.status != http::StatusCode::SWITCHING_PROTOCOLS
    {
        strip_hop_by_hop(response);
        response.remove_header(&CONTENT_LENGTH);
        return;
    }
    if response.status == http::StatusCode::NO_CONTENT {
        // An empty body's length may not be told (RFC 9110, section 8.6).
        response.remove_header(&CONTENT_LENGTH);
    }
    if session.req_header().version == Version::HTTP_10
        && response.remove_header(&TRANSFER_ENCODING).is_some()
    {
        // It knows no chunks (RFC 9112, section 6.1): the body ends with the connection.
        session.set_keepalive(None);
    }
    ctx.status = response.status.as_u16();
    let is_upgrade = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
    if ctx.is_stream {
        // Its body may be silent for as long as the answer.
        ctx.body_pace = None;
        session.set_read_timeout(Some(ctx.tries.timeouts.stream_idle));
    }
    if !is_upgrade {
        strip_hop_by_hop(response);
    }
    wish::set_cookie(response, ctx);
    split::set_cookie(response, ctx);
    respond::edit(response, ctx);
    if let Some(connection) = &ctx.connection {
        if connection.is_draining() {
            session.set_keepalive(None);
        }
        if is_upgrade {
            connection.became_web_socket();
        }
    }
    ctx.let_go_of_snapshot();
}

/// Fields of the endpoint's connection, and those that its `Connection` names, end here (RFC 9110, section 7.6.1).
fn strip_hop_by_hop(response: &mut ResponseHeader) {
    if response.headers.contains_key(CONNECTION) {
        // Framing is Pingora's matter; a nomination can't touch it.
        let lines = response.headers.get_all(CONNECTION).iter();
        let names: Vec<HeaderName> = lines
            .flat_map(|line| line.to_str().unwrap_or_default().split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(|name| !matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION))
            .collect();
        for name in &names {
            response.remove_header(name);
        }
        response.remove_header(&CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TE] {
        response.remove_header(&name);
    }
}

/// Trailers of an answer: what frames, routes, authorises or describes it came too late (RFC 9110, section 6.5.1).
pub(super) fn trailers(trailers: &mut HeaderMap, ctx: &mut RequestContext) {
    if let (Some(trial), Some(status)) = (&mut ctx.tries.trial, grpc_status(trailers)) {
        trial.grpc_status(status, Instant::now());
    }
    for name in &FORBIDDEN_TRAILERS {
        trailers.remove(name);
    }
}

/// A piece of the response's body came from the endpoint.
///
/// # Errors
/// The watchdog ended the answer: its end must not look like a whole one.
pub(super) fn response_body(end_of_stream: bool, ctx: &mut RequestContext) -> Result<()> {
    if let Some(watchdog) = &ctx.tries.watchdog {
        watchdog.saw_byte();
        if watchdog.expired().is_some() {
            return Err(fail(ctx, Failure::UpstreamTimeout));
        }
    }
    if ctx.tries.over.is_some() && ctx.tries.is_over(Instant::now()) {
        return Err(fail(ctx, Failure::TotalTimeout));
    }
    if end_of_stream {
        let now = Instant::now();
        ctx.tries.watchdog = None;
        ctx.tries.took = ctx.tries.began.map(|began| now.saturating_duration_since(began));
        ctx.tries.records.end(None, now);
        ctx.tries.ended(now);
        // The upstream is done with it, however slowly the client takes the answer.
        ctx.tries.permit = None;
    }
    Ok(())
}

/// An answer that is broken off, and has no other end than the connection's, must not end like a whole one.
pub(super) fn break_off(session: &Session, ctx: &RequestContext) {
    let Some(head) = session.response_written() else { return };
    let is_framed =
        [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| head.headers.contains_key(name));
    if let (false, false, Some(connection)) = (is_framed, session.is_http2(), &ctx.connection) {
        connection.break_off();
    }
}

/// A piece of the answer goes to the client; what comes after it waits so long, where a fault says so. HTTP/1.1 is
/// watched by the I/O type.
///
/// # Errors
/// The client takes the answer too slowly.
pub(super) fn answer_piece(
    session: &Session,
    body: &mut Option<Bytes>,
    ctx: &mut RequestContext,
) -> Result<Option<Duration>> {
    let pause = ctx
        .policy
        .body_rate
        .zip(body.as_ref())
        .map(|(rate, piece)| Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64));
    if !session.is_http2() || ctx.is_stream || pause.is_some() {
        return Ok(pause);
    }
    let Some(connection) = &ctx.connection else { return Ok(pause) };
    let pace = ctx.answer_pace.get_or_insert_with(|| AnswerPace::new(connection));
    if pace.goes(body) { Ok(pause) } else { Err(fail(ctx, Failure::ClientTimeout)) }
}

/// No try gave an answer: the edge gives its own, or the route's fallback.
pub(super) async fn failed(
    session: &mut Session,
    error: &Error,
    ctx: &mut RequestContext,
) -> FailToProxy {
    let failure = ctx.failure_of(error);
    // Pingora closes the client's connection after a failed try, whatever is said here: the answer must say so too.
    session.set_keepalive(None);
    // Where it can't be sent, the client is gone.
    drop(fallback::answer(session, ctx, &failure).await);
    let error_code = failure.status().map_or(0, |status| status.as_u16());
    ctx.failure = Some(failure);
    FailToProxy { error_code, can_reuse_downstream: false }
}
