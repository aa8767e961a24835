//! Problems in what users write, with the place and the offending line.
//!
//! Everything that reads users' files collects into [`Diagnostics`], so that
//! all problems are shown at once. `Display` writes plain text; colour is the
//! business of whoever prints.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A file as it was read; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path, relative to the project, with `/` between the parts.
    pub name: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing of the project is used before this is put right.
    Error,
    /// It works, but perhaps not as meant.
    Warning,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where: the file, relative to the project.
    pub file: String,
    /// Where in the file, where that is known; from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// In characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// The offending line, at most [`Diagnostic::SOURCE_LIMIT`] characters of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How many characters of it offend.
    #[serde(skip)]
    pub width: usize,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Problems, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl SourceFile {
    /// A file by its name and text. A byte order mark is dropped and line ends become `\n`, so
    /// that the same file is the same on every machine.
    pub fn new(name: &str, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text: Arc<str> = if text.contains('\r') { text.replace("\r\n", "\n").into() } else { text.into() };
        Self { name: name.into(), text }
    }

    /// The byte offset of a place; the end of the text if there is no such place.
    pub fn offset(&self, place: Place) -> usize {
        let mut start = 0;
        for _ in 1..place.line {
            match self.text[start..].find('\n') {
                Some(end) => start += end + 1,
                None => return self.text.len(),
            }
        }
        let column = place.column.saturating_sub(1) as usize;
        self.text[start..].char_indices().nth(column).map_or(self.text.len(), |(at, _)| start + at)
    }

    /// The place of a byte offset.
    pub fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
    }

    /// An error in this file.
    pub fn error(&self, place: impl Into<Option<Place>>, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, place.into(), message.into())
    }

    /// A warning about this file.
    pub fn warning(&self, place: impl Into<Option<Place>>, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, place.into(), message.into())
    }

    fn diagnostic(&self, severity: Severity, place: Option<Place>, message: String) -> Diagnostic {
        let source = place.and_then(|place| self.text.lines().nth(place.line.saturating_sub(1) as usize));
        let width = match (source, place) {
            (Some(line), Some(place)) => word_width(line, place.column),
            _ => 1,
        };
        Diagnostic {
            severity,
            file: self.name.to_string(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            message,
            source: source.map(|line| line.chars().take(Diagnostic::SOURCE_LIMIT).collect()),
            width,
            help: None,
        }
    }
}

/// How much to underline where nothing else is known: the word that starts there.
fn word_width(line: &str, column: u32) -> usize {
    let rest = line.chars().skip(column.saturating_sub(1) as usize);
    rest.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/')).count().max(1)
}

impl Diagnostic {
    /// The longest line that is shown, in characters.
    pub const SOURCE_LIMIT: usize = 400;

    /// A problem that has no place in a file's text: the file itself cannot be read, say.
    pub fn of_file(severity: Severity, file: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: file.to_owned(),
            line: None,
            column: None,
            message: message.into(),
            source: None,
            width: 1,
            help: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says how many characters offend.
    #[must_use]
    pub fn with_width(mut self, width: usize) -> Self {
        self.width = width.max(1);
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        let number = self.line.map(|line| line.to_string()).unwrap_or_default();
        let margin = " ".repeat(number.len());
        write!(f, "{margin}--> {}", self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        writeln!(f)?;
        if let (Some(source), Some(column)) = (&self.source, self.column) {
            // Tabs would move the caret: each counts for one character here as it does in `column`.
            let source = source.replace('\t', " ");
            let before = column.saturating_sub(1) as usize;
            let room = source.chars().count().saturating_sub(before).max(1);
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {source}")?;
            writeln!(f, "{margin} | {}{}", " ".repeat(before), "^".repeat(self.width.min(room)))?;
        }
        match &self.help {
            Some(help) => writeln!(f, "{margin} = help: {help}"),
            None => Ok(()),
        }
    }
}

impl Diagnostics {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many are warnings.
    pub fn warnings(&self) -> usize {
        self.0.len() - self.errors()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// By file and place, each once.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| (&a.file, a.line, a.column, a.severity).cmp(&(&b.file, b.line, b.column, b.severity)));
        self.0.dedup();
        self
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_file_line_column_and_the_offending_text() {
        let file = SourceFile::new("pipelines/a.yaml", "name: a\r\nstepz: []\n");
        let shown = file.error(file.place(8), "unknown key `stepz`").with_help("did you mean `steps`?").to_string();
        let expected = "error: unknown key `stepz`\n --> pipelines/a.yaml:2:1\n  |\n2 | stepz: []\n  | ^^^^^\n  = help: did you mean `steps`?\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn places_and_offsets_are_each_others_inverse() {
        let file = SourceFile::new("x", "é: 1\n\nb: ü\n");
        for (offset, _) in file.text.char_indices() {
            assert_eq!(file.offset(file.place(offset)), offset);
        }
    }
}
