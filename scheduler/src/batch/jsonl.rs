//! JSON Lines: one JSON value a line. Empty lines are skipped.

use serde_json::Value;

use super::{Front, Reader, Row, RowLimits};
use crate::text::check_text;

/// Reads JSON Lines.
#[derive(Debug)]
pub struct JsonLines {
    limits: RowLimits,
    front: Front,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// The line is longer than allowed: what follows of it is not kept.
    overlong: bool,
    line: u64,
}

impl JsonLines {
    /// A reader at the beginning of a file.
    pub fn new(limits: RowLimits) -> Self {
        Self { limits, front: Front::default(), begun: Vec::new(), overlong: false, line: 1 }
    }

    fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<Row>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.begin(line);
            self.end_line(rows);
            self.line += 1;
            bytes = &rest[1..];
        }
        self.begin(bytes);
    }

    fn begin(&mut self, bytes: &[u8]) {
        if self.overlong || self.begun.len() + bytes.len() > self.limits.bytes {
            self.overlong = true;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, rows: &mut Vec<Row>) {
        let overlong = std::mem::take(&mut self.overlong);
        if overlong {
            let reason = format!("the line is longer than {} bytes (limits.input)", self.limits.bytes);
            rows.push(Row { line: self.line, input: Err(reason) });
        } else if !self.begun.trim_ascii().is_empty() {
            rows.push(Row { line: self.line, input: parse(&self.begun, self.limits.depth) });
        }
        self.begun.clear();
    }
}

impl Reader for JsonLines {
    fn push(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), String> {
        let bytes = self.front.pass(bytes);
        self.feed(&bytes, rows);
        Ok(())
    }

    fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), String> {
        let rest = self.front.rest();
        self.feed(&rest, rows);
        self.end_line(rows);
        Ok(())
    }
}

fn parse(line: &[u8], depth: usize) -> Result<Value, String> {
    check_text(line, depth).map_err(|why| why.replace("the body", "the line"))?;
    serde_json::from_slice(line).map_err(|error| {
        // The parser counts lines from 1 within this one: only its column says something.
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        format!("not JSON: {message} at column {}", error.column())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(pieces: &[&[u8]], bytes: usize) -> Vec<Row> {
        let mut reader = JsonLines::new(RowLimits { bytes, depth: 8 });
        let mut rows = Vec::new();
        for piece in pieces {
            reader.push(piece, &mut rows).unwrap();
        }
        reader.finish(&mut rows).unwrap();
        rows
    }

    #[test]
    fn each_line_is_a_row_and_empty_lines_are_counted_but_skipped() {
        let rows = read(&[b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"a\":2}"], 100);
        let found: Vec<_> = rows.into_iter().map(|row| (row.line, row.input.unwrap())).collect();
        assert_eq!(found, [(1, json!({"a": 1})), (4, json!({"a": 2}))]);
    }

    #[test]
    fn bad_lines_are_named_and_the_others_go_on() {
        let rows = read(&[b"{\"a\":}\n\xff\n[[[[[[[[[[1]]]]]]]]]]\n\"0123456789012345678901234567890\"\n1"], 30);
        let reasons: Vec<_> = rows.iter().map(|row| (row.line, row.input.clone().err())).collect();
        assert_eq!(reasons[0].1.as_deref(), Some("not JSON: expected value at column 6"));
        assert!(reasons[1].1.as_ref().unwrap().contains("not UTF-8"));
        assert!(reasons[2].1.as_ref().unwrap().contains("deeper than 8"));
        assert!(reasons[3].1.as_ref().unwrap().contains("longer than 30"));
        assert_eq!(reasons[4], (5, None));
    }

    proptest! {
        #[test]
        fn rows_do_not_depend_on_how_the_bytes_arrive(bytes: Vec<u8>, cut: proptest::sample::Index) {
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let whole = read(&[&bytes], 20);
            prop_assert_eq!(read(&[&bytes[..cut], &bytes[cut..]], 20), whole);
        }
    }
}
