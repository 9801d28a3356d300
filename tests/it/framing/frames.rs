//! A client of HTTP/2 that sends any frames, and any fields in them, for what no library would send.

use std::time::Duration;

use crate::harness::{Failure, Raw};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is reset with this code.
    Reset(u32),
    /// It is answered with this status.
    Status(u16),
    /// It is answered with 400 and no field at all, as Pingora does.
    Bare400,
    /// The connection ends with this code.
    GoAway(u32),
}

/// A field as it is sent: no name and no value is too strange.
pub(super) type Field<'a> = (&'a str, &'a str);

/// A connection that has exchanged settings.
pub(super) struct Frames {
    raw: Raw,
}

impl Frames {
    /// Speaks HTTP/2 with prior knowledge.
    pub(super) fn open(mut raw: Raw) -> Self {
        raw.send(PREFACE);
        let mut frames = Self { raw };
        frames.send(SETTINGS, 0, 0, &[]);
        frames
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // It may be gone already; what is read then says so.
        drop(self.raw.try_send(frame(kind, flags, stream, payload)));
    }

    /// Sends a head, which may be the whole request. Characters up to U+00FF stand for bytes.
    pub(super) fn head(&mut self, stream: u32, fields: &[Field<'_>], ends: bool) {
        drop(self.raw.try_send(head(stream, fields, ends)));
    }

    /// Sends a part of a body.
    pub(super) fn data(&mut self, stream: u32, data: &[u8], ends: bool) {
        self.send(DATA, if ends { END_STREAM } else { 0 }, stream, data);
    }

    /// Reads until it is known what becomes of a stream.
    pub(super) fn outcome(&mut self, stream: u32, limit: Duration) -> Result<Outcome, Failure> {
        loop {
            let head = self.raw.read_exactly(9, limit)?;
            let number =
                |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            let length = number(&head[..3]) as usize;
            let payload = self.raw.read_exactly(length, limit)?;
            match (head[3], number(&head[5..9])) {
                (SETTINGS, _) if head[4] & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
                (GOAWAY, _) if number(&payload[4..8]) != 0 => {
                    return Ok(Outcome::GoAway(number(&payload[4..8])));
                }
                (RST_STREAM, on) if on == stream => return Ok(Outcome::Reset(number(&payload))),
                (HEADERS, on) if on == stream && payload == [0x8c] => return Ok(Outcome::Bare400),
                (HEADERS, on) if on == stream => return Ok(Outcome::Status(status(&payload))),
                _ => {}
            }
        }
    }
}

/// What a client sends first, and one request on stream 1.
pub(super) fn connection_with(fields: &[Field<'_>], body: Option<&[u8]>) -> Vec<u8> {
    let mut bytes =
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &head(1, fields, body.is_none())].concat();
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn head(stream: u32, fields: &[Field<'_>], ends: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal without indexing, not compressed (RFC 7541, section 6.2.2).
        block.push(0);
        for text in [name, value] {
            let bytes = super::bytes(text);
            assert!(bytes.len() < 127, "{text}");
            block.push(bytes.len() as u8);
            block.extend(bytes);
        }
    }
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &block)
}

/// The status at the start of a block (RFC 7541, appendices A and B).
fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]
        }
        // A literal with the name `:status`, which stands at 8 to 14.
        [0x48..=0x4e | 0x08..=0x0e, 3, a, b, c, ..] => {
            [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'))
        }
        [0x48..=0x4e | 0x08..=0x0e, length, rest @ ..] if length & 0x80 != 0 => {
            let bits: Vec<u8> = rest[..usize::from(length & 0x7f)]
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
                .collect();
            let mut at = 0;
            (0..3).fold(0, |sum, _| {
                let take = |n: usize| {
                    bits[at..at + n].iter().fold(0, |sum, bit| sum << 1 | u16::from(*bit))
                };
                // '0' to '2' have five bits, 0 to 2; '3' to '9' six, 25 to 31.
                let (digit, length) = if take(5) < 3 { (take(5), 5) } else { (take(6) - 22, 6) };
                at += length;
                sum * 10 + digit
            })
        }
        // A table's new size comes first.
        [0x20..=0x3f, rest @ ..] => status(rest),
        other => panic!("no status: {other:?}"),
    }
}
