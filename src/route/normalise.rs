//! Paths in one form, so that routing, policies and the upstream see the same path (RFC 3986, section 6.2.2).
//!
//! Dot segments are resolved, percent-encoded unreserved characters decoded, the other escapes written in upper case,
//! repeated slashes merged (a setting). What could mean one thing here and another at the endpoint is refused:
//! an encoded NUL or control character, an encoded slash or backslash, a bare backslash, a broken escape, a path above the root.

use std::borrow::Cow;

/// What repeated slashes mean.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Slashes {
    /// `//a///b` is `/a/b`.
    #[default]
    Merge,
    /// They stay as they are.
    Keep,
}

/// Why a path is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub enum PathError {
    /// It does not start with a slash.
    NotAbsolute,
    /// A `%` without two hexadecimal digits after it.
    BrokenEscape,
    /// `%00` to `%1f`, `%7f`, or such a byte itself.
    Control,
    /// `%2f` or `%5c`: one server takes it as a separator, the next does not.
    EncodedSlash,
    /// A bare backslash, which some servers take as a slash.
    Backslash,
    /// A character that no URI has.
    NotUri,
    /// More `..` than segments.
    AboveRoot,
}

impl PathError {
    /// What is wrong. Constant, and so it may be logged.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotAbsolute => "it does not start with \"/\"",
            Self::BrokenEscape => "a percent sign is not followed by two hexadecimal digits",
            Self::Control => "it has an encoded control character",
            Self::EncodedSlash => "it has an encoded slash or backslash",
            Self::Backslash => "it has a backslash",
            Self::NotUri => "it has a character that no URI has",
            Self::AboveRoot => "it leads above the root",
        }
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Whether the path is already in its normal form, which nearly all are: one pass, nothing allocated.
fn is_normal(path: &[u8], slashes: Slashes) -> bool {
    let mut previous = 0;
    for &byte in path {
        let suspicious = match byte {
            b'%' | b'\\' => true,
            // A segment that starts with a dot may be a dot segment.
            b'.' => previous == b'/',
            b'/' => previous == b'/' && slashes == Slashes::Merge,
            _ => !(0x21..0x7f).contains(&byte),
        };
        if suspicious {
            return false;
        }
        previous = byte;
    }
    true
}

/// The normal form of `path` (no query), borrowed where it is normal already.
///
/// # Errors
/// [`PathError`]; becomes 400.
pub fn normalise(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(path.as_bytes(), slashes) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        match segment {
            "." => ends_with_slash = is_last,
            ".." => {
                segments.pop().ok_or(PathError::AboveRoot)?;
                ends_with_slash = is_last;
            }
            "" if is_last => ends_with_slash = true,
            "" if slashes == Slashes::Merge => {}
            segment => {
                segments.push(segment);
                ends_with_slash = false;
            }
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_with_slash || normal.is_empty() {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

fn decode(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex).ok_or(PathError::BrokenEscape)?;
                let low = bytes.next().and_then(hex).ok_or(PathError::BrokenEscape)?;
                match high << 4 | low {
                    0..=0x1f | 0x7f => return Err(PathError::Control),
                    b'/' | b'\\' => return Err(PathError::EncodedSlash),
                    plain if is_unreserved(plain) => decoded.push(char::from(plain)),
                    other => {
                        decoded.push('%');
                        for digit in [other >> 4, other & 0xf] {
                            decoded.extend(
                                char::from_digit(u32::from(digit), 16)
                                    .map(|c| c.to_ascii_uppercase()),
                            );
                        }
                    }
                }
            }
            b'\\' => return Err(PathError::Backslash),
            0..=0x20 | 0x7f => return Err(PathError::Control),
            byte if byte.is_ascii() => decoded.push(char::from(byte)),
            byte => {
                // A raw byte beyond ASCII: escaped, as RFC 3986 wants it.
                for part in [b'%', upper_hex(byte >> 4), upper_hex(byte & 0xf)] {
                    decoded.push(char::from(part));
                }
            }
        }
    }
    Ok(decoded)
}

fn upper_hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_take_one_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/%61%2Db", "/a-b"),
            ("/a%2e%2e/b", "/a../b"),
            ("/a/%2e%2E/b", "/b"),
            ("/%2e/a", "/a"),
            ("//a///b//", "/a/b/"),
            ("/a%3fb", "/a%3Fb"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
        ] {
            assert_eq!(normalise(raw, Slashes::Merge).as_deref(), Ok(normal), "{raw}");
        }
        assert_eq!(normalise("//a//b/./c", Slashes::Keep).as_deref(), Ok("//a//b/c"));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for (raw, error) in [
            ("a", PathError::NotAbsolute),
            ("/a%", PathError::BrokenEscape),
            ("/a%2", PathError::BrokenEscape),
            ("/a%zz", PathError::BrokenEscape),
            ("/a%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/a%2fb", PathError::EncodedSlash),
            ("/a%5Cb", PathError::EncodedSlash),
            ("/a\\b", PathError::Backslash),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/etc", PathError::AboveRoot),
        ] {
            assert_eq!(normalise(raw, Slashes::Merge), Err(error), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable_and_has_no_dot_segment(raw in "/[a-c./%2eE5fF\\\\é]{0,24}") {
            if let Ok(normal) = normalise(&raw, Slashes::Merge) {
                prop_assert_eq!(normalise(&normal, Slashes::Merge).unwrap(), normal.clone());
                prop_assert!(normal.starts_with('/'));
                prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!normal.contains("//"));
            }
        }
    }
}
