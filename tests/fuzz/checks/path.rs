//! Whatever the bytes: a path has one form, which is its own, or it is refused.

use tidegate::route::normalise::{Slashes, normalise};

/// # Panics
/// When a normal form is not what it must be.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A query or a fragment has been taken off before.
    let path = text.split(['?', '#']).next().unwrap_or_default();
    for slashes in [Slashes::Merge, Slashes::Keep] {
        let Ok(normal) = normalise(path, slashes) else { continue };
        let normal = &*normal;
        assert!(normal.starts_with('/'), "{path:?} → {normal:?}");
        assert_eq!(normalise(normal, slashes).as_deref(), Ok(normal), "{path:?} is not stable");
        let mut segments = normal.split('/');
        assert!(segments.all(|it| it != "." && it != ".."), "{path:?} → {normal:?}");
        assert!(slashes == Slashes::Keep || !normal.contains("//"), "{path:?} → {normal:?}");
        assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?} → {normal:?}");
        assert!(!normal.contains(['\\', '?', '#']), "{path:?} → {normal:?}");
        let lower = normal.to_ascii_lowercase();
        for hidden in ["%2f", "%5c", "%2e", "%00", "%0a", "%0d"] {
            assert!(!lower.contains(hidden), "{path:?} → {normal:?}");
        }
        // What is no part of a URI has been refused before.
        let is_part = |path: &str| path.parse::<http::uri::PathAndQuery>().is_ok();
        assert!(!is_part(path) || is_part(normal), "{path:?} → {normal:?}");
    }
}
