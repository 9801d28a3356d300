//! Header fields as far as they frame a message or name its host (RFC 9110, sections 5 and 8.6; RFC 9112, section 6).

use super::{Fault, line::is_token};

/// What a head's fields say of its framing, as far as they have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    /// How many there are.
    pub(super) count: u32,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) is_chunked: bool,
    /// Where in the head the value of `Host` stands.
    pub(super) host: Option<(usize, usize)>,
}

impl Fields {
    /// Takes the line of a field. `start` is its place in the head.
    pub(super) fn add(&mut self, line: &[u8], start: usize) -> Result<(), Fault> {
        self.count += 1;
        let Field { name, value, place } = split(line)?;
        self.take(name, value, start + place)
    }

    fn take(&mut self, name: &[u8], value: &[u8], place: usize) -> Result<(), Fault> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.is_some() {
                    return Err(Fault::Host);
                }
                self.host = Some((place, value.len()));
            }
            14 if is_named(name, b"content-length") => {
                if self.length.is_some() || name.get(7) != Some(&b'-') {
                    return Err(Fault::ContentLength);
                }
                self.length = Some(number(value).ok_or(Fault::ContentLength)?);
            }
            17 if is_named(name, b"transfer-encoding") => {
                let is_plain = name.get(8) == Some(&b'-');
                if self.is_chunked || !is_plain || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::TransferEncoding);
                }
                self.is_chunked = true;
            }
            _ => return Ok(()),
        }
        if self.length.is_some() && self.is_chunked {
            return Err(Fault::LengthAndCoding);
        }
        Ok(())
    }
}

/// Checks fields that came in another form than lines (HTTP/2) for what would make two readers differ once they are lines:
/// names that are no tokens, values with white space around them (RFC 9113, section 8.2.1), and the faults of framing.
///
/// # Errors
/// The first fault.
pub fn check_fields<'a>(
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), Fault> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut found = Fields::default();
    for (name, value) in fields {
        if !is_token(name) {
            return Err(Fault::FieldName);
        }
        if is_space(value.first()) || is_space(value.last()) {
            return Err(Fault::Http2);
        }
        found.take(name, value, 0)?;
    }
    Ok(())
}

/// A field's name, its value without white space around it, and where in the line that stands.
struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
    place: usize,
}

fn split(line: &[u8]) -> Result<Field<'_>, Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::Folded);
    }
    let colon = memchr::memchr(b':', line).ok_or(Fault::FieldName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Fault::FieldName)?;
    // White space before the colon is no part of a token (RFC 9112, section 5.1).
    if !is_token(name) {
        return Err(Fault::FieldName);
    }
    let is_inside = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let value = value.get(1..).unwrap_or_default();
    let first = value.iter().position(is_inside).unwrap_or(value.len());
    let end = value.iter().rposition(is_inside).map_or(first, |last| last + 1);
    let value = value.get(first..end).unwrap_or_default();
    Ok(Field { name, value, place: colon + 1 + first })
}

/// Whether a name is this one, also where `_` stands for `-`: gateways of CGI and WSGI can't tell the two apart.
fn is_named(name: &[u8], wanted: &[u8]) -> bool {
    name.iter().zip(wanted).all(|(byte, wanted)| {
        byte.eq_ignore_ascii_case(wanted) || (*byte == b'_' && *wanted == b'-')
    })
}

/// A plain number of up to 20 digits that fits.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
