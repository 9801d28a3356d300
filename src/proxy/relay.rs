//! What passes between client and endpoint: heads are edited, bytes are counted, failures are answered.

use bytes::Bytes;
use http::HeaderName;
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, Session};

use super::{
    context::RequestContext,
    failure::Failure,
    forward::{self, Forwarding},
    respond,
};
use crate::{snapshot::Target, upstream::parse_keep_alive};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

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
    let Some(route) = &ctx.route else { return };
    let upstream_host = match &route.target {
        Target::Upstream { host, .. } => host.as_ref(),
        Target::Redirect { .. } | Target::Respond(_) => None,
    };
    forward::rewrite(request, &route.rewrite, route.expression.as_ref(), upstream_host, &ctx.path);
}

/// A piece of the request's body: counted against the route's limit.
pub(super) fn request_body(body: Option<&Bytes>, ctx: &mut RequestContext) -> Result<()> {
    let Some(body) = body else { return Ok(()) };
    ctx.body_bytes += body.len() as u64;
    let Some(route) = &ctx.route else { return Ok(()) };
    if ctx.tries.is_stream || ctx.body_bytes <= route.max_body_bytes {
        return Ok(());
    }
    let failure = Failure::BodyTooLarge;
    ctx.failure = Some(failure.clone());
    Err(failure.into_error())
}

/// The endpoint's head came, a 1xx too.
pub(super) fn upstream_head(response: &ResponseHeader, ctx: &mut RequestContext) {
    let tries = &mut ctx.tries;
    if let Some(watchdog) = &tries.watchdog {
        watchdog.saw_byte();
    }
    if response.status.is_informational()
        && response.status != http::StatusCode::SWITCHING_PROTOCOLS
    {
        return;
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
    response.remove_header(&KEEP_ALIVE);
    respond::edit(response, ctx);
    if let Some(connection) = &ctx.connection
        && connection.is_draining()
    {
        session.set_keepalive(None);
    }
    ctx.let_go_of_snapshot();
}

/// A piece of the response's body came from the endpoint.
pub(super) fn response_body(end_of_stream: bool, ctx: &mut RequestContext) {
    if let Some(watchdog) = &ctx.tries.watchdog {
        watchdog.saw_byte();
    }
    if end_of_stream {
        ctx.tries.watchdog = None;
        ctx.tries.took = ctx.tries.began.map(|began| began.elapsed());
    }
}

/// No try gave an answer: the edge gives its own.
pub(super) async fn failed(
    session: &mut Session,
    error: &Error,
    ctx: &mut RequestContext,
) -> FailToProxy {
    let failure = ctx.failure.clone().unwrap_or_else(|| Failure::of(error));
    let is_begun = session.response_written().is_some_and(|head| !head.status.is_informational());
    let sent = respond::send_failure(session, ctx, &failure).await;
    let error_code = failure.status().map_or(0, |status| status.as_u16());
    // A body that was not read to its end makes the connection useless; Pingora drains what is short.
    let can_reuse_downstream =
        sent.is_ok() && !is_begun && error_code != 0 && !failure.ends_connection();
    ctx.failure = Some(failure);
    FailToProxy { error_code, can_reuse_downstream }
}
