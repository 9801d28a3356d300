//! How much a client of HTTP/2 may ask of us beside requests: the answer to rapid reset, CONTINUATION, PING, SETTINGS and
//! window floods. Pure; `now` comes from the caller.
//!
//! Place: `stream` shows it what is read and written. Frames that cost us work and carry no request are taken from
//! budgets, which grow again by a tenth each second; a client that has used one up is not served any longer. What an
//! honest client sends grows with what it is sent (window updates, probes of the bandwidth), and so does its budget.
//! What it does not do: it checks no frame. What the library behind Pingora refuses by itself is only counted here.

use std::time::{Duration, Instant};

use super::http2_frames::{END_HEADERS, Frame, Frames, kind};
use crate::{
    config::{Http2Limits, ListenerLimits},
    telemetry::metrics::LimitReached,
};

/// How long a budget that is used up takes to be whole again.
const REFILL: Duration = Duration::from_secs(10);
/// Frames that a client may send for each frame of an answer: two windows to open, and what it measures by.
const EARNED: u32 = 4;
/// Error codes (RFC 9113, section 7).
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
/// GOAWAY with `ENHANCE_YOUR_CALM` on stream 0. The last stream is the highest there can be: none is promised to be
/// safe to be sent again.
pub(super) const GOAWAY: [u8; 17] =
    [0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];

/// So many in ten seconds.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    most: u32,
    /// When it was whole, or grew last.
    grew: Instant,
}

impl Budget {
    fn new(most: u32, now: Instant) -> Self {
        Self { left: most, most, grew: now }
    }

    /// Takes one. False where there is none.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.grew).as_millis();
        let grown = passed.saturating_mul(u128::from(self.most)) / REFILL.as_millis();
        if grown > 0 {
            self.earn(u32::try_from(grown).unwrap_or(u32::MAX));
            self.grew = now;
        }
        let has_one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_one
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.most);
    }
}

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Calm {
    read: Frames,
    written: Frames,
    resets: Budget,
    settings: Budget,
    control: Budget,
    /// Pieces of the present head that were not its last.
    open_pieces: u32,
    most_pieces: u32,
    /// The library ended the connection, and this was counted.
    is_gone: bool,
}

impl Calm {
    /// A connection whose preface was read already.
    pub(super) fn new(limits: &ListenerLimits, now: Instant) -> Self {
        let Http2Limits { max_resets, max_settings, max_control_frames, .. } = limits.http2;
        Self {
            read: Frames::default(),
            written: Frames::default(),
            resets: Budget::new(max_resets, now),
            settings: Budget::new(max_settings, now),
            control: Budget::new(max_control_frames, now),
            open_pieces: 0,
            // As many frames of the usual 16 KiB as the largest head has. The library allows a little more.
            most_pieces: u32::try_from(limits.max_head_bytes >> 14).unwrap_or(u32::MAX).max(4),
            is_gone: false,
        }
    }

    /// Takes what came from the client. An answer is the budget that is used up: the connection must end.
    pub(super) fn saw_read(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Option<LimitReached> {
        while let Some(frame) = self.read.next(&mut bytes) {
            let (budget, reason) = match frame.kind {
                kind::DATA => continue,
                kind::HEADERS | kind::CONTINUATION => {
                    if self.is_in_too_many_pieces(frame) {
                        return Some(LimitReached::Continuation);
                    }
                    continue;
                }
                kind::RST_STREAM => (&mut self.resets, LimitReached::Resets),
                kind::SETTINGS => (&mut self.settings, LimitReached::Settings),
                kind::PING => (&mut self.control, LimitReached::Ping),
                kind::WINDOW_UPDATE => (&mut self.control, LimitReached::WindowUpdate),
                _ => (&mut self.control, LimitReached::OtherFrames),
            };
            if !budget.take(now()) {
                return Some(reason);
            }
        }
        None
    }

    fn is_in_too_many_pieces(&mut self, frame: Frame) -> bool {
        if frame.flags & END_HEADERS != 0 {
            self.open_pieces = 0;
        } else if frame.kind == kind::CONTINUATION {
            self.open_pieces += 1;
        }
        self.open_pieces > self.most_pieces
    }

    /// Takes what went to the client. An answer is what the library did against it, or why the connection must end.
    pub(super) fn saw_written(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
        mut count: impl FnMut(LimitReached),
    ) -> Option<LimitReached> {
        let mut over = None;
        while let Some(frame) = self.written.next(&mut bytes) {
            match (frame.kind, frame.code) {
                (kind::DATA | kind::HEADERS | kind::PUSH_PROMISE, _) => self.control.earn(EARNED),
                (kind::RST_STREAM, code) => {
                    if code == REFUSED_STREAM {
                        count(LimitReached::Streams);
                    }
                    // Resets that the client brought about cost as much as its own.
                    if is_fault(code) && !self.resets.take(now()) {
                        over = Some(LimitReached::Resets);
                    }
                }
                (kind::GOAWAY, code) if code != 0 && !self.is_gone => {
                    self.is_gone = true;
                    count(if code == ENHANCE_YOUR_CALM {
                        LimitReached::Calm
                    } else {
                        LimitReached::Protocol
                    });
                }
                _ => {}
            }
        }
        over
    }

    /// Whether a frame of our own may be written here.
    pub(super) fn is_between_written(&self) -> bool {
        self.written.is_between()
    }
}

/// Codes that say that the client broke a rule: PROTOCOL, `FLOW_CONTROL`, `STREAM_CLOSED`, `FRAME_SIZE`, `REFUSED_STREAM`.
fn is_fault(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | REFUSED_STREAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9113, section 6.3.
    const PRIORITY: u8 = 2;

    fn limits() -> ListenerLimits {
        let mut problems = crate::types::Problems::new();
        let raw: crate::config::RawListener = toml::from_str(
            "address = \"127.0.0.1:0\"\nhttp2 = { max_resets = 10, max_settings = 3, max_control_frames = 20 }",
        )
        .unwrap();
        let path = crate::types::KeyPath::root();
        let name = "l".parse().unwrap();
        raw.parse(&name, &path, &[], |_, _, _| None, &mut problems).unwrap().limits
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    fn calm(now: Instant) -> Calm {
        Calm::new(&limits(), now)
    }

    /// How many of these frames are taken before the connection ends, and why it does.
    fn taken(frame: &[u8], now: Instant) -> (usize, Option<LimitReached>) {
        let mut calm = calm(now);
        for n in 0..100 {
            if let Some(reason) = calm.saw_read(frame, || now) {
                return (n, Some(reason));
            }
        }
        (100, None)
    }

    #[test]
    fn each_flood_ends_after_its_number() {
        let now = Instant::now();
        for (frame, number, reason) in [
            (frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]), 10, LimitReached::Resets),
            (frame(kind::SETTINGS, 0, &[]), 3, LimitReached::Settings),
            (frame(kind::PING, 0, &[0; 8]), 20, LimitReached::Ping),
            (frame(kind::PING, 1, &[0; 8]), 20, LimitReached::Ping),
            (frame(kind::WINDOW_UPDATE, 0, &[0, 0, 0, 1]), 20, LimitReached::WindowUpdate),
            (frame(PRIORITY, 0, &[0; 5]), 20, LimitReached::OtherFrames),
            (frame(0x42, 0, &[]), 20, LimitReached::OtherFrames),
            (frame(kind::CONTINUATION, 0, &[0]), 4, LimitReached::Continuation),
        ] {
            assert_eq!(taken(&frame, now), (number, Some(reason)));
        }
        assert_eq!(taken(&frame(kind::DATA, 0, &[0; 9]), now), (100, None));
        assert_eq!(taken(&frame(kind::HEADERS, 4, &[0; 9]), now), (100, None));
        assert_eq!(taken(&frame(kind::CONTINUATION, 4, &[0; 9]), now), (100, None));
    }

    #[test]
    fn budgets_grow_again_by_a_tenth_each_second() {
        let start = Instant::now();
        let mut calm = calm(start);
        let reset = frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]);
        for n in 0..10 {
            assert_eq!(calm.saw_read(&reset, || start), None, "{n}");
        }
        let later = start + Duration::from_secs(3);
        for n in 0..3 {
            assert_eq!(calm.saw_read(&reset, || later), None, "{n}");
        }
        assert_eq!(calm.saw_read(&reset, || later), Some(LimitReached::Resets));
        let much_later = later + Duration::from_hours(1);
        let mut left = 0;
        while calm.saw_read(&reset, || much_later).is_none() {
            left += 1;
        }
        assert_eq!(left, 10, "it never has more than the whole");
    }

    #[test]
    fn who_is_sent_much_may_answer_much() {
        let now = Instant::now();
        let mut calm = calm(now);
        let (data, update) =
            (frame(kind::DATA, 0, &[7; 50]), frame(kind::WINDOW_UPDATE, 0, &[1; 4]));
        for _ in 0..1_000 {
            assert_eq!(calm.saw_written(&data, || now, |_| panic!("counted")), None);
            for _ in 0..EARNED {
                assert_eq!(calm.saw_read(&update, || now), None);
            }
        }
    }

    #[test]
    fn what_the_library_does_is_counted_and_faults_are_taken_from_the_resets() {
        let now = Instant::now();
        let mut calm = calm(now);
        let mut counted = Vec::new();
        let refused = frame(kind::RST_STREAM, 0, &[0, 0, 0, 7]);
        let cancel = frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]);
        for n in 0..10 {
            assert_eq!(calm.saw_written(&cancel, || now, |_| {}), None);
            let over = calm.saw_written(&refused, || now, |reason| counted.push(reason));
            assert_eq!(over, None, "{n}");
        }
        assert_eq!(calm.saw_written(&refused, || now, |_| {}), Some(LimitReached::Resets));
        assert_eq!(counted, [LimitReached::Streams; 10]);
        counted.clear();
        for code in [0, 11, 11] {
            let goaway = frame(kind::GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, code]);
            calm.saw_written(&goaway, || now, |reason| counted.push(reason));
        }
        assert_eq!(counted, [LimitReached::Calm], "once, and not for an end in peace");
    }

    #[test]
    fn our_goaway_is_a_whole_frame() {
        let mut frames = Frames::default();
        let mut bytes = &GOAWAY[..];
        let frame = frames.next(&mut bytes).unwrap();
        assert_eq!((frame.kind, frame.code), (kind::GOAWAY, ENHANCE_YOUR_CALM));
        assert_eq!(frames.next(&mut bytes), None);
        assert!(frames.is_between());
    }
}
