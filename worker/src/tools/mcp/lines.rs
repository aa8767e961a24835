//! The lines that a server writes, before the protocol sees them.
//!
//! One message is one line. A line that is too long is not kept: if it can be
//! told which request it answers, that request gets an error in its place.
//! Lines that are no JSON are passed over, as many servers print a greeting,
//! but not without end.

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

/// Lines that are no JSON, after which a server is given up.
const STRAY_LINES: u32 = 100;
/// Bytes of the beginning and of the end of a line that is too long, in which its id is looked for.
pub(super) const ENDS: usize = 200;

/// The code of the error that stands for an answer that was too large; in the
/// range that JSON-RPC leaves to implementations.
pub(super) const TOO_LARGE: i32 = -32_090;

/// Why no more lines come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// The server closed its stdout, or ended.
    #[error("it closed its output")]
    Closed,
    /// It wrote too much that is not JSON-RPC.
    #[error("it wrote more than {STRAY_LINES} lines that are no JSON")]
    Garbage,
    /// It wrote a line that is too long, and it cannot be told what it answers.
    #[error("it wrote a message larger than {0} bytes")]
    TooLarge(usize),
    /// Nobody listens any more.
    #[error("the connection was closed")]
    Unheard,
}

/// Hands on the messages that a server writes, until something ends that.
/// `stray` is told of every line that is no JSON.
pub(super) async fn pump(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    limit: usize,
    mut stray: impl FnMut(&[u8]),
) -> End {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut strays = 0;
    loop {
        let message = match next_line(&mut from, &mut line, limit).await {
            Ok(Line::Whole) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(Line::Whole) if serde_json::from_slice::<IgnoredAny>(&line).is_ok() => std::mem::take(&mut line),
            Ok(Line::Whole) => {
                stray(&line);
                strays += 1;
                if strays > STRAY_LINES {
                    return End::Garbage;
                }
                continue;
            }
            Ok(Line::TooLong { tail }) => match answered_id(&line, &tail) {
                Some(id) => {
                    let message = format!("the answer is larger than {limit} bytes");
                    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": TOO_LARGE, "message": message}});
                    (error.to_string() + "\n").into_bytes()
                }
                None => return End::TooLarge(limit),
            },
            Ok(Line::End) | Err(_) => return End::Closed,
        };
        if to.write_all(&message).await.is_err() {
            return End::Unheard;
        }
    }
}

enum Line {
    /// The buffer holds it, with its end.
    Whole,
    /// The buffer holds its beginning.
    TooLong {
        tail: Vec<u8>,
    },
    End,
}

async fn next_line(
    from: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<Line> {
    line.clear();
    let mut tail: Option<Vec<u8>> = None;
    loop {
        let chunk = from.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(Line::End);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |at| at + 1);
        if tail.is_none() && line.len() + taken > limit {
            line.extend_from_slice(&chunk[..taken.min(ENDS)]);
            line.truncate(ENDS);
            tail = Some(Vec::new());
        }
        match &mut tail {
            None => line.extend_from_slice(&chunk[..taken]),
            Some(tail) => {
                tail.extend_from_slice(&chunk[..taken]);
                tail.drain(..tail.len().saturating_sub(ENDS));
            }
        }
        from.consume(taken);
        if end.is_some() {
            return Ok(tail.map_or(Line::Whole, |tail| Line::TooLong { tail }));
        }
    }
}

/// The id of the request that a message answers, from its two ends: servers
/// write it first or last. Inside of a result, it would be followed by more
/// than a brace, or not preceded by the brace that opens the message.
pub(super) fn answered_id(head: &[u8], tail: &[u8]) -> Option<Value> {
    let head = String::from_utf8_lossy(head);
    let tail = String::from_utf8_lossy(tail);
    let compact = |text: &str| text.replace([' ', '\t', '\r', '\n'], "");
    let (head, tail) = (compact(&head), compact(&tail));
    let after_open = head.strip_prefix('{')?;
    let first = after_open.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix(',')).unwrap_or(after_open);
    if let Some(id) = first.strip_prefix(r#""id":"#) {
        return number(id.split(',').next()?);
    }
    let before_close = tail.strip_suffix('}')?;
    let last = before_close.strip_suffix(VERSION).and_then(|rest| rest.strip_suffix(',')).unwrap_or(before_close);
    number(last.rsplit_once(r#","id":"#)?.1)
}

/// What stands beside the id.
const VERSION: &str = r#""jsonrpc":"2.0""#;

/// Our own ids are numbers.
fn number(text: &str) -> Option<Value> {
    text.parse::<u64>().ok().map(Value::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn pumped(input: &[u8], limit: usize) -> (End, String, usize) {
        let (mut out, mut strays) = (Vec::new(), 0);
        let end = pump(input, &mut out, limit, |_| strays += 1).await;
        (end, String::from_utf8(out).unwrap(), strays)
    }

    #[tokio::test]
    async fn messages_pass_and_stray_lines_do_not() {
        let (end, out, strays) = pumped(b"Server running\n\n{\"id\":1}\nnull, of course\n{\"id\":2}\n", 100).await;
        assert_eq!((end, out.as_str(), strays), (End::Closed, "{\"id\":1}\n{\"id\":2}\n", 2));
    }

    #[tokio::test]
    async fn a_server_that_writes_only_garbage_is_given_up() {
        let (end, out, strays) = pumped(&b"garbage\n".repeat(1000), 100).await;
        assert_eq!((end, out.as_str(), strays), (End::Garbage, "", 101));
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_becomes_an_error_for_its_request() {
        let padding = "x".repeat(5000);
        for message in [
            format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"text":"{padding}"}}}}"#),
            format!(r#"{{"result":{{"text":"{padding}"}},"jsonrpc":"2.0","id":7}}"#),
            format!(r#"{{"result": {{"text": "{padding}"}}, "id": 7, "jsonrpc": "2.0"}}"#),
            format!(r#"{{"id": 7, "jsonrpc": "2.0", "result": "{padding}"}}"#),
        ] {
            let (end, out, _) = pumped(format!("{message}\n{{\"id\":8}}\n").as_bytes(), 1000).await;
            let (error, rest) = out.split_once('\n').unwrap();
            let error: Value = serde_json::from_str(error).unwrap();
            assert_eq!((&error["id"], &error["error"]["code"]), (&json!(7), &json!(TOO_LARGE)), "{}", &message[..60]);
            assert_eq!((end, rest), (End::Closed, "{\"id\":8}\n"));
        }
    }

    #[tokio::test]
    async fn an_endless_message_that_names_no_request_ends_the_connection() {
        let line = format!("[\"{}\"]\n", "x".repeat(5000));
        assert_eq!(pumped(line.as_bytes(), 1000).await.0, End::TooLarge(1000));
    }
}
