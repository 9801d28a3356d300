//! What a client gets whose request is refused before Pingora sees it, and the line that is logged of it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::AccessLogs;
use crate::{
    framing::Fault,
    proxy::{ConnectionInfo, Ending, new_request_id},
    telemetry::{AccessLog, Entry, metrics::ConnectionRefused},
};

/// Bytes of a request line that are logged.
const LOGGED: usize = 2 << 10;

/// The whole answer. It is written by the I/O type, since Pingora never sees the request.
pub(super) fn answer(fault: Fault) -> &'static [u8] {
    match status(fault) {
        405 => {
            b"HTTP/1.1 405 Method Not Allowed\r\nallow:\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 57\r\nconnection: close\r\n\r\n405 Method Not Allowed\nThis server opens no tunnels here."
        }
        408 => {
            b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 56\r\nconnection: close\r\n\r\n408 Request Timeout\nThe request took too long to arrive."
        }
        414 => {
            b"HTTP/1.1 414 URI Too Long\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\nconnection: close\r\n\r\n414 URI Too Long\nThe address is too long here\n"
        }
        431 => {
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 75\r\nconnection: close\r\n\r\n431 Request Header Fields Too Large\nThe headers are too large or too many.\n"
        }
        _ => {
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 48\r\nconnection: close\r\n\r\n400 Bad Request\nThe request can't be understood."
        }
    }
}

/// The status of the answer.
pub(super) fn status(fault: Fault) -> u16 {
    match fault {
        Fault::Timeout => 408,
        Fault::UriTooLong => 414,
        Fault::TooLarge | Fault::TooManyFields => 431,
        Fault::Connect => 405,
        _ => 400,
    }
}

/// A refused request, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused<'a> {
    pub(super) fault: Fault,
    /// 0 where a stream of HTTP/2 was reset.
    pub(super) status: u16,
    pub(super) protocol: &'static str,
    /// The head, as much of it as came.
    pub(super) head: &'a [u8],
    /// From its first byte.
    pub(super) took: Duration,
}

/// The access log of the configuration in force, or of the last one for a listener that is gone.
pub(super) fn access_log(ending: &Ending, present: &AccessLogs) -> Option<Arc<AccessLog>> {
    match ending.last.load_full() {
        Some(last) => last.access_log.clone(),
        None => present(),
    }
}

/// Writes the access log's line of a refused request.
pub(super) fn log(log: &AccessLog, connection: &ConnectionInfo, refused: &Refused<'_>) {
    let request_id = new_request_id();
    let listener = connection.listener();
    let RequestLine { method, path, query } = request_line(refused.head);
    if !log.takes(refused.status, refused.status == 0, refused.took) {
        return;
    }
    log.write(&Entry {
        request_id: request_id.to_str().ok(),
        client: connection.client.map(|address| address.ip()),
        listener: Some(&listener),
        method: Some(method).filter(|method| !method.is_empty()),
        path: Some(path).filter(|path| !path.is_empty()),
        query,
        protocol: Some(refused.protocol),
        tls_version: connection.tls.as_ref().map(|tls| tls.version),
        status: refused.status,
        duration: refused.took,
        error: Some(refused.fault.label()),
        ..Entry::at(SystemTime::now())
    });
}

/// Writes the access log's line of a connection that was refused for its PROXY header. Its peer is one that the header was
/// believed from, so that nobody else can fill the log.
pub(super) fn log_proxy_header(log: &AccessLog, listener: &str, peer: Option<SocketAddr>) {
    if !log.takes(0, true, Duration::ZERO) {
        return;
    }
    log.write(&Entry {
        client: peer.map(|address| address.ip()),
        listener: Some(listener),
        error: Some(ConnectionRefused::ProxyHeader.label()),
        ..Entry::at(SystemTime::now())
    });
}

/// What of a request line can be told apart, although the request can't be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RequestLine<'a> {
    method: &'a str,
    path: &'a [u8],
    query: Option<&'a [u8]>,
}

/// The method where it looks like one, and the target where it is a path: another form may hold a password.
fn request_line(head: &[u8]) -> RequestLine<'_> {
    let head = head.trim_ascii_start();
    let line = head.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let line = line.get(..LOGGED).unwrap_or(line);
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default();
    if method.len() > 32 || !method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') {
        return RequestLine::default();
    }
    let target = words.next().filter(|target| target.first() == Some(&b'/')).unwrap_or_default();
    let end = target.iter().position(|&byte| byte == b'?');
    let (path, query) = end.and_then(|end| target.split_at_checked(end)).unwrap_or((target, b""));
    RequestLine { method, path, query: query.get(1..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_framed_as_they_say() {
        for fault in Fault::ALL {
            let text = std::str::from_utf8(answer(*fault)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", status(*fault))), "{fault:?}");
            let length = format!("content-length: {}\r\n", body.len());
            assert!(head.contains(&length), "{fault:?}: {} bytes", body.len());
        }
    }

    #[test]
    fn of_a_broken_head_only_what_looks_like_a_request_line_is_told() {
        let line = |head: &'static str| request_line(head.as_bytes());
        let told = |method, path: &'static str, query: Option<&'static str>| RequestLine {
            method,
            path: path.as_bytes(),
            query: query.map(str::as_bytes),
        };
        assert_eq!(line("GET /a?b=c HTTP/1.1\r\nX"), told("GET", "/a", Some("b=c")));
        assert_eq!(line("\r\nGET /a HTTP/1.1"), told("GET", "/a", None));
        assert_eq!(line("GET /a\nX"), told("GET", "/a", None));
        assert_eq!(line("GET http://u:secret@a/ HTTP/1.1\r\n"), told("GET", "", None));
        assert_eq!(line("CONNECT a:443 HTTP/1.1\r\n"), told("CONNECT", "", None));
        assert_eq!(line("\u{16}\u{3}\u{1} /secret"), RequestLine::default());
        assert_eq!(line(""), RequestLine::default());
    }
}
