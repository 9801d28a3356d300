//! A line as one JSON object (RFC 8259).
//!
//! Values that a client chose may be any bytes: what is no UTF-8 is shown as U+FFFD. Absent values are left out.
//! Durations are in milliseconds with three decimals.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{Entry, Fields, cut, mask::MASKED};
use crate::{telemetry::time::write_rfc3339, types::EndpointAddress};

pub(super) fn write(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) {
    // Writing to a vector does not fail, and neither does serialising text.
    let _ = try_write(line, entry, fields);
}

fn try_write(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) -> io::Result<()> {
    line.extend_from_slice(b"{\"time\":\"");
    write_rfc3339(line, entry.time);
    line.push(b'"');
    text(line, "request_id", entry.request_id.as_bytes())?;
    optional(line, "trace_id", entry.trace_id)?;
    if let Some(client) = entry.client {
        write!(line, ",\"client\":\"{client}\"")?;
    }
    text(line, "method", entry.method.as_bytes())?;
    text(line, "host", entry.host)?;
    text(line, "path", entry.path)?;
    if let Some(query) = entry.query {
        text(line, "query", &fields.masks.query(query))?;
    }
    optional(line, "protocol", Some(entry.protocol))?;
    optional(line, "tls", entry.tls_version)?;
    write!(
        line,
        ",\"status\":{},\"bytes_in\":{},\"bytes_out\":{},\"duration_ms\":",
        entry.status, entry.bytes_in, entry.bytes_out
    )?;
    milliseconds(line, entry.duration)?;
    if let Some(duration) = entry.upstream_duration {
        line.extend_from_slice(b",\"upstream_duration_ms\":");
        milliseconds(line, duration)?;
    }
    optional(line, "listener", entry.listener)?;
    optional(line, "site", entry.site)?;
    optional(line, "route", entry.route)?;
    optional(line, "upstream", entry.upstream)?;
    match entry.endpoint {
        Some(EndpointAddress::Ip(address)) => write!(line, ",\"endpoint\":\"{address}\"")?,
        Some(endpoint) => text(line, "endpoint", endpoint.to_string().as_bytes())?,
        None => {}
    }
    if entry.tries > 0 {
        write!(line, ",\"tries\":{}", entry.tries)?;
    }
    optional(line, "error", entry.error)?;
    headers(line, entry, fields)?;
    line.push(b'}');
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

fn optional(line: &mut Vec<u8>, key: &str, value: Option<&str>) -> io::Result<()> {
    value.map_or(Ok(()), |value| text(line, key, value.as_bytes()))
}

fn text(line: &mut Vec<u8>, key: &str, value: &[u8]) -> io::Result<()> {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(key.as_bytes());
    line.extend_from_slice(b"\":");
    string(line, value)
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

fn milliseconds(line: &mut Vec<u8>, duration: Duration) -> io::Result<()> {
    write!(line, "{}.{:03}", duration.as_millis(), duration.subsec_micros() % 1_000)
}
