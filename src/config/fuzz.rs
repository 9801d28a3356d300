//! A door for `tests/fuzz`: a configuration from a text alone. No file and no variable is read. Not for other use.

use std::path::PathBuf;

use super::{
    Loaded, Report,
    environment::Environment,
    load::load_from,
    source::{Bundle, Files, Source},
};

/// Loads a text that includes nothing.
///
/// # Errors
/// A report with at least one error.
pub fn load_text(text: &str) -> Result<Loaded, Report> {
    let main = PathBuf::from("main.toml");
    let source = Source { path: main.clone(), text: text.into() };
    let bundle = Bundle { files: vec![source], includes: std::collections::BTreeMap::new() };
    load_from(&main, Files::Bundle(&bundle), Environment(&|_| None))
}
