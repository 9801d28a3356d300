//! Golden configurations: each `tests/config/*.toml` has its report beside it, as `check` shows it.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it config` rewrites the reports; read the difference before it is committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tidegate::config::load;

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn report_of(path: &Path) -> String {
    match load(path) {
        Ok(loaded) if loaded.report.is_empty() => "taken\n".to_owned(),
        Ok(loaded) => {
            format!("{}\ntaken, with {} warnings\n", loaded.report, loaded.report.warnings())
        }
        Err(report) => format!("{report}\nrefused, with {} errors\n", report.errors()),
    }
}

#[test]
fn reports_are_as_written_down() {
    let files = toml_files("tests/config");
    assert!(files.len() >= 25, "only {} golden files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let golden = file.with_extension("txt");
        let report = report_of(&file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &report).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != report {
            wrong.push(format!("{}:\n{report}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "these differ:\n\n{}", wrong.join("\n\n"));
}

#[test]
fn reports_have_no_absolute_path_and_no_value_of_the_environment() {
    // tests/config/environment.toml takes this variable, which Cargo sets for tests.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    for file in toml_files("tests/config") {
        let report = report_of(&file);
        assert!(!report.contains(&here), "{report}");
    }
}

#[test]
fn examples_are_taken() {
    let mut files = toml_files("conf/examples");
    files.push("conf/tidegate.toml".into());
    assert!(files.len() >= 5);
    for file in files {
        if let Err(report) = load(&file) {
            panic!("{}:\n{report}", file.display());
        }
    }
}
