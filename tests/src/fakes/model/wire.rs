//! Replies as the Messages API streams them: messages as server-sent events,
//! streams as chunked HTTP/1.1.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

/// A message to stream.
#[derive(Debug, Clone, Default)]
pub struct Message {
    content: Vec<Value>,
    stop_reason: Option<String>,
    model: Option<String>,
    input_tokens: Option<usize>,
    headers: Vec<(String, String)>,
}

impl Message {
    /// A message of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A message that is one text.
    pub fn of_text(text: &str) -> Self {
        Self::new().text(text)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.block(json!({"type": "text", "text": text}))
    }

    /// Adds a tool call.
    #[must_use]
    pub fn tool_use(self, id: &str, name: &str, input: &Value) -> Self {
        self.block(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
    }

    /// Adds a thought.
    #[must_use]
    pub fn thinking(self, thinking: &str, signature: &str) -> Self {
        self.block(json!({"type": "thinking", "thinking": thinking, "signature": signature}))
    }

    /// Adds any block, as it is.
    #[must_use]
    pub fn block(mut self, block: Value) -> Self {
        self.content.push(block);
        self
    }

    /// Says why it ends; by default `tool_use` where there is a tool call, else `end_turn`.
    #[must_use]
    pub fn stop(mut self, reason: &str) -> Self {
        self.stop_reason = Some(reason.to_owned());
        self
    }

    /// Says which model it is from; by default the one that was asked.
    #[must_use]
    pub fn from(mut self, model: &str) -> Self {
        self.model = Some(model.to_owned());
        self
    }

    /// Says how many tokens were read; by default a quarter of the request's bytes.
    #[must_use]
    pub fn having_read(mut self, tokens: usize) -> Self {
        self.input_tokens = Some(tokens);
        self
    }

    /// Comes with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The headers that it comes with.
    pub(super) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Which model it is from, and how many tokens it read, where it says so itself.
    pub(super) fn origin<'a>(&'a self, asked: &'a Value, tokens: usize) -> (Value, usize) {
        let model = self.model.as_ref().map_or_else(|| asked.clone(), |model| json!(model));
        (model, self.input_tokens.unwrap_or(tokens))
    }

    /// The blocks.
    pub fn content(&self) -> &[Value] {
        &self.content
    }

    /// Why it ends.
    pub fn stop_reason(&self) -> &str {
        let calls = self.content.iter().any(|block| block["type"] == "tool_use");
        self.stop_reason.as_deref().unwrap_or(if calls { "tool_use" } else { "end_turn" })
    }

    /// As a body of server-sent events.
    pub fn stream(&self, id: &str, model: &Value, input_tokens: usize) -> Vec<u8> {
        let mut events = vec![
            json!({"type": "message_start", "message": {"id": id, "type": "message", "role": "assistant",
                "model": model, "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": input_tokens, "output_tokens": 1}}}),
            json!({"type": "ping"}),
        ];
        for (index, block) in self.content.iter().enumerate() {
            let (start, deltas) = pieces(block);
            events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
            for delta in deltas {
                events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            events.push(json!({"type": "content_block_stop", "index": index}));
        }
        events
            .push(json!({"type": "message_delta", "delta": {"stop_reason": self.stop_reason(), "stop_sequence": null},
            "usage": {"output_tokens": 20}}));
        events.push(json!({"type": "message_stop"}));
        events.iter().map(event).collect::<Vec<_>>().concat().into_bytes()
    }
}

/// A block as it starts, and the deltas that complete it. Of a kind that the API
/// streams whole, or does not have, nothing is split.
fn pieces(block: &Value) -> (Value, Vec<Value>) {
    let mut start = block.clone();
    let mut deltas = Vec::new();
    match block["type"].as_str() {
        Some("text") => {
            start["text"] = json!("");
            let text = block["text"].as_str().unwrap_or_default();
            deltas.extend(split(text).into_iter().map(|piece| json!({"type": "text_delta", "text": piece})));
        }
        Some("thinking") => {
            (start["thinking"], start["signature"]) = (json!(""), json!(""));
            let text = block["thinking"].as_str().unwrap_or_default();
            deltas.extend(split(text).into_iter().map(|piece| json!({"type": "thinking_delta", "thinking": piece})));
            deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
        }
        Some("tool_use" | "server_tool_use") => {
            start["input"] = json!({});
            let input = block["input"].to_string();
            deltas.push(json!({"type": "input_json_delta", "partial_json": ""}));
            deltas.extend(split(&input).into_iter().map(|p| json!({"type": "input_json_delta", "partial_json": p})));
        }
        _ => {}
    }
    (start, deltas)
}

pub(super) fn split(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(7).map(|piece| piece.iter().collect()).collect()
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers it.
    Message(Message),
    /// Answers it when it is told to.
    Held(Message, Arc<Notify>),
    /// Answers it piece by piece, with this wait between two.
    Slow(Message, Duration),
    /// Answers it with these bytes, of this content type.
    Raw(&'static str, Vec<u8>),
    /// Answers half of it, then does this.
    Broken(Message, Break),
    /// Refuses it.
    Error(ErrorReply),
    /// Takes it and says nothing.
    Silence,
    /// Answers without end, up to this many bytes.
    Endless(usize),
}

/// How a stream breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The body ends as if it were whole.
    End,
    /// The connection is closed within the body.
    Close,
    /// The connection is reset (TCP RST) within the body.
    Reset,
    /// Nothing more comes.
    Stall,
    /// An `error` event comes: `overloaded_error`.
    ErrorEvent,
}

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct ErrorReply {
    /// The HTTP status.
    pub status: u16,
    /// The type in the body.
    pub kind: String,
    /// The message in the body.
    pub message: String,
    /// Headers besides the usual ones.
    pub headers: Vec<(String, String)>,
}

impl From<Message> for Reply {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

impl Reply {
    /// A body that was recorded.
    pub fn recorded(body: &[u8]) -> Self {
        Self::Raw("text/event-stream; charset=utf-8", body.to_vec())
    }

    /// An error.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        let (kind, message) = (kind.to_owned(), message.to_owned());
        Self::Error(ErrorReply { status, kind, message, headers: Vec::new() })
    }

    /// An error that asks to wait.
    pub fn error_with_header(status: u16, kind: &str, name: &str, value: &str) -> Self {
        let headers = vec![(name.to_owned(), value.to_owned())];
        Self::Error(ErrorReply { status, kind: kind.to_owned(), message: "not now".to_owned(), headers })
    }
}

/// The head of a streamed answer.
pub(super) fn stream_head(content_type: &str, request_id: &str, headers: &[(String, String)]) -> String {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nrequest-id: {request_id}\r\ntransfer-encoding: chunked\r\n"
    );
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Bytes as chunks of an odd size, so that events, lines and characters are torn.
pub(super) fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    for chunk in bytes.chunks(61) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The chunk that ends a body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The event that ends a stream with an error.
pub(super) fn error_event() -> Vec<u8> {
    event(&json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})).into_bytes()
}

impl ErrorReply {
    /// As a whole HTTP response.
    pub(super) fn response(&self, request_id: &str) -> Vec<u8> {
        let body = json!({"type": "error", "error": {"type": self.kind, "message": self.message},
            "request_id": request_id})
        .to_string();
        let mut head = format!(
            "HTTP/1.1 {} Error\r\ncontent-type: application/json\r\nrequest-id: {request_id}\r\ncontent-length: {}\r\n",
            self.status,
            body.len()
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        format!("{head}\r\n{body}").into_bytes()
    }
}
