//! A reply, put together from its events: pure.
//!
//! Content blocks are kept as JSON, key order included, because they go back to
//! the API as they came: an altered thinking block is refused, and a block of a
//! kind that did not exist when this was written must survive the journey.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::price::Tokens;
use super::super::wire::errors::StreamFault;
use super::super::wire::{Assembly, Reply};
use super::block::Block;
use crate::sse::Event;

/// A reply under way.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    message: Option<Message>,
    blocks: BTreeMap<u64, Block>,
    stopped: bool,
}

#[derive(Debug)]
struct Message {
    id: String,
    model: String,
    stop_reason: Option<String>,
    usage: Map<String, Value>,
}

impl Assembly for Accumulator {
    /// Takes in one event. Unknown events are ignored, as the API's versioning rules ask.
    fn apply(&mut self, event: &Event) -> Result<(), StreamFault> {
        const KNOWN: [&str; 7] = [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
            "error",
        ];
        if !event.name.is_empty() && !KNOWN.contains(&event.name.as_str()) {
            return Ok(());
        }
        let mut data: Value = serde_json::from_str(&event.data)
            .map_err(|e| StreamFault::Malformed(format!("the data of the event {:?} is no JSON: {e}", event.name)))?;
        if !data.is_object() {
            return Err(StreamFault::Malformed(format!("the data of the event {:?} is no object", event.name)));
        }
        let kind = data["type"].as_str().unwrap_or(&event.name).to_owned();
        match kind.as_str() {
            "message_start" => self.start(&data["message"]),
            "content_block_start" => {
                let index = index(&data)?;
                self.start_block(index, data["content_block"].take())
            }
            "content_block_delta" => {
                let index = index(&data)?;
                self.block(index)?.apply(data["delta"].take())
            }
            "message_delta" => self.change(&data),
            "message_stop" => {
                self.message()?;
                self.stopped = true;
                Ok(())
            }
            "error" => Err(StreamFault::Api {
                kind: data["error"]["type"].as_str().unwrap_or("error").to_owned(),
                message: data["error"]["message"].as_str().unwrap_or("(no message)").to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether nothing more is to come.
    fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The reply, once the stream has ended.
    fn finish(self) -> Result<Reply, StreamFault> {
        let message = match self.message {
            Some(message) if self.stopped => message,
            _ => return Err(StreamFault::CutOff),
        };
        let stop_reason = message
            .stop_reason
            .ok_or_else(|| StreamFault::Malformed("the reply ended without a stop_reason".to_owned()))?;
        let cut = matches!(stop_reason.as_str(), "max_tokens" | "model_context_window_exceeded" | "refusal");
        let last = self.blocks.keys().next_back().copied();
        let mut content = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks {
            match block.finish() {
                Ok(block) => content.push(block),
                // The limit fell into the arguments of a call. Such a call can neither
                // be made nor sent back; the stop reason says what happened.
                Err(_) if cut && Some(index) == last => {}
                Err(fault) => return Err(fault),
            }
        }
        let tokens = tokens(&message.usage);
        Ok(Reply { content, stop_reason, model: message.model, id: message.id, tokens })
    }
}

impl Accumulator {
    fn message(&mut self) -> Result<&mut Message, StreamFault> {
        self.message
            .as_mut()
            .ok_or_else(|| StreamFault::Malformed("the stream does not begin with message_start".to_owned()))
    }

    fn start(&mut self, message: &Value) -> Result<(), StreamFault> {
        if self.message.is_some() {
            return Err(StreamFault::Malformed("message_start came twice".to_owned()));
        }
        let text = |key: &str| {
            message[key]
                .as_str()
                .map(ToOwned::to_owned)
                .ok_or_else(|| StreamFault::Malformed(format!("message_start has no {key}")))
        };
        self.message = Some(Message {
            id: text("id")?,
            model: text("model")?,
            stop_reason: message["stop_reason"].as_str().map(ToOwned::to_owned),
            usage: message["usage"].as_object().cloned().unwrap_or_default(),
        });
        for (index, block) in (0_u64..).zip(message["content"].as_array().into_iter().flatten()) {
            self.start_block(index, block.clone())?;
        }
        Ok(())
    }

    fn start_block(&mut self, index: u64, block: Value) -> Result<(), StreamFault> {
        self.message()?;
        let Value::Object(value) = block else {
            return Err(StreamFault::Malformed(format!("content block {index} is no object")));
        };
        if self.blocks.insert(index, Block::new(value)).is_some() {
            return Err(StreamFault::Malformed(format!("content block {index} was started twice")));
        }
        Ok(())
    }

    fn block(&mut self, index: u64) -> Result<&mut Block, StreamFault> {
        self.blocks
            .get_mut(&index)
            .ok_or_else(|| StreamFault::Malformed(format!("content block {index} has a delta but was not started")))
    }

    /// The counts of `message_delta` are those of the whole reply: they replace.
    fn change(&mut self, data: &Value) -> Result<(), StreamFault> {
        let message = self.message()?;
        if let Some(reason) = data["delta"]["stop_reason"].as_str() {
            message.stop_reason = Some(reason.to_owned());
        }
        for (key, value) in data["usage"].as_object().into_iter().flatten() {
            if !value.is_null() {
                message.usage.insert(key.clone(), value.clone());
            }
        }
        Ok(())
    }
}

fn index(data: &Value) -> Result<u64, StreamFault> {
    data["index"].as_u64().ok_or_else(|| StreamFault::Malformed("a content block event has no index".to_owned()))
}

/// The tokens of a reply, by what it says of its usage.
pub(super) fn tokens(usage: &Map<String, Value>) -> Tokens {
    // No reply has so many; a wrong number must not overflow a sum.
    let clamp = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0).min(1 << 40);
    let hour = clamp(usage.get("cache_creation").and_then(|c| c.get("ephemeral_1h_input_tokens")));
    let written = clamp(usage.get("cache_creation_input_tokens"));
    Tokens {
        input: clamp(usage.get("input_tokens")),
        output: clamp(usage.get("output_tokens")),
        cache_read: clamp(usage.get("cache_read_input_tokens")),
        cache_write_5m: written.saturating_sub(hour),
        cache_write_1h: hour.min(written),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::sse::Decoder;

    fn accumulate(stream: &str) -> Result<Reply, StreamFault> {
        let mut accumulator = Accumulator::default();
        for event in Decoder::default().push(format!("{stream}\n\n").as_bytes()).unwrap() {
            accumulator.apply(&event)?;
        }
        accumulator.finish()
    }

    fn recorded(name: &str) -> Reply {
        let path = format!("{}/../tests/data/model-api/{name}_response.txt", env!("CARGO_MANIFEST_DIR"));
        accumulate(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn stream(events: &[Value]) -> String {
        let text = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
        events.iter().map(text).collect::<Vec<_>>().concat()
    }

    fn start() -> Value {
        json!({"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 3}}})
    }

    fn block(index: u64, block: &Value) -> Value {
        json!({"type": "content_block_start", "index": index, "content_block": block})
    }

    fn delta(index: u64, delta: &Value) -> Value {
        json!({"type": "content_block_delta", "index": index, "delta": delta})
    }

    fn end(reason: &str) -> [Value; 2] {
        [
            json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}),
            json!({"type": "message_stop"}),
        ]
    }

    #[test]
    fn a_recorded_text_is_read() {
        let reply = recorded("basic");
        assert_eq!(reply.content, [json!({"type": "text", "text": "Hello there!"})]);
        assert_eq!((reply.stop_reason.as_str(), reply.model.as_str()), ("end_turn", "claude-3-opus-latest"));
        assert_eq!(reply.tokens, Tokens { input: 11, output: 6, ..Tokens::default() });
    }

    #[test]
    fn a_recorded_tool_call_is_read_with_its_arguments() {
        let reply = recorded("tool_use");
        assert_eq!(
            reply.content[1],
            json!({"type": "tool_use", "id": "toolu_01NRLabsLyVHZPKxbKvkfSMn", "name": "get_weather",
                   "caller": {"type": "direct"}, "input": {"location": "Paris"}})
        );
        assert_eq!(reply.stop_reason, "tool_use");
        assert_eq!(reply.tokens, Tokens { input: 377, output: 65, ..Tokens::default() });
    }

    #[test]
    fn a_recorded_server_tool_is_read_with_results_and_citations() {
        let reply = recorded("server_tool_use");
        assert_eq!(reply.content[0]["input"], json!({"query": "anthropic claude release notes"}));
        assert_eq!(reply.content[1]["content"][1]["page_age"], "2 weeks ago");
        assert_eq!(reply.content[2]["citations"].as_array().unwrap().len(), 1);
        assert_eq!(reply.tokens, Tokens { input: 9281, output: 97, ..Tokens::default() });
    }

    #[test]
    fn a_recorded_refusal_is_a_reply_that_says_so() {
        assert_eq!(recorded("refusal").stop_reason, "refusal");
    }

    #[test]
    fn unknown_events_blocks_and_deltas_are_kept_or_skipped_but_never_an_error() {
        let [change, stop] = end("end_turn");
        let reply = accumulate(&stream(&[
            start(),
            json!({"type": "from_the_future", "x": 1}),
            block(0, &json!({"zeta": 1, "type": "hologram", "alpha": [], "note": null})),
            delta(0, &json!({"type": "hologram_delta", "alpha": [1], "note": "a", "new": {"b": 2}})),
            delta(0, &json!({"type": "hologram_delta", "alpha": [2], "note": "b"})),
            change,
            stop,
        ]))
        .unwrap();
        let kept = r#"{"zeta":1,"type":"hologram","alpha":[1,2],"note":"ab","new":{"b":2}}"#;
        assert_eq!(reply.content[0].to_string(), kept);
    }

    #[test]
    fn thinking_keeps_its_signature() {
        let [change, stop] = end("end_turn");
        let reply = accumulate(&stream(&[
            start(),
            block(0, &json!({"type": "thinking", "thinking": "", "signature": ""})),
            delta(0, &json!({"type": "thinking_delta", "thinking": "Let me"})),
            delta(0, &json!({"type": "thinking_delta", "thinking": " see."})),
            delta(0, &json!({"type": "signature_delta", "signature": "EqQB=="})),
            change,
            stop,
        ]))
        .unwrap();
        assert_eq!(reply.content, [json!({"type": "thinking", "thinking": "Let me see.", "signature": "EqQB=="})]);
    }

    #[test]
    fn arguments_that_are_no_json_are_a_fault_unless_a_limit_cut_them_off() {
        let events = |reason: &str| {
            let [change, stop] = end(reason);
            let call = block(0, &json!({"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}));
            stream(&[
                start(),
                call,
                delta(0, &json!({"type": "input_json_delta", "partial_json": "{\"pa"})),
                change,
                stop,
            ])
        };
        assert!(
            matches!(accumulate(&events("tool_use")), Err(StreamFault::Malformed(why)) if why.contains("toolu_1 (Read)"))
        );
        let cut = accumulate(&events("max_tokens")).unwrap();
        assert_eq!((cut.content.len(), cut.stop_reason.as_str()), (0, "max_tokens"));
    }

    #[test]
    fn a_stream_without_its_end_is_cut_off() {
        assert_eq!(accumulate(&stream(&[start()])), Err(StreamFault::CutOff));
        assert_eq!(accumulate(""), Err(StreamFault::CutOff));
    }

    #[test]
    fn an_error_event_ends_the_reply() {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        let fault = StreamFault::Api { kind: "overloaded_error".to_owned(), message: "Overloaded".to_owned() };
        assert_eq!(accumulate(&stream(&[start(), error])), Err(fault));
    }

    #[test]
    fn the_two_kinds_of_cache_writes_are_told_apart() {
        let usage = json!({"input_tokens": 1, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}});
        let tokens = tokens(usage.as_object().unwrap());
        assert_eq!((tokens.cache_write_5m, tokens.cache_write_1h, tokens.cache_read), (60, 40, 7));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[a-z{\"]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(
                    (
                        prop_oneof![
                            Just("type"),
                            Just("index"),
                            Just("message"),
                            Just("content_block"),
                            Just("delta"),
                            Just("usage"),
                            Just("error"),
                            Just("id"),
                            Just("model"),
                            Just("input"),
                            Just("text")
                        ],
                        inner
                    ),
                    0..4
                )
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_events_make_it_panic(
            events in prop::collection::vec(
                (
                    prop_oneof![
                        Just("message_start"), Just("content_block_start"), Just("content_block_delta"),
                        Just("content_block_stop"), Just("message_delta"), Just("message_stop"), Just("error"), Just("")
                    ],
                    any_json(),
                ),
                0..8,
            )
        ) {
            let mut accumulator = Accumulator::default();
            accumulator.start(&start()["message"]).unwrap();
            for (name, data) in events {
                let _ = accumulator.apply(&Event { name: name.to_owned(), data: data.to_string() });
            }
            let _ = accumulator.finish();
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut accumulator = Accumulator::default();
            for event in Decoder::default().push(&bytes).unwrap_or_default() {
                let _ = accumulator.apply(&event);
            }
            let _ = accumulator.finish();
        }
    }
}
