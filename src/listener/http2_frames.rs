//! Where one HTTP/2 frame ends and the next begins, in one direction. Pure; looks at no payload but the code of an end.
//!
//! The library behind Pingora reads and checks the frames; this only counts along (RFC 9113, section 4.1).

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// Kinds of frames (RFC 9113, section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// The flag of the last piece of a head.
pub(super) const END_HEADERS: u8 = 0x4;

/// What is known of a frame before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// The error code of `RST_STREAM` and GOAWAY; 0 in others.
    pub(super) code: u32,
}

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    /// The header of the present frame, and as much of its payload as a code needs.
    seen: [u8; HEADER + 8],
    length: usize,
    /// Bytes to be passed over: the rest of a payload.
    skip: usize,
}

impl Frames {
    /// Whether a frame may begin here.
    pub(super) fn is_between(&self) -> bool {
        self.length == 0 && self.skip == 0
    }

    /// Takes bytes from the front of `bytes` up to the next frame; `None` when they are used up.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                *bytes = bytes.get(skipped..).unwrap_or_default();
            }
            let wanted = self.wanted();
            let missing = wanted.saturating_sub(self.length).min(bytes.len());
            let (new, rest) = bytes.split_at_checked(missing)?;
            if let Some(place) = self.seen.get_mut(self.length..self.length + missing) {
                place.copy_from_slice(new);
            }
            self.length += missing;
            *bytes = rest;
            if self.length < wanted {
                return None;
            }
            if self.length >= HEADER && self.wanted() == self.length {
                return Some(self.finish());
            }
        }
    }

    /// How many bytes must be seen before the frame is known.
    fn wanted(&self) -> usize {
        if self.length < HEADER {
            return HEADER;
        }
        let [_, _, _, kind, ..] = self.seen;
        let code_ends = match kind {
            kind::RST_STREAM => 4,
            kind::GOAWAY => 8,
            _ => 0,
        };
        HEADER + self.payload().min(code_ends)
    }

    fn payload(&self) -> usize {
        let [a, b, c, ..] = self.seen;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    fn finish(&mut self) -> Frame {
        let [_, _, _, kind, flags, ..] = self.seen;
        // The code is the last that was wanted, in both kinds that have one.
        let code = match self.seen.get(HEADER..self.length).unwrap_or_default() {
            &[.., a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        };
        self.skip = self.payload() - (self.length - HEADER);
        self.length = 0;
        Frame { kind, flags, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = frame(kind::SETTINGS, 0, &[]);
        bytes.extend(frame(kind::DATA, 1, &[9; 300]));
        bytes.extend(frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]));
        bytes.extend(frame(kind::GOAWAY, 0, b"\0\0\0\x01\0\0\0\x0bdebug"));
        // Too short for a code: a fault that the library finds.
        bytes.extend(frame(kind::RST_STREAM, 0, &[1]));
        let found = |kind, flags, code| Frame { kind, flags, code };
        let expected = [
            found(kind::SETTINGS, 0, 0),
            found(kind::DATA, 1, 0),
            found(kind::RST_STREAM, 0, 8),
            found(kind::GOAWAY, 0, 11),
            found(kind::RST_STREAM, 0, 0),
        ];
        for cut in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for mut piece in bytes.chunks(cut) {
                while let Some(frame) = frames.next(&mut piece) {
                    seen.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(seen, expected, "cut {cut}");
            assert!(frames.is_between());
        }
    }

    #[test]
    fn the_middle_of_a_frame_is_not_between() {
        let bytes = frame(kind::DATA, 0, &[0; 4]);
        for end in 0..=bytes.len() {
            let mut frames = Frames::default();
            let mut piece = &bytes[..end];
            while frames.next(&mut piece).is_some() {}
            assert_eq!(frames.is_between(), end == 0 || end == bytes.len(), "{end}");
        }
    }
}
