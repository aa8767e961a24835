//! Batch files: rows in, tasks out, in bounded memory.
//!
//! The readers ([`jsonl`], [`csv`]) are fed bytes as they arrive and give rows
//! with their lines; [`key`] says which rows are the same; all three are pure.
//! `load` is the shell that submits rows in groups while it reads on.

pub mod csv;
pub mod jsonl;
pub mod key;
pub(crate) mod load;

use serde_json::Value;

/// A row of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The line that it begins on, from 1, as an editor counts.
    pub line: u64,
    /// The input of a task, or why the row is none.
    pub input: Result<Value, String>,
}

/// What makes rows of the bytes of a file.
pub trait Reader: Send {
    /// Takes the next bytes and adds the rows that are complete. An error ends
    /// the file: nothing that follows can be understood.
    fn push(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), String>;

    /// The file has ended: adds the row that is left, if any.
    fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), String>;
}

/// The limits of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimits {
    /// Bytes.
    pub bytes: usize,
    /// Levels of JSON.
    pub depth: usize,
}

/// The mark that some programs put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts the byte-order mark off the front of a file that comes in pieces.
#[derive(Debug, Default)]
struct Front {
    held: Vec<u8>,
    passed: bool,
}

impl Front {
    /// The bytes that may be read now; holds back what may still become a mark.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        if self.passed {
            return bytes.into();
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(&self.held) {
            return (&[] as &[u8]).into();
        }
        self.rest().into()
    }

    /// What was held back, without the mark.
    fn rest(&mut self) -> Vec<u8> {
        self.passed = true;
        let mut held = std::mem::take(&mut self.held);
        if held.starts_with(BYTE_ORDER_MARK) {
            held.drain(..BYTE_ORDER_MARK.len());
        }
        held
    }
}
