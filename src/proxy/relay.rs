//! What passes between client and endpoint: heads are edited, bytes are counted, failures are answered.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, TE, TRANSFER_ENCODING, UPGRADE},
};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, Session};

use super::{
    body_pace::AnswerPace,
    context::{Exchange, RequestContext},
    failure::Failure,
    forward::{self, Forwarding},
    respond,
};
use crate::{snapshot::Target, upstream::parse_keep_alive};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The request's head on its way to the endpoint.
pub(super) fn request_head(request: &mut RequestHeader, ctx: &RequestContext) {
    let local_port = ctx
        .connection
        .as_ref()
        .and_then(|connection| connection.local)
        .map(|address| address.port());
    let forwarding = Forwarding {
        peer: ctx.peer(),
        client: ctx.client,
        is_tls: ctx.is_tls(),
        host: &ctx.host,
        port: local_port,
        request_id: &ctx.request_id,
    };
    forward::set_forwarding_headers(request, &forwarding);
    join_cookies(request);
    let Some(route) = &ctx.route else { return };
    let upstream_host = match &route.target {
        Target::Upstream { host, .. } => host.as_ref(),
        Target::Redirect { .. } | Target::Respond(_) => None,
    };
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
    let Some(body) = body else { return Ok(()) };
    ctx.body_bytes += body.len() as u64;
    if let Some(watchdog) = &ctx.tries.watchdog {
        watchdog.saw_request_byte();
    }
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
pub(super) fn upstream_head(response: &ResponseHeader, ctx: &mut RequestContext) {
    if response.status.is_informational()
        && response.status != http::StatusCode::SWITCHING_PROTOCOLS
    {
        return;
    }
    let tries = &mut ctx.tries;
    if let Some(watchdog) = &tries.watchdog {
        if tries.exchange == Exchange::Stream && is_stream(response) {
            watchdog.allow_silence(tries.timeouts.stream_idle);
        }
        watchdog.saw_byte();
    }
    if tries.first_byte.is_none() {
        tries.first_byte = tries.began.map(|began| began.elapsed());
    }
    if let Some(picked) = &tries.picked {
        let announced =
            response.headers.get(KEEP_ALIVE).and_then(|value| parse_keep_alive(value.as_bytes()));
        picked.endpoint().learn_keep_alive(announced);
    }
}

/// Events or gRPC messages, as the endpoint says.
fn is_stream(response: &ResponseHeader) -> bool {
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
        return;
    }
    ctx.status = response.status.as_u16();
    let is_upgrade = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
    ctx.is_stream = is_upgrade || ctx.tries.exchange == Exchange::Stream && is_stream(response);
    if ctx.is_stream {
        // Its body may be silent for as long as the answer.
        ctx.body_pace = None;
        session.set_read_timeout(Some(ctx.tries.timeouts.stream_idle));
    }
    if !is_upgrade {
        strip_hop_by_hop(response);
    }
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
    let over = |began: std::time::Instant| {
        ctx.tries.timeouts.total.is_some_and(|total| began.elapsed() > total)
    };
    if ctx.tries.exchange == Exchange::Answer && ctx.tries.began.is_some_and(over) {
        return Err(fail(ctx, Failure::TotalTimeout));
    }
    if end_of_stream {
        ctx.tries.watchdog = None;
        ctx.tries.took = ctx.tries.began.map(|began| began.elapsed());
    }
    Ok(())
}

/// A piece of the answer goes to the client. HTTP/1.1 is watched by the I/O type.
///
/// # Errors
/// The client takes the answer too slowly.
pub(super) fn answer_piece(
    session: &Session,
    body: &mut Option<Bytes>,
    ctx: &mut RequestContext,
) -> Result<()> {
    if !session.is_http2() || ctx.is_stream {
        return Ok(());
    }
    let Some(connection) = &ctx.connection else { return Ok(()) };
    let pace = ctx.answer_pace.get_or_insert_with(|| AnswerPace::new(connection));
    if pace.goes(body) { Ok(()) } else { Err(fail(ctx, Failure::ClientTimeout)) }
}

/// No try gave an answer: the edge gives its own.
pub(super) async fn failed(
    session: &mut Session,
    error: &Error,
    ctx: &mut RequestContext,
) -> FailToProxy {
    let failure = ctx.failure.clone().unwrap_or_else(|| Failure::of(error));
    // Pingora closes the client's connection after a failed try, whatever is said here: the answer must say so too.
    session.set_keepalive(None);
    // Where it can't be sent, the client is gone.
    drop(respond::send_failure(session, ctx, &failure).await);
    let error_code = failure.status().map_or(0, |status| status.as_u16());
    ctx.failure = Some(failure);
    FailToProxy { error_code, can_reuse_downstream: false }
}
