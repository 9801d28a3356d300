//! The shape of the source: which layer may use which, and rules on files that a compiler does not check.
//!
//! It reads `crate::` and `super::` paths, in `use` lines and in code, test code too, and fails on an arrow that points
//! up in [`ORDER`]. What it does not do: see through macros, or notice a layer that is reached through a re-export.

pub(crate) mod lexer;

use std::{fmt::Write as _, fs, path::Path};

use lexer::{Kind, Token, tokens};

/// Each layer may use only those after it.
const ORDER: [&str; 17] = [
    "cli",
    "server",
    "admin",
    "listener",
    "proxy",
    "snapshot",
    "config",
    "route",
    "rollout",
    "upstream",
    "policy",
    "limit",
    "tls",
    "state",
    "framing",
    "telemetry",
    "types",
];

/// The demo's origins: beside the order. It may use [`ORIGIN_USES`] and be used by [`ORIGIN_USERS`].
const ORIGIN: &str = "origin";
const ORIGIN_USES: [&str; 1] = ["types"];
const ORIGIN_USERS: [&str; 2] = ["cli", "server"];

/// A file with more lines is split by meaning.
const MAX_LINES: usize = 600;

/// Names that say nothing of what is in a module.
const EMPTY_NAMES: [&str; 8] =
    ["common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"];

/// What the names of all metrics start with.
const METRIC_PREFIX: &str = "tidegate_";

/// A Rust file by its path from the package's root, with forward slashes.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The modules that the file's own module is inside of, itself last: `src/policy/headers.rs` → policy, headers.
    fn modules(&self) -> Vec<&str> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut modules: Vec<&str> = inner.split('/').collect();
        if matches!(modules.last(), Some(&("mod" | "lib" | "main"))) {
            modules.pop();
        }
        modules
    }
}

/// Everything that is wrong with one file of `src/`.
fn problems(source: &Source) -> Vec<String> {
    let tokens = tokens(&source.text);
    let mut problems = arrows(source, &tokens);
    problems.extend(empty_names(source, &tokens));
    problems.extend(forbidden_words(source, &tokens));
    problems
}

/// Paths that lead to a layer above the file's own.
fn arrows(source: &Source, tokens: &[Token]) -> Vec<String> {
    let modules = source.modules();
    let Some(&from) = modules.first() else { return Vec::new() };
    if from != ORIGIN && !ORDER.contains(&from) {
        return vec![format!(
            "{}: the layer `{from}` has no place in the order; give it one in tests/it/layers.rs and src/lib.rs",
            source.path
        )];
    }
    let mut problems = Vec::new();
    for (to, line) in root_paths(tokens, modules.len()) {
        if let Some(reason) = refusal(from, to) {
            problems.push(format!("{}:{line}: `{from}` uses `{to}`: {reason}", source.path));
        }
    }
    problems
}

/// Why the layer `from` may not use `to`, if it may not.
fn refusal(from: &str, to: &str) -> Option<&'static str> {
    let rank = |layer: &str| ORDER.iter().position(|other| *other == layer);
    match (from, to) {
        _ if from == to => None,
        (ORIGIN, _) if ORIGIN_USES.contains(&to) => None,
        (ORIGIN, _) => Some("the demo's origins stand alone"),
        (_, ORIGIN) if ORIGIN_USERS.contains(&from) => None,
        (_, ORIGIN) => Some("only `cli` and `server` start the demo's origins"),
        _ => match (rank(from), rank(to)) {
            (Some(from), Some(to)) if from < to => None,
            (_, None) => Some("it is no layer; name the module that it is in"),
            _ => Some("the arrow points up"),
        },
    }
}

/// The first step of each path that starts at the crate's root, with its line. `depth` is how far below the root the
/// file's own module is.
fn root_paths(tokens: &[Token], depth: usize) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    // One entry a brace that is open: whether it is the body of an inline module.
    let mut braces = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let inline = braces.iter().filter(|is_module| **is_module).count();
        match &token.kind {
            Kind::Mark('{') => {
                braces.push(at >= 2 && tokens[at - 2].kind == Kind::Word("mod".into()));
            }
            Kind::Mark('}') => {
                braces.pop();
            }
            Kind::Word(word) if word == "crate" && is_separator(tokens, at + 1) => {
                steps(&tokens[at + 2..], 0, &mut found);
            }
            Kind::Word(word)
                if word == "super"
                    && is_separator(tokens, at + 1)
                    && !(at > 0 && is_separator(tokens, at - 1)) =>
            {
                steps(&tokens[at..], depth + inline, &mut found);
            }
            _ => {}
        }
    }
    found
}

fn is_separator(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.kind == Kind::PathSeparator)
}

/// Follows a path, or each path of a group, from a module that is `depth` below the root.
fn steps<'a>(tokens: &'a [Token], depth: usize, found: &mut Vec<(&'a str, usize)>) {
    match tokens.first().map(|token| (&token.kind, token.line)) {
        Some((Kind::Word(word), _)) if word == "super" && is_separator(tokens, 1) => {
            steps(&tokens[2..], depth.saturating_sub(1), found);
        }
        Some((Kind::Word(word), line)) if depth == 0 && word != "self" => found.push((word, line)),
        Some((Kind::Mark('*'), line)) if depth == 0 => found.push(("*", line)),
        Some((Kind::Mark('{'), _)) => {
            let mut nested = 0;
            for (at, token) in tokens.iter().enumerate() {
                match token.kind {
                    Kind::Mark('{') => nested += 1,
                    Kind::Mark('}') => nested -= 1,
                    _ => {}
                }
                if nested == 0 {
                    break;
                }
                if nested == 1 && matches!(token.kind, Kind::Mark('{' | ',')) {
                    steps(&tokens[at + 1..], depth, found);
                }
            }
        }
        _ => {}
    }
}

/// Modules whose name says nothing, as files and inline.
fn empty_names(source: &Source, tokens: &[Token]) -> Vec<String> {
    let inline = tokens.windows(2).filter_map(|pair| match (&pair[0].kind, &pair[1].kind) {
        (Kind::Word(word), Kind::Word(name)) if word == "mod" => Some(name.as_str()),
        _ => None,
    });
    let mut names: Vec<&str> = source.modules().into_iter().chain(inline).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| EMPTY_NAMES.contains(name));
    names
        .into_iter()
        .map(|name| format!("{}: `{name}` does not say what is in the module", source.path))
        .collect()
}

/// Pingora's session in `policy/`, and names of metrics outside `telemetry/`. A unit test may spell one out, as a user
/// would; tests stand at the end of a file or in one called `tests`.
fn forbidden_words(source: &Source, tokens: &[Token]) -> Vec<String> {
    let modules = source.modules();
    let layer = modules.first().copied().unwrap_or_default();
    let is_tests = |pair: &[Token]| {
        [&pair[0].kind, &pair[1].kind] == [&Kind::Word("mod".into()), &Kind::Word("tests".into())]
    };
    let code = if modules.contains(&"tests") {
        0
    } else {
        tokens.windows(2).position(is_tests).unwrap_or(tokens.len())
    };
    let mut problems = Vec::new();
    for (at, Token { kind, line }) in tokens.iter().enumerate() {
        let reason = match kind {
            Kind::Word(word) if layer == "policy" && word == "Session" => {
                "a policy sees a `RequestHead`, never Pingora's `Session`"
            }
            Kind::Text(text)
                if layer != "telemetry" && at < code && text.starts_with(METRIC_PREFIX) =>
            {
                "the names of metrics stand in telemetry/ only"
            }
            _ => continue,
        };
        problems.push(format!("{}:{line}: {reason}", source.path));
    }
    problems
}

/// Whether a file is too long.
fn length_problem(path: &str, lines: usize) -> Option<String> {
    (lines > MAX_LINES)
        .then(|| format!("{path}: {lines} lines; split it by meaning at {MAX_LINES}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the package, in the order of their paths.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let pattern = root().join(folder).join("**/*.rs");
    glob::glob(pattern.to_str().unwrap())
        .unwrap()
        .map(Result::unwrap)
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        })
        .collect()
}

/// Fails with one problem a line.
#[track_caller]
fn assert_none(problems: &[String]) {
    let mut text = String::new();
    for problem in problems {
        writeln!(text, "{problem}").unwrap();
    }
    assert!(problems.is_empty(), "\n{text}");
}

#[test]
fn arrows_point_down_and_names_stand_in_their_place() {
    let sources = sources("src");
    assert!(sources.len() > 10, "the source was not found");
    assert_none(&sources.iter().flat_map(problems).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    let all = ["src", "tests", "benches"].into_iter().flat_map(sources);
    let problems: Vec<_> = all
        .filter_map(|source| length_problem(&source.path, source.text.lines().count()))
        .collect();
    assert_none(&problems);
}

#[test]
fn the_order_is_told_as_it_is_checked() {
    let order = ORDER.join(" > ");
    for path in ["src/lib.rs", "docs/architecture.md"] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        assert!(text.contains(&order), "{path} does not say `{order}`");
    }
}

/// What the checks say of a file with this text.
fn said_of(path: &str, text: &str) -> Vec<String> {
    problems(&Source { path: path.into(), text: text.into() })
}

#[test]
fn an_arrow_that_points_up_is_found() {
    for (path, text, line) in [
        ("src/types/a.rs", "use crate::cli::run;", 1),
        ("src/tls/mod.rs", "use crate::policy::Chain;", 1),
        ("src/upstream/a.rs", "use crate::{\n    types::Name,\n    route::{Table, x::Y},\n};", 3),
        ("src/upstream/a.rs", "use crate::{types::{Name, Cidr}, route};", 1),
        ("src/state/mod.rs", "fn f() {\n    crate::server::stop();\n}", 2),
        ("src/state/mod.rs", "type A = Vec<crate::tls::Store>;", 1),
        ("src/config/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::snapshot::compile;\n}", 3),
        ("src/tls/a.rs", "use super::super::listener::accept;", 1),
        ("src/tls/a.rs", "mod tests {\n use super::super::super::listener;\n}", 2),
        ("src/tls/mod.rs", "use super::{listener::accept, types::Name};", 1),
        ("src/tls/a.rs", "use super::{super::{types, admin}, b};", 1),
        ("src/types/mod.rs", "use crate::*;", 1),
        ("src/types/mod.rs", "use crate::Edge;", 1),
        ("src/origin/mod.rs", "use crate::telemetry::Metrics;", 1),
        ("src/proxy/mod.rs", "use crate::origin::start;", 1),
    ] {
        let said = said_of(path, text);
        assert_eq!(said.len(), 1, "{path}: {text}: {said:?}");
        assert!(said[0].starts_with(&format!("{path}:{line}: ")), "{said:?}");
    }
    assert_eq!(said_of("src/edge/mod.rs", "").len(), 1, "a new layer has no place");
}

#[test]
fn arrows_that_point_down_are_left_alone() {
    for (path, text) in [
        ("src/cli/mod.rs", "use crate::{server, types::Name, origin};"),
        ("src/server/a.rs", "use crate::origin::start;"),
        ("src/origin/mod.rs", "use crate::types::Name;"),
        ("src/proxy/a.rs", "use crate::proxy::context::RequestContext; pub(crate) fn f() {}"),
        ("src/tls/mod.rs", "use crate::{state::{Registry, admin}, types};"),
        ("src/tls/a.rs", "use super::{listener::Accept, super::types};"),
        ("src/tls/a.rs", "mod tests { use super::*; use super::super::proxy; }"),
        (
            "src/types/a.rs",
            "//! See [`crate::cli`].\n/* crate::cli */ const A: &str = \"crate::cli\";",
        ),
        ("src/main.rs", "use crate::cli;"),
    ] {
        assert_eq!(said_of(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn words_in_the_wrong_place_are_found() {
    for (path, text) in [
        ("src/policy/a.rs", "use pingora_proxy::Session;"),
        ("src/proxy/a.rs", "let name = \"tidegate_requests_total\";"),
        ("src/proxy/utils.rs", ""),
        ("src/proxy/helpers/a.rs", ""),
        ("src/proxy/mod.rs", "mod common;"),
    ] {
        assert_eq!(said_of(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/policy/a.rs", "// not Pingora's Session"),
        ("src/proxy/a.rs", "use pingora_proxy::Session;"),
        ("src/telemetry/a.rs", "let name = \"tidegate_requests_total\";"),
        ("src/proxy/tests.rs", "let name = \"tidegate_requests_total\";"),
        ("src/proxy/a.rs", "mod tests { let name = \"tidegate_requests_total\"; }"),
    ] {
        assert_eq!(said_of(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn long_files_are_found() {
    assert_eq!(length_problem("src/a.rs", MAX_LINES), None);
    assert!(length_problem("src/a.rs", MAX_LINES + 1).is_some());
}
