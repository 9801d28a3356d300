//! Which side a request is sent to, and what became of its first try there.
//!
//! Place: [`Assignment::deal`] once the route is known; [`Trial`] from the first try to the end of its answer. Only the first
//! try of a request is judged: it is the one that was dealt. Requests that were sent to a side by a condition, or because the
//! other side could not take them, are served and not judged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode};

use super::{
    attempt::Attempt,
    counters::Outcome,
    dial::{Side, is_candidates, mix},
    plan::{RolloutConfig, Sticky},
};
use crate::{
    policy::{HashKey, RequestView},
    state::NumberSigner,
    types::ClientNetwork,
};

/// How the requests of one route are dealt, in one generation.
#[derive(Debug)]
pub struct Assignment {
    attempt: Arc<Attempt>,
    config: Arc<RolloutConfig>,
    /// The route's number among those of the rollout.
    stratum: usize,
    /// What a client's hash is mixed with: another revision deals anew.
    seed: u64,
    /// What its cookies are signed with, where there is a key for them.
    cookies: Option<NumberSigner>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dealt {
    /// The side.
    pub side: Side,
    /// Under which step.
    pub step: u32,
    /// It was dealt, so that its try says something.
    pub is_judged: bool,
    /// The other side may have it where this one can't serve it.
    pub may_change: bool,
    /// A copy of it goes to the candidate.
    pub is_mirrored: bool,
    /// The value of the cookie that the client is to get.
    pub cookie: Option<String>,
}

impl Assignment {
    /// For a route of a rollout.
    pub fn new(
        attempt: Arc<Attempt>,
        config: Arc<RolloutConfig>,
        stratum: usize,
        cookies: Option<NumberSigner>,
    ) -> Self {
        let key = attempt.key();
        let revision = key.revision.as_deref().unwrap_or_default();
        let seed = HashKey::hash(format!("{}\0{revision}", key.rollout).as_bytes());
        Self { attempt, config, stratum, seed, cookies }
    }

    /// The plan.
    pub fn config(&self) -> &Arc<RolloutConfig> {
        &self.config
    }

    /// The attempt.
    pub fn attempt(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    /// Whether the plan has a mirror.
    pub fn is_mirror(&self) -> bool {
        self.config.strategy.mirror().is_some()
    }

    /// The name of the cookie that it asks for.
    pub fn cookie_name(&self) -> Option<&str> {
        match &self.config.sticky {
            Some(Sticky::Cookie(cookie)) => Some(&cookie.cookie),
            _ => None,
        }
    }

    /// Deals a request; `cookie` is the value of the cookie that it came with.
    pub fn deal(&self, request: &RequestView<'_>, cookie: Option<&str>) -> Dealt {
        let reading = self.attempt.reading();
        let mut dealt = Dealt {
            side: Side::Stable,
            step: reading.step,
            is_judged: true,
            may_change: reading.is_in_play,
            is_mirrored: false,
            cookie: None,
        };
        if reading.is_mirrored {
            // What is compared is pairs: the copy's end counts both.
            dealt.is_judged = false;
            dealt.is_mirrored = self.mirrors(request);
        }
        if !reading.is_in_play {
            return dealt;
        }
        if !self.config.forced.is_empty()
            && let Some(is_candidate) = self.config.forced.decide(request)
        {
            dealt.is_judged = false;
            dealt.may_change = is_candidate;
            dealt.side = if is_candidate { Side::Candidate } else { Side::Stable };
            return dealt;
        }
        let number = match &self.config.sticky {
            None => None,
            Some(Sticky::Header(name)) => {
                request.headers.get(name).map(|value| self.number_of(value.as_bytes()))
            }
            Some(Sticky::ClientAddress) => request
                .client
                .map(|client| mix(self.seed ^ mix(ClientNetwork::of(client).number()))),
            Some(Sticky::Cookie(_)) => self.number_of_cookie(cookie, &mut dealt),
        };
        let number = match (number, reading.share) {
            (None, 0) => return dealt,
            (None, _) => self.attempt.next_number(),
            (Some(number), _) => number,
        };
        if is_candidates(number, reading.share) {
            dealt.side = Side::Candidate;
        }
        dealt
    }

    /// Whether a request is copied: those that never get the candidate are not.
    fn mirrors(&self, request: &RequestView<'_>) -> bool {
        let Some(mirror) = self.config.strategy.mirror() else { return false };
        let share = mirror.stage.share.millionths();
        is_candidates(self.attempt.next_number(), share)
            && (self.config.forced.is_empty() || self.config.forced.decide(request) != Some(false))
    }

    pub(super) fn count(&self, side: Side, step: u32, outcome: Outcome) {
        self.attempt.count(self.stratum, side, step, outcome);
    }

    /// Whether a failure of this client counts.
    pub(super) fn takes_failure(&self, client: Client, now: Instant) -> bool {
        match client {
            Client::Unlimited => true,
            Client::Of(network) => {
                self.attempt.takes_failure(network, self.config.analysis.max_client_failures, now)
            }
        }
    }

    /// Whoever chooses the value chooses its number; it is the operator who chose the header.
    fn number_of(&self, value: &[u8]) -> u64 {
        mix(self.seed ^ HashKey::hash(value))
    }

    /// The number in the client's cookie, or a new one with its cookie.
    fn number_of_cookie(&self, cookie: Option<&str>, dealt: &mut Dealt) -> Option<u64> {
        let signer = self.cookies.as_ref()?;
        if let Some(number) = cookie.and_then(|value| signer.read(value)) {
            return Some(number);
        }
        let number = self.attempt.next_number();
        dealt.cookie = Some(signer.sign(number));
        Some(number)
    }

    /// The `Set-Cookie` line of a value.
    pub fn set_cookie(&self, value: &str, is_tls: bool) -> Option<String> {
        match &self.config.sticky {
            Some(Sticky::Cookie(cookie)) => Some(cookie.set_cookie(value, is_tls)),
            _ => None,
        }
    }
}

/// Whose failures are counted only so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Those of this network; of clients without an address as of one.
    Of(Option<ClientNetwork>),
    /// Nobody's: it is no client that could be broken.
    Unlimited,
}

/// A try that is judged. Nothing is counted where it is dropped before its end: its client went away.
#[derive(Debug)]
pub struct Trial {
    assignment: Arc<Assignment>,
    side: Side,
    step: u32,
    client: Client,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No head yet.
    Sent,
    /// The first byte came after this time; the end decides.
    Answered(Duration),
    /// The same, and its gRPC status decides.
    AwaitsStatus(Duration),
    Counted,
}

/// How an answer goes on after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// To an end.
    Plain,
    /// As a stream, whose end says nothing: its head is all there is to judge.
    Stream,
    /// To a gRPC status.
    Grpc,
}

impl Trial {
    /// The first try of a request that was dealt.
    pub fn new(assignment: Arc<Assignment>, dealt: &Dealt, client: Client) -> Self {
        Self { assignment, side: dealt.side, step: dealt.step, client, state: State::Sent }
    }

    /// The head of the final answer is there.
    pub fn answered(
        &mut self,
        status: StatusCode,
        after: Duration,
        kind: AnswerKind,
        now: Instant,
    ) {
        if self.state != State::Sent {
            return;
        }
        if self.assignment.config.failures.has_failed(status, after) {
            self.count_failure(now);
            return;
        }
        self.state = match kind {
            AnswerKind::Grpc => State::AwaitsStatus(after),
            AnswerKind::Plain | AnswerKind::Stream => State::Answered(after),
        };
        if kind == AnswerKind::Stream {
            self.ended();
        }
    }

    /// The answer's gRPC status.
    pub fn grpc_status(&mut self, status: u32, now: Instant) {
        if self.state == State::Counted {
            return;
        }
        if self.assignment.config.failures.has_failed_by_grpc(status) {
            self.count_failure(now);
        } else {
            self.over();
        }
    }

    /// The request is over, and nothing went wrong.
    pub fn over(&mut self) {
        if let State::Answered(after) | State::AwaitsStatus(after) = self.state {
            self.count(Outcome::Success(after));
        }
    }

    /// The answer came to its end.
    pub fn ended(&mut self) {
        if let State::Answered(after) = self.state {
            self.count(Outcome::Success(after));
        }
    }

    /// The endpoint failed, or the upstream would not take the request.
    pub fn failed(&mut self, now: Instant) {
        if self.state != State::Counted {
            self.count_failure(now);
        }
    }

    fn count_failure(&mut self, now: Instant) {
        self.state = State::Counted;
        if self.assignment.takes_failure(self.client, now) {
            self.count(Outcome::Failure);
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.state = State::Counted;
        self.assignment.count(self.side, self.step, outcome);
    }
}

/// Whether an answer is gRPC, and its status where the head has it already.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
