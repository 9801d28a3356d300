//! The reference of the metrics is what the code says.

use std::{env, fs, path::Path};

use tidegate::telemetry::metrics::reference;

#[test]
fn the_reference_of_the_metrics_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    if env::var_os("UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, reference()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/reference/metrics.md is old: UPDATE_REFERENCE=1 cargo test --test it reference"
    );
}
