//! The proxy: Pingora's hooks as a table of contents. Each calls one named function.
//!
//! The path of a request: `new_ctx` takes the snapshot; `arrive` checks, routes and lets in; `admit` prepares the tries;
//! `endpoint` picks and tries; `again` and `fallback` go on where a try failed; `forward` writes the endpoint's request; `respond` writes our own answers; `outcome` counts.

mod admit;
mod again;
mod announce;
mod arrive;
#[doc(hidden)]
pub mod bench;
mod body_pace;
mod client_address;
mod connection;
mod context;
mod endpoint;
mod failure;
mod fallback;
mod flow;
mod forward;
mod gates;
mod hop;
mod life;
mod mirror;
mod outcome;
mod patience;
mod pump;
mod relay;
mod respond;
mod split;
mod tries;
mod tunnel;
mod upgrade;
mod watchdog;
mod wish;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_core::{modules::http::HttpModules, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub use connection::{ConnectionInfo, Ending, TlsFacts};
pub use context::RequestContext;
pub use forward::new_request_id;
pub use life::Life;
pub use patience::Patient;
pub use tunnel::{Arrival, send_on};

use crate::{snapshot::Snapshot, telemetry::metrics::Metrics};

/// The edge as Pingora sees it.
pub struct Edge {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
}

impl Edge {
    /// An edge that serves whatever snapshot is current when a request comes.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Self {
        Self { snapshot, metrics }
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new(self.snapshot.load_full())
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // None: compression is off, and its module would cost every request.
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        arrive::set_limits(session, ctx);
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<bool> {
        let arrived = arrive::arrive(session, ctx).await;
        for fault in &ctx.policy.faults {
            self.metrics.fault_injected(*fault);
        }
        Ok(matches!(arrived?, arrive::Arrived::Answered))
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        endpoint::peer(session, ctx).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestContext,
        error: Box<Error>,
    ) -> Box<Error> {
        mirror::not_connected(session, ctx);
        again::connect_failed(session, ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        socket: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        endpoint::connected(socket, reused, ctx);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        relay::request_head(request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        relay::request_body(session, body, end_of_stream, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        relay::upstream_head(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        relay::response_head(session, response, ctx);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        mirror::response_body(body.as_ref(), ctx);
        relay::response_body(end_of_stream, ctx).map(|()| None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        relay::trailers(trailers, ctx);
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        relay::answer_piece(session, body, ctx)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestContext,
        _reused: bool,
    ) -> Box<Error> {
        again::try_failed(session, ctx, error)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        relay::failed(session, error, ctx).await
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        ctx: &mut RequestContext,
    ) {
        outcome::record(session, error, ctx, &self.metrics);
        outcome::finish(session, ctx).await;
    }

    fn suppress_error_log(
        &self,
        _session: &Session,
        _ctx: &RequestContext,
        _error: &Error,
    ) -> bool {
        // Failures are counted and stand in the access log with their reason; a line each would flood.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &RequestContext,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
