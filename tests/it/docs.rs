//! The documentation holds: its configurations have keys that exist, its links lead somewhere.

use std::{fs, path::Path};

use tidegate::config::Raw;

/// A page of the documentation, by its path from the package's root.
struct Page {
    path: String,
    text: String,
}

/// README, CONTRIBUTING and everything in docs/.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["*.md", "docs/**/*.md"]
        .into_iter()
        .flat_map(|pattern| glob::glob(root.join(pattern).to_str().unwrap()).unwrap())
        .map(Result::unwrap)
        .map(|path| Page {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
        })
        .collect()
}

/// The code blocks of a language, each with the line it starts on. A block in a list loses its indentation.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        match open.take() {
            None if line == fence => open = Some((at + 1, String::new())),
            None => {}
            Some(block) if line == "```" => blocks.push(block),
            Some((at, block)) => open = Some((at, block + line + "\n")),
        }
    }
    blocks
}

/// The targets of links within the project, without anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split_once('#').map_or(target, |(path, _)| path))
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn configurations_in_the_docs_have_keys_that_exist() {
    let mut found = 0;
    for page in pages() {
        for (line, block) in blocks(&page.text, "toml") {
            found += 1;
            if let Err(error) = toml::from_str::<Raw>(&block) {
                panic!("{}:{line}: {error}", page.path);
            }
        }
    }
    assert!(found >= 5, "only {found} configurations were found");
}

#[test]
fn configurations_in_the_docs_have_no_settings_that_fight() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let mut whole = 0;
    for page in pages() {
        for (line, block) in blocks(&page.text, "toml") {
            fs::write(&file, &block).unwrap();
            // A part of a configuration is refused.
            let Ok(loaded) = tidegate::config::load(&file) else { continue };
            whole += 1;
            let warnings: Vec<_> = loaded
                .report
                .diagnostics()
                // A fault's example is over one day.
                .filter(|found| !found.path.contains("fault"))
                .map(|found| found.message)
                .collect();
            assert!(warnings.is_empty(), "{}:{line}: {warnings:?}", page.path);
        }
    }
    assert!(whole >= 5, "only {whole} whole configurations were found");
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in pages() {
        let folder = root.join(&page.path).parent().unwrap().to_owned();
        for target in links(&page.text) {
            assert!(folder.join(target).exists(), "{}: {target} is not there", page.path);
        }
    }
}

#[test]
fn blocks_and_links_are_found() {
    let text = "a [b](c.md#d), [e](https://f/)\n- x\n  ```toml\n  k = 1\n  ```\n```sh\nls\n```\n";
    assert_eq!(blocks(text, "toml"), [(3, "k = 1\n".to_owned())]);
    assert_eq!(links(text).collect::<Vec<_>>(), ["c.md"]);
}
