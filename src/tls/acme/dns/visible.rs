//! Waiting until a record is seen where an authority looks for it.
//!
//! Asked are, each directly: the `servers` of the configuration; else the server of the updates, at its port, and all that the
//! zone names in its NS records, at port 53. Every one that answers must have the record, and one at least must answer. One that
//! gives no answer with authority in three rounds (a hidden server, a firewall) is left out, with a warning. Where records are
//! written by a command and none of the zone's servers can be asked, the resolvers are.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_proto::rr::Name;
use tracing::{debug, warn};

use super::{
    error::{DnsError, plain},
    names::{Names, NoView, server_has},
};
use crate::types::HumanDuration;

/// The pause after the first round; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two rounds.
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// One question to one server.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// A server without an answer in so many rounds in a row is left out.
const ROUNDS_WITHOUT_ANSWER: u32 = 3;
/// Servers that an error names.
const MAX_NAMED: usize = 6;

/// Who must see the record.
pub(super) struct Viewers {
    /// Empty: the resolvers.
    pub(super) servers: Vec<SocketAddr>,
    /// Whether they must know by themselves.
    pub(super) with_authority: bool,
    /// Whether the resolvers will do when no server answers.
    pub(super) or_resolvers: bool,
}

/// Returns once the record is seen, or after `within` with an error that names who does not see it.
pub(super) async fn wait(
    viewers: &Viewers,
    names: &Names,
    (name, value): (&Name, &str),
    within: Duration,
) -> Result<(), DnsError> {
    let deadline = Instant::now() + within;
    let mut silent: HashMap<SocketAddr, u32> = HashMap::new();
    let mut pause = MIN_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.clamp(MIN_PAUSE, QUESTION_TIMEOUT);
        let mut round = Round::default();
        let questions = viewers
            .servers
            .iter()
            .map(|server| server_has(*server, viewers.with_authority, name, value, timeout));
        for (server, view) in viewers.servers.iter().zip(join_all(questions).await) {
            round.add(*server, view, silent.entry(*server).or_default());
        }
        // Not before: a resolver that was asked too early remembers for long that there is nothing.
        if round.seen + round.without + round.open == 0 && viewers.or_resolvers {
            match names.finds(name, value).await {
                Ok(true) => round.seen += 1,
                Ok(false) => round.miss("the resolvers", "no such value"),
                Err(error) => round.miss("the resolvers", &error.to_string()),
            }
        }
        if round.is_enough() {
            if !round.left_out.is_empty() {
                warn!(%name, servers = ?round.left_out, "servers of the zone were not asked for a challenge record: no answer");
            }
            debug!(%name, servers = round.seen, "a challenge record is seen");
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let after = HumanDuration(within);
            return Err(DnsError::NotVisible { name: plain(name), after, missing: round.said });
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// What one round of questions found.
#[derive(Default)]
struct Round {
    seen: usize,
    /// Servers that answered, and do not have it.
    without: usize,
    /// Servers without an answer that may still give one.
    open: usize,
    left_out: Vec<SocketAddr>,
    /// Who does not see it and why, for people; bounded.
    said: String,
    named: usize,
}

impl Round {
    /// `silent` counts the rounds in a row without an answer of this server.
    fn add(&mut self, server: SocketAddr, view: Result<bool, NoView>, silent: &mut u32) {
        match view {
            Ok(has) => {
                *silent = 0;
                if has {
                    self.seen += 1;
                } else {
                    self.without += 1;
                    self.miss(&server.to_string(), "no such value");
                }
            }
            Err(reason) => {
                *silent = silent.saturating_add(1);
                if *silent < ROUNDS_WITHOUT_ANSWER {
                    self.open += 1;
                } else {
                    self.left_out.push(server);
                }
                self.miss(&server.to_string(), &reason.to_string());
            }
        }
    }

    fn miss(&mut self, who: &str, why: &str) {
        self.named += 1;
        let comma = if self.named == 1 { "" } else { ", " };
        if self.named <= MAX_NAMED {
            // Writing to a string can't fail.
            let _ = write!(self.said, "{comma}{who} ({why})");
        } else if self.named == MAX_NAMED + 1 {
            self.said.push_str(", …");
        }
    }

    fn is_enough(&self) -> bool {
        self.seen > 0 && self.without == 0 && self.open == 0
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::ResponseCode;

    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 53))
    }

    fn refused() -> Result<bool, NoView> {
        Err(NoView::Code(ResponseCode::Refused))
    }

    #[test]
    fn every_server_that_answers_must_have_it() {
        let mut round = Round::default();
        round.add(server(1), Ok(true), &mut 0);
        assert!(round.is_enough());
        round.add(server(2), Ok(false), &mut 0);
        assert!(!round.is_enough());
        assert_eq!(round.said, "192.0.2.2:53 (no such value)");
    }

    #[test]
    fn a_server_without_an_answer_is_waited_for_three_rounds() {
        let mut silent = 0;
        for enough in [false, false, true] {
            let mut round = Round::default();
            round.add(server(1), Ok(true), &mut 0);
            round.add(server(2), refused(), &mut silent);
            assert_eq!(round.is_enough(), enough);
        }
        let mut round = Round::default();
        round.add(server(2), refused(), &mut silent);
        assert!(!round.is_enough(), "nobody has seen it");
        assert_eq!(round.left_out, [server(2)]);
        round.add(server(2), Ok(true), &mut silent);
        assert_eq!(silent, 0, "an answer counts anew");
    }

    #[test]
    fn an_error_names_a_few_servers() {
        let mut round = Round::default();
        for last in 0..32 {
            round.add(server(last), Ok(false), &mut 0);
        }
        assert_eq!(round.said.matches("192.0.2.").count(), MAX_NAMED);
        assert!(round.said.ends_with(", …"));
    }
}
