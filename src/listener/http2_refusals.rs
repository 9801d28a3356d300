//! Streams of HTTP/2 that are refused before a hook sees them, told from what goes out. Pure; no I/O.
//!
//! The h2 crate resets a stream whose request is malformed with `PROTOCOL_ERROR` (RFC 9113, section 8.1.1), or ends the
//! connection so where it can't decode a field; Pingora resets too, or answers a bare 400. Nobody is told. All of it can be
//! seen in the frames that we send: an answer without any field is never one of ours.

/// The header of a frame (RFC 9113, section 4.1).
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// As much of a payload as is looked at: the last stream and the code of `GOAWAY`.
const PAYLOAD: usize = 8;
/// `:status: 400` in HPACK's static table (RFC 7541, appendix A), as an indexed field.
const STATUS_400: [u8; 1] = [0x8c];
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// How a stream was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Reset with `PROTOCOL_ERROR`, or with its whole connection.
    Reset,
    /// Answered with 400.
    Answer,
}

/// Follows the frames that go to a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentFrames {
    /// The present frame's header, and the start of its payload.
    start: [u8; HEADER + PAYLOAD],
    /// How many bytes of the present frame have gone.
    gone: usize,
}

impl SentFrames {
    /// Takes the bytes that went next, up to the first refusal among them.
    pub(super) fn next_refusal(&mut self, bytes: &mut &[u8]) -> Option<Refusal> {
        loop {
            if let (true, Some(place)) = (self.wants_byte(), self.start.get_mut(self.gone)) {
                let (first, rest) = bytes.split_first()?;
                *place = *first;
                self.gone += 1;
                *bytes = rest;
                continue;
            }
            let left = self.length()? - self.gone;
            let skipped = left.min(bytes.len());
            *bytes = bytes.get(skipped..).unwrap_or_default();
            self.gone += skipped;
            if skipped < left {
                return None;
            }
            let refusal = self.refusal();
            self.gone = 0;
            if refusal.is_some() {
                return refusal;
            }
        }
    }

    fn wants_byte(&self) -> bool {
        self.gone < HEADER || self.length().is_some_and(|length| self.gone < length)
    }

    /// The present frame's length with its header, once that is there.
    fn length(&self) -> Option<usize> {
        let [a, b, c, ..] = self.start;
        (self.gone >= HEADER).then(|| u32::from_be_bytes([0, a, b, c]) as usize + HEADER)
    }

    fn refusal(&self) -> Option<Refusal> {
        let payload = self.start.get(HEADER..self.length()?.min(HEADER + PAYLOAD))?;
        match (self.start.get(3)?, payload) {
            (&RST_STREAM, code) if code == PROTOCOL_ERROR => Some(Refusal::Reset),
            (&GOAWAY, payload) if payload.ends_with(&PROTOCOL_ERROR) => Some(Refusal::Reset),
            (&HEADERS, block) if block == STATUS_400 => Some(Refusal::Answer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame =
            vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, 4, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    #[test]
    fn refusals_are_found_among_other_frames_however_they_are_cut() {
        let wire = [
            frame(4, &[0; 18]),
            frame(RST_STREAM, &PROTOCOL_ERROR),
            frame(0, &[7; 700]),
            frame(HEADERS, &STATUS_400),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(HEADERS, &[0x88, 1, 2]),
            frame(HEADERS, &[0x8c, 0x5f]),
            frame(0, &[]),
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 0]),
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 1, b'x']),
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 11, 0, 0, 0, 1]),
            frame(RST_STREAM, &PROTOCOL_ERROR),
        ]
        .concat();
        for cut in [1, 2, 3, 9, 13, 100, wire.len()] {
            let mut frames = SentFrames::default();
            let mut found = Vec::new();
            for mut piece in wire.chunks(cut) {
                while let Some(refusal) = frames.next_refusal(&mut piece) {
                    found.push(refusal);
                }
            }
            assert_eq!(
                found,
                [Refusal::Reset, Refusal::Answer, Refusal::Reset, Refusal::Reset],
                "cut {cut}"
            );
        }
    }
}
