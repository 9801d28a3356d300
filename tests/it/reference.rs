//! The reference in the repository is what the code says.
//!
//! `UPDATE_REFERENCE=1 cargo test --test it reference` rewrites it.

use std::{fs, path::Path};

use tidegate::config::reference;

fn check(path: &str, wanted: &str) {
    let path = Path::new(path);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, wanted).unwrap();
    }
    let current = fs::read_to_string(path).unwrap_or_default();
    assert!(
        current == wanted,
        "{} is not current: run UPDATE_REFERENCE=1 cargo test --test it reference",
        path.display()
    );
}

#[test]
fn the_schema_is_current() {
    let schema = serde_json::to_string_pretty(&reference::schema()).unwrap() + "\n";
    assert!(!schema.contains("null"), "TOML has no null");
    check("conf/tidegate.schema.json", &schema);
}

#[test]
fn the_page_is_current_and_names_every_key() {
    let page = reference::markdown();
    let schema = reference::schema();
    let tables = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for key in
        tables.filter_map(|table| table["properties"].as_object()).flatten().map(|(key, _)| key)
    {
        assert!(page.contains(&format!("| `{key}` |")), "the page lacks {key}");
    }
    check("docs/reference/configuration.md", &page);
}
