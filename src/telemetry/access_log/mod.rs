//! The access log: one line a request.
//!
//! Last on the request path. Whether a request gets a line is decided from its status and time alone; the request formats
//! it and leaves it in a queue; one thread writes what is there in one go. The request never waits: where the queue is
//! full (8,192 lines or 16 MiB), the line is dropped and counted.
//!
//! Invariants: a line is one line, whatever bytes a client sends; each value that a client chose is cut at 1 KiB; the
//! listed headers and query parameters are masked before anything is cut or written.

mod combined;
mod field;
mod json;
mod mask;
mod sample;
mod tunnel;
mod writer;

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::IntCounter;

pub use self::{
    field::AccessLogField,
    sample::{RawSample, SampleConfig},
    tunnel::TunnelEntry,
};
use self::{mask::Masks, writer::Queue};
use super::config::{AccessLogConfig, AccessLogFormat};

/// What a line is made of, borrowed from a request's context. Nearly everything may be absent, so that what is refused
/// before it is a request, or never was one, has a line too: [`Entry::at`].
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// When its head was read.
    pub time: SystemTime,
    /// Its id.
    pub request_id: Option<&'a str>,
    /// The trace of its `traceparent` (W3C Trace Context).
    pub trace_id: Option<&'a str>,
    /// The client's address; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// The listener that took the connection.
    pub listener: Option<&'a str>,
    /// The method.
    pub method: Option<&'a str>,
    /// The host asked for, as the client sent it.
    pub host: Option<&'a [u8]>,
    /// The path, as the client sent it.
    pub path: Option<&'a [u8]>,
    /// What follows the `?`.
    pub query: Option<&'a [u8]>,
    /// The protocol: `HTTP/1.1`.
    pub protocol: Option<&'static str>,
    /// The version of TLS, where it is used.
    pub tls_version: Option<&'static str>,
    /// The status, 0 where the client went away before an answer.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// The part of it in which the edge waited for the upstream.
    pub upstream_duration: Option<Duration>,
    /// How long it waited for room at a limit, where it did.
    pub queue_duration: Option<Duration>,
    /// The site.
    pub site: Option<&'a str>,
    /// The route.
    pub route: Option<&'a str>,
    /// The upstream.
    pub upstream: Option<&'a str>,
    /// The endpoint that was tried last.
    pub endpoint: Option<&'a str>,
    /// How many tries there were.
    pub tries: u32,
    /// The tries, in their order.
    pub tried: &'a [Try<'a>],
    /// Why the route's fallback took it over: a word of ours.
    pub fallback: Option<&'static str>,
    /// Why the edge itself answered, or the request failed: a word of ours.
    pub error: Option<&'static str>,
    /// More about it: a sentence of ours.
    pub detail: Option<&'static str>,
    /// The first value of a request header, by its name in lower case.
    pub header: &'a (dyn Fn(&str) -> Option<&'a [u8]> + 'a),
}

impl Entry<'_> {
    /// Something that happened at `time` and of which nothing else is known yet.
    pub fn at(time: SystemTime) -> Self {
        Self {
            time,
            request_id: None,
            trace_id: None,
            client: None,
            listener: None,
            method: None,
            host: None,
            path: None,
            query: None,
            protocol: None,
            tls_version: None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream_duration: None,
            queue_duration: None,
            site: None,
            route: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            tried: &[],
            fallback: None,
            error: None,
            detail: None,
            header: &|_| None,
        }
    }
}

/// One try at an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Try<'a> {
    /// The endpoint.
    pub endpoint: &'a str,
    /// What connecting took, TLS included; `None` where a connection was open already, or none came about.
    pub connect: Option<Duration>,
    /// From the beginning of the try to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the beginning of the try to its end.
    pub duration: Duration,
    /// `ok`, or why it failed: a word of ours.
    pub outcome: &'static str,
}

/// The log of all requests. The thread behind it ends with the last log that has the same output, after the lines that
/// wait.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    form: Line,
    /// `None`: every request gets a line.
    sample: Option<SampleConfig>,
    counters: Counters,
}

/// What the access log counts.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Lines that are lost, by a full queue or by a failed write.
    pub dropped: IntCounter,
    /// Requests that got no line, by the configuration's choice.
    pub sampled_out: IntCounter,
}

/// How a line is written. `crate::telemetry::bench` opens it to the benchmarks.
#[derive(Debug)]
pub struct Line {
    format: AccessLogFormat,
    fields: Fields,
}

impl Line {
    /// As the configuration says.
    pub fn new(config: &AccessLogConfig) -> Self {
        Self { format: config.format, fields: Fields::new(config) }
    }

    /// The line of a request, with its line feed.
    pub fn format(&self, entry: &Entry<'_>) -> Vec<u8> {
        // Most lines are 300 to 700 bytes long.
        let mut line = Vec::with_capacity(768);
        match self.format {
            AccessLogFormat::Json => json::write(&mut line, entry, &self.fields),
            AccessLogFormat::Combined => combined::write(&mut line, entry, &self.fields),
        }
        line.push(b'\n');
        line
    }
}

/// What of a request is written, and how: chosen once a configuration.
#[derive(Debug)]
struct Fields {
    /// Fields of a line in JSON, in their order.
    chosen: Box<[AccessLogField]>,
    /// Names in lower case, and whether the value is masked.
    headers: Vec<(String, bool)>,
    masks: Masks,
}

impl Fields {
    fn new(config: &AccessLogConfig) -> Self {
        let listed = |name: &String| (name.clone(), config.mask_headers.contains(name));
        Self {
            chosen: config.fields.clone().into(),
            headers: config.headers.iter().map(listed).collect(),
            masks: Masks::new(&config.mask_query),
        }
    }
}

impl AccessLog {
    /// Opens the output and starts the writer; or goes on with the writer of `previous`, where it has the same output.
    ///
    /// # Errors
    /// The file can't be opened, or no thread can be started.
    pub fn start(
        config: &AccessLogConfig,
        counters: Counters,
        previous: Option<&Self>,
    ) -> Result<Self, io::Error> {
        let queue = match previous {
            Some(previous) if *previous.queue.output() == config.output => {
                Arc::clone(&previous.queue)
            }
            _ => Arc::new(Queue::start(&config.output, counters.dropped.clone())?),
        };
        Ok(Self { queue, form: Line::new(config), sample: config.sample.clone(), counters })
    }

    /// Whether a request gets a line; to be asked before its [`Entry`] is made. One that gets none is counted.
    /// `is_broken`: it got no answer, or one that broke off.
    pub fn takes(&self, status: u16, is_broken: bool, took: Duration) -> bool {
        let is_taken = self
            .sample
            .as_ref()
            .is_none_or(|sample| sample.takes(status, is_broken, took, || fastrand::u32(..)));
        if !is_taken {
            self.counters.sampled_out.inc();
        }
        is_taken
    }

    /// Formats a line and leaves it for the writer. Never waits.
    pub fn write(&self, entry: &Entry<'_>) {
        self.queue.push(self.form.format(entry));
    }

    /// Opens the file again, after the lines that wait: somebody has moved it. Where that fails the log says so, and the
    /// old file is written on. Returns at once.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Waits until every line that was left before is written, at most for `deadline`; says whether it is done. Blocks
    /// the calling thread: for the end of the process.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.queue.flush(deadline)
    }
}

/// The longest value that a client chose, in bytes; `…` stands for what is cut.
const MAX_VALUE: usize = 1024;

/// The start of a value, and whether something was cut. Not within a character, where the value is UTF-8.
fn cut(value: &[u8]) -> (&[u8], bool) {
    if value.len() <= MAX_VALUE {
        return (value, false);
    }
    // A character has at most three bytes of the form 10xxxxxx after its first.
    let end = (MAX_VALUE - 3..=MAX_VALUE)
        .rev()
        .find(|&end| value.get(end).is_some_and(|byte| byte & 0xC0 != 0x80))
        .unwrap_or(MAX_VALUE);
    (value.get(..end).unwrap_or(value), true)
}

#[cfg(test)]
mod tests;
