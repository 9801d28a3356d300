//! Lines of a head: CRLF at their end and nowhere else, no control characters (RFC 9112, sections 2.2 and 5.5).

use memchr::{memchr, memchr2};

use super::Fault;

/// Finds lines in a head that grows; each byte is searched once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    /// Where the first line begins that was not handed out.
    start: usize,
    /// Up to here there is no LF after `start`.
    searched: usize,
}

impl Lines {
    /// The next whole line without its end. `head` is the head so far, from its first byte.
    pub(super) fn next<'a>(&mut self, head: &'a [u8]) -> Result<Option<Line<'a>>, Fault> {
        let Some(at) = memchr(b'\n', head.get(self.searched..).unwrap_or_default()) else {
            self.searched = head.len();
            return Ok(None);
        };
        let (start, end) = (self.start, self.searched + at);
        self.start = end + 1;
        self.searched = self.start;
        let bytes = head.get(start..end).unwrap_or_default();
        let Some(content) = bytes.strip_suffix(b"\r") else { return Err(Fault::LineEnd) };
        check_content(content)?;
        Ok(Some(Line { content, start }))
    }

    /// Where the line begins that is not whole yet.
    pub(super) fn start(&self) -> usize {
        self.start
    }
}

/// A line of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Without CRLF.
    pub(super) content: &'a [u8],
    /// Its place in the head.
    pub(super) start: usize,
}

/// No CR, no NUL, no other control character but a tab. One pass without a branch: the compiler makes vectors of it.
fn check_content(content: &[u8]) -> Result<(), Fault> {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if !content.iter().fold(false, |found, &byte| found | is_control(byte)) {
        return Ok(());
    }
    Err(if memchr2(b'\r', b'\n', content).is_some() { Fault::LineEnd } else { Fault::Control })
}

/// Whether all bytes are those of a token, and there is one (RFC 9110, section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// A character of a token.
pub(super) fn is_token_byte(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let is_token = (byte as u8).is_ascii_alphanumeric()
                || matches!(
                    byte as u8,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            #[expect(
                clippy::indexing_slicing,
                reason = "the index is below 128; evaluated by the compiler"
            )]
            {
                table[byte] = is_token;
            }
            byte += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).copied().unwrap_or_default()
}
