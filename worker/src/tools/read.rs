//! `Read`: a text file with line numbers.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};

use async_trait::async_trait;
use common::journal::Effect;
use serde::Deserialize;
use serde_json::{Value, json};

use super::blocking::{self, Unwanted, Wanted};
use super::workspace::Workspace;
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};

/// Lines that are read if the call does not say how many.
const DEFAULT_LINES: usize = 2000;
/// Bytes of a line that are shown.
const LINE_LIMIT: usize = 2000;
/// Bytes at the beginning of a file in which a NUL tells that it is binary.
const SNIFF: usize = 8192;

/// Reads a text file of the working directory. Holds one line in memory at a time.
#[derive(Debug)]
pub struct Read {
    spec: ToolSpec,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    file_path: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

impl Default for Read {
    fn default() -> Self {
        Self {
            spec: ToolSpec {
                name: "Read".to_owned(),
                description: format!(
                    "Reads a text file of the working directory. Lines are numbered from 1, as in `cat -n`. \
                     Reads up to {DEFAULT_LINES} lines from the beginning unless `offset` and `limit` say otherwise; \
                     lines longer than {LINE_LIMIT} bytes are cut. Binary files and directories cannot be read."
                ),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "file_path": {"type": "string", "description": "The file, relative to the working directory"},
                        "offset": {"type": "integer", "minimum": 0, "description": "The line to start at, from 1"},
                        "limit": {"type": "integer", "minimum": 1, "description": "How many lines to read"}
                    },
                    "required": ["file_path"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Read {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Read
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let arguments: Arguments = arguments(&call)?;
        let context = call.context;
        blocking::run(context.timeout, move |wanted| {
            let file = Workspace::open(&context.workspace)
                .and_then(|workspace| workspace.open_file(&workspace.relative(&arguments.file_path)?));
            match file {
                Ok(file) => read(BufReader::new(file), &arguments, context.output_limit, wanted),
                Err(refusal) => Ok(ToolAnswer::error(refusal.to_string())),
            }
        })
        .await
    }
}

fn read(
    mut file: impl BufRead,
    arguments: &Arguments,
    output_limit: usize,
    wanted: &Wanted,
) -> Result<ToolAnswer, Unwanted> {
    let path = &arguments.file_path;
    let broken = |error: std::io::Error| ToolAnswer::error(format!("{path}: {error}"));
    match file.fill_buf() {
        Ok([]) => return Ok(ToolAnswer::text(format!("({path} is empty)"))),
        Ok(start) if start[..start.len().min(SNIFF)].contains(&0) => {
            return Ok(ToolAnswer::error(format!("{path} is a binary file, which this tool does not read")));
        }
        Ok(_) => {}
        Err(error) => return Ok(broken(error)),
    }
    let first = arguments.offset.unwrap_or(1).max(1);
    let limit = arguments.limit.unwrap_or(DEFAULT_LINES);
    let (mut text, mut line, mut number) = (String::new(), Vec::new(), 0_usize);
    loop {
        wanted.check()?;
        match next_line(&mut file, &mut line, wanted) {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => number += 1,
            Ok(Err(error)) => return Ok(broken(error)),
            Err(unwanted) => return Err(unwanted),
        }
        if number < first {
            continue;
        }
        if number - first >= limit || text.len() >= output_limit {
            let more = format!("[The file goes on; read it from line {number} with `offset`.]\n");
            text.push_str(&more);
            break;
        }
        let shown = String::from_utf8_lossy(&line);
        let _ = writeln!(text, "{number:>6}\t{shown}");
    }
    if text.is_empty() {
        return Ok(ToolAnswer::error(format!("{path} has only {number} lines; line {first} is beyond its end")));
    }
    Ok(ToolAnswer::text(super::cut(text, output_limit)))
}

/// Reads a line without its end, keeping at most [`LINE_LIMIT`] bytes of it.
/// Answers how many bytes were read: 0 at the end of the file.
fn next_line(file: &mut impl BufRead, line: &mut Vec<u8>, wanted: &Wanted) -> Result<std::io::Result<usize>, Unwanted> {
    line.clear();
    let (mut read, mut cut) = (0_usize, false);
    loop {
        wanted.check()?;
        let chunk = match file.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(error)),
        };
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |at| at + 1);
        let content = &chunk[..end.unwrap_or(chunk.len())];
        let room = LINE_LIMIT - line.len();
        line.extend_from_slice(&content[..content.len().min(room)]);
        cut |= content.len() > room;
        file.consume(taken);
        read += taken;
        if end.is_some() || taken == 0 {
            break;
        }
    }
    if cut {
        line.extend_from_slice(" […]".as_bytes());
    } else if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Ok(read))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(contents: &[u8], offset: Option<usize>, limit: Option<usize>) -> ToolAnswer {
        let arguments = Arguments { file_path: "f".into(), offset, limit };
        read(contents, &arguments, 100_000, &Wanted::default()).unwrap()
    }

    #[test]
    fn lines_are_numbered_as_by_cat() {
        assert_eq!(
            text(b"one\r\ntwo\n\nfour", None, None).content,
            "     1\tone\n     2\ttwo\n     3\t\n     4\tfour\n"
        );
    }

    #[test]
    fn offset_and_limit_choose_lines_and_the_answer_says_how_to_go_on() {
        assert_eq!(
            text(b"a\nb\nc\nd\n", Some(2), Some(2)).content,
            "     2\tb\n     3\tc\n[The file goes on; read it from line 4 with `offset`.]\n"
        );
    }

    #[test]
    fn the_last_page_does_not_promise_more() {
        assert_eq!(text(b"a\nb\n", Some(2), Some(1)).content, "     2\tb\n");
    }

    #[test]
    fn a_line_beyond_the_end_is_an_error_that_says_how_long_the_file_is() {
        let answer = text(b"a\nb\n", Some(9), None);
        assert!(answer.is_error && answer.content.as_str().unwrap().contains("only 2 lines"), "{answer:?}");
    }

    #[test]
    fn a_binary_file_is_refused_and_an_empty_one_named() {
        assert!(text(b"PNG\0\x01", None, None).is_error);
        assert_eq!(text(b"", None, None).content, "(f is empty)");
    }

    #[test]
    fn a_long_line_is_cut() {
        let answer = text("x".repeat(10_000).as_bytes(), None, None);
        assert!(answer.content.as_str().unwrap().len() < 2100);
    }
}
