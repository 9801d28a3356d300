//! Counts a request head while it arrives: bytes, fields, the length of the target. Pure; no I/O, no clock.
//!
//! Pingora reads heads of up to 1 MiB and 256 fields; a listener's limits are smaller, and a head that is over them is
//! refused before Pingora has it whole. What a head says is not looked at here.

use crate::config::ListenerLimits;

/// Which limit a head broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// 414.
    TargetTooLong,
    /// 431, by its bytes.
    TooLarge,
    /// 431, by its fields.
    TooManyFields,
    /// 408: it did not come in time.
    TooSlow,
    /// 400: a request line that is not three words, or both ways to frame a body (RFC 9112, sections 3 and 6.3).
    Malformed,
}

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to come.
    Incomplete,
    /// The head has ended; what follows is body.
    Complete,
    /// It is over a limit.
    Over(Breach),
}

/// A head that is arriving.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    bytes: u64,
    /// Complete lines, the request line among them.
    lines: u32,
    /// Bytes of the present line, without CR and LF.
    line_bytes: u64,
    /// Spaces in the request line: the target stands between the first and the second.
    spaces: u8,
    target_bytes: u64,
    /// The framing fields that were seen, and the present line's name as far as it is one of them.
    framing: Framing,
}

/// Looks for the two fields that frame a body: a head with both can be read in two ways.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    has_length: bool,
    has_coding: bool,
    /// How many bytes of the present line agree with a name; `None` once one differs.
    length_matched: Option<usize>,
    coding_matched: Option<usize>,
}

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

impl Framing {
    fn new_line(&mut self) {
        self.length_matched = Some(0);
        self.coding_matched = Some(0);
    }

    fn feed(&mut self, byte: u8) {
        let byte = byte.to_ascii_lowercase();
        let step = |matched: &mut Option<usize>, name: &[u8], seen: &mut bool| {
            let Some(place) = *matched else { return };
            *matched = (name.get(place) == Some(&byte)).then_some(place + 1);
            *seen |= *matched == Some(name.len());
        };
        step(&mut self.length_matched, CONTENT_LENGTH, &mut self.has_length);
        step(&mut self.coding_matched, TRANSFER_ENCODING, &mut self.has_coding);
    }

    fn is_ambiguous(self) -> bool {
        self.has_length && self.has_coding
    }
}

impl Head {
    /// Whether a byte of it has come.
    pub(super) fn has_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Takes the bytes that came next.
    pub(super) fn feed(&mut self, bytes: &[u8], limits: &ListenerLimits) -> Progress {
        for &byte in bytes {
            self.bytes += 1;
            match byte {
                b'\n' => {
                    let is_empty = self.line_bytes == 0;
                    // Empty lines before the request line are passed over (RFC 9112, section 2.2).
                    if is_empty && self.lines > 0 {
                        return Progress::Complete;
                    }
                    if !is_empty && self.lines == 0 && self.spaces != 2 {
                        return Progress::Over(Breach::Malformed);
                    }
                    self.lines += u32::from(!is_empty);
                    self.line_bytes = 0;
                    self.framing.new_line();
                }
                b'\r' => {}
                byte => {
                    self.line_bytes += 1;
                    if self.lines == 0 {
                        match byte {
                            b' ' => self.spaces = self.spaces.saturating_add(1),
                            _ if self.spaces == 1 => self.target_bytes += 1,
                            _ => {}
                        }
                    } else {
                        self.framing.feed(byte);
                        if self.framing.is_ambiguous() {
                            return Progress::Over(Breach::Malformed);
                        }
                    }
                }
            }
            if self.target_bytes > limits.max_uri_bytes {
                return Progress::Over(Breach::TargetTooLong);
            }
            // The request line is no field.
            if self.lines.saturating_sub(1) > limits.max_fields {
                return Progress::Over(Breach::TooManyFields);
            }
            if self.bytes > limits.max_head_bytes {
                return Progress::Over(Breach::TooLarge);
            }
        }
        Progress::Incomplete
    }
}

impl Breach {
    /// The whole answer. It is written by the I/O type, since Pingora never sees the request.
    pub(super) fn answer(self) -> &'static [u8] {
        match self {
            Self::TargetTooLong => {
                b"HTTP/1.1 414 URI Too Long\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\nconnection: close\r\n\r\n414 URI Too Long\nThe address is too long here\n"
            }
            Self::TooLarge | Self::TooManyFields => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 75\r\nconnection: close\r\n\r\n431 Request Header Fields Too Large\nThe headers are too large or too many.\n"
            }
            Self::Malformed => {
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 48\r\nconnection: close\r\n\r\n400 Bad Request\nThe request can't be understood."
            }
            Self::TooSlow => {
                b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 59\r\nconnection: close\r\n\r\n408 Request Timeout\nThe request took too long to arrive.\n\r\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ListenerLimits {
        let mut problems = crate::types::Problems::new();
        let raw = crate::config::RawListener {
            address: Some("127.0.0.1:0".parse().unwrap()),
            ..crate::config::RawListener::default()
        };
        let path = crate::types::KeyPath::root();
        let config =
            raw.parse(&"l".parse().unwrap(), &path, &[], |_, _, _| None, &mut problems).unwrap();
        let mut limits = config.limits;
        limits.max_head_bytes = 256;
        limits.max_fields = 3;
        limits.max_uri_bytes = 20;
        limits
    }

    #[test]
    fn a_head_is_complete_at_its_empty_line_however_it_is_cut() {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for cut in 1..text.len() {
            let mut head = Head::default();
            let mut complete = 0;
            for piece in text.chunks(cut) {
                if head.feed(piece, &limits()) == Progress::Complete {
                    complete += 1;
                    break;
                }
            }
            assert_eq!(complete, 1, "cut {cut}");
        }
    }

    #[test]
    fn each_limit_is_kept_exactly() {
        let feed = |text: String| Head::default().feed(text.as_bytes(), &limits());
        assert_eq!(feed(format!("GET /{} HTTP/1.1\r\n", "a".repeat(19))), Progress::Incomplete);
        assert_eq!(
            feed(format!("GET /{} HTTP/1.1\r\n", "a".repeat(20))),
            Progress::Over(Breach::TargetTooLong)
        );
        let fields = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(feed(fields(3)), Progress::Complete);
        assert_eq!(feed(fields(4)), Progress::Over(Breach::TooManyFields));
        assert_eq!(
            feed(format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(300))),
            Progress::Over(Breach::TooLarge)
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_malformed() {
        let feed = |text: &str| Head::default().feed(text.as_bytes(), &limits());
        for bad in [
            "GET / x HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding:chunked\r\nCONTENT-LENGTH:1\r\n\r\n",
        ] {
            assert_eq!(feed(bad), Progress::Over(Breach::Malformed), "{bad:?}");
        }
        for good in [
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nX-Transfer-Encoding: a\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Lengths: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\na: Content-Length:\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(feed(good), Progress::Complete, "{good:?}");
        }
    }

    #[test]
    fn answers_are_framed_as_they_say() {
        for breach in [
            Breach::TargetTooLong,
            Breach::TooLarge,
            Breach::TooManyFields,
            Breach::TooSlow,
            Breach::Malformed,
        ] {
            let text = std::str::from_utf8(breach.answer()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("content-length: {}", body.len())),
                "{breach:?}: {} bytes",
                body.len()
            );
        }
    }
}
