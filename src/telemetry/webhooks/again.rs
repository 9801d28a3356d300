//! Whether a webhook is told an event again, and when. Pure.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

/// The pause after the first failed try; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause, also of those that an answer asks for.
const LONGEST: Duration = Duration::from_mins(5);
/// An event that is older is told no more.
pub(super) const GIVE_UP: Duration = Duration::from_hours(1);

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// The event is told.
    Taken,
    /// It will never be taken: asking again would get the same answer.
    Refused,
    /// Perhaps later; not before this, where the answer says so.
    Later(Option<Duration>),
}

/// Reads an answer's head.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Answered {
    match status.as_u16() {
        200..=299 => Answered::Taken,
        // A redirect is not followed: the webhook is somewhere else than the configuration says.
        408 | 425 | 429 | 500.. => Answered::Later(retry_after(headers, now)),
        _ => Answered::Refused,
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3), within bounds.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wanted = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wanted.clamp(FIRST, LONGEST))
}

/// How long to wait after so many failed tries in a row: between the half and all of a time that doubles, so that
/// webhooks of many edges do not come back together. `random` is from 0 to 1.
pub(super) fn pause(failures: u32, asked_for: Option<Duration>, random: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let pause = doubled.mul_f64(random.mul_add(0.5, 0.5));
    asked_for.map_or(pause, |asked_for| asked_for.max(pause))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn judged(status: u16, after: Option<&str>) -> Answered {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, after.parse().unwrap());
        }
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        judge(StatusCode::from_u16(status).unwrap(), &headers, now)
    }

    #[test]
    fn statuses_say_whether_another_try_makes_sense() {
        for status in [200, 202, 204] {
            assert_eq!(judged(status, None), Answered::Taken, "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 410, 422] {
            assert_eq!(judged(status, Some("7")), Answered::Refused, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 599] {
            assert_eq!(judged(status, None), Answered::Later(None), "{status}");
        }
    }

    #[test]
    fn what_an_answer_asks_for_is_respected_within_bounds() {
        let after = |text| judged(503, Some(text));
        let seconds = |n| Answered::Later(Some(Duration::from_secs(n)));
        assert_eq!(after("7"), seconds(7));
        assert_eq!(after("0"), seconds(1));
        assert_eq!(after("86400"), seconds(300));
        assert_eq!(after("Thu, 01 Jan 1970 00:17:00 GMT"), seconds(20));
        assert_eq!(after("Thu, 01 Jan 1970 00:00:00 GMT"), seconds(1));
        assert_eq!(after("soon"), Answered::Later(None));
    }

    #[test]
    fn pauses_double_with_jitter_up_to_five_minutes() {
        for (failures, least, most) in
            [(1, 500, 1_000), (2, 1_000, 2_000), (5, 8_000, 16_000), (10, 150_000, 300_000)]
        {
            assert_eq!(pause(failures, None, 0.0), Duration::from_millis(least));
            assert_eq!(pause(failures, None, 1.0), Duration::from_millis(most));
        }
        assert_eq!(pause(u32::MAX, None, 1.0), LONGEST);
        assert_eq!(pause(1, Some(Duration::from_secs(9)), 1.0), Duration::from_secs(9));
        assert_eq!(pause(10, Some(Duration::from_secs(9)), 0.0), Duration::from_secs(150));
    }
}
