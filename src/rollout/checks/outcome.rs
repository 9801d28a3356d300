//! What one run of a check came to.

/// What one run of a check came to. Texts are for people and have no secret in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passes,
    /// Not as it should be.
    Fails {
        /// What was found, and what was wanted.
        text: String,
    },
    /// Nothing is known: there was no answer, or none that can be read.
    NoAnswer {
        /// Why.
        text: String,
    },
}

impl Outcome {
    pub(super) fn fails(text: impl Into<String>) -> Self {
        Self::Fails { text: text.into() }
    }

    pub(super) fn no_answer(text: impl Into<String>) -> Self {
        Self::NoAnswer { text: text.into() }
    }
}

/// The beginning of what another system said, on one line.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 200;
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_cut_and_stays_on_one_line() {
        assert_eq!(excerpt("a\nb\u{1b}[1m"), "a b [1m");
        assert_eq!(excerpt(&"é".repeat(300)), "é".repeat(200));
    }
}
