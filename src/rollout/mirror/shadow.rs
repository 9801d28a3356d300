//! A copy of one request: collected while the request passes, sent when it is over.
//!
//! It remembers how the stable's first try ended, as a [`super::super::Trial`] does, since the candidate has one try too: what
//! both fail at is to count on both sides.

use std::{
    error::Error as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    Copies, Kind, Skipped,
    compare::{Captured, LiveAnswer, OtherAnswer, compare_apart},
    config::{BodyComparison, Mirror},
};
use crate::{
    rollout::{
        clients::{Counts, Kind as TryKind},
        counters::Outcome,
        dial::Side,
        trial::{Assignment, Client},
    },
    upstream::{Answer, Ask, AskError, Rest, Wish, is_own_failure},
};

/// What copies carry, so that the candidate can tell them apart.
const MIRRORED: HeaderName = HeaderName::from_static("x-tidegate-mirror");
/// Fields of a connection or of a body's framing, and what tells of a retry: a copy is none.
const OF_THE_TRY: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("x-attempt-count"),
];
/// Characters of a path, or of a place in a body, that are shown.
const SHOWN: usize = 120;
/// So much of the candidate's answer is read, whatever of it is compared.
const MOST_READ: usize = 8 << 20;
/// What a field costs in memory beside its text.
const FIELD: usize = 64;

/// The head of the request as the stable's endpoint saw it.
#[derive(Debug)]
struct Head {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// How the stable's first try went so far.
#[derive(Clone, Copy, Debug)]
enum First {
    Sent,
    /// The head came so long after the last byte of the request.
    Answered(StatusCode, Duration),
    Failed,
}

/// A copy in the making.
#[derive(Debug)]
pub struct Shadow {
    assignment: Arc<Assignment>,
    host: Option<HeaderValue>,
    step: u32,
    client: Client,
    /// Bytes held of [`super::MOST_HELD`].
    held: usize,
    /// It has a place among those in flight.
    is_in_flight: bool,
    head: Option<Head>,
    body: Vec<u8>,
    is_body_whole: bool,
    first: First,
    /// A try was sent, and when the last byte of its request went.
    sent: Option<Instant>,
    /// There is another try than the first: its answer is compared with nothing.
    is_retried: bool,
    live: Option<LiveAnswer>,
}

impl Drop for Shadow {
    fn drop(&mut self) {
        let copies = self.copies();
        copies.release(self.held);
        copies.end();
        if self.is_in_flight {
            copies.leave();
        }
    }
}

impl Shadow {
    /// Begins a copy, where there is room for one.
    ///
    /// # Errors
    /// There is none, or the request's method is not listed. It is counted.
    pub fn begin(
        assignment: &Arc<Assignment>,
        host: Option<HeaderValue>,
        method: &Method,
        step: u32,
        client: Client,
    ) -> Result<Self, Skipped> {
        let copies = assignment.attempt().copies();
        let begin = || {
            let mirror = assignment.config().strategy.mirror().ok_or(Skipped::Over)?;
            if !mirror.methods.contains(method) {
                return Err(Skipped::Method);
            }
            if !copies.begin() {
                return Err(Skipped::Memory);
            }
            Ok(())
        };
        begin().inspect_err(|why| copies.skip(*why))?;
        Ok(Self {
            assignment: assignment.clone(),
            host,
            step,
            client,
            held: 0,
            is_in_flight: false,
            head: None,
            body: Vec::new(),
            is_body_whole: false,
            first: First::Sent,
            sent: None,
            is_retried: false,
            live: None,
        })
    }

    /// Gives the copy up.
    pub fn give_up(self, why: Skipped) {
        self.copies().skip(why);
    }

    /// The head as the stable's endpoint is to see it. The first one counts.
    ///
    /// # Errors
    /// There is no room to keep it.
    pub fn take_head(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Skipped> {
        if self.head.is_some() {
            return Ok(());
        }
        let text =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD;
        self.hold(path.len() + headers.iter().map(text).sum::<usize>())?;
        self.head =
            Some(Head { method: method.clone(), path: path.to_owned(), headers: headers.clone() });
        Ok(())
    }

    /// Whether a try failed before its head could be taken.
    pub fn wants_head(&self) -> bool {
        self.head.is_none()
    }

    /// The head of a try was sent. The body comes again from its start.
    pub fn sent(&mut self, now: Instant) {
        self.is_retried |= self.sent.is_some();
        self.sent = Some(now);
        if !self.is_body_whole {
            self.release(self.body.len());
            self.body.clear();
        }
        if let Some(live) = self.live.take() {
            self.release(live.body.held());
        }
    }

    /// A piece of the request's body.
    ///
    /// # Errors
    /// It is too large to be copied.
    pub fn request_piece(
        &mut self,
        piece: &[u8],
        is_last: bool,
        now: Instant,
    ) -> Result<(), Skipped> {
        self.sent = Some(now);
        if self.is_body_whole {
            return Ok(());
        }
        let most = self.mirror().map_or(0, |mirror| mirror.max_body_bytes);
        if self.body.len() + piece.len() > most {
            return Err(Skipped::Body);
        }
        self.hold(piece.len())?;
        self.body.extend_from_slice(piece);
        self.is_body_whole = is_last;
        Ok(())
    }

    /// The head of the live answer.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        let Some(mirror) = self.assignment.config().strategy.mirror() else { return };
        if matches!(self.first, First::Sent) && !self.is_retried {
            let after =
                self.sent.map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent));
            self.first = First::Answered(status, after);
        }
        if self.is_retried || self.stable_has_failed() {
            return;
        }
        let mut compared = HeaderMap::new();
        for name in &mirror.compare.headers {
            for value in headers.get_all(name) {
                compared.append(name.clone(), value.clone());
            }
        }
        let body = Captured::new(mirror.compare.body);
        self.live = Some(LiveAnswer { status, headers: compared, body });
    }

    /// A piece of the live answer's body.
    ///
    /// # Errors
    /// There is no room to keep it.
    pub fn answer_piece(&mut self, piece: &[u8]) -> Result<(), Skipped> {
        let most = self.mirror().map_or(0, |mirror| mirror.compare.max_body_bytes);
        let Some(live) = &self.live else { return Ok(()) };
        let (before, needed) = (live.body.held(), live.body.needs(piece, most));
        self.hold(needed)?;
        if let Some(live) = &mut self.live {
            live.body.piece(piece, most);
            let unused = (before + needed).saturating_sub(live.body.held());
            self.release(unused);
        }
        Ok(())
    }

    /// The endpoint of a try has failed; `is_answered` where that try's head was there.
    pub fn failed(&mut self, is_answered: bool) {
        let is_first = match self.first {
            First::Sent => true,
            First::Answered(..) => is_answered && !self.is_retried,
            First::Failed => false,
        };
        if is_first {
            self.first = First::Failed;
        }
    }

    /// The request is over: `is_answered` to its end, by an answer that is the endpoint's, and `is_request_whole`. The copy
    /// goes to the candidate, but for where it was the client that ended the request.
    pub fn over(mut self, is_answered: bool, is_request_whole: bool) {
        let has_failed = self.stable_has_failed();
        let is_over = match self.first {
            First::Sent => false,
            First::Answered(..) => is_answered || has_failed,
            First::Failed => true,
        };
        let Some(mirror) = self.mirror() else { return self.give_up(Skipped::Over) };
        let most = mirror.max_in_flight;
        if !is_over || !is_request_whole || self.head.is_none() {
            return self.give_up(Skipped::Unanswered);
        }
        if has_failed && let Some(live) = self.live.take() {
            // What was cut, or is a failure, is compared with nothing.
            self.release(live.body.held());
        }
        if !self.copies().enter(most) {
            return self.give_up(Skipped::InFlight);
        }
        self.is_in_flight = true;
        // On the worker of its request: what drives probes and verdicts is not to wait for it.
        tokio::spawn(self.go());
    }

    async fn go(mut self) {
        if let Err(why) = self.exchange().await {
            self.give_up(why);
        }
    }

    async fn exchange(&mut self) -> Result<(), Skipped> {
        let config = self.assignment.config().clone();
        let mirror = config.strategy.mirror().ok_or(Skipped::Over)?;
        let head = self.head.take().ok_or(Skipped::Unanswered)?;
        let max_body_bytes = match (&self.live, mirror.compare.body) {
            (None, _) | (_, BodyComparison::None) => 0,
            (Some(_), BodyComparison::Json | BodyComparison::Hash) => mirror.compare.max_body_bytes,
        };
        self.hold(max_body_bytes)?;
        let reading = self.assignment.attempt().reading();
        if !reading.is_mirrored || reading.step != self.step {
            return Err(Skipped::Over);
        }
        // Of the generation in force, and held no longer than it takes to pick: nothing goes to an endpoint that the
        // configuration has no more.
        let (picked, asked) = {
            let candidate = self.copies().candidate().ok_or(Skipped::Over)?;
            let picked = candidate.pick(&Wish::default()).map_err(|_| Skipped::NoEndpoint)?;
            let asked = candidate.asked(&picked).ok_or(Skipped::NoEndpoint)?;
            (picked, asked)
        };
        let shown = format!("{} {}", head.method, cut(head.path.split('?').next().unwrap_or("/")));
        let ask = Ask {
            method: head.method,
            path: head.path,
            host: self.host.take(),
            headers: copied(head.headers),
            body: std::mem::take(&mut self.body).into(),
            deadline: mirror.timeout,
            max_body_bytes,
            rest: Rest::ReadUpTo(MOST_READ),
        };
        let answer = asked.ask(ask).await;
        // It counts as in flight at its endpoint up to here.
        drop(picked);
        if answer.as_ref().is_err_and(is_own) {
            return Err(Skipped::Own);
        }
        self.copies().sent.fetch_add(1, Ordering::Relaxed);
        let of_other = self.judge(answer, &shown).await?;
        self.count(of_other);
        Ok(())
    }

    /// What the candidate's answer comes to.
    async fn judge(
        &mut self,
        answer: Result<Answer, AskError>,
        shown: &str,
    ) -> Result<Outcome, Skipped> {
        let config = self.assignment.config().clone();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                let text = cut(&format!("{error}{cause}"));
                self.copies().differs(Kind::NoAnswer, format!("{shown}: {text}"));
                return Ok(Outcome::Failure);
            }
        };
        let has_failed = config.failures.has_failed(answer.status, answer.first_byte);
        let difference = match self.live.take() {
            None => None,
            Some(live) => {
                let other = OtherAnswer {
                    status: answer.status,
                    headers: answer.headers,
                    body: answer.body,
                    is_whole: answer.is_whole,
                };
                compare_apart(config, live, other).await.map_err(|_| Skipped::Own)?
            }
        };
        if let Some(difference) = &difference {
            let text = cut(&difference.to_string());
            self.copies().differs(Kind::of(difference), format!("{shown}: {text}"));
        }
        let is_failure = has_failed || difference.is_some();
        Ok(if is_failure { Outcome::Failure } else { Outcome::Untimed })
    }

    fn count(&self, of_other: Outcome) {
        let of_live = if self.stable_has_failed() { Outcome::Failure } else { Outcome::Untimed };
        let pair = [(Side::Stable, of_live), (Side::Candidate, of_other)];
        let has_failure = pair.iter().any(|(_, outcome)| *outcome == Outcome::Failure);
        let kind = if has_failure { TryKind::Failure } else { TryKind::Good };
        // One broken client is not to take a release back; what is left out is left out on both sides.
        if self.assignment.take(self.client, kind, Instant::now()) == Counts::Nothing {
            return;
        }
        for (side, outcome) in pair {
            self.assignment.count(side, self.step, outcome);
        }
    }

    fn stable_has_failed(&self) -> bool {
        match self.first {
            First::Sent => false,
            First::Answered(status, after) => {
                self.assignment.config().failures.has_failed(status, after)
            }
            First::Failed => true,
        }
    }

    fn mirror(&self) -> Option<&Mirror> {
        self.assignment.config().strategy.mirror()
    }

    fn copies(&self) -> &Copies {
        self.assignment.attempt().copies()
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Skipped> {
        if !self.copies().hold(bytes) {
            return Err(Skipped::Memory);
        }
        self.held += bytes;
        Ok(())
    }

    fn release(&mut self, bytes: usize) {
        self.copies().release(bytes);
        self.held -= bytes;
    }
}

/// The fields that a copy has.
fn copied(mut headers: HeaderMap) -> HeaderMap {
    let lines = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&OF_THE_TRY) {
        headers.remove(name);
    }
    headers.insert(MIRRORED, HeaderValue::from_static("1"));
    headers
}

/// Whether it is the edge that failed: whoever is asked in a way that can't be, or not at all, has done no wrong.
fn is_own(error: &AskError) -> bool {
    match error {
        AskError::Connect(error) => is_own_failure(error),
        AskError::Http(error) => error.is_user(),
        AskError::Request(_) => true,
        AskError::Handshake(_) | AskError::Timeout(_) => false,
    }
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().filter(|one| !one.is_control()).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_no_fields_of_a_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("content-length", "5"),
            ("x-attempt-count", "2"),
            ("cookie", "a=b"),
            ("x-tidegate-mirror", "forged"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let copied = copied(headers);
        let mut names: Vec<&str> = copied.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "x-tidegate-mirror"]);
        assert_eq!(copied["x-tidegate-mirror"], "1");
    }

    #[test]
    fn the_edges_own_failures_are_told_apart() {
        let connect = |code| AskError::Connect(std::io::Error::from_raw_os_error(code));
        let invalid = HeaderValue::from_bytes(b"\n").map_err(http::Error::from).unwrap_err();
        for (error, is_the_edges) in [
            (connect(rustix::io::Errno::MFILE.raw_os_error()), true),
            (connect(rustix::io::Errno::CONNREFUSED.raw_os_error()), false),
            (AskError::Request(invalid), true),
            (AskError::Timeout(Duration::ZERO), false),
        ] {
            assert_eq!(is_own(&error), is_the_edges, "{error:?}");
        }
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(cut("/a\r\nb"), "/ab");
        assert_eq!(cut(&"ä".repeat(500)).chars().count(), SHOWN + 1);
    }
}
