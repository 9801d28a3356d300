//! After a failed try: whether there is another one, at which endpoint and when.
//!
//! Place: `fail_to_connect`, `error_while_proxy`, and `upstream_response_filter` for answers that count as failures. What is
//! wanted is decided in `upstream/retry.rs`; here is what Pingora knows of the try, what the endpoint is told to have done,
//! and the next endpoint, which is picked at once: where there is none, what came of this try goes to the client.
//!
//! Every error that leaves by `error_while_proxy` says whether it is tried again: Pingora panics where nobody has decided.
//! A refused answer ends its connection (HTTP/1.1) or its stream (HTTP/2), so that nothing of it can be read as the next.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::{
    context::RequestContext,
    endpoint::{forward_of, upstream_of},
    failure::Failure,
    fallback, split,
    watchdog::Expired,
};
use crate::rollout::Side;
use crate::upstream::{
    Again, FailedTry, Fault, MalformedAnswer, NotAgain, Picked, TooManyConnections, TryFailure,
};

/// Connecting failed: nothing was sent, so another endpoint may be tried whatever the method.
pub(super) fn connect_failed(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
) -> Box<Error> {
    let now = Instant::now();
    let is_over = ctx.tries.is_over(now);
    if is_over {
        ctx.failure = Some(Failure::TotalTimeout);
    }
    let failure = ctx.failure_of(&error);
    ctx.tries.records.end(Some(failure.reason()), now);
    if TooManyConnections::of(&error).is_some() {
        // A limit of ours says nothing of the endpoint: another one may have a connection that is free.
        let is_repeatable = !ctx.tries.was_sent;
        error.set_retry(
            is_repeatable
                && (goes_elsewhere(ctx)
                    || split::other_side(session, ctx, &failure, now)
                    || fallback::take_over(session, ctx, &failure, now)),
        );
        return error;
    }
    let is_cut =
        failure == Failure::ConnectTimeout && ctx.tries.ends.is_some_and(|ends| ends <= now);
    let failed = if is_cut { TryFailure::Timeout } else { TryFailure::Connect };
    let fault = if is_cut { Fault::Timeout } else { Fault::Connect };
    let is_short = is_over && ctx.tries.in_all > 1;
    let is_endpoints = !is_short && !is_want_of_ours(&error);
    tell(ctx, is_endpoints.then_some(fault), now);
    error.set_retry(goes_on(session, ctx, failed, &failure, now));
    error
}

/// A try failed after the request, or part of it, was sent.
pub(super) fn try_failed(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
) -> Box<Error> {
    if ctx.tries.repeats {
        // Nothing was sent: the same endpoint is connected to in another way, and that is no other try.
        ctx.tries.count -= 1;
        ctx.tries.in_all -= 1;
        error.set_retry(true);
        return error;
    }
    let now = Instant::now();
    let expired = ctx.tries.watchdog.take().and_then(|watchdog| watchdog.expired());
    if std::mem::take(&mut ctx.tries.is_refused) {
        error.set_retry(true);
        return error;
    }
    ctx.tries.was_sent = true;
    let failed = kind_of(&error, expired, ctx);
    let is_over = expired == Some(Expired::Total) || ctx.tries.is_over(now);
    if failed == TryFailure::Timeout {
        ctx.failure = Some(if is_over { Failure::TotalTimeout } else { Failure::UpstreamTimeout });
    }
    let failure = ctx.failure_of(&error);
    ctx.tries.records.end(Some(failure.reason()), now);
    tell(ctx, fault_of(&error, failed, is_over, ctx, now), now);
    if is_over && ctx.tries.in_all == 1 && !ctx.waits_for_client(now) {
        ctx.tries.ran_out(now);
    }
    error.set_retry(goes_on(session, ctx, failed, &failure, now));
    error
}

/// The head of an answer is there: whether it goes to the client.
///
/// # Errors
/// It counts as a failed try, and there is another one, or a fallback.
pub(super) fn check_status(
    session: &mut Session,
    status: StatusCode,
    ctx: &mut RequestContext,
) -> Result<()> {
    let is_failure = forward_of(ctx).is_some_and(|forward| forward.retries.refuses(status));
    if !is_failure && !split::is_failure(ctx, status) {
        return Ok(());
    }
    let now = Instant::now();
    let failure = Failure::UpstreamStatus(status);
    ctx.tries.was_sent = true;
    let told = ctx.tries.picked.take();
    let failed = TryFailure::Status(status);
    let is_refused = if is_failure {
        goes_on(session, ctx, failed, &failure, now)
    } else {
        // Only the candidate is not to give it.
        goes_to_stable(session, ctx, failed, now)
    };
    let has_answer = is_failure && fallback::has_answer(ctx, &failure);
    if !is_refused && !has_answer {
        // The last answer there is.
        ctx.tries.picked = told;
        return Ok(());
    }
    if let Some(mut picked) = told {
        picked.ended();
        ctx.tries.picked.get_or_insert(picked);
    }
    ctx.tries.records.end(Some(failure.reason()), now);
    ctx.tries.is_refused = is_refused;
    if !is_refused {
        ctx.failure = Some(failure.clone());
    }
    Err(failure.into_error())
}

/// Whether an endpoint that was not tried gets the request at once. It counts as a try, and as no retry of the upstream's
/// budget: nobody was asked yet.
fn goes_elsewhere(ctx: &mut RequestContext) -> bool {
    let has_tries = forward_of(ctx).is_some_and(|one| ctx.tries.count < one.retries.tries);
    let picked = upstream_of(ctx)
        .filter(|_| has_tries)
        .and_then(|upstream| upstream.pick(&ctx.tries.wish).ok())
        .filter(|picked| !ctx.tries.wish.tried.contains(picked.endpoint()));
    let Some(mut picked) = picked else { return false };
    if let Some(before) = &mut ctx.tries.picked {
        picked.probes(before.take_probe());
    }
    ctx.tries.picked = Some(picked);
    ctx.failure = None;
    true
}

/// An endpoint for one more try, while the breaker lets everybody through: one that has opened meanwhile wants no retries,
/// and a half-open one lets first tries through only.
fn pick_again(ctx: &RequestContext, now: Instant) -> Option<Picked> {
    upstream_of(ctx)
        .filter(|upstream| matches!(upstream.pass(None, || now), Ok(None)))
        .and_then(|upstream| upstream.pick(&ctx.tries.wish).ok())
}

/// After the pause before a try: much may have changed in it.
///
/// # Errors
/// The breaker has opened, or nobody is left, and there is no fallback.
pub(super) fn look_again(session: &mut Session, ctx: &mut RequestContext) -> Result<()> {
    let now = Instant::now();
    ctx.tries.picked = None;
    if let Some(picked) = pick_again(ctx, now) {
        ctx.tries.picked = Some(picked);
        return Ok(());
    }
    let failure = match upstream_of(ctx).map(|upstream| upstream.pass(None, || now)) {
        Some(Err(open)) => Failure::BreakerOpen { remaining: open.remaining },
        // It is half-open: what the first tries show is known soon.
        Some(Ok(Some(_))) => Failure::BreakerOpen { remaining: Duration::from_secs(1) },
        _ => Failure::NoHealthyEndpoint,
    };
    if fallback::take_over(session, ctx, &failure, now) {
        return Ok(());
    }
    ctx.failure = Some(failure.clone());
    Err(failure.into_error())
}

/// Whether the request is sent once more, to its own upstream or to the fallback's. The endpoint is picked then.
fn goes_on(
    session: &mut Session,
    ctx: &mut RequestContext,
    failed: TryFailure,
    failure: &Failure,
    now: Instant,
) -> bool {
    if goes_to_stable(session, ctx, failed, now) {
        return true;
    }
    // After the head of an answer there is no route any more, and no other try.
    let Some(forward) = forward_of(ctx) else { return false };
    let method = session.req_header().method.clone();
    let failed = failed_try(session, ctx, failed, &method, now);
    let mut picked = None;
    let network = ctx.tries.wish.network;
    let budget = || {
        // A place is taken only where somebody can have it.
        picked = pick_again(ctx, now);
        picked.is_some()
            && upstream_of(ctx).is_some_and(|upstream| upstream.takes_retry(network, now))
    };
    let again = forward.retries.again(&failed, budget, |limit| fastrand::u64(0..=limit));
    match (again, picked) {
        (Again::Yes { pause, elsewhere_at_once }, Some(picked)) => {
            try_again(ctx, picked, pause, elsewhere_at_once);
            return true;
        }
        (Again::No(NotAgain::Budget), Some(_)) => {
            forward.metrics.refused_retry();
            ctx.tries.is_budget_spent = true;
        }
        _ => {}
    }
    let is_repeatable =
        forward_of(ctx).is_some_and(|forward| failed.is_repeatable(&forward.retries));
    is_repeatable
        && failed.failure != TryFailure::NotUpstream
        && fallback::take_over(session, ctx, failure, now)
}

/// Whether the stable gets a request that failed on the candidate.
fn goes_to_stable(
    session: &mut Session,
    ctx: &mut RequestContext,
    failed: TryFailure,
    now: Instant,
) -> bool {
    if ctx.tries.side != Some(Side::Candidate) {
        return false;
    }
    let method = session.req_header().method.clone();
    let failed = failed_try(session, ctx, failed, &method, now);
    split::goes_to_stable(session, ctx, &failed, now)
}

fn failed_try<'a>(
    session: &Session,
    ctx: &RequestContext,
    failure: TryFailure,
    method: &'a Method,
    now: Instant,
) -> FailedTry<'a> {
    FailedTry {
        failure,
        method,
        was_sent: ctx.tries.was_sent,
        is_answered: session.response_written().is_some_and(|head| !head.status.is_informational()),
        can_replay: !session.as_ref().retry_buffer_truncated(),
        tries: ctx.tries.count,
        left: ctx.tries.left(now),
    }
}

fn try_again(ctx: &mut RequestContext, picked: Picked, pause: Duration, elsewhere_at_once: bool) {
    let tries = &mut ctx.tries;
    let is_elsewhere = !tries.wish.tried.contains(picked.endpoint());
    let is_at_once = elsewhere_at_once && is_elsewhere || pause.is_zero();
    tries.pause = (!is_at_once).then_some(pause);
    tries.picked = Some(picked);
    tries.first_byte = None;
    ctx.failure = None;
    if let Some(metrics) = &ctx.labels.upstream {
        metrics.retried();
    }
}

/// How a try failed after a connection was there.
fn kind_of(error: &Error, expired: Option<Expired>, ctx: &RequestContext) -> TryFailure {
    use ErrorType as E;
    if expired.is_some() {
        return TryFailure::Timeout;
    }
    match &ctx.failure {
        // An answer that our own hooks refused.
        Some(Failure::UpstreamInvalid) => return TryFailure::Invalid,
        Some(_) => return TryFailure::NotUpstream,
        None => {}
    }
    if *error.esource() != ErrorSource::Upstream {
        return TryFailure::NotUpstream;
    }
    match error.etype() {
        E::ReadTimedout | E::WriteTimedout => TryFailure::Timeout,
        E::ConnectionClosed
        | E::ReadError
        | E::WriteError
        | E::H2Error
        | E::InvalidH2
        | E::H2Downgrade
            if MalformedAnswer::of(error).is_none() =>
        {
            TryFailure::Reset { was_reused: ctx.tries.is_reused }
        }
        _ => TryFailure::Invalid,
    }
}

/// Whether no connection came about because the edge lacks something: descriptors, ports, memory. It says nothing of the
/// endpoint.
fn is_want_of_ours(error: &Error) -> bool {
    // Pingora's `connectors/l4.rs` calls those so that it does not get a socket for.
    matches!(
        error.etype(),
        ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError
    )
}

/// What the endpoint did wrong where a try failed after its request, or part of it, was sent.
fn fault_of(
    error: &Error,
    failed: TryFailure,
    is_over: bool,
    ctx: &RequestContext,
    now: Instant,
) -> Option<Fault> {
    if failed == TryFailure::Timeout {
        // Whoever answers longer than the request has time, had what others left of it, or waits for the client's
        // part, is not slow.
        let is_short = is_over && (ctx.tries.first_byte.is_some() || ctx.tries.in_all > 1);
        return (!is_short && !ctx.waits_for_client(now)).then_some(Fault::Timeout);
    }
    match error.esource() {
        ErrorSource::Upstream if ctx.tries.first_byte.is_some() => Some(Fault::CutAnswer),
        ErrorSource::Upstream => Some(Fault::Reset),
        // An answer that our own hooks refused.
        _ if ctx.failure == Some(Failure::UpstreamInvalid) => Some(Fault::Reset),
        _ => None,
    }
}

fn tell(ctx: &mut RequestContext, fault: Option<Fault>, now: Instant) {
    if let Some(fault) = fault {
        ctx.tries.failed(fault, now);
    }
}
