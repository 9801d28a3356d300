//! A copy of one request: collected while the request passes, sent when it is over.

use std::{
    error::Error as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    Copies, Kind, Skipped,
    compare::{Captured, LiveAnswer, OtherAnswer, compare},
    config::{BodyComparison, Mirror},
};
use crate::{
    rollout::{
        clients::{Counts, Kind as TryKind},
        counters::Outcome,
        dial::Side,
        trial::{Assignment, Client},
    },
    upstream::{Answer, Ask, AskError, Upstream, Wish, is_own_failure},
};

/// What copies carry, so that the candidate can tell them apart.
pub const MIRRORED: HeaderName = HeaderName::from_static("x-tidegate-mirror");
/// Fields of a connection or of a body's framing.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Characters of a path, or of a place in a body, that are shown.
const SHOWN: usize = 120;

/// The head of the request as the stable's endpoint saw it.
#[derive(Debug)]
struct Head {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// A copy in the making.
#[derive(Debug)]
pub struct Shadow {
    assignment: Arc<Assignment>,
    /// The candidate.
    upstream: Arc<Upstream>,
    host: Option<HeaderValue>,
    step: u32,
    client: Client,
    /// Bytes held of [`super::MOST_HELD`].
    held: usize,
    head: Option<Head>,
    body: Vec<u8>,
    live: Option<(LiveAnswer, Duration)>,
}

impl Drop for Shadow {
    fn drop(&mut self) {
        let copies = self.copies();
        copies.release(self.held);
        copies.leave();
    }
}

impl Shadow {
    /// Begins a copy, where there is a place for one.
    ///
    /// # Errors
    /// There is none, or the request's method is not listed. It is counted.
    pub fn begin(
        assignment: &Arc<Assignment>,
        upstream: &Arc<Upstream>,
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
            if !copies.enter(mirror.max_in_flight) {
                return Err(Skipped::InFlight);
            }
            Ok(())
        };
        begin().inspect_err(|why| copies.skip(*why))?;
        Ok(Self {
            assignment: assignment.clone(),
            upstream: upstream.clone(),
            host,
            step,
            client,
            held: 0,
            head: None,
            body: Vec::new(),
            live: None,
        })
    }

    /// Gives the copy up.
    pub fn give_up(self, why: Skipped) {
        self.copies().skip(why);
    }

    /// A try begins: the head as its endpoint sees it. The body comes again from its start.
    pub fn take_head(&mut self, method: &Method, path: &str, headers: &HeaderMap) {
        let held = std::mem::take(&mut self.held);
        self.copies().release(held);
        self.body.clear();
        self.live = None;
        self.head =
            Some(Head { method: method.clone(), path: path.to_owned(), headers: headers.clone() });
    }

    /// A piece of the request's body.
    ///
    /// # Errors
    /// It is too large to be copied.
    pub fn request_piece(&mut self, piece: &[u8]) -> Result<(), Skipped> {
        let most = self.mirror().map_or(0, |mirror| mirror.max_body_bytes);
        if self.body.len() + piece.len() > most {
            return Err(Skipped::Body);
        }
        self.hold(piece.len())?;
        self.body.extend_from_slice(piece);
        Ok(())
    }

    /// The head of the live answer, `after` its try began.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap, after: Duration) {
        let Some(mirror) = self.mirror() else { return };
        let mut compared = HeaderMap::new();
        for name in &mirror.compare.headers {
            for value in headers.get_all(name) {
                compared.append(name.clone(), value.clone());
            }
        }
        let body = Captured::new(mirror.compare.body);
        self.live = Some((LiveAnswer { status, headers: compared, body }, after));
    }

    /// A piece of the live answer's body.
    ///
    /// # Errors
    /// There is no room to keep it.
    pub fn answer_piece(&mut self, piece: &[u8]) -> Result<(), Skipped> {
        let most = self.mirror().map_or(0, |mirror| mirror.compare.max_body_bytes);
        let Some((live, _)) = &self.live else { return Ok(()) };
        let needed = live.body.needs(piece, most);
        self.hold(needed)?;
        if let Some((live, _)) = &mut self.live {
            live.body.piece(piece, most);
        }
        Ok(())
    }

    /// The request is over, and was answered well by the stable's endpoint: the copy goes to the candidate.
    pub fn send(self) {
        if self.head.is_none() || self.live.is_none() {
            return self.give_up(Skipped::Unanswered);
        }
        if !self.assignment.attempt().reading().is_mirrored {
            return self.give_up(Skipped::Over);
        }
        // On the worker of its request: what drives probes and verdicts is not to wait for it.
        tokio::spawn(self.go());
    }

    async fn go(mut self) {
        if let Err(why) = self.exchange().await {
            self.give_up(why);
        }
    }

    async fn exchange(&mut self) -> Result<(), Skipped> {
        let Some(mirror) = self.assignment.config().strategy.mirror().cloned() else {
            return Err(Skipped::Over);
        };
        let (Some(head), Some((live, live_after))) = (self.head.take(), self.live.take()) else {
            return Err(Skipped::Unanswered);
        };
        let max_body_bytes = match mirror.compare.body {
            BodyComparison::None => 0,
            BodyComparison::Json | BodyComparison::Hash => mirror.compare.max_body_bytes,
        };
        self.hold(max_body_bytes)?;
        // Counts as in flight at its endpoint while it is held.
        let picked = self.upstream.pick(&Wish::default()).map_err(|_| Skipped::NoEndpoint)?;
        let asked = self.upstream.asked(&picked).ok_or(Skipped::NoEndpoint)?;
        let shown = format!("{} {}", head.method, cut(head.path.split('?').next().unwrap_or("/")));
        let ask = Ask {
            method: head.method,
            path: head.path,
            host: self.host.take(),
            headers: copied(head.headers),
            body: std::mem::take(&mut self.body).into(),
            deadline: mirror.timeout,
            max_body_bytes,
        };
        let answer = asked.ask(ask).await;
        if let Err(AskError::Connect(error)) = &answer
            && is_own_failure(error)
        {
            return Err(Skipped::Own);
        }
        self.copies().sent.fetch_add(1, Ordering::Relaxed);
        self.judge(&mirror, live, live_after, answer, &shown);
        Ok(())
    }

    fn judge(
        &self,
        mirror: &Mirror,
        live: LiveAnswer,
        live_after: Duration,
        answer: Result<Answer, AskError>,
        shown: &str,
    ) {
        let rules = &self.assignment.config().failures;
        let outcome = |is_failed: bool, after| {
            if is_failed { Outcome::Failure } else { Outcome::Success(after) }
        };
        let of_live = outcome(rules.has_failed(live.status, live_after), live_after);
        let of_other = match answer {
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                let text = cut(&format!("{error}{cause}"));
                self.copies().differs(Kind::NoAnswer, format!("{shown}: {text}"));
                Outcome::Failure
            }
            Ok(answer) => {
                let after = answer.first_byte;
                let is_failed = rules.has_failed(answer.status, after);
                let other = OtherAnswer {
                    status: answer.status,
                    headers: answer.headers,
                    body: answer.body,
                    is_whole: answer.is_whole,
                };
                let difference = compare(&mirror.compare, live, &other);
                if let Some(difference) = &difference {
                    let text = cut(&difference.to_string());
                    self.copies().differs(Kind::of(difference), format!("{shown}: {text}"));
                }
                outcome(is_failed || difference.is_some(), after)
            }
        };
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
}

/// The fields that a copy has.
fn copied(mut headers: HeaderMap) -> HeaderMap {
    let lines = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&OF_THE_CONNECTION) {
        headers.remove(name);
    }
    headers.insert(MIRRORED, HeaderValue::from_static("1"));
    headers
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
    fn what_is_shown_is_short() {
        assert_eq!(cut("/a\r\nb"), "/ab");
        assert_eq!(cut(&"ä".repeat(500)).chars().count(), SHOWN + 1);
    }
}
