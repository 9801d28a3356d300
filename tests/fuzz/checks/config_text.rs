//! Whatever the text: it is taken or refused, with a report that can be shown, and twice the same.

use tidegate::config::fuzz::load_text;

/// # Panics
/// When a refusal says nothing, or two readings differ.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, second) = (load_text(text), load_text(text));
    match (&first, &second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.hash, second.hash);
            assert!(!first.report.has_errors());
        }
        (Err(first), Err(second)) => {
            assert!(first.has_errors(), "refused without an error");
            assert_eq!(first.render(false), second.render(false));
        }
        _ => panic!("taken once and refused once: {text:?}"),
    }
    let report = first.map_or_else(|report| report, |loaded| loaded.report);
    let _ = (report.render(true), report.to_json());
}
