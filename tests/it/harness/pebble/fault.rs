//! What an authority may do to its clients.

use std::time::Duration;

/// How the front behaves while this is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are closed: new ones before the handshake, open ones at their next request.
    Down,
    /// Every answer comes so much later.
    Slow(Duration),
    /// Every answer is 200 with a page for people.
    Rubbish,
    /// Every answer has this status, and no problem document.
    Status(u16),
    /// New orders are refused: 429 with the problem `rateLimited` and this `Retry-After`, in whole seconds.
    RateLimited(Duration),
    /// Requests to finalize an order wait until the fault is taken away; then they go on to pebble. A client that goes
    /// away meanwhile leaves an order that is ready.
    HoldFinalize,
    /// As [`Self::HoldFinalize`], but pebble has finalized the order: only its answer waits.
    HoldFinalized,
}

impl Fault {
    /// Whether a finalization waits, and pebble has it (`passed_on`) or not.
    pub(super) fn holds(fault: Option<Self>, passed_on: bool) -> bool {
        fault == Some(if passed_on { Self::HoldFinalized } else { Self::HoldFinalize })
    }
}
