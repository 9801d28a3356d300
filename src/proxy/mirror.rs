//! Copies of requests for a mirror: what passes is shown to the copy, and at the end it is sent.
//!
//! Place: [`begin`] where a request is dealt; the others where heads and bodies pass. Nothing here waits or fails: where a copy
//! can't go on, it is given up and counted, and the request goes on as it would without.

use std::time::Instant;

use bytes::Bytes;
use http::{Method, header::HOST};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{context::RequestContext, relay, tries::Exchange};
use crate::{
    rollout::{Client, Dealt, Shadow, Side, Skipped},
    snapshot::Split,
};

/// Begins a copy of a request that was chosen for one.
pub(super) fn begin(
    session: &Session,
    ctx: &mut RequestContext,
    split: &Split,
    dealt: &Dealt,
    client: Client,
) {
    let Some((forward, assignment)) = &split.candidate else { return };
    let request = session.req_header();
    let rewritten = ctx.route.as_ref().and_then(|route| route.rewrite.host.as_ref());
    let host = rewritten.or(forward.host.as_ref()).or_else(|| request.headers.get(HOST)).cloned();
    let host = host.or_else(|| Some(ctx.host.clone()));
    let begun = Shadow::begin(assignment, host, &request.method, dealt.step, client);
    ctx.tries.shadow = begun.ok().map(Box::new);
}

/// An endpoint can't be connected to: the head that it would have seen is taken, where there is none yet.
pub(super) fn not_connected(session: &Session, ctx: &mut RequestContext) {
    if ctx.tries.shadow.as_ref().is_some_and(|shadow| shadow.wants_head()) {
        let mut request = session.req_header().clone();
        relay::edit_head(&mut request, ctx);
        take_head(&request, ctx);
    }
}

/// The head goes to an endpoint.
pub(super) fn request_head(request: &RequestHeader, ctx: &mut RequestContext) {
    take_head(request, ctx);
    if let Some(shadow) = &mut ctx.tries.shadow {
        shadow.sent(Instant::now());
    }
}

fn take_head(request: &RequestHeader, ctx: &mut RequestContext) {
    let is_stream = ctx.tries.exchange != Exchange::Answer || request.method == Method::CONNECT;
    let is_stables = ctx.tries.side == Some(Side::Stable) && ctx.tries.fallback.is_none();
    let path = request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let Some(shadow) = &mut ctx.tries.shadow else { return };
    let taken = if is_stream {
        Err(Skipped::Stream)
    } else if is_stables {
        shadow.take_head(&request.method, path, &request.headers)
    } else {
        // What the fallback sees is not what the stable did.
        Ok(())
    };
    if let Err(why) = taken {
        give_up(ctx, why);
    }
}

/// A piece of the body goes to an endpoint.
pub(super) fn request_body(body: Option<&Bytes>, is_last: bool, ctx: &mut RequestContext) {
    if let Some(shadow) = &mut ctx.tries.shadow {
        let piece = body.map(AsRef::as_ref).unwrap_or_default();
        if let Err(why) = shadow.request_piece(piece, is_last, Instant::now()) {
            give_up(ctx, why);
        }
    }
}

/// The head of the final answer came.
pub(super) fn response_head(
    response: &ResponseHeader,
    is_stream: bool,
    now: Instant,
    ctx: &mut RequestContext,
) {
    match &mut ctx.tries.shadow {
        None => {}
        Some(_) if is_stream => give_up(ctx, Skipped::Stream),
        Some(shadow) => shadow.answered(response.status, &response.headers, now),
    }
}

/// A piece of the answer came.
pub(super) fn response_body(body: Option<&Bytes>, ctx: &mut RequestContext) {
    if let (Some(shadow), Some(piece)) = (&mut ctx.tries.shadow, body)
        && let Err(why) = shadow.answer_piece(piece)
    {
        give_up(ctx, why);
    }
}

/// The request is over; `is_answered` to its end by an endpoint.
pub(super) fn over(ctx: &mut RequestContext, is_answered: bool) {
    let is_request_whole = ctx.is_sent;
    if let Some(shadow) = ctx.tries.shadow.take() {
        shadow.over(is_answered, is_request_whole);
    }
}

fn give_up(ctx: &mut RequestContext, why: Skipped) {
    if let Some(shadow) = ctx.tries.shadow.take() {
        shadow.give_up(why);
    }
}
