//! The tries of a request: which endpoint, with which timeouts, and whether there is another try.
//!
//! Place: `upstream_peer` to `error_while_proxy`. `Pingora`'s `max_retries` is the ceiling of all routes; the upstream's
//! `tries` is counted here. A try that sent nothing may be repeated with any method; one that sent something only with GET,
//! HEAD and OPTIONS, while nothing of an answer has gone to the client and the body can be replayed.

use std::{sync::Arc, time::Instant};

use http::{Method, Version};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::{
    announce,
    context::RequestContext,
    failure::Failure,
    tries::Exchange,
    upgrade,
    watchdog::{Expired, Watchdog},
};
use crate::upstream::{
    Fault, MalformedAnswer, NoEndpoint, Picked, Upstream, UpstreamProtocol, judge_answers,
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
fn upstream_of(ctx: &RequestContext) -> Option<&Arc<Upstream>> {
    ctx.tries.upstream.and_then(|index| ctx.snapshot.as_ref()?.upstreams.get(index))
}

/// The peer of the next try.
pub(super) fn peer(ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let is_kept = ctx.tries.count == 0 || std::mem::take(&mut ctx.tries.repeats);
    let picked = match ctx.tries.picked.take().filter(|_| is_kept) {
        Some(first) => first,
        None => match pick(ctx) {
            Ok(picked) => picked,
            Err(failure) => return Err(fail(ctx, failure)),
        },
    };
    let opening = upstream_of(ctx)
        .and_then(|upstream| upstream.config().proxy_protocol)
        .map(|version| announce::opening(ctx, version));
    // A retry sends the body again from its start.
    ctx.body_bytes = 0;
    let tries = &mut ctx.tries;
    let now = Instant::now();
    tries.began.get_or_insert(now);
    tries.count += 1;
    tries.records.begin(picked.endpoint().clone(), now);
    let mut peer = picked.peer(&tries.timeouts, tries.exchange != Exchange::Answer);
    if let Some(opening) = opening.clone() {
        announce::prepare(&mut peer, opening);
    }
    match tries.exchange {
        // Pingora has one timeout for both; where they differ the watchdog keeps the smaller one.
        Exchange::Answer => {
            peer.options.read_timeout = Some(tries.timeouts.first_byte.max(tries.timeouts.idle));
        }
        Exchange::Stream => {}
        Exchange::WebSocket => upgrade::prepare(&mut peer, opening.unwrap_or_default()),
    }
    tries.is_judged = judge_answers(&mut peer, picked.endpoint().took_http1());
    tries.wish.tried.add(picked.endpoint());
    tries.picked = Some(picked);
    Ok(peer)
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
    let tries = &mut ctx.tries;
    if !is_reused {
        tries.records.connected(Instant::now());
    }
    let is_http1 = ctx
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.upstreams.get(tries.upstream?))
        .is_some_and(|upstream| upstream.config().protocol == UpstreamProtocol::Http1);
    let is_needed = match tries.exchange {
        Exchange::Answer => Watchdog::is_needed(&tries.timeouts),
        Exchange::Stream => true,
        Exchange::WebSocket => false,
    };
    if is_http1 && is_needed {
        let spent = tries.began.map(|began| began.elapsed()).unwrap_or_default();
        tries.watchdog = Watchdog::start(socket, tries.timeouts, spent);
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

/// Connecting failed: nothing was sent, so another endpoint may be tried whatever the method.
pub(super) fn connect_failed(ctx: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    ctx.tries.records.end(Some(Failure::of(&error).reason()), Instant::now());
    tell(ctx, Some(Fault::Connect));
    let again = may_try_again(ctx);
    error.set_retry(again);
    if again {
        count_retry(ctx);
    }
    error
}

/// A try failed after the request, or part of it, was sent.
pub(super) fn try_failed(
    session: &Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
) -> Box<Error> {
    if ctx.tries.repeats {
        // Nothing was sent: the same endpoint is connected to in another way, and that is no other try.
        ctx.tries.count -= 1;
        error.set_retry(true);
        return error;
    }
    let expired = ctx.tries.watchdog.take().and_then(|watchdog| watchdog.expired());
    if let Some(expired) = expired {
        ctx.failure = Some(match expired {
            Expired::Silence => Failure::UpstreamTimeout,
            Expired::Total => Failure::TotalTimeout,
        });
    }
    let reason = match &ctx.failure {
        Some(failure) => failure.reason(),
        None => Failure::of(&error).reason(),
    };
    ctx.tries.records.end(Some(reason), Instant::now());
    tell(ctx, fault_of(&error, expired, ctx));
    let was_reset = matches!(
        error.etype(),
        ErrorType::ConnectionClosed
            | ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::H2Error
            | ErrorType::InvalidH2
            | ErrorType::H2Downgrade
    ) && *error.esource() == ErrorSource::Upstream
        // It answered, and asking again would get the same.
        && MalformedAnswer::of(&error).is_none();
    let is_safe =
        matches!(session.req_header().method, Method::GET | Method::HEAD | Method::OPTIONS);
    let nothing_answered =
        session.response_written().is_none_or(|head| head.status.is_informational());
    let again = expired.is_none()
        && was_reset
        && is_safe
        && nothing_answered
        && !session.as_ref().retry_buffer_truncated()
        && may_try_again(ctx);
    error.set_retry(again);
    if again {
        count_retry(ctx);
    }
    error
}

/// What the endpoint did wrong where a try failed after its request, or part of it, was sent.
fn fault_of(error: &Error, expired: Option<Expired>, ctx: &RequestContext) -> Option<Fault> {
    if expired.is_some() {
        return Some(Fault::Timeout);
    }
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => {
            Some(Fault::Timeout)
        }
        (ErrorSource::Upstream, _) if ctx.tries.first_byte.is_some() => Some(Fault::CutAnswer),
        (ErrorSource::Upstream, _) => Some(Fault::Reset),
        // An answer that our own hooks refused.
        _ if ctx.failure == Some(Failure::UpstreamInvalid) => Some(Fault::Reset),
        _ => None,
    }
}

fn tell(ctx: &mut RequestContext, fault: Option<Fault>) {
    if let (Some(picked), Some(fault)) = (&mut ctx.tries.picked, fault) {
        picked.failed(fault);
    }
}

fn may_try_again(ctx: &RequestContext) -> bool {
    let limit = upstream_of(ctx).map_or(1, |upstream| upstream.config().tries);
    let in_time = match (ctx.tries.timeouts.total, ctx.tries.began) {
        (Some(total), Some(began)) => began.elapsed() < total,
        _ => true,
    };
    ctx.tries.count < limit && in_time
}

fn count_retry(ctx: &mut RequestContext) {
    // The endpoint's in-flight count ends with its try.
    ctx.tries.picked = None;
    if let Some(metrics) = &ctx.labels.upstream {
        metrics.retried();
    }
}
