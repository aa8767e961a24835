//! What a search shows, within its limits.

use std::fmt::Write as _;
use std::io;

use grep_searcher::{Searcher, Sink, SinkContext, SinkContextKind, SinkFinish, SinkMatch};

use super::OutputMode;

/// Bytes of a line that are shown.
const LINE: usize = 1000;

/// The text of an answer, as it grows.
pub(super) struct Output {
    text: String,
    notes: Vec<String>,
    skip: usize,
    left: usize,
    bytes: usize,
    cut: bool,
}

impl Output {
    /// Room for `head` entries after the first `offset`, and for `bytes` bytes.
    pub(super) fn new(offset: usize, head: usize, bytes: usize) -> Self {
        Self { text: String::new(), notes: Vec::new(), skip: offset, left: head, bytes, cut: false }
    }

    /// Takes a line, if there is room.
    fn entry(&mut self, line: &str) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.left == 0 || self.text.len() + line.len() >= self.bytes {
            self.cut = true;
        } else {
            self.left -= 1;
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Adds a remark for the end, if there are not too many.
    pub(super) fn note(&mut self, note: &str) {
        if self.notes.len() < 10 {
            self.notes.push(note.to_owned());
        }
    }

    /// Whether something was left out, so that searching on is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.cut
    }

    /// The whole answer.
    pub(super) fn finish(mut self) -> String {
        if self.text.is_empty() && !self.cut {
            self.text.push_str("No matches found\n");
        }
        if self.cut {
            self.text.push_str("[There is more; raise `head_limit`, use `offset`, or narrow the search.]\n");
        }
        for note in &self.notes {
            let _ = writeln!(self.text, "[{note}]");
        }
        self.text
    }
}

/// What was found in one file.
pub(super) struct FileHits<'a> {
    name: &'a str,
    mode: OutputMode,
    line_numbers: bool,
    output: &'a mut Output,
    matches: u64,
    binary: bool,
}

impl<'a> FileHits<'a> {
    pub(super) fn new(name: &'a str, mode: OutputMode, line_numbers: bool, output: &'a mut Output) -> Self {
        Self { name, mode, line_numbers, output, matches: 0, binary: false }
    }

    /// Enters what is known only at the end of a file.
    pub(super) fn finish(self) {
        if self.matches == 0 || self.binary {
            return;
        }
        match self.mode {
            OutputMode::FilesWithMatches => self.output.entry(self.name),
            OutputMode::Count => self.output.entry(&format!("{}:{}", self.name, self.matches)),
            OutputMode::Content => {}
        }
    }

    fn lines(&mut self, bytes: &[u8], first: Option<u64>, mark: char) {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        for (number, line) in (first.unwrap_or(1)..).zip(bytes.split(|byte| *byte == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let shown = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
            let more = if line.len() > LINE { " […]" } else { "" };
            let name = self.name;
            self.output.entry(&if self.line_numbers {
                format!("{name}{mark}{number}{mark}{shown}{more}")
            } else {
                format!("{name}{mark}{shown}{more}")
            });
        }
    }
}

impl Sink for &mut FileHits<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        self.matches += 1;
        match self.mode {
            OutputMode::FilesWithMatches => return Ok(false),
            OutputMode::Count => {}
            OutputMode::Content => self.lines(found.bytes(), found.line_number(), ':'),
        }
        Ok(!self.output.is_full())
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, io::Error> {
        if *context.kind() != SinkContextKind::Other {
            self.lines(context.bytes(), context.line_number(), '-');
        }
        Ok(!self.output.is_full())
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, io::Error> {
        self.output.entry("--");
        Ok(!self.output.is_full())
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> Result<(), io::Error> {
        self.binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}
