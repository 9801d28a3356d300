//! A fixed threshold over one-minute windows, as controllers of rollouts outside the path of the traffic use it: bad when
//! more than 1 % of the candidate's requests of a window failed, in one window.

use tidegate::rollout::analysis::Sides;

/// Batches of 50 ms in a window.
const WINDOW: u64 = 1_200;
const THRESHOLD: f64 = 0.01;

/// Watches the candidate.
#[derive(Debug, Default)]
pub(crate) struct FixedThreshold {
    batches: u64,
    /// Requests and failures at the window's beginning.
    before: (u64, u64),
    is_bad: bool,
}

impl FixedThreshold {
    /// Begins somewhere in a window.
    pub(crate) fn within_a_window(batches: u64) -> Self {
        Self { batches: batches % WINDOW, ..Self::default() }
    }

    /// One batch later.
    pub(crate) fn look(&mut self, totals: Sides) {
        self.batches += 1;
        if self.batches.is_multiple_of(WINDOW) {
            let now = (totals.candidate.requests(), totals.candidate.failures);
            let (requests, failures) = (now.0 - self.before.0, now.1 - self.before.1);
            self.is_bad |= failures as f64 > THRESHOLD * requests as f64;
            self.before = now;
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.is_bad
    }
}
