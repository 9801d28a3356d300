//! Masks the values of listed query parameters.
//!
//! The text is taken apart the way the most lenient reader would do it: `;`, `?` and `#` begin a parameter as well as
//! `&`, and names are compared after percent-decoding and without case. A masked value reaches to the next `&`, so
//! that no part of it is left behind a `;`.

use std::borrow::Cow;

/// What stands for a masked value.
pub(super) const MASKED: &[u8] = b"***";

/// Names of masked query parameters.
#[derive(Debug)]
pub(super) struct Masks {
    names: Vec<String>,
}

impl Masks {
    pub(super) fn new(names: &[String]) -> Self {
        Self { names: names.to_vec() }
    }

    /// A query with the values of listed parameters replaced. Borrowed where there is none of them.
    pub(super) fn query<'a>(&self, query: &'a [u8]) -> Cow<'a, [u8]> {
        let mut masked: Option<Vec<u8>> = None;
        let mut position = 0;
        for segment in query.split(|&byte| byte == b'&') {
            let value_start = self.masked_value(segment);
            let (before, _) = query.split_at_checked(position).unwrap_or_default();
            if let Some(start) = value_start {
                let text = masked.get_or_insert_with(|| before.to_vec());
                text.extend_from_slice(segment.get(..start).unwrap_or_default());
                text.extend_from_slice(MASKED);
            } else if let Some(text) = &mut masked {
                text.extend_from_slice(segment);
            }
            position += segment.len() + 1;
            if position <= query.len()
                && let Some(text) = &mut masked
            {
                text.push(b'&');
            }
        }
        masked.map_or(Cow::Borrowed(query), Cow::Owned)
    }

    /// A URL (a `Referer`) with the same done to what follows its first `?` or `#`.
    pub(super) fn url<'a>(&self, url: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(at) = url.iter().position(|&byte| matches!(byte, b'?' | b'#')) else {
            return Cow::Borrowed(url);
        };
        let (base, query) = url.split_at(at + 1);
        match self.query(query) {
            Cow::Borrowed(_) => Cow::Borrowed(url),
            Cow::Owned(masked) => Cow::Owned([base, &masked].concat()),
        }
    }

    /// Where the first masked value of a segment begins. A value may be empty; a name without `=` has none.
    fn masked_value(&self, segment: &[u8]) -> Option<usize> {
        let mut start = 0;
        for part in segment.split(|&byte| matches!(byte, b';' | b'?' | b'#')) {
            if let Some(equals) = part.iter().position(|&byte| byte == b'=') {
                let name = part.get(..equals).unwrap_or_default();
                if self.names.iter().any(|masked| decodes_to(name, masked.as_bytes())) {
                    return Some(start + equals + 1);
                }
            }
            start += part.len() + 1;
        }
        None
    }
}

/// Whether a percent-encoded name is `name` (lower case). Space around it does not count.
fn decodes_to(encoded: &[u8], name: &[u8]) -> bool {
    let mut rest = encoded;
    let mut wanted = name;
    let mut is_inside = false;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, further @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, further),
                _ => (first, after),
            },
            (b'+', after) => (b' ', after),
            (_, after) => (first, after),
        };
        rest = after;
        if byte.is_ascii_whitespace() && (!is_inside || wanted.is_empty()) {
            continue;
        }
        is_inside = true;
        match wanted.split_first() {
            Some((&expected, more)) if expected == byte.to_ascii_lowercase() => wanted = more,
            _ => return false,
        }
    }
    wanted.is_empty()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> Masks {
        Masks::new(&["token".into(), "api_key".into()])
    }

    #[test]
    fn listed_parameters_are_masked_however_they_are_written() {
        for (query, shown) in [
            ("token=abc", "token=***"),
            ("a=1&token=abc&b=2", "a=1&token=***&b=2"),
            ("a=1&token=abc", "a=1&token=***"),
            ("TOKEN=abc", "TOKEN=***"),
            ("%74oken=abc", "%74oken=***"),
            ("%74%4F%6b%65%6E=abc&", "%74%4F%6b%65%6E=***&"),
            ("api%5Fkey=abc", "api%5Fkey=***"),
            ("+token=abc", "+token=***"),
            ("token%20=abc", "token%20=***"),
            ("token=a;b;c=d&x=1", "token=***&x=1"),
            ("a=1;token=abc;b=2&c=3", "a=1;token=***&c=3"),
            ("a?token=abc", "a?token=***"),
            ("a=1#token=abc", "a=1#token=***"),
            ("token=abc&token=def", "token=***&token=***"),
            ("token=a=b", "token=***"),
            ("token=", "token=***"),
            ("&&token=abc&&", "&&token=***&&"),
        ] {
            assert_eq!(String::from_utf8_lossy(&masks().query(query.as_bytes())), shown, "{query}");
        }
    }

    #[test]
    fn other_parameters_are_left_alone() {
        for query in [
            "", "&", "a=1&b=2", "token", "tokens=1", "xtoken=1", "a=token", "%zz=1", "%7=1", "%",
            "to ken=1", "to%ken=1",
        ] {
            let masks = masks();
            let masked = masks.query(query.as_bytes());
            assert!(matches!(masked, Cow::Borrowed(_)), "{query}");
            assert_eq!(&*masked, query.as_bytes());
        }
    }

    #[test]
    fn urls_are_masked_behind_their_path() {
        for (url, shown) in [
            ("https://a.example/token=1", "https://a.example/token=1"),
            ("https://a.example/?q=1&token=abc", "https://a.example/?q=1&token=***"),
            ("https://a.example/cb#token=abc&x=1", "https://a.example/cb#token=***&x=1"),
            ("https://a.example/?a=1#token=abc", "https://a.example/?a=1#token=***"),
        ] {
            assert_eq!(String::from_utf8_lossy(&masks().url(url.as_bytes())), shown, "{url}");
        }
    }
}
