//! Whether the wall clock can be believed when certificates are ordered.
//!
//! A clock that stands before this program was written would make every certificate look far from its end; one that
//! jumps would make all of them due at once, or none. Pure but for the two readings it is given.

use std::time::{Duration, Instant, SystemTime};

/// This program was written after this: 2026-11-01, in seconds since 1970.
const WRITTEN: u64 = 1_793_491_200;
/// Jumps that are told and waited for; smaller ones are corrections.
const JUMP: Duration = Duration::from_hours(1);
/// So long the clock has to run evenly again.
const CALM: Duration = Duration::from_hours(1);

/// Watches the wall clock beside the monotonic one.
#[derive(Debug)]
pub(super) struct Clock {
    last: (Instant, SystemTime),
    jumped: Option<Instant>,
}

/// Why nothing is ordered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// It is before this program was written.
    #[error("the system's clock is wrong: it stands before this program was written")]
    Early,
    /// It jumped within the last hour.
    #[error(
        "the system's clock jumped by more than an hour; orders wait until it has run evenly for one"
    )]
    Jumped,
}

impl Clock {
    pub(super) fn new(monotonic: Instant, wall: SystemTime) -> Self {
        Self { last: (monotonic, wall), jumped: None }
    }

    /// Looks at both clocks, which must be read together. Says whether it has just jumped, and whether it can be believed.
    pub(super) fn look(
        &mut self,
        monotonic: Instant,
        wall: SystemTime,
    ) -> (bool, Result<(), ClockError>) {
        let (last_monotonic, last_wall) = std::mem::replace(&mut self.last, (monotonic, wall));
        let passed = monotonic.saturating_duration_since(last_monotonic);
        let expected = last_wall.checked_add(passed).unwrap_or(last_wall);
        let off = wall.duration_since(expected).unwrap_or_else(|error| error.duration());
        let has_jumped = off > JUMP;
        if has_jumped {
            self.jumped = Some(monotonic);
        } else if self.jumped.is_some_and(|at| monotonic.saturating_duration_since(at) >= CALM) {
            self.jumped = None;
        }
        let verdict = if wall < SystemTime::UNIX_EPOCH + Duration::from_secs(WRITTEN) {
            Err(ClockError::Early)
        } else if self.jumped.is_some() {
            Err(ClockError::Jumped)
        } else {
            Ok(())
        };
        (has_jumped, verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_clock_that_jumps_is_not_believed_for_an_hour() {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(WRITTEN));
        let mut clock = Clock::new(start, wall);
        assert_eq!(clock.look(start + MINUTE, wall + MINUTE), (false, Ok(())));
        // A correction.
        assert_eq!(clock.look(start + MINUTE * 2, wall + MINUTE * 50), (false, Ok(())));
        let jumped = wall + MINUTE * 50 + CALM * 3;
        assert_eq!(clock.look(start + MINUTE * 3, jumped), (true, Err(ClockError::Jumped)));
        assert_eq!(
            clock.look(start + MINUTE * 4, jumped + MINUTE),
            (false, Err(ClockError::Jumped))
        );
        let (start, wall) = (start + MINUTE * 3 + CALM, jumped + CALM);
        assert_eq!(clock.look(start, wall), (false, Ok(())));
        assert_eq!(
            clock.look(start + MINUTE, wall - CALM * 3),
            (true, Err(ClockError::Jumped)),
            "back"
        );
    }

    #[test]
    fn a_clock_before_the_program_is_not_believed() {
        let start = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_mins(1);
        let mut clock = Clock::new(start, wall);
        assert_eq!(clock.look(start, wall), (false, Err(ClockError::Early)));
    }
}
