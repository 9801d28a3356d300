//! The access log: one line a request.
//!
//! Last on the request path. The request formats its line and leaves it in a queue; one thread writes what is there in
//! one go. The request never waits: where the queue is full (8,192 lines or 16 MiB), the line is dropped and counted.
//!
//! Invariants: a line is one line, whatever bytes a client sends; each value that a client chose is cut at 1 KiB; the
//! listed headers and query parameters are masked before anything is cut or written.

mod combined;
mod json;
mod mask;
mod writer;

use std::{
    io,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use prometheus::IntCounter;

use self::{mask::Masks, writer::Queue};
use super::config::{AccessLogConfig, AccessLogFormat};
use crate::types::EndpointAddress;

/// A finished request, borrowed from its context.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// When its head was read.
    pub time: SystemTime,
    /// Its id.
    pub request_id: &'a str,
    /// The trace of its `traceparent` (W3C Trace Context).
    pub trace_id: Option<&'a str>,
    /// The client's address; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// The method.
    pub method: &'a str,
    /// The host asked for, as the client sent it.
    pub host: &'a [u8],
    /// The path, as the client sent it.
    pub path: &'a [u8],
    /// What follows the `?`.
    pub query: Option<&'a [u8]>,
    /// The protocol: `HTTP/1.1`.
    pub protocol: &'static str,
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
    /// The listener, where it refused the request before there was a site.
    pub listener: Option<&'a str>,
    /// The site.
    pub site: Option<&'a str>,
    /// The route.
    pub route: Option<&'a str>,
    /// The upstream.
    pub upstream: Option<&'a str>,
    /// The endpoint that was tried last.
    pub endpoint: Option<&'a EndpointAddress>,
    /// How many endpoints were tried.
    pub tries: u32,
    /// Why the edge itself answered, or the request failed: a word of ours.
    pub error: Option<&'static str>,
    /// The first value of a request header, by its name in lower case.
    pub header: &'a (dyn Fn(&str) -> Option<&'a [u8]> + 'a),
}

/// The log of all requests. Dropping it ends the thread after the lines that wait.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: nothing is written.
    output: Option<Output>,
}

#[derive(Debug)]
struct Output {
    queue: Queue,
    form: Line,
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
        // Most lines are 300 to 600 bytes long.
        let mut line = Vec::with_capacity(640);
        match self.format {
            AccessLogFormat::Json => json::write(&mut line, entry, &self.fields),
            AccessLogFormat::Combined => combined::write(&mut line, entry, &self.fields),
        }
        line.push(b'\n');
        line
    }
}

/// What of a request's head is written, and how.
#[derive(Debug)]
struct Fields {
    /// Names in lower case, and whether the value is masked.
    headers: Vec<(String, bool)>,
    masks: Masks,
}

impl Fields {
    fn new(config: &AccessLogConfig) -> Self {
        let listed = |name: &String| (name.clone(), config.mask_headers.contains(name));
        Self {
            headers: config.headers.iter().map(listed).collect(),
            masks: Masks::new(&config.mask_query),
        }
    }
}

impl AccessLog {
    /// Opens the output and starts the writer. `dropped` counts the lines that are lost, by a full queue or by a failed
    /// write.
    ///
    /// # Errors
    /// The file can't be opened, or no thread can be started.
    pub fn start(config: &AccessLogConfig, dropped: IntCounter) -> Result<Self, io::Error> {
        if !config.enabled {
            return Ok(Self { output: None });
        }
        let queue = Queue::start(writer::Sink::open(&config.output)?, dropped)?;
        Ok(Self { output: Some(Output { queue, form: Line::new(config) }) })
    }

    /// Formats a line and leaves it for the writer. Never waits.
    pub fn write(&self, entry: &Entry<'_>) {
        if let Some(output) = &self.output {
            output.queue.push(output.form.format(entry));
        }
    }

    /// Waits until every line that was left before is written, at most for `deadline`; says whether it is done. Blocks
    /// the calling thread: for the end of the process.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.output.as_ref().is_none_or(|output| output.queue.flush(deadline))
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
