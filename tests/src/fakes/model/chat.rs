//! The other wire that the fake speaks, Chat Completions: what its server
//! refuses, and its replies as streams of chunks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::wire::{Message, split};

/// What the server refuses in a request, beside what its JSON alone says.
pub(super) fn violation(request: &Value) -> Option<String> {
    let messages = request["messages"].as_array()?;
    if messages.is_empty() {
        return Some("messages: at least one is needed".to_owned());
    }
    if request["stream"] != true || request["stream_options"]["include_usage"] != true {
        return Some("stream_options: this server is asked for its usage".to_owned());
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if tool["type"] != "function" || name.is_empty() || name.len() > 64 || !plain {
            return Some(format!("tools: {tool} is no function"));
        }
    }
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            if !open.remove(id) || !message["content"].is_string() {
                return Some(format!("messages.{at}: a result of no open call, or without a text"));
            }
            continue;
        }
        if !open.is_empty() {
            return Some(format!("messages.{at}: the calls {open:?} have no results"));
        }
        let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        match role {
            "system" if at == 0 && message["content"].is_string() => {}
            "user" if message["content"].is_string() || message["content"].is_array() => {}
            "assistant" if message["content"].is_string() || !calls.is_empty() => {}
            _ => return Some(format!("messages.{at}: {message} is not valid here")),
        }
        for call in calls {
            let arguments = call["function"]["arguments"].as_str();
            if call["type"] != "function" || arguments.is_none() {
                return Some(format!("messages.{at}: {call} is no call"));
            }
            open.extend(call["id"].as_str());
        }
    }
    (!open.is_empty()).then(|| format!("messages: the calls {open:?} have no results"))
}

/// A reply as a body of server-sent events.
pub(super) fn stream(message: &Message, id: &str, model: &Value, input_tokens: usize) -> Vec<u8> {
    let chunk = |delta: Value, reason: Value| {
        json!({"id": id, "object": "chat.completion.chunk", "created": 1, "model": model,
               "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    };
    let mut chunks = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    let mut calls = 0;
    for block in message.content() {
        match block["type"].as_str() {
            Some("text") => {
                let pieces = split(block["text"].as_str().unwrap_or_default());
                chunks.extend(pieces.into_iter().map(|piece| chunk(json!({"content": piece}), Value::Null)));
            }
            Some("tool_use") => {
                let piece = |id: Value, name: Value, arguments: &str| {
                    json!({"tool_calls": [{"index": calls, "id": id, "type": "function",
                           "function": {"name": name, "arguments": arguments}}]})
                };
                chunks.push(chunk(piece(block["id"].clone(), block["name"].clone(), ""), Value::Null));
                let pieces = split(&block["input"].to_string());
                chunks.extend(pieces.iter().map(|text| chunk(piece(Value::Null, Value::Null, text), Value::Null)));
                calls += 1;
            }
            _ => {}
        }
    }
    let reason = match message.stop_reason() {
        "max_tokens" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    };
    chunks.push(chunk(json!({}), json!(reason)));
    chunks.push(json!({"id": id, "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [],
        "usage": {"prompt_tokens": input_tokens, "completion_tokens": 20, "total_tokens": input_tokens + 20}}));
    let lines = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect::<Vec<_>>().concat();
    format!("{lines}data: [DONE]\n\n").into_bytes()
}

/// An error in the middle of a stream.
pub(super) fn error_event() -> Vec<u8> {
    let error = json!({"error": {"message": "Overloaded", "type": "overloaded_error", "code": null}});
    format!("data: {error}\n\n").into_bytes()
}
