//! The head of a request (RFC 9112, sections 3, 5 and 6).

use super::{
    Body, Fault, Whole,
    fields::Fields,
    host::is_valid_host,
    line::{Line, Lines, is_token},
};

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// All its bytes.
    pub max_bytes: u64,
    /// Its fields.
    pub max_fields: u32,
    /// Its target.
    pub max_target_bytes: u64,
}

/// A request's head that is arriving.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestHead {
    lines: Lines,
    fields: Fields,
    /// Of the request line, once it is there.
    version: Option<Version>,
    /// Where in the head the authority of an absolute target stands.
    authority: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl RequestHead {
    /// Judges a head that has grown. `head` is all of it so far, from its first byte, and whatever came behind it.
    ///
    /// # Errors
    /// The first fault. What comes after it on the connection can't be read.
    pub fn judge(
        &mut self,
        head: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<Whole<Body>>, Fault> {
        while let Some(line) = self.lines.next(head)? {
            if self.lines.start() as u64 > limits.max_bytes {
                return Err(Fault::TooLarge);
            }
            match self.version {
                // Empty lines before the request line are passed over (RFC 9112, section 2.2).
                None if line.content.is_empty() => {}
                None => self.request_line(line, limits)?,
                Some(version) if line.content.is_empty() => {
                    self.check_host(head, version)?;
                    let body = self.body(version)?;
                    return Ok(Some(Whole { length: self.lines.start(), body }));
                }
                Some(_) => {
                    self.fields.add(line.content, line.start)?;
                    if self.fields.count > limits.max_fields {
                        return Err(Fault::TooManyFields);
                    }
                }
            }
        }
        if self.version.is_none() {
            check_unfinished_target(head.get(self.lines.start()..).unwrap_or_default(), limits)?;
        }
        if head.len() as u64 > limits.max_bytes {
            return Err(Fault::TooLarge);
        }
        Ok(None)
    }

    fn request_line(&mut self, line: Line<'_>, limits: &HeadLimits) -> Result<(), Fault> {
        let mut words = line.content.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            check_unfinished_target(line.content, limits)?;
            return Err(Fault::StartLine);
        };
        if target.len() as u64 > limits.max_target_bytes {
            return Err(Fault::UriTooLong);
        }
        if !is_token(method) {
            return Err(Fault::StartLine);
        }
        self.version = Some(match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            other if other.starts_with(b"HTTP/") => return Err(Fault::Version),
            _ => return Err(Fault::StartLine),
        });
        if method == b"CONNECT" {
            return Err(Fault::Connect);
        }
        let authority = authority_of(method, target)?;
        let start = line.start + method.len() + 1;
        self.authority = authority.map(|(offset, length)| (start + offset, length));
        Ok(())
    }

    /// One host in HTTP/1.1, at most one in 1.0, and the same as in the target (RFC 9112, section 3.2).
    fn check_host(&self, head: &[u8], version: Version) -> Result<(), Fault> {
        let part = |(start, length): (usize, usize)| head.get(start..start + length);
        let host = self.fields.host.and_then(part);
        match host {
            None if version == Version::Http11 => return Err(Fault::Host),
            None => {}
            Some(b"") if version == Version::Http10 => {}
            Some(host) if is_valid_host(host) => {}
            Some(_) => return Err(Fault::Host),
        }
        match (self.authority.and_then(part), host) {
            (Some(authority), Some(host)) if authority != host => Err(Fault::Host),
            _ => Ok(()),
        }
    }

    fn body(&self, version: Version) -> Result<Body, Fault> {
        match (self.fields.is_chunked, self.fields.length) {
            (true, _) if version == Version::Http10 => Err(Fault::TransferEncoding),
            (true, _) => Ok(Body::chunked()),
            (false, Some(length)) => Ok(Body::of_length(length)),
            // Never until the connection closes (RFC 9112, section 6.3).
            (false, None) => Ok(Body::of_length(0)),
        }
    }
}

/// A target that is too long is told before its line has ended.
fn check_unfinished_target(line: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
    if line.len() as u64 <= limits.max_target_bytes {
        return Ok(());
    }
    let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    if target.len() as u64 > limits.max_target_bytes {
        return Err(Fault::UriTooLong);
    }
    Ok(())
}

/// Checks a target's form, and says where in it the authority stands (RFC 9112, section 3.2).
fn authority_of(method: &[u8], target: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    // Bytes over ASCII are no URI; clients send them all the same, and all parsers take them as they are.
    let is_forbidden = |byte: u8| byte <= b' ' || byte == 0x7f || byte == b'#';
    if target.iter().fold(false, |found, &byte| found | is_forbidden(byte)) {
        return Err(Fault::Target);
    }
    match target {
        [b'/', ..] => return Ok(None),
        b"*" if method == b"OPTIONS" => return Ok(None),
        _ => {}
    }
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let Some(scheme) = scheme else { return Err(Fault::Target) };
    let rest = target.get(scheme.len()..).unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    if !rest.get(..end).is_some_and(is_valid_host) {
        return Err(Fault::Target);
    }
    Ok(Some((scheme.len(), end)))
}
