//! What is wrong, with file, line, column and the line itself: for people, and as JSON.
//!
//! Invariant: paths are shown as the user gave them; values from the environment were put back to `${NAME}` before.

use std::{
    fmt::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::source::{Place, Source};
use crate::types::{KeyPath, Problem, SECRET_IN_PLACE, Severity};

/// A problem with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) path: KeyPath,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Where it is; `None` where it is about something that is not there.
    pub(super) place: Option<Place>,
    /// A file that it is about, where there is no place.
    pub(super) file: Option<PathBuf>,
    pub(super) related: Option<(Place, String)>,
}

impl Finding {
    pub(super) fn error(path: &KeyPath, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.clone(),
            message: message.into(),
            help: None,
            place: None,
            file: None,
            related: None,
        }
    }

    pub(super) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    pub(super) fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn help_from(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    pub(super) fn related(mut self, place: Option<Place>, label: &str) -> Self {
        self.related = place.map(|place| (place, label.to_owned()));
        self
    }

    /// A problem whose places are found by `locate`, its texts passed through `redact`.
    pub(super) fn locate(
        problem: Problem,
        locate: impl Fn(&KeyPath, bool) -> Option<Place>,
        redact: impl Fn(&str) -> String,
    ) -> Self {
        Self {
            severity: problem.severity,
            place: locate(&problem.path, problem.at_key),
            file: None,
            message: redact(&problem.message),
            help: problem.help.as_deref().map(&redact),
            related: problem
                .related
                .and_then(|(path, label)| Some((locate(&path, problem.at_key)?, redact(&label)))),
            path: problem.path,
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the files.
#[derive(Clone)]
pub struct Report {
    findings: Vec<Finding>,
    sources: Arc<[Source]>,
    /// The main file: what has no place is about it.
    main: PathBuf,
}

/// One entry of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it stops the configuration.
    pub severity: Severity,
    /// The file, as the user gave it.
    pub file: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The key's path.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Another place that belongs to it.
    pub related: Option<Related>,
}

/// Another place that belongs to a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// Why it belongs.
    pub message: String,
}

impl Report {
    pub(super) fn new(main: &Path, sources: Arc<[Source]>, findings: Vec<Finding>) -> Self {
        let mut report = Self { findings, sources, main: main.to_owned() };
        report.sort();
        report
    }

    /// One error that is about no place in the files.
    pub fn of_message(main: &Path, message: &str) -> Self {
        let finding = Finding::error(&KeyPath::root(), message.to_owned());
        Self::new(main, Arc::new([]), vec![finding])
    }

    fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            (a.place, &a.path).cmp(&(b.place, &b.path)).then_with(|| a.message.cmp(&b.message))
        });
        self.findings
            .dedup_by(|a, b| a.place == b.place && a.message == b.message && a.file == b.file);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether the configuration is refused.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Adds the entries of another report on the same files.
    pub fn merge(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.sort();
    }

    /// The entries.
    pub fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        self.findings.iter().map(|finding| self.diagnostic(finding))
    }

    /// An array of objects with `severity`, `file`, `line`, `column`, `path`, `message`, `help`, `related`.
    pub fn to_json(&self) -> serde_json::Value {
        self.diagnostics().map(|diagnostic| serde_json::json!(diagnostic)).collect()
    }

    /// One paragraph an entry: `file:line:column path: message`, the line with a caret, help.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for finding in &self.findings {
            if !text.is_empty() {
                text.push('\n');
            }
            self.render_one(finding, &renderer, color, &mut text);
        }
        text
    }

    fn render_one(&self, finding: &Finding, renderer: &Renderer, color: bool, out: &mut String) {
        let diagnostic = self.diagnostic(finding);
        let (level, style) = match finding.severity {
            Severity::Error => (Level::ERROR, anstyle::AnsiColor::BrightRed),
            Severity::Warning => (Level::WARNING, anstyle::AnsiColor::Yellow),
        };
        let header = format!("{diagnostic}");
        if color {
            let style = style.on_default().bold();
            let _ = writeln!(out, "{style}{header}{style:#}");
        } else {
            out.push_str(&header);
            out.push('\n');
        }
        let main = finding.place.and_then(|place| Some((place, self.sources.get(place.source)?)));
        // The line itself would show a secret that stands in it.
        let Some((place, source)) = main.filter(|_| finding.message != SECRET_IN_PLACE) else {
            if let Some(help) = &finding.help {
                let _ = writeln!(out, "  = help: {help}");
            }
            return;
        };
        let mut snippet = Snippet::source(&*source.text)
            .path(None::<&str>)
            .annotation(AnnotationKind::Primary.span(shown(place, &source.text)));
        let mut other = None;
        if let Some((at, label)) = &finding.related
            && let Some(related) = self.sources.get(at.source)
        {
            let annotation =
                AnnotationKind::Context.span(shown(*at, &related.text)).label(label.as_str());
            if at.source == place.source {
                snippet = snippet.annotation(annotation);
            } else {
                other = Some(
                    Snippet::source(&*related.text)
                        .path(related.path.to_string_lossy())
                        .annotation(annotation),
                );
            }
        }
        let mut group = Group::with_level(level).element(snippet);
        if let Some(other) = other {
            group = group.element(other);
        }
        if let Some(help) = &finding.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        out.push_str(&renderer.render(&[group]));
        out.push('\n');
    }

    fn diagnostic(&self, finding: &Finding) -> Diagnostic {
        let position = finding.place.and_then(|place| self.position(place));
        let file = match (&position, &finding.file) {
            (Some((file, ..)), _) => file.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => self.main.display().to_string(),
        };
        Diagnostic {
            severity: finding.severity,
            file,
            line: position.as_ref().map(|(_, line, _)| *line),
            column: position.as_ref().map(|(.., column)| *column),
            path: finding.path.to_string(),
            message: finding.message.clone(),
            help: finding.help.clone(),
            related: finding.related.as_ref().and_then(|(place, label)| {
                let (file, line, column) = self.position(*place)?;
                Some(Related { file, line, column, message: label.clone() })
            }),
        }
    }

    fn position(&self, place: Place) -> Option<(String, usize, usize)> {
        let source = self.sources.get(place.source)?;
        let before = source.text.get(..place.start)?;
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((source.path.display().to_string(), line, column))
    }
}

/// The bytes to underline: inside the text, on one line.
fn shown(place: Place, text: &str) -> Range<usize> {
    let start = place.start.min(text.len());
    let end = place.end.clamp(start, text.len());
    let rest = text.get(start..end).unwrap_or_default();
    start..start + rest.find('\n').unwrap_or(rest.len())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report\n{self}")
    }
}

impl std::error::Error for Report {}
