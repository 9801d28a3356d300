//! Routes with a rollout: which side a request goes to, and the other side where that one can't serve it.
//!
//! Place: [`choose`] before the first endpoint is picked; [`other_side`] where the side takes no request at all;
//! [`goes_to_stable`] behind a failed try on the candidate, so that a client is not hurt by a version that is on trial.

use std::time::Instant;

use http::{HeaderValue, header::SET_COOKIE};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{context::RequestContext, endpoint::forward_of, failure::Failure, fallback, mirror};
use crate::{
    policy::{RequestHead, RequestView},
    rollout::{Client, Side, Trial},
    snapshot::{Forward, Split, Target},
    types::ClientNetwork,
    upstream::{FailedTry, TryFailure},
};

/// Deals a request, and says how it goes on.
pub(super) fn choose<'a>(
    session: &mut Session,
    ctx: &mut RequestContext,
    split: &'a Split,
) -> &'a Forward {
    let Some((_, assignment)) = &split.candidate else { return &split.stable };
    let cookie = assignment
        .cookie_name()
        .and_then(|name| RequestHead(session.req_header_mut()).take_cookie(name));
    let header = session.req_header();
    let view = RequestView {
        method: &header.method,
        path: &ctx.path,
        query: header.uri.query(),
        headers: &header.headers,
        client: ctx.client.address,
    };
    let dealt = assignment.deal(&view, cookie.as_deref());
    if dealt.is_judged || dealt.is_mirrored {
        // A proxy of ours without a client behind it is no client that could be broken.
        let is_own = ctx.client.from_trusted && ctx.client.address == ctx.peer();
        let client = if is_own {
            Client::Unlimited
        } else {
            Client::Of(ctx.client.address.map(ClientNetwork::of))
        };
        if dealt.is_mirrored {
            mirror::begin(session, ctx, split, &dealt, client);
        } else {
            ctx.tries.trial = Some(Trial::new(assignment.clone(), &dealt, client));
        }
    }
    ctx.tries.side = Some(dealt.side);
    let side = dealt.side;
    ctx.tries.dealt = Some(dealt);
    split.to(side)
}

/// Hands the request to the other side, where that has an endpoint for it: its own takes no request. Says whether it did.
///
/// The candidate gets what was dealt to the stable only where that has no endpoint at all: it is not made for all requests, and
/// is not to be judged under a load that others could not take.
pub(super) fn other_side(
    session: &mut Session,
    ctx: &mut RequestContext,
    failure: &Failure,
    now: Instant,
) -> bool {
    if !failure.is_of_upstream() || ctx.tries.fallback.is_some() {
        return false;
    }
    if let Some(trial) = &mut ctx.tries.trial {
        trial.failed(now);
    }
    let may_change = ctx.tries.dealt.as_ref().is_some_and(|dealt| dealt.may_change);
    let Some(side) = ctx.tries.side.filter(|_| may_change) else { return false };
    if side == Side::Stable && !matches!(failure, Failure::NoHealthyEndpoint) {
        return false;
    }
    // Nobody was asked: it is no retry.
    hand_over(session, ctx, side.other(), false, now)
}

/// Hands a request whose try failed on the candidate to the stable, where repeating it does no harm. Says whether it did.
pub(super) fn goes_to_stable(
    session: &mut Session,
    ctx: &mut RequestContext,
    failed: &FailedTry<'_>,
    now: Instant,
) -> bool {
    let is_candidate = ctx.tries.side == Some(Side::Candidate) && ctx.tries.fallback.is_none();
    let is_repeatable = forward_of(ctx).is_some_and(|one| failed.is_repeatable(&one.retries));
    let is_in_time = failed.left.is_none_or(|left| !left.is_zero());
    is_candidate
        && is_repeatable
        && is_in_time
        && failed.failure != TryFailure::NotUpstream
        && hand_over(session, ctx, Side::Stable, true, now)
}

/// Whether an answer with this status is one that the candidate is not to give.
pub(super) fn is_failure(ctx: &RequestContext, status: http::StatusCode) -> bool {
    ctx.tries.side == Some(Side::Candidate)
        && split_of(ctx).and_then(|split| split.candidate.as_ref()).is_some_and(
            |(_, assignment)| {
                assignment.config().failures.has_failed(status, std::time::Duration::ZERO)
            },
        )
}

/// Tells the client the cookie that keeps it with its version.
pub(super) fn set_cookie(response: &mut ResponseHeader, ctx: &RequestContext) {
    let Some(value) = ctx.tries.dealt.as_ref().and_then(|dealt| dealt.cookie.as_deref()) else {
        return;
    };
    let Some((_, assignment)) = split_of(ctx).and_then(|split| split.candidate.as_ref()) else {
        return;
    };
    let line = assignment.set_cookie(value, ctx.is_tls());
    if let Some(line) = line.and_then(|line| HeaderValue::from_str(&line).ok()) {
        // The value is valid by its type.
        drop(response.append_header(SET_COOKIE, line));
    }
}

fn split_of(ctx: &RequestContext) -> Option<&Split> {
    match &ctx.route.as_ref()?.target {
        Target::Split(split) => Some(split),
        _ => None,
    }
}

/// The load of a retry is the other side's, and so is the budget.
fn hand_over(
    session: &mut Session,
    ctx: &mut RequestContext,
    side: Side,
    is_retry: bool,
    now: Instant,
) -> bool {
    let Some(route) = ctx.route.clone() else { return false };
    let Target::Split(split) = &route.target else { return false };
    let own = ctx.tries.side.replace(side);
    let is_taken = fallback::send_to(session, ctx, &route, split.to(side), is_retry, now);
    if !is_taken {
        ctx.tries.side = own;
    }
    is_taken
}
