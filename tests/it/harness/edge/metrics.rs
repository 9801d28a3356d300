//! Reading `/metrics`: the text form of Prometheus, version 0.0.4.

use crate::harness::{Origin, RawOrigin, TcpOrigin};

/// Names and values of labels.
type Pairs = Vec<(String, String)>;

/// Labels that a series must have.
pub trait Labels {
    /// Names and values.
    fn pairs(&self) -> Vec<(String, String)>;
}

impl Labels for () {
    fn pairs(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl<const N: usize> Labels for [(&str, &str); N] {
    fn pairs(&self) -> Vec<(String, String)> {
        self.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

impl Labels for &Origin {
    fn pairs(&self) -> Vec<(String, String)> {
        vec![("endpoint".to_owned(), self.address())]
    }
}

impl Labels for &RawOrigin {
    fn pairs(&self) -> Vec<(String, String)> {
        vec![("endpoint".to_owned(), self.address())]
    }
}

impl Labels for &TcpOrigin {
    fn pairs(&self) -> Vec<(String, String)> {
        vec![("endpoint".to_owned(), self.address())]
    }
}

/// The sum of the series with this name and these labels; `None` where there is none.
pub(super) fn sum(text: &str, name: &str, labels: &[(String, String)]) -> Option<f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(series)
        .filter(|(found, has, _)| *found == name && labels.iter().all(|label| has.contains(label)))
        .map(|(_, _, value)| value)
        .reduce(|sum, value| sum + value)
}

/// One line: name, labels, value.
fn series(line: &str) -> Option<(&str, Pairs, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
    }
    // A time may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// A label's value up to its closing quote, escapes undone, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let text =
            "# HELP a x\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}\"} 2\na{x=\"2\"} 3.5\nab 7\n";
        assert_eq!(sum(text, "a", &().pairs()), Some(5.5));
        assert_eq!(sum(text, "a", &[("x", "1")].pairs()), Some(2.0));
        assert_eq!(sum(text, "a", &[("y", "q\"}")].pairs()), Some(2.0));
        assert_eq!(sum(text, "ab", &().pairs()), Some(7.0));
        assert_eq!(sum(text, "a", &[("x", "3")].pairs()), None);
        assert_eq!(sum(text, "b", &().pairs()), None);
    }
}
