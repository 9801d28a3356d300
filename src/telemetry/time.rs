//! Points in time as logs and the status write them.

use std::{io::Write, time::SystemTime};

use jiff::{Timestamp, tz::TimeZone};

/// RFC 3339, UTC, with milliseconds: `2026-11-21T07:42:16.123Z`.
pub fn rfc3339(time: SystemTime) -> String {
    format!("{:.3}", timestamp(time))
}

/// Writes [`rfc3339`] without a string of its own.
pub(super) fn write_rfc3339(line: &mut Vec<u8>, time: SystemTime) {
    let _ = write!(line, "{:.3}", timestamp(time));
}

/// Writes the time as Apache's logs have it: `21/Nov/2026:07:42:16 +0000`.
pub(super) fn write_common_log(line: &mut Vec<u8>, time: SystemTime) {
    let zoned = timestamp(time).to_zoned(TimeZone::UTC);
    let _ = write!(line, "{}", zoned.strftime("%d/%b/%Y:%H:%M:%S +0000"));
}

/// A clock that is off by more than nine thousand years is shown as 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        // `date -u -d @1795246936`
        let time = UNIX_EPOCH + Duration::from_micros(1_795_246_936_123_999);
        assert_eq!(rfc3339(time), "2026-11-21T07:42:16.123Z");
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        let mut line = Vec::new();
        write_common_log(&mut line, time);
        assert_eq!(line, b"21/Nov/2026:07:42:16 +0000");
    }
}
