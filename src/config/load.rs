//! Loading: files → fragments → one tree → [`Raw`](super::Raw) → [`Config`], with a report of everything that is wrong.
//!
//! Pure but for reading the files and the environment; opens no sockets, keeps nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config,
    decode_all::{decode_all, refuse_planned},
    diagnostics::{Finding, Report},
    environment::{Environment, Redactor, process_environment},
    fragments::Fragments,
    merge::merge,
    parse::{Context, parse},
    source::{Bundle, Files, Source},
    tree::{ConfigHash, Node, Value},
};
use crate::types::{KeyPath, Problems};

/// A configuration that was taken, with what is needed to report later problems with it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings.
    pub report: Report,
    /// Its identity. What files it refers to (certificates, bodies) is not part of it.
    pub hash: ConfigHash,
    /// The files it was read from, the main one first.
    pub files: Vec<PathBuf>,
    document: Document,
    pub(super) bundle: Bundle,
}

/// The merged tree with its sources.
#[derive(Debug)]
struct Document {
    tree: Node,
    sources: Arc<[Source]>,
    redactor: Redactor,
    main: PathBuf,
}

/// Loads the file at `path` and what it includes.
///
/// # Errors
/// A report with at least one error, and all that could be found.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_from(path, Files::Disk, Environment(&process_environment))
}

pub(super) fn load_from(
    path: &Path,
    files: Files<'_>,
    environment: Environment<'_>,
) -> Result<Loaded, Report> {
    let mut fragments = Fragments::gather(path, files, environment);
    let bundle = fragments.to_bundle();
    let is_incomplete = fragments.is_incomplete();
    let mut findings = std::mem::take(&mut fragments.findings);
    let sources: Arc<[Source]> = std::mem::take(&mut fragments.sources).into();
    let refused = |findings| Report::new(path, sources.clone(), findings);
    if sources.is_empty() {
        return Err(refused(findings));
    }
    let mut tree = merge(fragments.trees, &mut findings);
    let has_empty_file = !fragments.empty.is_empty();
    let may_be_empty = tree.get("allow_empty").is_some_and(|node| node.value == Value::Bool(true));
    if !may_be_empty {
        findings.extend(fragments.empty);
    }
    let mut removed = Vec::new();
    let redactor = environment.expand_all(&mut tree, |path, error| {
        findings.push(Finding::error(path, error.to_string()).help_from(error.help()));
        removed.push(path.clone());
    });
    let document = Document { tree, sources: sources.clone(), redactor, main: path.to_owned() };
    for finding in findings.iter_mut().filter(|finding| finding.place.is_none()) {
        finding.place = document.tree.locate(&finding.path, false);
    }
    let mut problems = Problems::new();
    let mut decodable = document.tree.clone();
    for path in &removed {
        decodable.remove(path);
    }
    removed.extend(refuse_planned(&mut decodable, &mut problems));
    let raw = decode_all(decodable, &mut problems, &mut removed);
    let context = Context { tree: &document.tree, removed: &removed };
    // Where names or whole files are missing, what refers to them is not wrong.
    let config = if is_incomplete || (has_empty_file && !may_be_empty) {
        None
    } else {
        parse(&raw, &context, &mut problems)
    };
    findings.extend(problems.into_iter().map(|problem| document.finding(problem)).filter(
        // What a broken file holds is not all that was written there.
        |finding| !finding.place.is_some_and(|place| fragments.broken.contains(&place.source)),
    ));
    let report = refused(findings);
    match config {
        Some(config) if !report.has_errors() => Ok(Loaded {
            config,
            report,
            hash: document.tree.hash(),
            files: document.sources.iter().map(|source| source.path.clone()).collect(),
            document,
            bundle,
        }),
        _ => Err(report),
    }
}

impl Loaded {
    /// Problems that a later stage found, with their places.
    pub fn report_of(&self, problems: Problems) -> Report {
        let findings = problems.into_iter().map(|problem| self.document.finding(problem)).collect();
        Report::new(&self.document.main, self.document.sources.clone(), findings)
    }
}

impl Document {
    fn finding(&self, problem: crate::types::Problem) -> Finding {
        let path: KeyPath = problem.path.clone();
        Finding::locate(
            problem,
            |path, at_key| self.tree.locate(path, at_key),
            |text| self.redactor.redact(text, self.tree.at(&path)),
        )
    }
}
