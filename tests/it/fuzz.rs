//! The corpus of `tests/fuzz`, replayed: what the fuzzers have found stays found.

#[path = "../fuzz/checks/client_hello.rs"]
mod client_hello;
#[path = "../fuzz/checks/config_text.rs"]
mod config_text;
#[path = "../fuzz/checks/path.rs"]
mod path;
#[path = "../fuzz/checks/proxy_header.rs"]
mod proxy_header;
#[path = "../fuzz/checks/request_head.rs"]
mod request_head;

use std::{fs, path::Path};

/// Runs a check on every file of a folder of this package; a failing one is named.
fn replay(folder: &str, pattern: &str, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = glob::glob(folder.join(pattern).to_str().unwrap()).unwrap();
    let mut count = 0;
    for file in files.map(Result::unwrap).filter(|file| file.is_file()) {
        let bytes = fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| check(&bytes));
        assert!(result.is_ok(), "{} fails; the reason stands above", file.display());
        count += 1;
    }
    count
}

#[test]
fn configuration_texts_are_taken_or_refused_with_a_report() {
    assert!(replay("tests/fuzz/corpus/config_text", "*", config_text::check) >= 10);
    assert!(replay("tests/config", "**/*.toml", config_text::check) >= 20);
    assert!(replay("conf", "**/*.toml", config_text::check) >= 2);
}

#[test]
fn paths_have_one_form_or_are_refused() {
    assert!(replay("tests/fuzz/corpus/path", "*", path::check) >= 20);
}

#[test]
fn proxy_headers_are_read_in_one_way() {
    assert!(replay("tests/fuzz/corpus/proxy_header", "*", proxy_header::check) >= 10);
}

#[test]
fn heads_of_requests_are_judged_alike_however_they_are_cut() {
    assert!(replay("tests/fuzz/corpus/request_head", "*", request_head::check) >= 20);
}

#[test]
fn first_messages_of_tls_ask_for_one_name() {
    assert!(replay("tests/fuzz/corpus/client_hello", "*", client_hello::check) >= 15);
}

/// A check that holds for everything would find nothing.
#[test]
fn the_checks_can_fail() {
    assert!(
        std::panic::catch_unwind(|| replay("tests/fuzz/corpus/path", "*", |_| panic!())).is_err()
    );
}
