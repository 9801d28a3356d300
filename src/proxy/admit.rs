//! The last step before the first try: what the request asks for, how its body is watched, the upstream's gates, and its
//! endpoint.
//!
//! Place: the end of `request_filter`. A failure here is still answered on an open connection: Pingora closes the client's
//! connection when a try fails.

use std::time::Instant;

use http::{
    Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE},
};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{
    body_pace::BodyPace, context::RequestContext, endpoint, failure::Failure, gates, patience,
    tries::Exchange, wish,
};
use crate::{
    snapshot::{Forward, Route},
    upstream::UpstreamProtocol,
};

/// Prepares the tries of a request, and picks its first endpoint.
pub(super) async fn admit(
    session: &mut Session,
    ctx: &mut RequestContext,
    route: &Route,
    forward: &Forward,
) -> Result<(), Failure> {
    ctx.tries.exchange = exchange(session);
    let exchange = ctx.tries.exchange;
    if exchange == Exchange::WebSocket && has_body(session.req_header()) {
        // Where its body ends and the frames begin, two readers may see differently.
        return Err(Failure::ClientInvalid);
    }
    aim(ctx, route, forward);
    let is_grpc_upstream = ctx.tries.max_body_bytes.is_none();
    wish::read(session, ctx);
    if exchange == Exchange::WebSocket || is_grpc_upstream {
        // Silence of the client is no fault either.
        session.set_read_timeout(Some(forward.timeouts.stream_idle));
    } else {
        watch_body(session, ctx);
    }
    // Frames come after the answer; a body before them was refused above.
    ctx.is_sent = exchange == Exchange::WebSocket || session.as_downstream_mut().is_body_done();
    ctx.tries.over = forward.timeouts.total.map(|total| Instant::now() + total);
    to_origin_form(session.req_header_mut());
    let probe = gates::enter_upstream(session, ctx).await?;
    endpoint::pick_first(ctx)?;
    if let Some(picked) = &mut ctx.tries.picked {
        picked.probes(probe);
    }
    Ok(())
}

/// Points the request at an upstream, by the way of its route or of the route's fallback.
pub(super) fn aim(ctx: &mut RequestContext, route: &Route, forward: &Forward) {
    ctx.labels.upstream = Some(forward.metrics.clone());
    ctx.tries.upstream = Some(forward.index);
    let is_grpc = ctx.tries.exchange == Exchange::Stream
        && endpoint::speaks_only(UpstreamProtocol::Http2, ctx);
    ctx.tries.timeouts = forward.timeouts;
    // Elsewhere its content type would be a way around the limit.
    ctx.tries.max_body_bytes = (!is_grpc).then_some(route.max_body_bytes);
}

/// From here on a body that is silent or too slow ends its request.
fn watch_body(session: &mut Session, ctx: &mut RequestContext) {
    if session.as_downstream_mut().is_body_done() {
        return;
    }
    let Some(connection) = &ctx.connection else { return };
    let pace = BodyPace::new(connection, session.req_header().method.clone());
    patience::watch(pace.silence());
    ctx.body_pace = Some(pace);
}

/// Whether a request of HTTP/1.1 says that it has a body.
fn has_body(header: &RequestHeader) -> bool {
    header.headers.contains_key(TRANSFER_ENCODING)
        || header.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// What a request asks for. A header alone gives it no more time than others: only the answer's head does.
fn exchange(session: &Session) -> Exchange {
    let header = session.req_header();
    let value = |name: http::HeaderName| {
        header.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    if session.is_upgrade_req() && value(UPGRADE).eq_ignore_ascii_case("websocket") {
        Exchange::WebSocket
    } else if value(CONTENT_TYPE).starts_with("application/grpc")
        || value(ACCEPT).starts_with("text/event-stream")
    {
        Exchange::Stream
    } else {
        Exchange::Answer
    }
}

/// `GET http://host/path` becomes `GET /path`: endpoints see the origin form (RFC 9112, section 3.2.1).
fn to_origin_form(header: &mut RequestHeader) {
    let parsed = header.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if header.version < Version::HTTP_2 && header.raw_path() != parsed.as_bytes() {
        // Setting the parsed target drops the one that was sent.
        header.set_uri(header.uri.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_form_becomes_origin_form() {
        let mut absolute = RequestHeader::build("GET", b"/", None).unwrap();
        absolute.set_raw_path(b"http://a/x?y=1").unwrap();
        to_origin_form(&mut absolute);
        assert_eq!(absolute.raw_path(), b"/x?y=1");
    }
}
