//! Why a request has no answer.

use std::{error::Error, fmt, io};

/// The kinds of failure that a test tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The connection was refused or not made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection was closed before the answer's head.
    Closed,
    /// The connection was reset.
    Reset,
    /// The answer's head came, its body did not come whole.
    Truncated,
    /// Nothing came in time.
    Timeout,
    /// What came is not the protocol; with HTTP/2, a stream error too.
    Protocol,
    /// The answer came and is not the right one ([`Load::check`](super::Load::check)).
    Check,
}

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What was said, with its causes.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string() }
    }

    /// A failure before the answer's head.
    pub(super) fn before_head(error: &(dyn Error + 'static)) -> Self {
        Self::of(error, FailureKind::Closed)
    }

    /// A failure inside the answer's body.
    pub(super) fn in_body(error: &(dyn Error + 'static)) -> Self {
        Self::of(error, FailureKind::Truncated)
    }

    fn of(error: &(dyn Error + 'static), otherwise: FailureKind) -> Self {
        let mut kind = otherwise;
        let mut detail = error.to_string();
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::ConnectionReset
            {
                kind = FailureKind::Reset;
            }
            if let Some(h2) = error.downcast_ref::<h2::Error>()
                && (h2.is_reset() || h2.is_library())
            {
                kind = FailureKind::Protocol;
            }
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                kind = FailureKind::Protocol;
            }
            next = error.source();
            if let Some(source) = next {
                detail = format!("{detail}: {source}");
            }
        }
        Self { kind, detail }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

impl Error for Failure {}
