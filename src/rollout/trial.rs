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
    clients::{Counts, Kind, Limits},
    counters::{Outcome, stratum_of},
    dial::{Side, is_candidates, mix},
    plan::{RolloutConfig, Sticky},
};
use crate::{
    policy::{HashKey, RequestView},
    state::NumberSigner,
    types::ClientNetwork,
};

/// Answers of one client network above the p95 that count in a minute.
const SLOW: u32 = 30;
/// The same where a client stays with its side, and so may choose which side is slow.
const SLOW_OF_STICKY: u32 = 3;
/// Clients that go away sooner than this have changed their mind, however fast the answers are.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the requests of one route are dealt, in one generation.
#[derive(Debug)]
pub struct Assignment {
    attempt: Arc<Attempt>,
    config: Arc<RolloutConfig>,
    /// The route's number among those of the rollout.
    stratum: usize,
    /// What one client network can say in a minute.
    limits: Limits,
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
        let slow = if config.sticky.is_some() { SLOW_OF_STICKY } else { SLOW };
        let limits = Limits { failures: config.analysis.max_client_failures, slow };
        Self { attempt, config, stratum: stratum_of(stratum), limits, seed, cookies }
    }

    /// The plan.
    pub fn config(&self) -> &Arc<RolloutConfig> {
        &self.config
    }

    /// The attempt.
    pub fn attempt(&self) -> &Arc<Attempt> {
        &self.attempt
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

    /// What counts of a try of this client.
    pub(super) fn take(&self, client: Client, kind: Kind, now: Instant) -> Counts {
        match client {
            Client::Unlimited => Counts::All,
            Client::Of(network) => self.attempt.take(network, kind, self.limits, now),
        }
    }

    /// Whether a client that has waited for so long and then went away has waited too long: longer than the plan allows, or than 99 %
    /// of the stable's answers took. Where neither is known nobody has.
    fn is_too_long(&self, waited: Duration) -> bool {
        let usual = || self.attempt.thresholds(self.stratum).map(|known| known.p99.max(PATIENCE));
        self.config.failures.slower_than.or_else(usual).is_some_and(|most| waited > most)
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

/// A try that is judged. Nothing is counted where it is dropped before its end: its client went away, and not because it waited
/// for long ([`Trial::abandoned`]).
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
            self.ended(now);
        }
    }

    /// The answer's gRPC status.
    pub fn grpc_status(&mut self, status: u32, now: Instant) {
        if self.state == State::Counted {
            return;
        }
        if self.assignment.config.failures.has_failed_by_grpc(status) {
            self.count_failure(now);
        } else if let State::Answered(after) | State::AwaitsStatus(after) = self.state {
            self.count_success(after, now);
        }
    }

    /// The request is over, and nothing went wrong. An answer of gRPC without a status is none (gRPC over HTTP/2, "Responses").
    pub fn over(&mut self, now: Instant) {
        match self.state {
            State::Answered(after) => self.count_success(after, now),
            State::AwaitsStatus(_) => self.count_failure(now),
            State::Sent | State::Counted => {}
        }
    }

    /// The answer came to its end.
    pub fn ended(&mut self, now: Instant) {
        if let State::Answered(after) = self.state {
            self.count_success(after, now);
        }
    }

    /// The client went away after it had `waited` for an answer's head since its request was whole. That is no answer where others
    /// have theirs by then, on either side alike.
    pub fn abandoned(&mut self, waited: Duration, now: Instant) {
        if self.state == State::Sent && self.assignment.is_too_long(waited) {
            self.count_failure(now);
        }
    }

    /// The endpoint failed, the upstream would not take the request, or the time of the request was over before its answer.
    pub fn failed(&mut self, now: Instant) {
        if self.state != State::Counted {
            self.count_failure(now);
        }
    }

    fn count_failure(&mut self, now: Instant) {
        self.state = State::Counted;
        if self.assignment.take(self.client, Kind::Failure, now) != Counts::Nothing {
            self.assignment.count(self.side, self.step, Outcome::Failure);
        }
    }

    fn count_success(&mut self, after: Duration, now: Instant) {
        self.state = State::Counted;
        let known = self.assignment.attempt.thresholds(self.assignment.stratum);
        let is_slow = known.is_some_and(|known| after > known.p95);
        let kind = if is_slow { Kind::Slow } else { Kind::Good };
        let outcome = match self.assignment.take(self.client, kind, now) {
            Counts::All => Outcome::Success(after),
            Counts::Untimed => Outcome::Untimed,
            Counts::Nothing => return,
        };
        self.assignment.count(self.side, self.step, outcome);
    }
}

/// Whether an answer is gRPC, and its status where the head has it already.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            analysis::{Outcomes, Sides, Thresholds},
            attempt::AttemptKey,
            raw::RawRollout,
        },
        *,
    };
    use crate::types::{KeyPath, Problems};

    const MS: Duration = Duration::from_millis(1);

    fn assignment(more: &str, stratum: usize) -> Arc<Assignment> {
        let text = format!("stable = \"v1\"\ncandidate = \"v2\"\nrevision = \"r1\"\n{more}");
        let raw: RawRollout = toml::from_str(&text).unwrap();
        let path = KeyPath::of(&["rollouts", "shop"]);
        let plan = raw.parse(&"shop".parse().unwrap(), &path, &mut Problems::new()).unwrap();
        let key = AttemptKey {
            rollout: plan.name.clone(),
            revision: plan.revision.clone(),
            stable: plan.stable.clone(),
            candidate: plan.candidate.clone().unwrap(),
        };
        let attempt = Attempt::new(key, Instant::now());
        attempt.set(crate::types::Percent::whole(100), 1, true);
        Arc::new(Assignment::new(Arc::new(attempt), Arc::new(plan), stratum, None))
    }

    fn trial(assignment: &Arc<Assignment>) -> Trial {
        let request = RequestView {
            method: &http::Method::GET,
            path: "/",
            query: None,
            headers: &HeaderMap::new(),
            client: None,
        };
        let dealt = assignment.deal(&request, None);
        assert_eq!((dealt.side, dealt.is_judged), (Side::Candidate, true));
        Trial::new(assignment.clone(), &dealt, Client::Of(None))
    }

    fn collected(assignment: &Assignment) -> Outcomes {
        let batches = assignment.attempt.collect();
        batches
            .into_iter()
            .map(|(.., Sides { candidate, .. })| candidate)
            .next()
            .unwrap_or_default()
    }

    /// Tells what usual answers take, once there was one.
    fn learn(assignment: &Arc<Assignment>) {
        let mut first = trial(assignment);
        first.answered(StatusCode::OK, MS, AnswerKind::Plain, Instant::now());
        first.ended(Instant::now());
        let usual = Thresholds { p95: 100 * MS, p99: 2_000 * MS };
        assignment.attempt.set_thresholds(assignment.stratum, Some(usual));
        collected(assignment);
    }

    #[test]
    fn who_leaves_before_the_answer_has_waited_too_long_or_says_nothing() {
        let now = Instant::now();
        let left = |assignment: &Arc<Assignment>, waited: u32| {
            trial(assignment).abandoned(waited * MS, now);
            collected(assignment).failures
        };
        let plain = assignment("canary = {}", 0);
        assert_eq!(left(&plain, 60_000), 0, "nobody knows what is usual");
        learn(&plain);
        assert_eq!([left(&plain, 2_000), left(&plain, 2_001)], [0, 1]);
        let bounded = assignment("canary = {}\nfailures = { slower_than = \"50ms\" }", 0);
        assert_eq!([left(&bounded, 50), left(&bounded, 51)], [0, 1]);
        let usual = Thresholds { p95: MS, p99: MS };
        plain.attempt.set_thresholds(0, Some(usual));
        assert_eq!([left(&plain, 1_000), left(&plain, 1_001)], [0, 1], "a second at least");
        let mut answered = trial(&bounded);
        answered.answered(StatusCode::OK, MS, AnswerKind::Plain, now);
        answered.abandoned(60_000 * MS, now);
        assert_eq!(collected(&bounded), Outcomes::default(), "it had its head");
    }

    #[test]
    fn an_answer_of_grpc_without_a_status_is_a_failure() {
        let (now, plan) = (Instant::now(), assignment("canary = {}", 0));
        let answer = |status: Option<u32>| {
            let mut trial = trial(&plan);
            trial.answered(StatusCode::OK, MS, AnswerKind::Grpc, now);
            trial.ended(now);
            if let Some(status) = status {
                trial.grpc_status(status, now);
            }
            trial.over(now);
            let counted = collected(&plan);
            (counted.successes, counted.failures)
        };
        assert_eq!([answer(Some(0)), answer(Some(5)), answer(None)], [(1, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn slow_answers_of_one_network_are_timed_thirty_times_and_three_where_it_stays() {
        for (more, limit) in [("canary = {}", 30), ("canary = {}\nsticky = \"client-address\"", 3)]
        {
            let plan = assignment(more, 0);
            learn(&plan);
            for _ in 0..50 {
                let mut trial = trial(&plan);
                trial.answered(StatusCode::OK, 101 * MS, AnswerKind::Plain, Instant::now());
                trial.ended(Instant::now());
            }
            let Outcomes { successes, timed, above_p95, .. } = collected(&plan);
            assert_eq!((successes, timed, above_p95), (50, limit, limit), "{more}");
        }
    }

    #[test]
    fn routes_after_the_64th_are_judged_too() {
        let plan = assignment("canary = {}", 1_000);
        trial(&plan).failed(Instant::now());
        assert_eq!(collected(&plan).failures, 1);
    }
}
