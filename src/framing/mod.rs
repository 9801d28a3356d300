//! The framing of HTTP/1.1 messages: where a message begins and ends, read in one way only. Pure; no I/O, no clock.
//!
//! Place: below everything that reads from a client or an endpoint. The I/O types of `listener` and `upstream` hand
//! Pingora only bytes that were judged here, so that no two parsers on a message's way can disagree about its bounds.
//!
//! Invariants: what is taken, every parser that keeps to RFC 9110 and RFC 9112 reads alike; what could be read in two
//! ways is a [`Fault`], although the RFCs would let a recipient mend some of it. Nothing is allocated.
//!
//! What it does not do: it changes no byte, and it knows no field but those that frame a message or name its host.

mod body;
mod fields;
mod host;
mod line;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use crate::telemetry::metrics::HeadRefused as Fault;
pub use body::{Body, Judged};
pub use fields::check_fields;
pub use host::is_valid_host;
pub use request::{HeadLimits, RequestHead};
pub use response::{ResponseBody, ResponseHead};

/// A head that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<B> {
    /// Its bytes, with the empty line at its end.
    pub length: usize,
    /// What follows it.
    pub body: B,
}
