//! Whether a run of failures at one endpoint is more than chance, beside how the tries at its siblings ended meanwhile.
//!
//! Two questions, because either alone is deceived: what happened since the run began is little, and what happened of late knows
//! nothing of a trouble that begins now and is everybody's.

use super::compare::Tally;

/// The most that chance may have a part in a run where nothing failed elsewhere since it began: two good answers elsewhere
/// to each of three failures are enough.
const WHILE_OTHERS_ARE_WELL: f64 = 0.03;

/// And where something did fail there.
const WHILE_OTHERS_FAIL: f64 = 0.000_1;

/// At the siblings' share of failures of late. Runs are many, so this is less.
const OF_LATE: f64 = 0.000_01;

/// More failures in a row decide no better.
const LONGEST: u32 = 256;

/// Whether `run` failures in a row are chance: `since` are the siblings' tries since the run began, `lately` those of some seconds.
pub(super) fn is_chance(run: u32, since: Tally, lately: Tally) -> bool {
    let run = run.min(LONGEST);
    let most = if since.failures == 0 { WHILE_OTHERS_ARE_WELL } else { WHILE_OTHERS_FAIL };
    all_failures_here(run, since) > most || is_usual(run, lately)
}

/// Whether a run of failures is nothing special at this share of failures.
pub(super) fn is_usual(run: u32, lately: Tally) -> bool {
    lately.rate().powf(run.min(LONGEST).into()) > OF_LATE
}

/// The probability that, of all these tries with their failures, every one of the run's is a failure: Fisher's exact test,
/// one-sided, for a table with nothing good in one row.
fn all_failures_here(run: u32, others: Tally) -> f64 {
    let (failures, requests) = (others.failures as f64, others.requests as f64);
    (1..=run).map(f64::from).map(|nth| (failures + nth) / (requests + nth)).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(requests: u64, failures: u64) -> Tally {
        Tally { requests, failures }
    }

    #[test]
    fn a_run_speaks_against_an_endpoint_only_beside_others_that_do_better() {
        let quiet = of(0, 0);
        for (run, since, lately, expected) in [
            (3, of(0, 0), quiet, true),         // nobody else was asked
            (3, of(3, 0), quiet, true),         // nobody else enough
            (3, of(4, 0), quiet, false),        // 1 in 35
            (3, of(400, 0), of(900, 0), false), //
            (3, of(4, 0), of(100, 2), false),   // one in a hundred thousand
            (3, of(4, 0), of(100, 3), true),    //
            (3, of(6, 1), quiet, true),         // they fail as well
            (3, of(50, 1), of(50, 1), true),    // 1 in 5,857
            (3, of(90, 1), of(90, 1), false),
            (4, of(12, 1), quiet, true), //
            (5, of(16, 1), quiet, true),
            (5, of(21, 1), quiet, false),  // 1 in 10,963
            (10, of(30, 15), quiet, true), // half of theirs fail: 1 in 360
            (14, of(40, 20), quiet, true),
            (16, of(48, 20), quiet, false),
            (15, of(60, 20), of(500, 250), true), // 1 in 32,768: not so rare among all runs
            (20, of(50, 20), of(500, 250), false),
            (500, of(500, 500), of(500, 500), true), // all of theirs
        ] {
            assert_eq!(is_chance(run, since, lately), expected, "{run} {since:?} {lately:?}");
        }
    }
}
