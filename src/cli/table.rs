//! Tables for the terminal.
//!
//! Columns are as wide as their widest cell; a row is one line. Colours are put in after the layout, so that they don't
//! count as width; the stream that prints them drops them where nobody would see them.

use std::fmt::Write as _;

use anstyle::Style;
use comfy_table::{Cell, ContentArrangement, presets};

/// The header of a column, and how a word in it is styled.
pub(super) type Styled = (&'static str, fn(&str) -> Style);

/// A table under construction.
pub(super) struct Table {
    table: comfy_table::Table,
    headers: Vec<&'static str>,
}

impl Table {
    /// A table with these column headers, in capitals.
    pub(super) fn new(headers: &[&'static str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headers.to_vec());
        Self { table, headers: headers.to_vec() }
    }

    /// Adds a row. Control characters, which some cells have from elsewhere, can't reach the terminal.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.table.add_row(cells.map(|cell| Cell::new(printable(&cell))));
    }

    /// The lines, with the cells of one column styled by what they say.
    pub(super) fn render(mut self, styled: Option<Styled>) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let at = styled.and_then(|(header, style)| {
            self.headers.iter().position(|known| *known == header).map(|column| (column, style))
        });
        let mut text = String::new();
        let mut start = None;
        for line in self.table.lines() {
            let line = line.trim_end();
            match (start, at) {
                (None, Some((column, _))) => {
                    start = Some(self.headers.get(column).and_then(|header| line.find(header)));
                    text.push_str(line);
                }
                (Some(Some(start)), Some((_, style))) => style_word(&mut text, line, start, style),
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

/// Styles the word that begins at `start`; a line whose columns lie elsewhere (wide characters) is left alone.
fn style_word(text: &mut String, line: &str, start: usize, style: fn(&str) -> Style) {
    let split = line.split_at_checked(start).and_then(|(before, rest)| {
        let is_start = before.is_empty() || before.ends_with(' ');
        let end = rest.find(' ').unwrap_or(rest.len());
        is_start.then(|| (before, rest.split_at(end)))
    });
    match split {
        Some((before, (word, after))) => {
            let style = style(word);
            // Writing to a string does not fail.
            let _ = write!(text, "{before}{style}{word}{style:#}{after}");
        }
        None => text.push_str(line),
    }
}

/// The text with control characters replaced.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn columns_line_up_and_one_is_styled() {
        let mut table = Table::new(&["NAME", "HEALTH", "ERROR"]);
        table.row(["a".into(), "healthy".into(), String::new()]);
        table.row(["longer".into(), "unhealthy".into(), "bad \x1b[31m\nthing".into()]);
        let text = table.render(Some(("HEALTH", |word| {
            let color = if word == "healthy" { AnsiColor::Green } else { AnsiColor::Red };
            color.on_default()
        })));
        assert_eq!(
            text,
            "NAME    HEALTH     ERROR\n\
             a       \x1b[32mhealthy\x1b[0m\n\
             longer  \x1b[31munhealthy\x1b[0m  bad \u{FFFD}[31m\u{FFFD}thing\n"
        );
    }
}
