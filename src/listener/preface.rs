//! Which HTTP a plain connection speaks, by its first bytes.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::stream::Spoken;

/// What a client of HTTP/2 with prior knowledge says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a plain connection begins with the preface of HTTP/2. It is given back with what was read.
///
/// As soon as a byte differs it is HTTP/1.1: a short request is never held back.
pub(super) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Spoken, Bytes)> {
    let mut seen = [0; PREFACE.len()];
    let mut length = 0;
    while let Some(rest) = seen.get_mut(length..) {
        match stream.read(rest).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        let read = seen.get(..length).unwrap_or_default();
        if !PREFACE.starts_with(read) {
            return Ok((Spoken::Http1, Bytes::copy_from_slice(read)));
        }
        if length == PREFACE.len() {
            break;
        }
    }
    Ok((Spoken::Http2, Bytes::copy_from_slice(&seen)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_preface_is_told_from_a_short_request() {
        for (sent, spoken) in [
            (&b"GET / HTTP/1.0\r\n\r\n"[..], Spoken::Http1),
            (b"P", Spoken::Http1),
            (b"PRI * HTTP/1.1\r\n", Spoken::Http1),
            (PREFACE, Spoken::Http2),
        ] {
            let mut stream = tokio_test_stream(sent);
            match sniff(&mut stream).await {
                Ok((found, replay)) => {
                    assert_eq!(found, spoken);
                    assert!(sent.starts_with(&replay));
                }
                // A lone "P" may still become a preface; the client closed before it did.
                Err(_) => assert_eq!(sent, b"P"),
            }
        }
    }

    fn tokio_test_stream(bytes: &[u8]) -> impl AsyncRead + Unpin {
        std::io::Cursor::new(bytes.to_vec())
    }
}
