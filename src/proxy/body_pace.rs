//! Whether a client sends its request's body: silence, and the least rate. And whether it takes its answer on HTTP/2.
//!
//! Place: the body hooks. Only the time in which the client is waited for counts (`flow`): an endpoint that takes an
//! upload slowly is the business of its own timeouts. A rate is looked at when a piece comes; silence brings none, and is
//! found on HTTP/1.1 by Pingora's read timeout, on HTTP/2, where Pingora has none, by `patience`.
//!
//! WebSockets are not watched, nor is a gRPC stream: there silence and single messages are how it works, and its own idle
//! timeout holds. That something is one is believed only where the upstream speaks HTTP/2 alone, or the head of the
//! answer says so: what a client calls itself gives it no more time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;

use super::{ConnectionInfo, flow::Flow, life::Sharing};
use crate::{telemetry::metrics::LimitReached, types::Pace};

/// A request's body on its way.
#[derive(Debug)]
pub(super) struct BodyPace {
    silence: Arc<Silence>,
    pace: Pace,
    sharing: Sharing,
    /// For the access log, where the request is cut with all that Pingora knows of it.
    pub(super) method: Method,
}

/// What `patience` looks at.
#[derive(Debug)]
pub(super) struct Silence {
    flow: Arc<Flow>,
    limit: Duration,
    /// The body has ended, or is watched no longer.
    is_done: AtomicBool,
    is_cut: AtomicBool,
}

/// An answer on its way, on HTTP/2.
#[derive(Debug)]
pub(super) struct AnswerPace {
    flow: Arc<Flow>,
    pace: Pace,
    sharing: Sharing,
}

impl BodyPace {
    /// Watches a body that is still to come, or to end.
    pub(super) fn new(connection: &Arc<ConnectionInfo>, method: Method) -> Self {
        let silence = Arc::new(Silence {
            flow: Flow::new(Instant::now()),
            limit: connection.limits().body_idle,
            is_done: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
        });
        Self { silence, pace: Pace::default(), sharing: Sharing::bodies(connection), method }
    }

    pub(super) fn silence(&self) -> &Arc<Silence> {
        &self.silence
    }

    /// The endpoint is there: the body is asked for from now on.
    pub(super) fn begin(&self) {
        self.silence.flow.settle(Instant::now());
    }

    /// A piece came; it is handed on. False where the client is too slow.
    pub(super) fn came(&mut self, body: &mut Option<Bytes>, is_last: bool) -> bool {
        let now = Instant::now();
        let length = body.as_ref().map_or(0, Bytes::len);
        if is_last {
            self.silence.is_done.store(true, Ordering::Release);
        }
        let waited = self.silence.flow.settle(now).resting;
        if let Some(bytes) = body.take() {
            *body = Some(self.silence.flow.hand_on(bytes, now));
        }
        let rate = self.sharing.part_of(self.sharing.connection().limits().min_body_rate);
        if self.pace.moved(waited, length as u64, rate) || is_last {
            return true;
        }
        self.sharing.connection().limit_reached(LimitReached::BodyRate);
        false
    }

    /// Whether the client is waited for, and not the endpoint.
    pub(super) fn waits_for_client(&self, now: Instant) -> bool {
        self.silence.left(now).is_some() && self.silence.flow.resting(now).is_some()
    }

    /// Whether the request was cut in the silence of its body.
    pub(super) fn is_cut(&self) -> bool {
        self.silence.is_cut.load(Ordering::Acquire)
    }
}

impl Drop for BodyPace {
    fn drop(&mut self) {
        self.silence.is_done.store(true, Ordering::Release);
    }
}

impl Silence {
    /// How long it may still last; `None` where the body has ended. It is zero once it has lasted too long.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        if self.is_done.load(Ordering::Acquire) {
            return None;
        }
        // While the endpoint is waited for, it has not begun.
        Some(self.limit.saturating_sub(self.flow.resting(now).unwrap_or_default()))
    }

    /// It has lasted too long: the request is cut.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }
}

impl AnswerPace {
    /// Watches an answer that begins.
    pub(super) fn new(connection: &Arc<ConnectionInfo>) -> Self {
        Self {
            flow: Flow::new(Instant::now()),
            pace: Pace::default(),
            sharing: Sharing::answers(connection),
        }
    }

    /// A piece of the answer goes to the client. False where the client took those before it too slowly.
    pub(super) fn goes(&mut self, body: &mut Option<Bytes>) -> bool {
        let now = Instant::now();
        let settled = self.flow.settle(now);
        if let Some(bytes) = body.take() {
            *body = Some(self.flow.hand_on(bytes, now));
        }
        let rate = self.sharing.part_of(self.sharing.connection().limits().min_send_rate);
        if self.pace.moved(settled.busy, settled.taken, rate) {
            return true;
        }
        self.sharing.connection().limit_reached(LimitReached::SendRate);
        false
    }
}
