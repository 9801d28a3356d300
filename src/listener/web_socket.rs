//! Where one WebSocket frame ends and the next begins, on the way to the client. Pure; looks at no payload.
//!
//! When the edge ends it closes WebSockets with a close frame of its own (1012, service restart), which may stand only
//! between two frames of the endpoint.

/// A close frame with status 1012 (RFC 6455, section 5.5.1; the code is in IANA's registry): final, unmasked, two bytes.
pub(super) const CLOSE_SERVICE_RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

/// Follows the frames of one direction (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    header: [u8; 14],
    header_length: usize,
    payload_left: u64,
}

impl Frames {
    /// Whether a frame may begin here.
    pub(super) fn is_between(&self) -> bool {
        self.header_length == 0 && self.payload_left == 0
    }

    /// Takes the bytes that came next.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let skipped =
                    usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.header_length) {
                *place = first;
            }
            self.header_length += 1;
            bytes = rest;
            if let Some(payload) = self.payload_length() {
                self.payload_left = payload;
                self.header_length = 0;
            }
        }
    }

    /// The length of the payload, once the header is whole.
    fn payload_length(&self) -> Option<u64> {
        let header = self.header.get(..self.header_length)?;
        let second = *header.get(1)?;
        let (extended, length) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
            127 => (8, u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)),
            short => (0, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (header.len() == 2 + extended + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_they_say_however_they_are_cut() {
        let mut wire = vec![0x81, 3, b'a', b'b', b'c', 0x82, 126, 1, 0];
        wire.extend([7; 256]);
        wire.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        wire.extend(std::iter::repeat_n(8, 65_536));
        wire.extend([0x89, 0x80, 1, 2, 3, 4, 0x8a, 0]);
        let ends = [5, 5 + 4 + 256, 5 + 260 + 10 + 65_536, 5 + 260 + 65_546 + 6, wire.len()];
        for cut in [1, 2, 3, 7, 100, wire.len()] {
            let mut frames = Frames::default();
            let mut fed = 0;
            for piece in wire.chunks(cut) {
                frames.feed(piece);
                fed += piece.len();
                assert_eq!(frames.is_between(), ends.contains(&fed), "cut {cut}, after {fed}");
            }
        }
    }
}
