//! The line of a connection that was sent on as it is: no request, so none of its fields.

use std::{
    io::{self, Write},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{
    AccessLog,
    json::{milliseconds, number, optional_milliseconds, text},
};
use crate::{
    telemetry::{
        config::AccessLogFormat,
        time::{write_common_log, write_rfc3339},
    },
    types::EndpointAddress,
};

/// A connection that is over, borrowed from its task.
#[derive(Clone, Copy, Debug)]
pub struct TunnelEntry<'a> {
    /// When it was accepted.
    pub time: SystemTime,
    /// `tcp` or `passthrough`.
    pub kind: &'static str,
    /// The client's address; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// The listener.
    pub listener: &'a str,
    /// The passthrough, where the server name chose it.
    pub passthrough: Option<&'a str>,
    /// The name that the client asked for (SNI).
    pub server_name: Option<&'a str>,
    /// Bytes from the client to the endpoint.
    pub bytes_in: u64,
    /// Bytes from the endpoint to the client.
    pub bytes_out: u64,
    /// From the first look at it to its end.
    pub duration: Duration,
    /// The part of it until an endpoint was connected.
    pub connect_duration: Option<Duration>,
    /// The upstream.
    pub upstream: &'a str,
    /// The endpoint that was tried last.
    pub endpoint: Option<&'a EndpointAddress>,
    /// How many endpoints were tried.
    pub tries: u32,
    /// How it ended: a word of ours.
    pub end: &'static str,
}

impl AccessLog {
    /// Formats the line of a connection and leaves it for the writer. Never waits.
    pub fn write_tunnel(&self, entry: &TunnelEntry<'_>) {
        let mut line = Vec::with_capacity(400);
        // Writing to a vector does not fail, and neither does serialising text.
        let _ = match self.form.format {
            AccessLogFormat::Json => json(&mut line, entry),
            AccessLogFormat::Combined => combined(&mut line, entry),
        };
        line.push(b'\n');
        self.queue.push(line);
    }
}

fn optional(line: &mut Vec<u8>, name: &str, value: Option<&str>) -> io::Result<()> {
    value.map_or(Ok(()), |value| text(line, name, value.as_bytes()))
}

fn json(line: &mut Vec<u8>, entry: &TunnelEntry<'_>) -> io::Result<()> {
    line.extend_from_slice(b"{\"time\":\"");
    write_rfc3339(line, entry.time);
    line.push(b'"');
    optional(line, "kind", Some(entry.kind))?;
    if let Some(client) = entry.client {
        write!(line, ",\"client\":\"{client}\"")?;
    }
    optional(line, "listener", Some(entry.listener))?;
    optional(line, "passthrough", entry.passthrough)?;
    optional(line, "server_name", entry.server_name)?;
    number(line, "bytes_in", entry.bytes_in);
    number(line, "bytes_out", entry.bytes_out);
    milliseconds(line, "duration_ms", entry.duration);
    optional_milliseconds(line, "connect_duration_ms", entry.connect_duration);
    optional(line, "upstream", Some(entry.upstream))?;
    if let Some(endpoint) = entry.endpoint {
        text(line, "endpoint", endpoint.to_string().as_bytes())?;
    }
    number(line, "tries", u64::from(entry.tries));
    optional(line, "end", Some(entry.end))?;
    line.push(b'}');
    Ok(())
}

/// In the combined form the request line has the kind, and the name asked for or the listener; the status is 000.
fn combined(line: &mut Vec<u8>, entry: &TunnelEntry<'_>) -> io::Result<()> {
    match entry.client {
        Some(client) => write!(line, "{client}")?,
        None => line.push(b'-'),
    }
    line.extend_from_slice(b" - - [");
    write_common_log(line, entry.time);
    // rustls takes only server names that are host names, and names of the configuration are no less plain.
    let name = entry.server_name.unwrap_or(entry.listener);
    write!(line, "] \"{} {name} {}\" 000 {} \"-\" \"-\"", entry.kind, entry.end, entry.bytes_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_a_connection_went_and_how_it_ended() {
        let endpoint: EndpointAddress = "10.0.0.5:5432".parse().unwrap();
        let entry = TunnelEntry {
            time: SystemTime::UNIX_EPOCH,
            kind: "passthrough",
            client: Some("192.0.2.7".parse().unwrap()),
            listener: "https",
            passthrough: Some("db"),
            server_name: Some("db.example.com"),
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_micros(1_500),
            connect_duration: None,
            upstream: "pg",
            endpoint: Some(&endpoint),
            tries: 2,
            end: "closed",
        };
        let mut line = Vec::new();
        json(&mut line, &entry).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"time":"1970-01-01T00:00:00.000Z","kind":"passthrough","client":"192.0.2.7","listener":"https","passthrough":"db","server_name":"db.example.com","bytes_in":1,"bytes_out":2,"duration_ms":1.500,"upstream":"pg","endpoint":"10.0.0.5:5432","tries":2,"end":"closed"}"#
        );
        let mut line = Vec::new();
        combined(&mut line, &TunnelEntry { client: None, server_name: None, ..entry }).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"- - - [01/Jan/1970:00:00:00 +0000] "passthrough https closed" 000 2 "-" "-""#
        );
    }
}
