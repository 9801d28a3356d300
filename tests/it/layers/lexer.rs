//! Rust source to tokens: as much as the layer test needs.
//!
//! Comments are dropped, so that a link in a doc is no dependency. Lifetimes come out as a quote and a word. What it
//! does not do: numbers with an exponent's sign, shebangs, and anything that takes a parser.

/// A token and the line it starts on, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, a name or a number.
    Word(String),
    /// One character of punctuation.
    Mark(char),
    /// `::`
    PathSeparator,
    /// The contents of a string of any sort, escapes as written.
    Text(String),
}

/// The tokens of `source`, in order.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    /// Takes `length` bytes and counts their lines.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.line += taken.matches('\n').count();
        taken
    }

    fn push(&mut self, line: usize, kind: Kind) {
        self.tokens.push(Token { kind, line });
    }

    /// Takes one token, comment or space. False at the end.
    fn step(&mut self) -> bool {
        let line = self.line;
        let Some(first) = self.rest.chars().next() else { return false };
        if first.is_whitespace() {
            self.take(first.len_utf8());
        } else if self.rest.starts_with("//") {
            self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.take(block_comment_length(self.rest));
        } else if let Some((open, close)) = raw_string(self.rest) {
            self.take(open);
            let text = self.take(self.rest.find(&close).unwrap_or(self.rest.len())).to_owned();
            self.take(close.len().min(self.rest.len()));
            self.push(line, Kind::Text(text));
        } else if let Some(prefix) =
            ["\"", "b\"", "c\""].into_iter().find(|p| self.rest.starts_with(p))
        {
            self.take(prefix.len());
            let text = self.take(string_length(self.rest)).to_owned();
            self.take(1.min(self.rest.len()));
            self.push(line, Kind::Text(text));
        } else if let Some(length) = character_length(self.rest) {
            self.take(length);
        } else if is_word(first) {
            let length = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
            let word = self.take(length).to_owned();
            self.push(line, Kind::Word(word));
        } else if self.rest.starts_with("::") {
            self.take(2);
            self.push(line, Kind::PathSeparator);
        } else {
            self.take(first.len_utf8());
            self.push(line, Kind::Mark(first));
        }
        true
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the opening `r#"` and its closing `"#`, if a raw string starts here.
fn raw_string(text: &str) -> Option<(usize, String)> {
    let after = ["br", "cr", "r"].into_iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then(|| {
        let prefix = text.len() - after.len();
        (prefix + hashes + 1, format!("\"{}", "#".repeat(hashes)))
    })
}

/// Up to the closing quote, which is not counted.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, if one starts here and not a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let prefix = usize::from(text.starts_with("b'"));
    let inner = text[prefix..].strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        // The first character after the backslash may be a quote itself.
        let skip = escape.chars().next().map_or(0, char::len_utf8);
        return escape[skip..].find('\'').map(|end| prefix + 1 + 1 + skip + end + 1);
    }
    let character = inner.chars().next()?;
    inner[character.len_utf8()..].starts_with('\'').then(|| prefix + 1 + character.len_utf8() + 1)
}

#[test]
fn comments_strings_and_characters_hide_what_is_in_them() {
    let source = r##"
        // crate::a
        /* crate::b /* crate::c */ crate::d */
        let s = "crate::e \" // still text"; let r = r#"a "quoted" b"#; let b = b"bytes";
        let c = '"'; let d = '\''; let e = b'\\'; fn f<'a>(x: &'a str) {} let r#type = 1;
    "##;
    let tokens = tokens(source);
    let texts: Vec<_> = tokens
        .iter()
        .filter_map(|token| match &token.kind {
            Kind::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, [r#"crate::e \" // still text"#, r#"a "quoted" b"#, "bytes"]);
    assert!(!tokens.iter().any(|token| token.kind == Kind::Word("crate".into())));
    let last = tokens.iter().rfind(|token| matches!(token.kind, Kind::Word(_))).unwrap();
    assert_eq!((&last.kind, last.line), (&Kind::Word("1".into()), 5));
    assert!(tokens.iter().any(|token| token.kind == Kind::Word("type".into())));
}
