//! Fragments: the main file and all that it includes, read and parsed as TOML, each error kept.
//!
//! A file that can't be read or is no TOML does not stop the others from being looked at.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    diagnostics::Finding,
    environment::Environment,
    source::{Bundle, Files, Place, Source, pattern_of},
    tree::{Node, Value},
};
use crate::types::KeyPath;

/// Includes within includes.
const MAX_DEPTH: usize = 8;
/// Files of one configuration.
const MAX_FILES: usize = 4_096;
/// Syntax errors reported of one file.
const MAX_SYNTAX_ERRORS: usize = 32;
/// What the TOML parser says of a key that stands twice in one table.
const DUPLICATE_KEY: &str = "duplicate key";

/// Everything that was read for one configuration.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// The files, the main one first.
    pub(super) sources: Vec<Source>,
    /// The tree of each source, without its `include`.
    pub(super) trees: Vec<Node>,
    /// What each include pattern found.
    pub(super) includes: BTreeMap<String, Vec<PathBuf>>,
    /// What is wrong.
    pub(super) findings: Vec<Finding>,
    /// What is wrong unless `allow_empty` is set.
    pub(super) empty: Vec<Finding>,
    /// Sources that are no TOML: what they hold is not all of it.
    pub(super) broken: HashSet<usize>,
}

impl Fragments {
    /// Reads `path` and what it includes.
    pub(super) fn gather(path: &Path, files: Files<'_>, environment: Environment<'_>) -> Self {
        let mut reader = Reader { files, environment, seen: HashSet::new(), out: Self::default() };
        reader.read(path, &KeyPath::root(), None, &mut Vec::new());
        reader.out
    }

    /// The texts, to be kept.
    pub(super) fn to_bundle(&self) -> Bundle {
        Bundle { files: self.sources.clone(), includes: self.includes.clone() }
    }

    /// Whether a file could not be read or parsed, so that names may be missing.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.broken.is_empty() || !self.findings.is_empty()
    }
}

struct Reader<'a> {
    files: Files<'a>,
    environment: Environment<'a>,
    seen: HashSet<PathBuf>,
    out: Fragments,
}

impl Reader<'_> {
    /// Reads one file. `include` at `named_at` led here; `above` are the files it came through.
    fn read(
        &mut self,
        path: &Path,
        include: &KeyPath,
        named_at: Option<Place>,
        above: &mut Vec<PathBuf>,
    ) {
        let identity = self.files.identity(path);
        if above.contains(&identity) {
            let message = format!("{} is included by itself", path.display());
            let help = "put what is included in a folder of its own, such as \"sites/*.toml\"";
            self.out.findings.push(Finding::error(include, message).at(named_at).help(help));
            return;
        }
        if !self.seen.insert(identity.clone()) {
            return;
        }
        if above.len() >= MAX_DEPTH || self.out.sources.len() >= MAX_FILES {
            let message = format!(
                "too many includes: at most {MAX_DEPTH} within each other, {MAX_FILES} files in all"
            );
            self.out.findings.push(Finding::error(include, message).at(named_at));
            return;
        }
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(error) => {
                let reason = reason(&error);
                let finding = match named_at {
                    Some(_) => Finding::error(include, format!("{}: {reason}", path.display()))
                        .at(named_at),
                    None => Finding::error(&KeyPath::root(), reason).in_file(path),
                };
                self.out.findings.push(finding);
                return;
            }
        };
        let source = self.out.sources.len();
        // The text of an empty file may be still on its way: editors truncate before they write.
        if text.trim().is_empty() {
            let finding = Finding::error(&KeyPath::root(), "the file is empty").in_file(path);
            self.out
                .empty
                .push(finding.help("if that is meant, set `allow_empty = true` in the main file"));
        }
        let (document, errors) = DeTable::parse_recoverable(&text);
        let errors = if errors.is_empty() { Vec::new() } else { syntax_errors(&text) };
        if !errors.is_empty() {
            self.out.broken.insert(source);
        }
        self.out.findings.extend(errors.into_iter().map(|(message, span)| {
            let place = Place { source, start: span.start, end: span.end };
            Finding::error(&KeyPath::root(), message).at(Some(place))
        }));
        let mut tree = Node::from_document(document.get_ref(), source, &text);
        self.out.sources.push(Source { path: path.to_owned(), text });
        let includes = match &mut tree.value {
            Value::Table(table) => table.remove("include"),
            _ => None,
        };
        self.out.trees.push(tree);
        if let Some(includes) = includes {
            above.push(identity);
            self.follow(path, &includes.node, above);
            above.pop();
        }
    }

    fn follow(&mut self, from: &Path, includes: &Node, above: &mut Vec<PathBuf>) {
        let path = KeyPath::of(&["include"]);
        let Value::List(list) = &includes.value else {
            let finding = Finding::error(&path, "expected a list of files").at(includes.place);
            self.out.findings.push(finding.help("write `include = [\"sites/*.toml\"]`"));
            return;
        };
        for (i, item) in list.iter().enumerate() {
            let path = path.index(i);
            let Value::Text(text) = &item.value else {
                let finding = Finding::error(&path, "expected the name of a file, in quotes");
                self.out.findings.push(finding.at(item.place));
                continue;
            };
            let pattern = match self.environment.expand(text) {
                Ok(expanded) => {
                    pattern_of(from, expanded.as_ref().map_or(text.as_str(), |e| &e.text))
                }
                Err(error) => {
                    let finding = Finding::error(&path, error.to_string()).at(item.place);
                    self.out.findings.push(finding.help_from(error.help()));
                    continue;
                }
            };
            match self.files.matching(&pattern) {
                Ok(found) => {
                    if found.is_empty() {
                        let finding = Finding::error(&path, format!("no file matches \"{text}\""))
                            .at(item.place);
                        self.out.empty.push(finding.help(
                            "includes are relative to this file; if there may be none, set `allow_empty = true`",
                        ));
                    }
                    self.out.includes.insert(pattern, found.clone());
                    for file in found {
                        self.read(&file, &path, item.place, above);
                    }
                }
                Err(error) => {
                    self.out.findings.push(Finding::error(&path, error.to_string()).at(item.place));
                }
            }
        }
    }
}

/// The syntax errors: the first one of each section, since those after it mostly follow from it; and all repeated keys.
fn syntax_errors(text: &str) -> Vec<(String, Range<usize>)> {
    let mut found: Vec<(String, Range<usize>)> = Vec::new();
    let mut start = 0;
    while let Some(rest) = text.get(start..) {
        let (_, errors) = DeTable::parse_recoverable(rest);
        let mut errors = errors.iter().map(|error| {
            let span = error.span().unwrap_or(rest.len()..rest.len());
            (error.message().to_owned(), start + span.start..start + span.end)
        });
        let other = if start == 0 {
            let (repeated, others): (Vec<_>, Vec<_>) =
                errors.partition(|(message, _)| message == DUPLICATE_KEY);
            found.extend(repeated);
            others.into_iter().next()
        } else {
            errors.find(|(message, _)| message != DUPLICATE_KEY)
        };
        let Some((message, span)) = other else { break };
        let next = next_header(text, span.start);
        found.push((message, span));
        match next {
            Some(next) if found.len() < MAX_SYNTAX_ERRORS => start = next,
            _ => break,
        }
    }
    found
}

/// The start of the first line after `from` that looks like `[section]`.
fn next_header(text: &str, from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.match_indices('\n').map(|(at, _)| from + at + 1).find(|line| {
        let name = text.get(*line..).and_then(|line| line.strip_prefix('['));
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '['))
    })
}

/// An I/O error as people say it.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "this is a folder, not a file".to_owned(),
        io::ErrorKind::FileTooLarge => "the file is too large, at most 16MiB".to_owned(),
        io::ErrorKind::InvalidData => format!("the file is not UTF-8: {error}"),
        _ => error.to_string(),
    }
}
