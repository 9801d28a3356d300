//! The head of a response (RFC 9112, sections 4, 5 and 6).

use super::{Body, Fault, Whole, fields::Fields, line::Lines};

/// The largest head that an endpoint may send.
const MAX_BYTES: usize = 256 << 10;
/// Its fields: as many as Pingora takes.
const MAX_FIELDS: u32 = 256;

/// What follows the head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Another head: this one is informational.
    Head,
    /// A body, which may be empty.
    Body(Body),
    /// Another protocol, after 101.
    Protocol,
}

/// A response's head that is arriving.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseHead {
    lines: Lines,
    fields: Fields,
    /// Of the status line, once it is there.
    status: Option<Status>,
}

#[derive(Clone, Copy, Debug)]
struct Status {
    code: u16,
    is_http10: bool,
}

impl ResponseHead {
    /// Judges a head that has grown. `head` is all of it so far, from its first byte, and whatever came behind it;
    /// `is_for_head` says that it answers a `HEAD`.
    ///
    /// # Errors
    /// The first fault. What comes after it on the connection can't be read.
    pub fn judge(
        &mut self,
        head: &[u8],
        is_for_head: bool,
    ) -> Result<Option<Whole<ResponseBody>>, Fault> {
        while let Some(line) = self.lines.next(head)? {
            if self.lines.start() > MAX_BYTES {
                return Err(Fault::TooLarge);
            }
            match self.status {
                None => self.status = Some(status_line(line.content)?),
                Some(status) if line.content.is_empty() => {
                    let body = self.body(status, is_for_head)?;
                    return Ok(Some(Whole { length: self.lines.start(), body }));
                }
                Some(_) => {
                    self.fields.add(line.content, line.start)?;
                    if self.fields.count > MAX_FIELDS {
                        return Err(Fault::TooManyFields);
                    }
                }
            }
        }
        if head.len() > MAX_BYTES { Err(Fault::TooLarge) } else { Ok(None) }
    }

    /// RFC 9112, section 6.3.
    fn body(&self, status: Status, is_for_head: bool) -> Result<ResponseBody, Fault> {
        let Fields { is_chunked, length, .. } = self.fields;
        if is_chunked && status.is_http10 {
            return Err(Fault::TransferEncoding);
        }
        if matches!(status.code, 100..200 | 204) {
            // Neither may stand there (RFC 9110, section 8.6; RFC 9112, section 6.1); an empty length says nothing wrong.
            if is_chunked {
                return Err(Fault::TransferEncoding);
            }
            if length.is_some_and(|length| length > 0) {
                return Err(Fault::ContentLength);
            }
        }
        Ok(match status.code {
            101 => ResponseBody::Protocol,
            100..200 => ResponseBody::Head,
            204 | 304 => ResponseBody::Body(Body::of_length(0)),
            _ if is_for_head => ResponseBody::Body(Body::of_length(0)),
            _ if is_chunked => ResponseBody::Body(Body::chunked()),
            _ => ResponseBody::Body(length.map_or_else(Body::until_close, Body::of_length)),
        })
    }
}

/// `HTTP/1.1 200 reason`; the reason may be missing with its space, as old servers have it.
fn status_line(line: &[u8]) -> Result<Status, Fault> {
    let is_http10 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ if line.starts_with(b"HTTP/") => return Err(Fault::Version),
        _ => return Err(Fault::StartLine),
    };
    let (code, rest) = line.get(9..).and_then(|rest| rest.split_at_checked(3)).unwrap_or_default();
    let is_code = matches!(code, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    if !is_code || !matches!(rest.first(), None | Some(b' ')) {
        return Err(Fault::StartLine);
    }
    let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Ok(Status { code, is_http10 })
}
