//! The tries of a request on endpoints: how far they came, and what is remembered of each for the access log.
//!
//! Bounded by [`MAX_TRIES_OF_A_REQUEST`]; nothing is allocated.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::header::CONTENT_TYPE;
use pingora_http::ResponseHeader;

use super::{upgrade::Socket, watchdog::Watchdog};
use crate::{
    limit::Permit,
    rollout::{AnswerKind, Dealt, Shadow, Side, Trial, grpc_status},
    telemetry::Try,
    upstream::{Endpoint, Fault, MAX_TRIES_OF_A_REQUEST, Picked, Timeouts, Wish},
};

/// What a request asks for, as far as its timeouts differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Exchange {
    /// An answer.
    #[default]
    Answer,
    /// Events or gRPC messages: once the head says so, silence is no fault.
    Stream,
    /// A WebSocket: once the endpoint has switched to it, silence is no fault.
    WebSocket,
}

/// The tries of a request on endpoints.
#[derive(Default)]
pub(super) struct Tries {
    /// The upstream, by its place in the snapshot.
    pub(super) upstream: Option<usize>,
    /// Timeouts of this route.
    pub(super) timeouts: Timeouts,
    /// How many there were at this upstream.
    pub(super) count: u32,
    /// How many there were in all.
    pub(super) in_all: u32,
    /// Something of the request was sent to an endpoint.
    pub(super) was_sent: bool,
    /// The present one has a connection that carried a request before.
    pub(super) is_reused: bool,
    /// The pause before the next one.
    pub(super) pause: Option<Duration>,
    /// When the head of the present one's answer must be there.
    pub(super) ends: Option<Instant>,
    /// Its answer was refused by its status, and the next one is chosen.
    pub(super) is_refused: bool,
    /// There was no other one because the retries of the upstream are spent.
    pub(super) is_budget_spent: bool,
    /// Why the route's fallback took the request over.
    pub(super) fallback: Option<&'static str>,
    /// For whom endpoints are picked, and which were tried.
    pub(super) wish: Wish,
    /// The side of a rollout that it is sent to.
    pub(super) side: Option<Side>,
    /// How it was dealt to that.
    pub(super) dealt: Option<Dealt>,
    /// The first try of a rollout, which is judged.
    pub(super) trial: Option<Trial>,
    /// A copy of the request for the mirror of a rollout.
    pub(super) shadow: Option<Box<Shadow>>,
    /// The present one; its in-flight guard ends with the request.
    pub(super) picked: Option<Picked>,
    /// Its place among the requests of the upstream.
    pub(super) permit: Option<Permit>,
    /// How long it has waited for that.
    pub(super) waited: Duration,
    /// When the whole exchange must be over; `None` without such a limit, or once the answer is a stream.
    pub(super) over: Option<Instant>,
    /// When the first try began.
    pub(super) began: Option<Instant>,
    /// When the request's body had come whole, where it has one and came after the first try began.
    pub(super) sent: Option<Instant>,
    /// From the beginning to the first byte of the answer.
    pub(super) first_byte: Option<Duration>,
    /// From the beginning to the end of the answer.
    pub(super) took: Option<Duration>,
    /// Whether the endpoint's answer is judged before Pingora reads it.
    pub(super) is_judged: bool,
    /// The present endpoint is connected to again, and that counts as no try.
    pub(super) repeats: bool,
    /// Of a WebSocket's connection.
    pub(super) socket: Option<Socket>,
    /// Ends a try that takes too long.
    pub(super) watchdog: Option<Watchdog>,
    /// What the request asks for.
    pub(super) exchange: Exchange,
    /// The largest request body; `None` where there is no limit.
    pub(super) max_body_bytes: Option<u64>,
    /// What each was like.
    pub(super) records: Records,
}

impl Tries {
    /// The head of the final answer is there, `after` the present try began.
    pub(super) fn answered(
        &mut self,
        response: &ResponseHeader,
        after: Duration,
        is_stream: bool,
        now: Instant,
    ) {
        if let Some(picked) = &mut self.picked {
            picked.answered(response.status, after, is_stream, now);
        }
        let Some(trial) = &mut self.trial else { return };
        let content_type = response.headers.get(CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|kind| is_grpc(kind.as_bytes()));
        let kind = match (is_grpc, is_stream) {
            (true, _) => AnswerKind::Grpc,
            (false, true) => AnswerKind::Stream,
            (false, false) => AnswerKind::Plain,
        };
        // How long the client took over its body is not the endpoint's matter.
        let since_sent = self.sent.map(|sent| now.saturating_duration_since(sent));
        trial.answered(
            response.status,
            since_sent.map_or(after, |since| since.min(after)),
            kind,
            now,
        );
        if is_grpc && let Some(status) = grpc_status(&response.headers) {
            trial.grpc_status(status, now);
        }
    }

    /// The answer came to its end.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Some(picked) = &mut self.picked {
            picked.ended();
        }
        if let Some(trial) = &mut self.trial {
            trial.ended(now);
        }
    }

    /// The endpoint of the present try failed.
    pub(super) fn failed(&mut self, fault: Fault, now: Instant) {
        if let Some(picked) = &mut self.picked {
            picked.failed(fault);
        }
        if let Some(trial) = &mut self.trial {
            trial.failed(now);
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.failed(self.first_byte.is_some());
        }
    }

    /// The time of the request is over in the midst of the present try's answer. That is no fault of its endpoint, which may have
    /// much to say; but a version whose answers don't come to their end in the time that there is has not answered.
    pub(super) fn ran_out(&mut self, now: Instant) {
        if let Some(trial) = &mut self.trial {
            trial.failed(now);
        }
    }

    /// Until the total time of the request is over; `None` without such a limit.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        Some(self.over?.saturating_duration_since(now))
    }

    /// Whether the total time of the request is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.over.is_some_and(|over| over <= now)
    }
}

/// Whether an answer of this type has its status in its trailers. That of gRPC-Web (`application/grpc-web`) has it in its body.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What each try was like.
#[derive(Default)]
pub(super) struct Records([Option<Record>; MAX_TRIES_OF_A_REQUEST as usize]);

/// What one try was like. Times are from its beginning.
struct Record {
    endpoint: Arc<Endpoint>,
    began: Instant,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    end: Option<(Duration, &'static str)>,
}

/// The outcome of a try that went well.
const OK: &str = "ok";

impl Records {
    /// A try begins. More than [`MAX_TRIES_OF_A_REQUEST`] are not remembered.
    pub(super) fn begin(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free =
                Some(Record { endpoint, began: now, connect: None, first_byte: None, end: None });
        }
    }

    /// The present try has made a connection.
    pub(super) fn connected(&mut self, now: Instant) {
        if let Some(record) = self.open() {
            record.connect = Some(now.saturating_duration_since(record.began));
        }
    }

    /// The head of its answer is there; how long that took.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        let record = self.open()?;
        record.first_byte = Some(now.saturating_duration_since(record.began));
        record.first_byte
    }

    /// It has ended: well, or for a reason. What has ended stays as it was.
    pub(super) fn end(&mut self, reason: Option<&'static str>, now: Instant) {
        if let Some(record) = self.open() {
            let took = now.saturating_duration_since(record.began);
            record.end = Some((took, reason.unwrap_or(OK)));
        }
    }

    /// As the access log has them; the list is `MAX_TRIES_OF_A_REQUEST` long and filled up with nothing.
    pub(super) fn for_log(&self) -> impl Iterator<Item = Try<'_>> {
        self.0.iter().flatten().map(|record| {
            let (duration, outcome) = record.end.unwrap_or_default();
            Try {
                endpoint: record.endpoint.label(),
                connect: record.connect,
                first_byte: record.first_byte,
                duration,
                outcome,
            }
        })
    }

    fn open(&mut self) -> Option<&mut Record> {
        self.0.iter_mut().rev().flatten().next().filter(|record| record.end.is_none())
    }
}
