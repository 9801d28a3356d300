//! `${NAME}` in texts: replaced from the environment on the tree, before it is decoded.
//!
//! Invariant: a value from the environment never shows up in a message; [`Redactor`] puts its `${NAME}` back.

use super::tree::{Node, Value};
use crate::types::KeyPath;

/// Shorter values are put back only where they are the whole text: they stand in too many words.
const SHORTEST_SECRET: usize = 4;

/// Where values of variables come from.
#[derive(Clone, Copy)]
pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

/// A text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// The text.
    pub(super) text: String,
    /// The variables that it took, with their values.
    pub(super) taken: Vec<(String, String)>,
}

/// Why a text can't be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpandError {
    /// There is no such variable.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// `${` without its end, or around something that is no name.
    #[error("`${{` starts a variable, and no name and `}}` follow")]
    Syntax,
}

impl ExpandError {
    /// What would be right.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Unset(_) => None,
            Self::Syntax => Some("write `$${` for the characters themselves".to_owned()),
        }
    }
}

/// The values of the environment's variables as they are now.
pub(super) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Environment<'_> {
    /// Replaces `${NAME}`; `None` where there is nothing to replace. `$${` stands for `${`.
    pub(super) fn expand(self, text: &str) -> Result<Option<Expanded>, ExpandError> {
        if !text.contains("${") {
            return Ok(None);
        }
        let mut expanded = Expanded { text: String::with_capacity(text.len()), taken: Vec::new() };
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            let after = after.strip_prefix("${").unwrap_or(after);
            if let Some(before) = before.strip_suffix('$') {
                expanded.text.push_str(before);
                expanded.text.push_str("${");
                rest = after;
                continue;
            }
            expanded.text.push_str(before);
            let (name, after) = after.split_once('}').ok_or(ExpandError::Syntax)?;
            if !is_variable(name) {
                return Err(ExpandError::Syntax);
            }
            let value = (self.0)(name).ok_or_else(|| ExpandError::Unset(name.to_owned()))?;
            expanded.text.push_str(&value);
            expanded.taken.push((name.to_owned(), value));
            rest = after;
        }
        expanded.text.push_str(rest);
        Ok(Some(expanded))
    }

    /// Replaces the variables in every text of the tree. Texts that can't be are reported by `report` and removed.
    pub(super) fn expand_all(
        self,
        tree: &mut Node,
        mut report: impl FnMut(&KeyPath, ExpandError),
    ) -> Redactor {
        let mut redactor = Redactor::default();
        tree.for_each_text(&mut |path, node| {
            let Value::Text(text) = &mut node.value else { return };
            match self.expand(text) {
                Ok(None) => {}
                Ok(Some(expanded)) => {
                    redactor.learn(expanded.taken);
                    node.written = Some(std::mem::replace(text, expanded.text));
                }
                Err(error) => report(path, error),
            }
        });
        redactor.sort();
        redactor
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Puts `${NAME}` back where a message holds the variable's value.
#[derive(Clone, Debug, Default)]
pub(super) struct Redactor {
    values: Vec<(String, String)>,
}

impl Redactor {
    fn learn(&mut self, taken: Vec<(String, String)>) {
        for (name, value) in taken {
            let shown = format!("${{{name}}}");
            for form in [value.to_ascii_lowercase(), value.escape_debug().to_string(), value] {
                let pair = (form, shown.clone());
                if pair.0.len() >= SHORTEST_SECRET && !self.values.contains(&pair) {
                    self.values.push(pair);
                }
            }
        }
    }

    /// Longest first, so that a value inside another leaves no rest of it.
    fn sort(&mut self) {
        self.values.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
    }

    /// `text`, which is about `node`, without values of the environment.
    pub(super) fn redact(&self, text: &str, node: Option<&Node>) -> String {
        let mut text = text.to_owned();
        if let Some(Node { value: Value::Text(expanded), written: Some(written), .. }) = node
            && !expanded.is_empty()
        {
            text = text.replace(&format!("\"{expanded}\""), &format!("\"{written}\""));
        }
        for (value, shown) in &self.values {
            if text.contains(value) {
                text = text.replace(value, shown);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".to_owned()),
            "TOKEN" => Some("Hunter2!".to_owned()),
            "N" => Some("7".to_owned()),
            _ => None,
        }
    }

    fn expand(text: &str) -> Result<Option<String>, ExpandError> {
        Environment(&lookup).expand(text).map(|e| e.map(|e| e.text))
    }

    #[test]
    fn variables_are_replaced() {
        assert_eq!(expand("plain $5 {x}"), Ok(None));
        assert_eq!(expand("[::]:${PORT}"), Ok(Some("[::]:8080".to_owned())));
        assert_eq!(expand("${PORT}${N}"), Ok(Some("80807".to_owned())));
        assert_eq!(expand("$${PORT} $$"), Ok(Some("${PORT} $$".to_owned())));
        assert_eq!(expand("${NOPE}"), Err(ExpandError::Unset("NOPE".to_owned())));
        for odd in ["${", "${}", "${A B}", "${1}"] {
            assert_eq!(expand(odd), Err(ExpandError::Syntax), "{odd}");
        }
    }

    #[test]
    fn values_do_not_show_up() {
        let mut node =
            Node { value: Value::Text("${TOKEN}${N}".to_owned()), place: None, written: None };
        let redactor = Environment(&lookup).expand_all(&mut node, |_, error| panic!("{error}"));
        assert_eq!(node.value, Value::Text("Hunter2!7".to_owned()));
        for message in ["\"Hunter2!7\" is bad", "a hunter2! b", "has Hunter2!"] {
            let shown = redactor.redact(message, Some(&node));
            assert!(!shown.to_ascii_lowercase().contains("hunter2"), "{shown}");
        }
        assert_eq!(redactor.redact("\"Hunter2!7\" is", Some(&node)), "\"${TOKEN}${N}\" is");
    }
}
