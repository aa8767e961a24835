//! A reply, put together from its chunks: pure.
//!
//! It is kept in the neutral form of the Messages API: a text, then calls. What
//! a server says beside them (`reasoning_content`) is kept as a block of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::price::Tokens;
use super::super::wire::errors::StreamFault;
use super::super::wire::{Assembly, Reply};
use crate::sse::Event;

/// What ends a stream.
const DONE: &str = "[DONE]";

/// A reply under way.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    id: String,
    model: String,
    reasoning: String,
    text: String,
    refused: bool,
    calls: BTreeMap<u64, Call>,
    finish_reason: Option<String>,
    tokens: Tokens,
    done: bool,
}

/// A tool call under way.
#[derive(Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Assembly for Accumulator {
    fn apply(&mut self, event: &Event) -> Result<(), StreamFault> {
        let data = event.data.trim();
        if data == DONE {
            self.done = true;
            return Ok(());
        }
        if data.is_empty() {
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data)
            .map_err(|error| StreamFault::Malformed(format!("a chunk of the stream is no JSON: {error}")))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let text = |key: &str| error[key].as_str().map(str::to_owned);
            return Err(StreamFault::Api {
                kind: text("type").or_else(|| text("code")).unwrap_or_else(|| "error".to_owned()),
                message: text("message").unwrap_or_else(|| error.to_string()),
            });
        }
        keep_first(&mut self.id, &chunk["id"]);
        keep_first(&mut self.model, &chunk["model"]);
        if chunk["usage"].is_object() {
            self.tokens = tokens(&chunk["usage"]);
        }
        // One answer is asked for.
        let Some(choice) = chunk["choices"].as_array().and_then(|choices| choices.first()) else { return Ok(()) };
        self.change(&choice["delta"])?;
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.done
    }

    fn finish(self) -> Result<Reply, StreamFault> {
        // Some servers close the connection without the last line; a reply that has its reason is whole.
        let reason = self.finish_reason.ok_or(StreamFault::CutOff)?;
        let cut = reason == "length";
        let mut content = Vec::new();
        if !self.reasoning.is_empty() {
            content.push(json!({"type": "reasoning", "text": self.reasoning}));
        }
        if !self.text.is_empty() {
            content.push(json!({"type": "text", "text": self.text}));
        }
        let last = self.calls.keys().next_back().copied();
        let mut called = false;
        for (index, call) in self.calls {
            let input = match call.arguments.trim() {
                "" => Ok(json!({})),
                text => serde_json::from_str(text),
            };
            let input = match input {
                Ok(input) => input,
                // The limit fell into the arguments: such a call can neither be made nor sent back.
                Err(_) if cut && Some(index) == last => continue,
                // No schema of a tool takes a text: the model is told, and may try again.
                Err(_) => Value::String(call.arguments),
            };
            if call.name.is_empty() {
                return Err(StreamFault::Malformed(format!("tool call {index} has no name")));
            }
            // Some servers give none; it must be unique in the conversation.
            let id = if call.id.is_empty() { format!("{}-{index}", self.id) } else { call.id };
            content.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": input}));
            called = true;
        }
        let stop_reason = match reason.as_str() {
            _ if self.refused => "refusal",
            "content_filter" => "refusal",
            "length" => "max_tokens",
            _ if called => "tool_use",
            _ => "end_turn",
        };
        Ok(Reply { content, stop_reason: stop_reason.to_owned(), model: self.model, id: self.id, tokens: self.tokens })
    }
}

impl Accumulator {
    fn change(&mut self, delta: &Value) -> Result<(), StreamFault> {
        let text = |key: &str| delta[key].as_str().unwrap_or_default();
        self.text.push_str(text("content"));
        self.reasoning.push_str(text("reasoning_content"));
        if !text("refusal").is_empty() {
            self.refused = true;
            self.text.push_str(text("refusal"));
        }
        for (place, piece) in (0_u64..).zip(delta["tool_calls"].as_array().into_iter().flatten()) {
            // Servers that send a call whole leave its index out.
            let index = piece["index"].as_u64().unwrap_or(place);
            if index > 1_000 {
                return Err(StreamFault::Malformed(format!("a tool call has the index {index}")));
            }
            let call = self.calls.entry(index).or_default();
            keep_first(&mut call.id, &piece["id"]);
            keep_first(&mut call.name, &piece["function"]["name"]);
            match &piece["function"]["arguments"] {
                Value::String(text) => call.arguments.push_str(text),
                Value::Null => {}
                whole => call.arguments = whole.to_string(),
            }
        }
        Ok(())
    }
}

fn keep_first(kept: &mut String, value: &Value) {
    if kept.is_empty()
        && let Some(text) = value.as_str()
    {
        text.clone_into(kept);
    }
}

fn tokens(usage: &Value) -> Tokens {
    // No reply has so many; a wrong number must not overflow a sum.
    let clamp = |value: &Value| value.as_u64().unwrap_or(0).min(1 << 40);
    let cached = clamp(&usage["prompt_tokens_details"]["cached_tokens"]);
    let prompt = clamp(&usage["prompt_tokens"]);
    Tokens {
        input: prompt.saturating_sub(cached),
        output: clamp(&usage["completion_tokens"]),
        cache_read: cached.min(prompt),
        ..Tokens::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn accumulate(chunks: &[Value], done: bool) -> Result<Reply, StreamFault> {
        let mut accumulator = Accumulator::default();
        let texts = chunks.iter().map(ToString::to_string).chain(done.then(|| DONE.to_owned()));
        for data in texts {
            accumulator.apply(&Event { name: String::new(), data })?;
        }
        accumulator.finish()
    }

    fn chunk(delta: &Value, finish_reason: Option<&str>) -> Value {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x",
               "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})
    }

    fn usage() -> Value {
        json!({"id": "chatcmpl-1", "model": "gpt-x", "choices": [], "usage": {
            "prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}})
    }

    #[test]
    fn a_text_is_read_with_what_it_cost() {
        let chunks = [
            chunk(&json!({"role": "assistant", "content": ""}), None),
            chunk(&json!({"content": "Hello"}), None),
            chunk(&json!({"content": " there"}), None),
            chunk(&json!({}), Some("stop")),
            usage(),
        ];
        let reply = accumulate(&chunks, true).unwrap();
        assert_eq!(reply.content, [json!({"type": "text", "text": "Hello there"})]);
        assert_eq!(
            (reply.stop_reason.as_str(), reply.model.as_str(), reply.id.as_str()),
            ("end_turn", "gpt-x", "chatcmpl-1")
        );
        assert_eq!(reply.tokens, Tokens { input: 36, output: 7, cache_read: 64, ..Tokens::default() });
    }

    #[test]
    fn calls_in_parallel_are_put_together_from_their_pieces() {
        let piece = |index: u64, id: Option<&str>, name: Option<&str>, arguments: &str| {
            chunk(
                &json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                        "function": {"name": name, "arguments": arguments}}]}),
                None,
            )
        };
        let chunks = [
            piece(0, Some("a"), Some("Read"), ""),
            piece(0, None, None, "{\"file_path\":"),
            piece(0, None, None, "\"x\"}"),
            piece(1, Some("b"), Some("Glob"), "{}"),
            chunk(&json!({}), Some("tool_calls")),
        ];
        let reply = accumulate(&chunks, true).unwrap();
        assert_eq!(
            reply.content,
            [
                json!({"type": "tool_use", "id": "a", "name": "Read", "input": {"file_path": "x"}}),
                json!({"type": "tool_use", "id": "b", "name": "Glob", "input": {}}),
            ]
        );
        assert_eq!(reply.stop_reason, "tool_use");
    }

    #[test]
    fn a_server_that_sends_calls_whole_without_ids_is_understood() {
        let call = json!({"tool_calls": [{"function": {"name": "Read", "arguments": {"file_path": "x"}}},
                                         {"function": {"name": "Glob", "arguments": "{}"}}]});
        let reply = accumulate(&[chunk(&call, Some("stop"))], true).unwrap();
        assert_eq!(reply.content[0]["input"], json!({"file_path": "x"}));
        assert_ne!(reply.content[0]["id"], reply.content[1]["id"]);
        assert_eq!(reply.stop_reason, "tool_use");
    }

    #[test]
    fn reasons_are_told_in_the_neutral_words() {
        for (reason, neutral) in
            [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("new", "end_turn")]
        {
            let reply = accumulate(&[chunk(&json!({"content": "x"}), Some(reason))], true).unwrap();
            assert_eq!(reply.stop_reason, neutral, "{reason}");
        }
        let refused = accumulate(&[chunk(&json!({"refusal": "No."}), Some("stop"))], true).unwrap();
        assert_eq!((refused.stop_reason.as_str(), &refused.content[0]["text"]), ("refusal", &json!("No.")));
    }

    #[test]
    fn arguments_that_are_no_json_go_to_the_model_as_its_mistake_unless_the_limit_cut_them_off() {
        let call =
            json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "Read", "arguments": "{\"file"}}]});
        let wrong = accumulate(&[chunk(&call, Some("tool_calls"))], true).unwrap();
        assert_eq!(wrong.content[0]["input"], json!("{\"file"));
        let cut = accumulate(&[chunk(&call, Some("length"))], true).unwrap();
        assert_eq!((cut.content.len(), cut.stop_reason.as_str()), (0, "max_tokens"));
    }

    #[test]
    fn a_stream_without_a_reason_is_cut_off_and_one_without_its_last_line_is_not() {
        let hello = chunk(&json!({"content": "Hello"}), None);
        for done in [true, false] {
            assert_eq!(accumulate(std::slice::from_ref(&hello), done), Err(StreamFault::CutOff));
        }
        assert!(accumulate(&[hello, chunk(&json!({}), Some("stop"))], false).is_ok());
    }

    #[test]
    fn an_error_in_the_stream_is_the_servers() {
        let error = json!({"error": {"message": "try later", "type": "server_error", "code": null}});
        let fault = accumulate(&[chunk(&json!({"content": "x"}), None), error], false).unwrap_err();
        assert_eq!(fault, StreamFault::Api { kind: "server_error".to_owned(), message: "try later".to_owned() });
    }

    proptest! {
        #[test]
        fn no_stream_makes_it_panic(texts in proptest::collection::vec(".{0,60}|\\{\"choices\":\\[\\{\"delta\":\\{\"tool_calls\":\\[.{0,40}\\]\\}\\}\\]\\}", 0..8)) {
            let mut accumulator = Accumulator::default();
            for data in texts {
                let _ = accumulator.apply(&Event { name: String::new(), data });
            }
            let _ = accumulator.finish();
        }
    }
}
