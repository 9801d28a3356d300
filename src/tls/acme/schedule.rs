//! When a certificate is ordered: pure, with the wall clock's `now` as an argument, in seconds since 1970.
//!
//! The authority's suggestion (ARI, RFC 9773) goes first, else a third of the lifetime is left. Certificates of one day
//! are spread over a twentieth of their lifetime. After a failure the next try comes after a minute, then after twice
//! as long each time, up to six hours, so that a certificate of six days still gets some tries a day.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// The longest pause after failures.
const LONGEST_PAUSE: i64 = 6 * HOUR;
/// Part of the lifetime over which renewals are spread.
const SPREAD: i64 = 20;

/// The time that an authority suggests for a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// Its start.
    pub start: i64,
    /// Its end.
    pub end: i64,
}

/// When to renew a certificate with this lifetime. `share` (0 to 1) is where in the spread or the window this one is.
pub(super) fn renew_at(not_before: i64, not_after: i64, window: Option<Window>, share: f64) -> i64 {
    let lifetime = not_after.saturating_sub(not_before).max(0);
    if let Some(Window { start, end }) = window {
        let suggested = start.saturating_add(part(end.saturating_sub(start).max(0), share));
        // Whatever the authority says, not when it is nearly over.
        return suggested.min(not_after.saturating_sub(lifetime / SPREAD));
    }
    let latest = not_after.saturating_sub(lifetime / 3);
    latest.saturating_sub(part(lifetime / SPREAD, share))
}

/// How long to wait after so many failures in a row, the last of which has just been.
pub(super) fn pause(failures: u32, share: f64) -> i64 {
    let doubled = MINUTE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    // Not all sites at the same second, after an authority was down.
    doubled.saturating_add(part(doubled / 4, share))
}

fn part(seconds: i64, share: f64) -> i64 {
    (seconds as f64 * share.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * HOUR;

    #[test]
    fn a_third_of_the_lifetime_is_left_or_a_little_more() {
        assert_eq!(renew_at(0, 90 * DAY, None, 0.0), 60 * DAY);
        assert_eq!(renew_at(0, 90 * DAY, None, 1.0), 60 * DAY - 90 * DAY / 20);
        assert_eq!(renew_at(0, 6 * DAY, None, 0.0), 4 * DAY);
        assert_eq!(renew_at(10, 10, None, 0.5), 10);
        assert_eq!(renew_at(10, 5, None, 0.5), 5, "nonsense does not overflow");
        assert_eq!(renew_at(i64::MIN, i64::MAX, None, 0.0), i64::MAX - i64::MAX / 3);
    }

    #[test]
    fn the_suggested_window_goes_first() {
        let window = Some(Window { start: 100, end: 200 });
        assert_eq!(renew_at(0, 90 * DAY, window, 0.0), 100);
        assert_eq!(renew_at(0, 90 * DAY, window, 0.5), 150);
        let odd = Some(Window { start: 100, end: 50 });
        assert_eq!(renew_at(0, 90 * DAY, odd, 0.5), 100);
        let late = Some(Window { start: 200 * DAY, end: 201 * DAY });
        assert_eq!(renew_at(0, 100 * DAY, late, 0.5), 95 * DAY);
    }

    #[test]
    fn pauses_double_up_to_six_hours() {
        let pauses: Vec<i64> = (1..=11).map(|failures| pause(failures, 0.0) / MINUTE).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE + LONGEST_PAUSE / 4);
        assert_eq!(pause(0, 0.0), MINUTE);
    }
}
