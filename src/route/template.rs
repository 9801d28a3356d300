//! Texts with captures: `"/v2/{1}"`, `"https://www.{host}{path}{query}"`.

use std::fmt;

use crate::types::{KeyPath, Problems, did_you_mean};

/// A text with holes, parsed once when the configuration is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Capture(String),
}

impl Template {
    /// Parses `{name}` holes; `{{` and `}}` stand for single braces. Only `names` may be used.
    pub fn parse_or_report(
        text: &str,
        names: &[String],
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<Self> {
        match Self::parse(text) {
            Ok(template) => {
                let mut all_known = true;
                for name in template.captures() {
                    if names.iter().any(|known| known == name) {
                        continue;
                    }
                    all_known = false;
                    let problem = problems.error(path, format!("there is no capture {{{name}}}"));
                    if let Some(near) = did_you_mean(name, names.iter().map(String::as_str)) {
                        problem.help(format!("did you mean {{{near}}}?"));
                    } else if names.is_empty() {
                        problem.help(
                            "captures come from the groups of `path_regex`; this route has none",
                        );
                    } else {
                        problem.help(format!("there are {{{}}}", names.join("}, {")));
                    }
                }
                all_known.then_some(template)
            }
            Err(reason) => {
                problems
                    .error(path, format!("{reason} in \"{text}\""))
                    .help("captures are written {name}; {{ and }} are single braces");
                None
            }
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' if chars.peek() == Some(&'{') => {
                    chars.next();
                    literal.push('{');
                }
                '}' if chars.peek() == Some(&'}') => {
                    chars.next();
                    literal.push('}');
                }
                '}' => return Err("a brace closes that was not opened"),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some('{') | None => return Err("a brace is not closed"),
                            Some(c) => name.push(c),
                        }
                    }
                    if name.is_empty() {
                        return Err("a capture has no name");
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Capture(name));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    fn captures(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills the holes. A capture without a value (an optional group that took no part) is empty.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Capture(name) => filled.push_str(value(name).unwrap_or_default()),
            }
        }
        filled
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Capture(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let template = Template::parse("/v2/{1}/{{x}}/{name}").unwrap();
        let filled = template.fill(|name| match name {
            "1" => Some("a"),
            _ => None,
        });
        assert_eq!(filled, "/v2/a/{x}/");
        assert_eq!(Template::parse(&template.to_string()).unwrap(), template);
    }

    #[test]
    fn unknown_captures_are_reported_with_a_suggestion() {
        let mut problems = Problems::new();
        assert!(
            Template::parse_or_report(
                "/{nmae}",
                &["name".to_owned()],
                &KeyPath::root(),
                &mut problems
            )
            .is_none()
        );
        assert_eq!(problems.iter().next().unwrap().help.as_deref(), Some("did you mean {name}?"));
        for bad in ["{", "}", "{}", "{a{b}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
