//! The tries of a request: at which endpoint, with which timeouts.
//!
//! Place: the end of `request_filter` for the first endpoint, then `upstream_peer` for each try. Whether there is another
//! try is decided in `again.rs`. `Pingora`'s `max_retries` is the ceiling of all routes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Version;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::{
    again, announce,
    context::RequestContext,
    failure::Failure,
    tries::Exchange,
    upgrade,
    watchdog::{Ends, Watchdog},
};
use crate::{
    rollout::Side,
    snapshot::{Fallback, Forward, Target},
    upstream::{NoEndpoint, Picked, Upstream, UpstreamProtocol, judge_answers},
};

/// Picks the endpoint of the first try. Done while the request can still be answered on an open connection: Pingora
/// closes the client's connection when a try fails.
pub(super) fn pick_first(ctx: &mut RequestContext) -> Result<(), Failure> {
    ctx.tries.picked = Some(pick(ctx)?);
    Ok(())
}

fn pick(ctx: &RequestContext) -> Result<Picked, Failure> {
    let upstream = upstream_of(ctx).ok_or(Failure::Internal)?;
    upstream.pick(&ctx.tries.wish).map_err(|error| match error {
        NoEndpoint::NoneHealthy | NoEndpoint::NoneKnown => Failure::NoHealthyEndpoint,
    })
}

/// The request's upstream, while it has its snapshot.
pub(super) fn upstream_of(ctx: &RequestContext) -> Option<&Arc<Upstream>> {
    ctx.tries.upstream.and_then(|index| ctx.snapshot.as_ref()?.upstreams.get(index))
}

/// How the request goes to the upstream that has it now: as its route says, or the route's fallback.
pub(super) fn forward_of(ctx: &RequestContext) -> Option<&Forward> {
    let route = ctx.route.as_ref()?;
    if let (None, Target::Split(split)) = (ctx.tries.fallback, &route.target) {
        return Some(split.to(ctx.tries.side.unwrap_or(Side::Stable)));
    }
    match (ctx.tries.fallback, route.fallback.as_deref(), &route.target) {
        (Some(_), Some(Fallback::Forward(forward)), _) | (None, _, Target::Forward(forward)) => {
            Some(forward)
        }
        _ => None,
    }
}

/// The peer of the next try, after its pause.
pub(super) async fn peer(session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    if let Some(pause) = ctx.tries.pause.take() {
        tokio::time::sleep(pause).await;
        again::look_again(session, ctx)?;
    }
    let is_repeat = std::mem::take(&mut ctx.tries.repeats);
    // Whoever wants a try has picked its endpoint: `pick_first`, `again`, `fallback`.
    let Some(picked) = ctx.tries.picked.take() else { return Err(fail(ctx, Failure::Internal)) };
    let now = Instant::now();
    let left = ctx.tries.left(now);
    if ctx.tries.is_over(now) {
        return Err(fail(ctx, Failure::TotalTimeout));
    }
    let per_try = forward_of(ctx).and_then(|forward| forward.retries.per_try_timeout);
    let upstream = upstream_of(ctx);
    if let Some(upstream) = upstream.filter(|_| ctx.tries.count == 0 && !is_repeat) {
        upstream.count_request(ctx.tries.wish.network, now);
    }
    let is_http1 = speaks_only(UpstreamProtocol::Http1, ctx);
    let opening = upstream
        .and_then(|upstream| upstream.config().proxy_protocol)
        .map(|version| announce::opening(ctx, version));
    // A retry sends the body again from its start.
    ctx.body_bytes = 0;
    let tries = &mut ctx.tries;
    tries.began.get_or_insert(now);
    tries.count += 1;
    tries.in_all += 1;
    tries.ends = per_try.map(|limit| now + limit);
    if !is_repeat {
        tries.records.begin(picked.endpoint().clone(), now);
    }
    let limit = match (per_try, left) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut timeouts = tries.timeouts;
    timeouts.connect = timeouts.connect.min(limit.unwrap_or(Duration::MAX));
    let mut peer = picked.peer(&timeouts, tries.exchange != Exchange::Answer);
    if let Some(opening) = opening.clone() {
        announce::prepare(&mut peer, opening);
    }
    match tries.exchange {
        Exchange::Answer => {
            // Pingora has one timeout for both; where they differ the watchdog keeps the smaller one.
            let read = timeouts.first_byte.max(timeouts.idle);
            // There is no watchdog over HTTP/2: no read may take longer than the try, or than what is left of all.
            let limit = limit.filter(|_| !is_http1).unwrap_or(Duration::MAX);
            peer.options.read_timeout = Some(read.min(limit));
        }
        Exchange::Stream => {}
        Exchange::WebSocket => {
            tries.socket = Some(upgrade::prepare(&mut peer, opening.unwrap_or_default()));
        }
    }
    tries.is_judged = judge_answers(&mut peer, picked.endpoint().took_http1());
    tries.wish.tried.add(picked.endpoint());
    tries.picked = Some(picked);
    Ok(peer)
}

/// Whether the request's upstream speaks this protocol and no other.
pub(super) fn speaks_only(protocol: UpstreamProtocol, ctx: &RequestContext) -> bool {
    upstream_of(ctx).is_some_and(|upstream| upstream.config().protocol == protocol)
}

fn fail(ctx: &mut RequestContext, failure: Failure) -> Box<Error> {
    ctx.failure = Some(failure.clone());
    failure.into_error()
}

/// A connection is there: the watchdog starts where this route needs one.
pub(super) fn connected(socket: std::os::fd::RawFd, is_reused: bool, ctx: &mut RequestContext) {
    if let Some(pace) = &ctx.body_pace {
        pace.begin();
    }
    let is_http1 = speaks_only(UpstreamProtocol::Http1, ctx);
    let tries = &mut ctx.tries;
    tries.is_reused = is_reused;
    if !is_reused {
        tries.records.connected(Instant::now());
    }
    let ends = Ends { head: tries.ends, total: tries.over };
    let is_needed = match tries.exchange {
        Exchange::Answer => Watchdog::is_needed(&tries.timeouts, &ends),
        // Pingora's timeout is that of a stream, which the answer has yet to become.
        Exchange::Stream | Exchange::WebSocket => true,
    };
    if is_http1 && is_needed {
        let socket = match tries.socket.take() {
            Some(socket) => socket.take(),
            None => Watchdog::duplicate(socket),
        };
        // Without descriptors Pingora's timeout remains.
        tries.watchdog =
            socket.map(|socket| Watchdog::start(socket, &tries.timeouts, ends, ctx.is_sent));
    }
}

/// Whether the connection that Pingora got speaks HTTP/1.1 without a judge; the endpoint is connected to again then.
///
/// # Errors
/// It does.
pub(super) fn check_judged(version: Version, ctx: &mut RequestContext) -> Result<()> {
    if version != Version::HTTP_11 || ctx.tries.is_judged {
        return Ok(());
    }
    if let Some(picked) = &ctx.tries.picked {
        picked.endpoint().learn_http1();
    }
    ctx.tries.repeats = true;
    Err(Error::explain(ErrorType::ConnectError, "it took HTTP/1.1").into_up())
}
