//! The PROXY header at the start of a connection: whose connection it is.
//!
//! Place: before TLS and HTTP. Who must send one is the listener's (`config/sent_on.rs`). What follows the header is put back.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::peeked::Peeked;
use crate::types::{HeaderProgress, ProxyHeader};

/// The room for a read. Most headers are shorter.
const READ_BYTES: usize = 256;

/// Reads the header, which must be whole within `limit`. [`ProxyHeader::parse`] bounds its bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where there is none, or a malformed one, [`io::ErrorKind::TimedOut`]; otherwise the
/// connection's own.
pub(super) async fn read_within<S: AsyncRead + Unpin>(
    limit: Duration,
    stream: &mut Peeked<S>,
) -> io::Result<ProxyHeader> {
    timeout(limit, read(stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut Peeked<S>) -> io::Result<ProxyHeader> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(READ_BYTES);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match ProxyHeader::parse(&bytes) {
            HeaderProgress::Partial => {}
            HeaderProgress::Whole { header, length } => {
                let rest = bytes.split_off(length);
                if !rest.is_empty() {
                    stream.put_back(rest.freeze());
                }
                return Ok(header);
            }
            HeaderProgress::Malformed => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
