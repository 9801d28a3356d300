//! The gates before an upstream: the edge as a whole, the upstream's breaker, the upstream's limit with its queue.
//!
//! Place: [`enter_edge`] once the route is known, before any work; [`enter_upstream`] when the policies have run, before
//! an endpoint is picked. What a gate refuses is a [`Failure`] of its own; permits stay in the request's context.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pingora_proxy::Session;

use super::{context::RequestContext, endpoint, failure::Failure};
use crate::{
    limit::{Limiter, Permit, Probe, Refused},
    snapshot::Route,
};

/// Lets a request in, as far as the edge can take it. The first that is refused after a calm time is a line in the log.
pub(super) fn enter_edge(ctx: &mut RequestContext, route: &Route) -> Result<(), Failure> {
    let Some(snapshot) = &ctx.snapshot else { return Err(Failure::Internal) };
    match snapshot.overload.admit(route.criticality) {
        Ok(admitted) => {
            ctx.admitted = Some(admitted);
            Ok(())
        }
        Err(overloaded) => {
            route.metrics.shed(route.criticality as usize);
            if overloaded.is_first {
                let status = snapshot.overload.status();
                tracing::warn!(
                    in_flight = status.in_flight,
                    max_requests = status.max_requests,
                    memory = status.memory,
                    max_memory = status.max_memory,
                    "overload: requests are refused, the least important first"
                );
            }
            Err(Failure::Overloaded)
        }
    }
}

/// Through the upstream's breaker, then its limit; with what the try is to tell the breaker.
pub(super) async fn enter_upstream(
    session: &mut Session,
    ctx: &mut RequestContext,
) -> Result<Option<Probe>, Failure> {
    let probe = pass(ctx)?;
    let permit = endpoint::upstream_of(ctx).ok_or(Failure::Internal)?.try_permit();
    match permit {
        Ok(permit) => {
            ctx.tries.permit = permit;
            Ok(probe)
        }
        Err(limiter) => {
            let began = Instant::now();
            let waited = wait(session, &limiter, ctx.tries.left(began)).await;
            if !matches!(waited, Err(Failure::UpstreamFull(Refused::Full))) {
                ctx.tries.waited = began.elapsed();
            }
            ctx.tries.permit = Some(waited?);
            // It may have opened meanwhile.
            if probe.is_none() { pass(ctx) } else { Ok(probe) }
        }
    }
}

fn pass(ctx: &RequestContext) -> Result<Option<Probe>, Failure> {
    endpoint::upstream_of(ctx)
        .ok_or(Failure::Internal)?
        .pass(ctx.tries.wish.network, Instant::now)
        .map_err(|open| Failure::BreakerOpen { remaining: open.remaining })
}

/// Waits for a permit, but no longer than what is `left` of the request's total time. A client that goes away leaves the queue; one whose body has not been read does so when its time
/// in the queue is over, since only a read would tell.
async fn wait(
    session: &mut Session,
    limiter: &Arc<Limiter>,
    left: Option<Duration>,
) -> Result<Permit, Failure> {
    let acquiring = async {
        match left {
            None => limiter.acquire().await,
            Some(left) => {
                tokio::time::timeout(left, limiter.acquire()).await.unwrap_or(Err(Refused::Timeout))
            }
        }
    };
    let session = session.as_downstream_mut();
    if !session.is_body_done() {
        return acquiring.await.map_err(Failure::UpstreamFull);
    }
    tokio::select! {
        biased;
        permit = acquiring => permit.map_err(Failure::UpstreamFull),
        _ = session.read_body_or_idle(true) => Err(Failure::ClientGone),
    }
}
