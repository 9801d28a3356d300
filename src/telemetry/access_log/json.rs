//! A line as one JSON object (RFC 8259).
//!
//! Values that a client chose may be any bytes: what is no UTF-8 is shown as U+FFFD. Absent values are left out.
//! Durations are in milliseconds with three decimals.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{AccessLogField as Field, Entry, Fields, Try, cut, mask::MASKED};
use crate::telemetry::time::write_rfc3339;

pub(super) fn write(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) {
    let start = line.len();
    for field in &fields.chosen {
        // Writing to a vector does not fail, and neither does serialising text.
        let _ = write_field(line, *field, entry, fields);
    }
    // Every field begins with a comma.
    match line.get_mut(start) {
        Some(first) => *first = b'{',
        None => line.push(b'{'),
    }
    line.push(b'}');
}

fn write_field(
    line: &mut Vec<u8>,
    field: Field,
    entry: &Entry<'_>,
    fields: &Fields,
) -> io::Result<()> {
    match field {
        Field::Time => {
            line.extend_from_slice(b",\"time\":\"");
            write_rfc3339(line, entry.time);
            line.push(b'"');
        }
        Field::RequestId => return optional(line, field, entry.request_id),
        Field::TraceId => return optional(line, field, entry.trace_id),
        Field::Client => {
            if let Some(client) = entry.client {
                write!(line, ",\"client\":\"{client}\"")?;
            }
        }
        Field::Listener => return optional(line, field, entry.listener),
        Field::Method => return optional(line, field, entry.method),
        Field::Host => return optional_bytes(line, field, entry.host),
        Field::Path => return optional_bytes(line, field, entry.path),
        Field::Query => {
            if let Some(query) = entry.query {
                text(line, field.name(), &fields.masks.query(query))?;
            }
        }
        Field::Protocol => return optional(line, field, entry.protocol),
        Field::Tls => return optional(line, field, entry.tls_version),
        Field::Status => number(line, field.name(), u64::from(entry.status)),
        Field::BytesIn => number(line, field.name(), entry.bytes_in),
        Field::BytesOut => number(line, field.name(), entry.bytes_out),
        Field::DurationMs => milliseconds(line, field.name(), entry.duration),
        Field::UpstreamDurationMs => {
            optional_milliseconds(line, field.name(), entry.upstream_duration);
        }
        Field::QueueMs => optional_milliseconds(line, field.name(), entry.queue_duration),
        Field::Site => return optional(line, field, entry.site),
        Field::Route => return optional(line, field, entry.route),
        Field::Upstream => return optional(line, field, entry.upstream),
        Field::Endpoint => return optional(line, field, entry.endpoint),
        Field::Tries => {
            if entry.tries > 0 {
                number(line, field.name(), u64::from(entry.tries));
            }
        }
        Field::Tried => return tried(line, entry.tried),
        Field::Fallback => return optional(line, field, entry.fallback),
        Field::Error => return optional(line, field, entry.error),
        Field::Detail => return optional(line, field, entry.detail),
        Field::Headers => return headers(line, entry, fields),
    }
    Ok(())
}

fn tried(line: &mut Vec<u8>, tries: &[Try<'_>]) -> io::Result<()> {
    if tries.is_empty() {
        return Ok(());
    }
    line.extend_from_slice(b",\"tried\":");
    for (index, one) in tries.iter().enumerate() {
        line.push(if index == 0 { b'[' } else { b',' });
        let start = line.len();
        text(line, "endpoint", one.endpoint.as_bytes())?;
        if let Some(first) = line.get_mut(start) {
            *first = b'{';
        }
        optional_milliseconds(line, "connect_ms", one.connect);
        optional_milliseconds(line, "first_byte_ms", one.first_byte);
        milliseconds(line, "duration_ms", one.duration);
        text(line, "outcome", one.outcome.as_bytes())?;
        line.push(b'}');
    }
    line.push(b']');
    Ok(())
}

fn headers(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) -> io::Result<()> {
    let mut is_first = true;
    for (name, is_masked) in &fields.headers {
        let Some(value) = (entry.header)(name) else { continue };
        line.extend_from_slice(if is_first { b",\"headers\":{" } else { b"," });
        is_first = false;
        string(line, name.as_bytes())?;
        line.push(b':');
        match name.as_str() {
            _ if *is_masked => string(line, MASKED)?,
            "referer" => string(line, &fields.masks.url(value))?,
            _ => string(line, value)?,
        }
    }
    if !is_first {
        line.push(b'}');
    }
    Ok(())
}

fn optional(line: &mut Vec<u8>, field: Field, value: Option<&str>) -> io::Result<()> {
    optional_bytes(line, field, value.map(str::as_bytes))
}

fn optional_bytes(line: &mut Vec<u8>, field: Field, value: Option<&[u8]>) -> io::Result<()> {
    value.map_or(Ok(()), |value| text(line, field.name(), value))
}

fn key(line: &mut Vec<u8>, key: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(key.as_bytes());
    line.extend_from_slice(b"\":");
}

pub(super) fn text(line: &mut Vec<u8>, name: &str, value: &[u8]) -> io::Result<()> {
    key(line, name);
    string(line, value)
}

pub(super) fn number(line: &mut Vec<u8>, name: &str, value: u64) {
    key(line, name);
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn string(line: &mut Vec<u8>, value: &[u8]) -> io::Result<()> {
    let (value, is_cut) = cut(value);
    // Nearly all values are plain text that stands for itself.
    if !is_cut && value.iter().all(|byte| matches!(byte, b' '..=b'~' if !b"\"\\".contains(byte))) {
        line.push(b'"');
        line.extend_from_slice(value);
        line.push(b'"');
        return Ok(());
    }
    serde_json::to_writer(&mut *line, &*String::from_utf8_lossy(value))?;
    if is_cut {
        // Before the closing quote.
        line.pop();
        line.extend_from_slice("…\"".as_bytes());
    }
    Ok(())
}

pub(super) fn optional_milliseconds(line: &mut Vec<u8>, name: &str, duration: Option<Duration>) {
    if let Some(duration) = duration {
        milliseconds(line, name, duration);
    }
}

pub(super) fn milliseconds(line: &mut Vec<u8>, name: &str, duration: Duration) {
    key(line, name);
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    line.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    let micros = duration.subsec_micros() % 1_000;
    let digit = |value: u32| b'0' + (value % 10) as u8;
    line.extend_from_slice(&[b'.', digit(micros / 100), digit(micros / 10), digit(micros)]);
}
