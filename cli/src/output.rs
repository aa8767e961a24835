//! What commands print: tables for people on a terminal, tab-separated lines
//! in a pipe, JSON when asked for. Everything goes to stdout; progress, notes
//! and errors go to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;

/// One line below the headings, and no other.
const LINES: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// `--json`.
    pub(crate) json: bool,
    /// Whether stdout is a terminal.
    terminal: bool,
    /// Whether colours are wanted: on a terminal, unless `NO_COLOR` is set (no-color.org).
    colour: bool,
}

/// A colour by what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// Of lesser importance.
    Dim,
    /// A heading.
    Bold,
    /// It went well.
    Good,
    /// It wants attention.
    Warn,
    /// It went wrong.
    Bad,
}

#[expect(clippy::unused_self, reason = "all printing goes through the value that says how to print")]
impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, terminal, colour: terminal && !no_colour }
    }

    /// Paints a text, where colours are wanted.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colour => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Dim => "2",
            Tone::Bold => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line.
    pub(crate) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{}", text.as_ref())
    }

    /// A line for people only; nothing with `--json`.
    pub(crate) fn say(self, text: impl AsRef<str>) -> io::Result<()> {
        if self.json { Ok(()) } else { self.line(text) }
    }

    /// A document, indented.
    pub(crate) fn document(self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, value)?;
        writeln!(stdout)
    }

    /// One of many documents, on one line.
    pub(crate) fn record(self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, value)?;
        writeln!(stdout)?;
        stdout.flush()
    }

    /// Rows under headings: drawn on a terminal, tab-separated in a pipe.
    pub(crate) fn table(self, headings: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if !self.terminal {
            writeln!(stdout, "{}", headings.join("\t"))?;
            for row in rows {
                let cells: Vec<String> = row.iter().map(|cell| one_line(cell)).collect();
                writeln!(stdout, "{}", cells.join("\t"))?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(LINES).set_content_arrangement(ContentArrangement::Dynamic);
        if let Some((width, _)) = terminal_size::terminal_size_of(io::stdout()) {
            table.set_width(width.0);
        }
        table.set_header(headings.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| one_line(cell)));
        }
        writeln!(stdout, "{table}")
    }
}

/// A note on stderr, for people; stderr may be gone, and that must not matter.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// A text from outside as it may stand in a terminal: on one line, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text from outside, cut to so many characters.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= limit {
        return text;
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A length of time as people say it: `85 ms`, `4.2 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0 => format!("{} ms", time.as_millis()),
        1..=59 => format!("{:.1} s", time.as_secs_f64()),
        60..=3_599 => format!("{} m {} s", secs / 60, secs % 60),
        3_600..=86_399 => format!("{} h {} m", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// Dollars, with as many digits as small amounts need.
pub(crate) fn dollars(usd: f64) -> String {
    if usd == 0.0 || usd >= 0.095 { format!("${usd:.2}") } else { format!("${usd:.4}") }
}

/// A count with separators: `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.0123, 0.1, 12.345].map(dollars), ["$0.00", "$0.0123", "$0.10", "$12.35"]);
        let times = [85, 4_210, 200_000, 7_500_000, 273_600_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(times, ["85 ms", "4.2 s", "3 m 20 s", "2 h 5 m", "3 d 4 h"]);
    }

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        assert_eq!(cut("a\x1b[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
