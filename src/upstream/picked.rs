//! An endpoint picked for one try, and what became of the try.
//!
//! Whoever tries tells: [`Picked::answered`] at the head of the answer, then once [`Picked::ended`] or [`Picked::failed`].
//! A try of which nothing is told (its client went away) says nothing of its endpoint.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use pingora_core::upstreams::peer::HttpPeer;

use super::{
    config::Timeouts,
    endpoint::{Endpoint, Holds, InFlight},
    peer::PeerTemplate,
    sticky::StickyValue,
};
use crate::{
    limit::{Probe, Spell},
    telemetry::metrics::Fault,
    types::ClientNetwork,
};

/// An endpoint, and what is needed to connect to it: one pointer for both.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) template: PeerTemplate,
}

impl Holds for Arc<Reach> {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

/// An endpoint picked for one try. It counts as in flight until this is dropped.
#[derive(Debug)]
pub struct Picked {
    in_flight: InFlight<Arc<Reach>>,
    /// The upstream's breaker wants to know of this try in particular.
    probe: Option<Probe>,
    /// The breaker's when the try began.
    spell: Option<Spell>,
    /// Where the client of the try is.
    network: Option<ClientNetwork>,
    /// The value of the endpoint's cookie, where the upstream has sticky sessions.
    sticky: Option<StickyValue>,
    status: Option<StatusCode>,
    is_told: bool,
}

impl Picked {
    pub(super) fn new(
        reach: Arc<Reach>,
        network: Option<ClientNetwork>,
        sticky: Option<StickyValue>,
        spell: Option<Spell>,
    ) -> Self {
        Self {
            in_flight: InFlight::start(reach),
            probe: None,
            spell,
            network,
            sticky,
            status: None,
            is_told: false,
        }
    }

    /// What becomes of this try decides on the upstream's breaker.
    pub fn probes(&mut self, probe: Option<Probe>) {
        self.probe = probe;
    }

    /// The breaker's question, where another try is to answer it: this one has asked nobody.
    pub fn take_probe(&mut self) -> Option<Probe> {
        self.probe.take()
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// The value of its cookie, where the upstream has sticky sessions.
    pub fn sticky(&self) -> Option<StickyValue> {
        self.sticky
    }

    /// Its address as text, for logs and metrics.
    pub fn endpoint_label(&self) -> &str {
        self.endpoint().label()
    }

    /// What Pingora connects to, with the route's timeouts.
    ///
    /// `read_timeout` is `first_byte`, or `stream_idle` for a stream; once the head of the response is there the caller sets it to what
    /// holds between two reads.
    pub fn peer(&self, timeouts: &Timeouts, is_stream: bool) -> Box<HttpPeer> {
        self.in_flight.holder().template.peer(self.endpoint(), timeouts, is_stream)
    }

    /// The head of the final answer is there, `after` the try began.
    ///
    /// `is_stream`: its silence and its length are no faults and say nothing of the endpoint's speed; that it began is all that
    /// there will be to judge.
    pub fn answered(&mut self, status: StatusCode, after: Duration, is_stream: bool, now: Instant) {
        self.status = Some(status);
        if is_stream {
            self.in_flight.became_stream();
            self.ended();
        } else {
            let life = self.in_flight.life();
            let is_good = !status.is_server_error();
            self.endpoint().answered_after(after, is_good, self.network, life, now);
            if let Some(upstream) = self.endpoint().live_upstream() {
                upstream.gates.answered_after(after, now);
            }
        }
    }

    /// The answer came to its end.
    pub fn ended(&mut self) {
        let Some(status) = self.status else { return };
        self.tell(if status.is_server_error() { Err(Fault::ServerError) } else { Ok(()) });
    }

    /// The endpoint failed.
    pub fn failed(&mut self, fault: Fault) {
        self.tell(Err(fault));
    }

    fn tell(&mut self, outcome: Result<(), Fault>) {
        if !std::mem::replace(&mut self.is_told, true) {
            self.endpoint().judge(outcome, self.network, self.in_flight.life());
            let probe = self.probe.take();
            if let Some(upstream) = self.endpoint().live_upstream() {
                upstream.gates.judge(outcome, self.network, probe, self.spell);
            }
        }
    }

    /// Keeps only the count: for a long stream, which must not hold its generation's settings.
    ///
    /// Where nothing was told of the try, it was a connection that is sent on: that it was made is all there is to judge.
    pub fn into_in_flight(mut self) -> InFlight {
        self.tell(Ok(()));
        self.in_flight.into_stream()
    }
}
