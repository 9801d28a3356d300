//! What the latest results of all checks mean together. Pure.

use super::{OnError, Outcome};
use crate::types::Name;

/// What all checks together say of the candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All pass (or there are none, or those that have no answer are to be ignored).
    Good,
    /// One has no result yet, or fails and not often enough to count: the next results decide.
    Waiting,
    /// One fails.
    Bad {
        /// Which.
        name: Name,
        /// What it found.
        text: String,
    },
    /// One has no answer: no step is taken until it has.
    Hold {
        /// Which.
        name: Name,
        /// Why it has none.
        text: String,
    },
}

/// The results of one check so far.
#[derive(Clone, Debug)]
pub(super) struct Results {
    name: Name,
    on_error: OnError,
    /// So many failing ones in a row make it fail.
    failures: u32,
    last: Option<Outcome>,
    in_a_row: u32,
    /// What the last failing one found.
    failure: String,
}

impl Results {
    /// Of a check that has not run yet.
    pub(super) fn none(name: Name, on_error: OnError, failures: u32) -> Self {
        Self { name, on_error, failures, last: None, in_a_row: 0, failure: String::new() }
    }

    /// Adds the result of a run.
    pub(super) fn add(&mut self, outcome: Outcome) {
        match &outcome {
            Outcome::Passes => self.in_a_row = 0,
            Outcome::Fails { text } => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.failure.clone_from(text);
            }
            // It says nothing for the candidate, and nothing against it.
            Outcome::NoAnswer { .. } => {}
        }
        self.last = Some(outcome);
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn last(&self) -> Option<&Outcome> {
        self.last.as_ref()
    }

    /// What this check alone says.
    fn standing(&self) -> Standing {
        if self.in_a_row >= self.failures {
            return Standing::Bad { name: self.name.clone(), text: self.failure.clone() };
        }
        match (&self.last, self.on_error) {
            (Some(Outcome::NoAnswer { text }), OnError::Hold) => {
                Standing::Hold { name: self.name.clone(), text: text.clone() }
            }
            (None | Some(Outcome::Fails { .. }), _) => Standing::Waiting,
            (Some(Outcome::Passes | Outcome::NoAnswer { .. }), _) => Standing::Good,
        }
    }
}

/// What all of them say: the worst that one says, and of equals the first.
pub(super) fn standing<'a>(checks: impl IntoIterator<Item = &'a Results>) -> Standing {
    let rank = |standing: &Standing| match standing {
        Standing::Bad { .. } => 0,
        Standing::Hold { .. } => 1,
        Standing::Waiting => 2,
        Standing::Good => 3,
    };
    checks.into_iter().map(Results::standing).min_by_key(rank).unwrap_or(Standing::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(name: &str, on_error: OnError, failures: u32, outcomes: &str) -> Results {
        let mut results = Results::none(name.parse().unwrap(), on_error, failures);
        for (at, letter) in outcomes.chars().enumerate() {
            results.add(match letter {
                '+' => Outcome::Passes,
                '-' => Outcome::fails(format!("failed {at}")),
                _ => Outcome::no_answer(format!("silent {at}")),
            });
        }
        results
    }

    fn bad(name: &str, text: &str) -> Standing {
        Standing::Bad { name: name.parse().unwrap(), text: text.to_owned() }
    }

    fn hold(name: &str, text: &str) -> Standing {
        Standing::Hold { name: name.parse().unwrap(), text: text.to_owned() }
    }

    #[test]
    fn one_check_is_judged_by_its_last_results() {
        for (on_error, failures, outcomes, wanted) in [
            (OnError::Hold, 1, "", Standing::Waiting),
            (OnError::Hold, 1, "+", Standing::Good),
            (OnError::Hold, 1, "-", bad("a", "failed 0")),
            (OnError::Hold, 1, "-+", Standing::Good),
            (OnError::Hold, 1, "+?", hold("a", "silent 1")),
            (OnError::Hold, 1, "?", hold("a", "silent 0")),
            (OnError::Hold, 1, "-?", bad("a", "failed 0")),
            (OnError::Ignore, 1, "?", Standing::Good),
            (OnError::Ignore, 1, "-?", bad("a", "failed 0")),
            (OnError::Ignore, 1, "", Standing::Waiting),
            (OnError::Hold, 3, "--", Standing::Waiting),
            (OnError::Hold, 3, "---", bad("a", "failed 2")),
            (OnError::Hold, 3, "--+-", Standing::Waiting),
            (OnError::Hold, 3, "--?-", bad("a", "failed 3")),
            (OnError::Hold, 3, "--?", hold("a", "silent 2")),
        ] {
            let results = results("a", on_error, failures, outcomes);
            assert_eq!(standing([&results]), wanted, "{outcomes} with {failures}");
        }
    }

    #[test]
    fn of_several_the_worst_counts_and_of_none_nothing_is_bad() {
        assert_eq!(standing([]), Standing::Good);
        let of = |name, outcomes| results(name, OnError::Hold, 1, outcomes);
        let (good, new, silent, failing, other) =
            (of("a", "+"), of("b", ""), of("c", "?"), of("d", "-"), of("e", "-"));
        assert_eq!(standing([&good, &good]), Standing::Good);
        assert_eq!(standing([&good, &new]), Standing::Waiting);
        assert_eq!(standing([&new, &silent, &good]), hold("c", "silent 0"));
        assert_eq!(standing([&silent, &failing, &other, &new]), bad("d", "failed 0"));
    }
}
