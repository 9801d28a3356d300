//! Whether a try that failed has another one after it, and when: the pure part.
//!
//! Place: after a failed try; `proxy/again.rs` asks. Only what was sent is known here, and what came back: nothing of
//! Pingora, no clock, no dice.

use std::time::Duration;

use http::{Method, StatusCode};

use super::retries_config::Retries;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryFailure {
    /// No connection came about: nothing was sent.
    Connect,
    /// The connection ended before the head of an answer.
    Reset {
        /// It had carried a request before: most likely the endpoint closed it because it was idle.
        was_reused: bool,
    },
    /// The head of the answer took too long.
    Timeout,
    /// An answer that counts as a failed try.
    Status(StatusCode),
    /// An answer that can't be read: asking again would get the same.
    Invalid,
    /// The client, or the edge, ended it.
    NotUpstream,
}

/// A request after a failed try.
#[derive(Clone, Copy, Debug)]
pub struct FailedTry<'a> {
    /// How it failed.
    pub failure: TryFailure,
    /// The request's method.
    pub method: &'a Method,
    /// Something of the request was sent to an endpoint, in this try or in one before.
    pub was_sent: bool,
    /// Something of an answer has gone to the client, which can't be taken back.
    pub is_answered: bool,
    /// What was read of the request's body is still there to be sent again.
    pub can_replay: bool,
    /// Tries so far, this one included.
    pub tries: u32,
    /// Until the request's total time is over; `None` without such a limit.
    pub left: Option<Duration>,
}

/// Whether there is another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// No.
    No(NotAgain),
    /// Yes.
    Yes {
        /// After a pause.
        pause: Duration,
        /// At once where another endpoint gets it.
        elsewhere_at_once: bool,
    },
}

/// Why there is no other try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAgain {
    /// The settings don't ask for it, or it can't be done.
    NotWanted,
    /// It would be wanted, and the retries of the upstream are spent.
    Budget,
}

impl FailedTry<'_> {
    /// Whether the request could be sent to somebody once more: repeating does no harm, and can be done.
    pub fn is_repeatable(&self, retries: &Retries) -> bool {
        let is_harmless = !self.was_sent || retries.repeats(self.method);
        is_harmless && self.can_replay && !self.is_answered
    }
}

impl Retries {
    /// Whether there is another try, and after which pause.
    ///
    /// `budget` takes a place for a retry of the upstream; it is asked last. `random` gives a number up to the given one,
    /// which may be that itself.
    pub fn again(
        &self,
        failed: &FailedTry<'_>,
        budget: impl FnOnce() -> bool,
        random: impl FnOnce(u64) -> u64,
    ) -> Again {
        let on = self.on();
        let is_wanted = match failed.failure {
            TryFailure::Connect => on.connect_failure,
            TryFailure::Reset { .. } => on.reset,
            TryFailure::Timeout => on.timeout,
            TryFailure::Status(status) => on.takes(status),
            TryFailure::Invalid | TryFailure::NotUpstream => false,
        };
        if !is_wanted || failed.tries >= self.tries || !failed.is_repeatable(self) {
            return Again::No(NotAgain::NotWanted);
        }
        let pause = self.pause(failed.tries, random);
        if failed.left.is_some_and(|left| pause >= left) {
            return Again::No(NotAgain::NotWanted);
        }
        if !budget() {
            return Again::No(NotAgain::Budget);
        }
        // Nothing reached an endpoint that could be busy, and another one has no part in it: a pause would only cost time.
        let reached_nobody =
            matches!(failed.failure, TryFailure::Connect | TryFailure::Reset { was_reused: true });
        Again::Yes { pause, elsewhere_at_once: reached_nobody && failed.tries == 1 }
    }

    /// A pause before the next try: any part of a limit that doubles with each ("full jitter"), so that requests which failed
    /// together don't come back together.
    fn pause(&self, tries: u32, random: impl FnOnce(u64) -> u64) -> Duration {
        let doublings = tries.saturating_sub(1).min(16);
        let limit = self.backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        Duration::from_micros(random(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::RawRetries;

    fn retries(text: &str) -> Retries {
        toml::from_str::<RawRetries>(text).unwrap().over(&Retries::default())
    }

    const FIRST: FailedTry<'static> = FailedTry {
        failure: TryFailure::Connect,
        method: &Method::GET,
        was_sent: false,
        is_answered: false,
        can_replay: true,
        tries: 1,
        left: None,
    };
    const RESET: TryFailure = TryFailure::Reset { was_reused: false };
    const STALE: TryFailure = TryFailure::Reset { was_reused: true };
    const BUSY: TryFailure = TryFailure::Status(StatusCode::SERVICE_UNAVAILABLE);

    fn decide(settings: &str, failed: FailedTry<'_>, budget: bool) -> &'static str {
        match retries(settings).again(&failed, || budget, |limit| limit) {
            Again::No(NotAgain::NotWanted) => "no",
            Again::No(NotAgain::Budget) => "budget",
            Again::Yes { elsewhere_at_once: true, .. } => "at once elsewhere",
            Again::Yes { .. } => "after a pause",
        }
    }

    #[test]
    fn each_cause_is_tried_again_as_the_settings_say() {
        let all = "tries = 4\non = [\"connect-failure\", \"reset\", \"timeout\", 503]";
        let posts = "methods = [\"POST\"]";
        let of = |failure| FailedTry { failure, was_sent: failure != TryFailure::Connect, ..FIRST };
        let post = |failure| FailedTry { method: &Method::POST, ..of(failure) };
        let second = |failed: FailedTry<'static>| FailedTry { tries: 2, ..failed };
        for (settings, failed, expected) in [
            ("", of(TryFailure::Connect), "at once elsewhere"),
            ("", of(RESET), "after a pause"),
            ("", of(STALE), "at once elsewhere"),
            ("", of(TryFailure::Timeout), "no"),
            ("per_try_timeout = \"1s\"", of(TryFailure::Timeout), "after a pause"),
            ("", of(BUSY), "no"),
            ("", of(TryFailure::Invalid), "no"),
            (all, of(BUSY), "after a pause"),
            (all, of(TryFailure::Status(StatusCode::BAD_GATEWAY)), "no"),
            (all, second(of(TryFailure::Connect)), "after a pause"),
            (all, FailedTry { tries: 4, ..of(RESET) }, "no"),
            (all, of(TryFailure::Invalid), "no"),
            (all, of(TryFailure::NotUpstream), "no"),
            ("on = []", of(TryFailure::Connect), "no"),
            ("tries = 1", of(TryFailure::Connect), "no"),
            // What was sent is repeated only where that does no harm.
            ("", post(TryFailure::Connect), "at once elsewhere"),
            ("", post(RESET), "no"),
            ("", post(STALE), "no"),
            (all, post(TryFailure::Timeout), "no"),
            (all, post(BUSY), "no"),
            (all, second(post(TryFailure::Connect)), "after a pause"),
            (all, FailedTry { was_sent: true, ..second(post(TryFailure::Connect)) }, "no"),
            (posts, post(RESET), "after a pause"),
            (posts, of(RESET), "no"),
            // What has gone can't be taken back, and what is not there can't be sent.
            (all, FailedTry { is_answered: true, ..of(RESET) }, "no"),
            (all, FailedTry { can_replay: false, ..of(RESET) }, "no"),
            // No try begins that could not end in time. The pause is 25 ms here.
            ("", FailedTry { left: Some(Duration::from_millis(25)), ..of(RESET) }, "no"),
            ("", FailedTry { left: Some(Duration::from_millis(26)), ..of(RESET) }, "after a pause"),
            ("", FailedTry { left: Some(Duration::ZERO), ..FIRST }, "no"),
        ] {
            assert_eq!(decide(settings, failed, true), expected, "{settings} {failed:?}");
        }
    }

    #[test]
    fn the_budget_is_asked_only_where_all_else_says_yes() {
        assert_eq!(decide("", FIRST, false), "budget");
        let retries = retries("");
        for failed in [
            FailedTry { tries: 2, ..FIRST },
            FailedTry { failure: TryFailure::Timeout, ..FIRST },
            FailedTry { left: Some(Duration::ZERO), ..FIRST },
        ] {
            let again = retries.again(&failed, || panic!("a place was taken"), |limit| limit);
            assert_eq!(again, Again::No(NotAgain::NotWanted));
        }
    }

    #[test]
    fn pauses_are_any_part_of_a_limit_that_doubles_to_a_ceiling() {
        let retries = retries("backoff = \"20ms\"\nmax_backoff = \"70ms\"");
        for (tries, limit) in [(1, 20), (2, 40), (3, 70), (4, 70), (u32::MAX, 70)] {
            assert_eq!(retries.pause(tries, |limit| limit), Duration::from_millis(limit));
            assert_eq!(retries.pause(tries, |_| 0), Duration::ZERO);
        }
        let mut random = fastrand::Rng::with_seed(7);
        let pauses = (0..1_000).map(|_| retries.pause(2, |limit| random.u64(0..=limit)));
        let micros: Vec<u128> = pauses.map(|pause| pause.as_micros()).collect();
        let mean = micros.iter().sum::<u128>() / 1_000;
        assert!((18_000..22_000).contains(&mean), "{mean}");
    }
}
