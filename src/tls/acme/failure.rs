//! Why an order failed, and what that means for the next try.

use instant_acme::{Error, Problem};

use super::{
    super::{certificate_error::CertificateError, with_sources},
    challenges::AlpnError,
    client::ClientError,
    clock::ClockError,
    preflight::Obstacle,
};
use crate::state::{SecretError, StoreError};

/// The most of an authority's words that is shown.
const MAX_WORDS: usize = 500;

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The authority can't be reached, or does not answer in time.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It answers something that is not ACME.
    #[error("its answer can't be read: {0}")]
    Rubbish(String),
    /// It says that it is unwell.
    #[error("it is unwell: {0}")]
    Unwell(String),
    /// It refused nonces that it had just given, several times over.
    #[error("it refuses its own nonces")]
    Nonces,
    /// It limits orders.
    #[error("it takes no more orders for now: {0}")]
    RateLimited(String),
    /// It does not know the account any more.
    #[error("it does not know the account: {0}")]
    NoAccount(String),
    /// It does not know the order any more.
    #[error("it does not know the order: {0}")]
    NoOrder(String),
    /// It opens no account, or takes ours no more.
    #[error("it opens no account: {0}")]
    Account(String),
    /// It refuses the order.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It could not validate a name.
    #[error("{name} could not be validated by {challenge}: {reason}")]
    Validation {
        /// The name.
        name: String,
        /// The challenge.
        challenge: &'static str,
        /// The authority's words.
        reason: String,
    },
    /// It offers no challenge for a name that we can answer.
    #[error("{name} can be validated by {offered} only, and none of them is set up here")]
    NoChallenge {
        /// The name.
        name: String,
        /// What the authority offers.
        offered: String,
    },
    /// It does not have what is asked for.
    #[error("it has no {0}")]
    Unsupported(&'static str),
    /// The order took too long.
    #[error("the order was not ready in time")]
    TimedOut,
    /// What it issued can't be served.
    #[error("what it issued can't be served: {0}")]
    Certificate(String),
    /// The order could not succeed.
    #[error("{0}")]
    Preflight(#[from] Obstacle),
    /// The clock can't be believed.
    #[error("{0}")]
    Clock(#[from] ClockError),
    /// The state on disk.
    #[error("the state can't be kept: {0}")]
    Store(String),
    /// The account's key on disk.
    #[error("the account's key on disk can't be used")]
    BadAccountKey,
    /// External account binding.
    #[error("the key of the external account binding: {0}")]
    Eab(String),
    /// Our side of HTTPS.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Our side of a challenge.
    #[error("the challenge can't be answered: {0}")]
    Challenge(String),
    /// A challenge record.
    #[error("the challenge record of {name} is not in DNS: {reason}")]
    Dns {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A key could not be made.
    #[error("a key or request can't be made: {0}")]
    Key(String),
}

impl Failure {
    /// What an error of the library comes to.
    pub(super) fn acme(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::of_problem(&problem),
            Error::Json(error) => Self::Rubbish(words(&error.to_string())),
            Error::Unsupported(what) => Self::Unsupported(what),
            Error::Timeout(_) => Self::TimedOut,
            Error::Other(error) => Self::Unreachable(words(&with_sources(&*error))),
            error @ (Error::Http(_) | Error::InvalidUri(_) | Error::Str(_)) => {
                Self::Rubbish(words(&error.to_string()))
            }
            error => Self::Key(error.to_string()),
        }
    }

    /// What an authority's problem document comes to (RFC 8555, section 6.7).
    pub(super) fn of_problem(problem: &Problem) -> Self {
        let text = words_of(problem);
        let kind = problem.r#type.as_deref().unwrap_or_default();
        match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind) {
            "badNonce" => Self::Nonces,
            "rateLimited" => Self::RateLimited(text),
            "serverInternal" => Self::Unwell(text),
            "accountDoesNotExist" => Self::NoAccount(text),
            "" if problem.status.is_none_or(|status| status >= 500) => Self::Unwell(text),
            _ if problem.status.is_some_and(|status| status >= 500) => Self::Unwell(text),
            _ if problem.status == Some(404) => Self::NoOrder(text),
            _ => Self::Refused(text),
        }
    }

    /// Whether another authority may do better.
    pub(super) fn is_the_authoritys(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Rubbish(_)
                | Self::Unwell(_)
                | Self::Nonces
                | Self::RateLimited(_)
                | Self::NoAccount(_)
                | Self::Account(_)
                | Self::Unsupported(_)
                | Self::TimedOut
                | Self::Certificate(_)
                | Self::Eab(_)
                | Self::Client(_)
                | Self::Refused(_)
                | Self::BadAccountKey
                | Self::Preflight(Obstacle::Caa { .. })
        )
    }

    /// Whether the authority (or the library) does not like what a new order says.
    pub(super) fn is_about_the_order(&self) -> bool {
        match self {
            Self::Refused(_) | Self::NoOrder(_) => true,
            Self::Unreachable(words) => words.contains("replaces"),
            _ => false,
        }
    }

    /// Whether the authority counts it against the names.
    pub(super) fn counts(&self) -> bool {
        matches!(
            self,
            Self::Validation { .. }
                | Self::Refused(_)
                | Self::RateLimited(_)
                | Self::Certificate(_)
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(with_sources(&error))
    }
}

impl From<CertificateError> for Failure {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(with_sources(&error))
    }
}

impl From<AlpnError> for Failure {
    fn from(error: AlpnError) -> Self {
        Self::Challenge(with_sources(&error))
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self::Eab(with_sources(&error))
    }
}

/// An authority's words about a problem.
pub(super) fn words_of(problem: &Problem) -> String {
    let mut text = problem.detail.clone().or_else(|| problem.r#type.clone()).unwrap_or_default();
    for part in &problem.subproblems {
        text.push_str("; ");
        text.push_str(&part.to_string());
    }
    words(&text)
}

/// Text from outside, for one line of a log.
fn words(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_WORDS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: Option<u16>) -> Problem {
        Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: Some("no\nway".to_owned()),
            status,
            subproblems: Vec::new(),
        }
    }

    #[test]
    fn problems_are_told_apart_by_whose_they_are() {
        let of = |kind, status| Failure::of_problem(&problem(kind, status));
        for (failure, is_the_authoritys, counts) in [
            (of("rateLimited", Some(429)), true, true),
            (of("serverInternal", Some(500)), true, false),
            (of("whatever", Some(503)), true, false),
            (of("rejectedIdentifier", Some(400)), true, true),
            (of("malformed", Some(404)), false, false),
            (Failure::TimedOut, true, false),
            (
                Failure::Preflight(Obstacle::Caa {
                    name: "a".to_owned(),
                    at: "a".to_owned(),
                    allowed: "b".to_owned(),
                    authority: "c".to_owned(),
                }),
                true,
                false,
            ),
            (Failure::Preflight(Obstacle::NoAddress("a".to_owned())), false, false),
        ] {
            assert_eq!(failure.is_the_authoritys(), is_the_authoritys, "{failure}");
            assert_eq!(failure.counts(), counts, "{failure}");
        }
        assert_eq!(of("rejectedIdentifier", Some(400)).to_string(), "it refuses: no way");
        let long = words(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), MAX_WORDS + 1);
    }
}
