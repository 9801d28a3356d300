//! A route's fallback: another upstream, or an answer from here, where its own upstream has no answer.
//!
//! Place: where no endpoint can be had (`admit`), and behind the last try (`again`, `fail_to_proxy`), while nothing of an
//! answer has gone to the client. A request is taken over once: there is no fallback of a fallback. What was sent to an
//! endpoint goes to another upstream only where repeating it does no harm; an answer from here takes its place always.

use std::time::Instant;

use pingora_error::Result;
use pingora_proxy::Session;

use super::{admit, context::RequestContext, failure::Failure, respond, wish};
use crate::snapshot::{Fallback, Forward, Route};

/// Hands the request to the fallback's upstream, where there is one that has an endpoint for it; says whether it did.
/// The caller knows that it may be sent once more.
pub(super) fn take_over(
    session: &mut Session,
    ctx: &mut RequestContext,
    failure: &Failure,
    now: Instant,
) -> bool {
    let Some(route) = ctx.route.clone() else { return false };
    let Some(Fallback::Forward(forward)) = route.fallback.as_deref() else { return false };
    let tries = &mut ctx.tries;
    if tries.fallback.is_some() || tries.is_over(now) || !failure.is_of_upstream() {
        return false;
    }
    if !send_to(session, ctx, &route, forward, false, now) {
        return false;
    }
    let tries = &mut ctx.tries;
    tries.count = 0;
    tries.fallback = Some(failure.reason());
    route.metrics.fell_back();
    true
}

/// Points the request at another upstream, with an endpoint for it; says whether that has one, and lets it in. `is_retry`: one
/// of that upstream's retries is taken for it.
pub(super) fn send_to(
    session: &mut Session,
    ctx: &mut RequestContext,
    route: &Route,
    forward: &Forward,
    is_retry: bool,
    now: Instant,
) -> bool {
    let tries = &mut ctx.tries;
    let upstream = ctx.snapshot.as_ref().and_then(|snapshot| snapshot.upstreams.get(forward.index));
    let Some(upstream) = upstream.cloned() else { return false };
    // Its gates hold for this request too, but for their queues: it has waited enough.
    let (Ok(probe), Ok(permit)) =
        (upstream.pass(tries.wish.network, || now), upstream.try_permit())
    else {
        return false;
    };
    let own = ctx.tries.upstream.replace(forward.index);
    let own_wish = wish::read(session, ctx);
    let Ok(mut picked) = upstream.pick(&ctx.tries.wish) else {
        ctx.tries.wish = own_wish;
        ctx.tries.upstream = own;
        return false;
    };
    if is_retry && !upstream.takes_retry(ctx.tries.wish.network, now) {
        ctx.tries.wish = own_wish;
        ctx.tries.upstream = own;
        ctx.tries.is_budget_spent = true;
        return false;
    }
    picked.probes(probe);
    admit::aim(ctx, route, forward);
    let tries = &mut ctx.tries;
    tries.permit = permit;
    tries.picked = Some(picked);
    // What is sent elsewhere says nothing of where it was dealt to.
    tries.trial = None;
    tries.pause = None;
    tries.first_byte = None;
    ctx.failure = None;
    true
}

/// Whether the route has an answer of its own in place of this failure.
pub(super) fn has_answer(ctx: &RequestContext, failure: &Failure) -> bool {
    let fallback = ctx.route.as_ref().and_then(|route| route.fallback.as_deref());
    matches!(fallback, Some(Fallback::Respond(_)))
        && ctx.tries.fallback.is_none()
        && failure.is_of_upstream()
}

/// Answers a request that has no other answer: with the route's own, or with the failure's.
pub(super) async fn answer(
    session: &mut Session,
    ctx: &mut RequestContext,
    failure: &Failure,
) -> Result<()> {
    if has_answer(ctx, failure)
        && let Some(route) = ctx.route.clone()
        && let Some(Fallback::Respond(answer)) = route.fallback.as_deref()
    {
        ctx.tries.fallback = Some(failure.reason());
        route.metrics.fell_back();
        return respond::send_static(session, ctx, answer).await;
    }
    respond::send_failure(session, ctx, failure).await
}
