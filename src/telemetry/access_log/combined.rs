//! A line in Apache's combined form, which many tools read.
//!
//! `client - - [time] "request line" status bytes "referer" "user-agent"`. Inside quotes, quotation marks, backslashes
//! and every byte that is not printable ASCII are written as Apache writes them (`\"`, `\\`, `\xhh`), so that a client
//! can't end a field. A status of 0 is `000`. Headers that are not listed in the configuration are `-`.

use std::io::Write;

use super::{Entry, Fields, cut, mask::MASKED};
use crate::telemetry::time::write_common_log;

pub(super) fn write(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) {
    // Writing to a vector does not fail.
    match entry.client {
        Some(client) => drop(write!(line, "{client}")),
        None => line.push(b'-'),
    }
    line.extend_from_slice(b" - - [");
    write_common_log(line, entry.time);
    line.extend_from_slice(b"] \"");
    request_line(line, entry, fields);
    let _ = write!(line, "\" {:03} {} ", entry.status, entry.bytes_out);
    header(line, "referer", entry, fields);
    line.push(b' ');
    header(line, "user-agent", entry, fields);
}

/// What was refused before it was read as a request has none: `-`, as Apache writes it.
fn request_line(line: &mut Vec<u8>, entry: &Entry<'_>, fields: &Fields) {
    let Some(method) = entry.method else {
        line.push(b'-');
        return;
    };
    escape(line, method.as_bytes());
    line.push(b' ');
    escape(line, entry.path.unwrap_or_default());
    if let Some(query) = entry.query {
        line.push(b'?');
        escape(line, &fields.masks.query(query));
    }
    line.push(b' ');
    line.extend_from_slice(entry.protocol.unwrap_or_default().as_bytes());
}

fn header(line: &mut Vec<u8>, name: &str, entry: &Entry<'_>, fields: &Fields) {
    let listed = fields.headers.iter().find(|(listed, _)| listed == name);
    let value = listed.and_then(|(_, is_masked)| Some((*is_masked, (entry.header)(name)?)));
    line.push(b'"');
    match value {
        None => line.push(b'-'),
        Some((true, _)) => line.extend_from_slice(MASKED),
        Some((false, value)) if name == "referer" => escape(line, &fields.masks.url(value)),
        Some((false, value)) => escape(line, value),
    }
    line.push(b'"');
}

fn escape(line: &mut Vec<u8>, value: &[u8]) {
    let (value, is_cut) = cut(value);
    for &byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => line.push(byte),
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
    if is_cut {
        line.extend_from_slice(b"...");
    }
}
