//! What is wrong with a configuration, by the path of the key. `config` adds file, line and column.

use serde::Serialize;

use super::key_path::KeyPath;

/// Whether a problem stops the configuration from being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, and probably not what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the configuration.
    pub severity: Severity,
    /// The key that it is about.
    pub path: KeyPath,
    /// Point at the key itself instead of at its value.
    pub at_key: bool,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Another place that belongs to it, with a word on why.
    pub related: Option<(KeyPath, String)>,
}

impl Problem {
    /// Says what would be right.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Points at the key instead of its value.
    pub fn at_key(&mut self) -> &mut Self {
        self.at_key = true;
        self
    }

    /// Names another place that belongs to it.
    pub fn related(&mut self, path: KeyPath, label: impl Into<String>) -> &mut Self {
        self.related = Some((path, label.into()));
        self
    }
}

/// Everything that is wrong, in the order in which it was found.
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error.
    pub fn error(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, path, message.into())
    }

    /// Adds a warning.
    pub fn warning(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, path, message.into())
    }

    fn add(&mut self, severity: Severity, path: &KeyPath, message: String) -> &mut Problem {
        self.0.push(Problem {
            severity,
            path: path.clone(),
            at_key: false,
            message,
            help: None,
            related: None,
        });
        let last = self.0.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "the element was pushed above")]
        &mut self.0[last]
    }

    /// Adds one that was made elsewhere.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether at least one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends those of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The candidate that `wrong` most likely stood for, if one is near enough.
pub fn did_you_mean<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = match wrong.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(wrong, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        assert_eq!(did_you_mean("shpo", ["shop", "web"]), Some("shop"));
        assert_eq!(did_you_mean("upstrem", ["upstream", "endpoints"]), Some("upstream"));
        assert_eq!(did_you_mean("zebra", ["shop", "web"]), None);
        assert_eq!(did_you_mean("a", ["b"]), None);
    }
}
