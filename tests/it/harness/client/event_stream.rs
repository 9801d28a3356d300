//! A reader of server-sent events.

use std::time::{Duration, Instant};

use super::{
    failure::{Failure, FailureKind},
    response::Opened,
};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its `id`.
    pub id: String,
    /// Its `data`, lines joined.
    pub data: String,
}

/// An open event stream. Dropped, its connection is closed.
pub struct EventStream {
    opened: Opened,
    pending: String,
}

impl EventStream {
    pub(super) fn new(opened: Opened) -> Result<Self, Failure> {
        match opened.header("content-type") {
            Some(kind) if kind.starts_with("text/event-stream") => {
                Ok(Self { opened, pending: String::new() })
            }
            other => {
                let text = format!("answered {} with {other:?}", opened.status);
                Err(Failure::new(FailureKind::Protocol, text))
            }
        }
    }

    /// The answer's head.
    pub fn head(&self) -> &Opened {
        &self.opened
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// No event within `limit`, or a stream that broke off.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Event>, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((event, rest)) = self.pending.split_once("\n\n") {
                let event = parse(event);
                self.pending = rest.to_owned();
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.opened.next(left)? {
                Some(piece) => self.pending.push_str(&String::from_utf8_lossy(&piece)),
                None => return Ok(None),
            }
        }
    }
}

fn parse(text: &str) -> Event {
    let mut event = Event::default();
    for line in text.lines() {
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => value.clone_into(&mut event.id),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => event.data = format!("{}\n{value}", event.data),
            _ => {}
        }
    }
    event
}
