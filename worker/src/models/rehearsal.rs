//! A rehearsal of a model: offline, deterministic and free.
//!
//! It is no language model and says so. It walks the tools that are offered,
//! then answers to the schema from the input, so that pipelines can be tried,
//! shown and loaded without an account. The answer is a pure function of the
//! request: the same conversation gives the same reply, also after a crash.
//!
//! Options: `latency_ms` (how long each reply takes, default 0), `turns` (the
//! most replies that call tools, default 4), `walk` (which tools it calls: by
//! default `Read`, `Glob` and `Grep`; `all`; `none`; or a list of names).

mod answer;
mod input;
mod walk;

use std::time::Duration;

use async_trait::async_trait;
use common::failure::{Failure, FailureClass};
use common::journal::{ModelCall, RequestHead, Usage};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use self::input::Input;
use self::walk::Walk;
use super::{Answered, ModelRequest, Provider};

/// The longest latency that can be asked for, in milliseconds.
const LONGEST_LATENCY: u64 = 600_000;
/// The most turns that can be asked for.
const MOST_TURNS: u64 = 100;

/// The provider `rehearsal`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rehearsal;

/// What the options say.
#[derive(Debug, Clone, PartialEq)]
struct Options {
    latency: Duration,
    turns: usize,
    walk: Walk,
}

#[async_trait]
impl Provider for Rehearsal {
    async fn call(&self, request: ModelRequest<'_>) -> Result<Answered, Failure> {
        let started = Instant::now();
        let options = Options::read(request.head)?;
        let mut call = if request.no_tools {
            summary(request.head, &request.messages, &options)
        } else {
            reply(request.head, &request.messages, &options)
        };
        if !options.latency.is_zero() {
            tokio::time::sleep(options.latency).await;
        }
        call.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(call.into())
    }
}

impl Options {
    fn read(head: &RequestHead) -> Result<Self, Failure> {
        let wrong = |text: &str| {
            Failure::new(FailureClass::Configuration, format!("model {} (rehearsal): the option {text}", head.alias))
        };
        let number = |key: &str, default: u64, max: u64| match head.options.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|number| *number <= max)
                .ok_or_else(|| wrong(&format!("{key} is {value}, and must be a whole number from 0 to {max}"))),
        };
        let latency = Duration::from_millis(number("latency_ms", 0, LONGEST_LATENCY)?);
        let turns = usize::try_from(number("turns", 4, MOST_TURNS)?).unwrap_or(4);
        let walk = Walk::read(head.options.get("walk"))
            .ok_or_else(|| wrong("walk must be \"all\", \"none\" or a list of tool names"))?;
        Ok(Self { latency, turns, walk })
    }
}

/// The reply to who wants a summary of the conversation.
fn summary(head: &RequestHead, messages: &[Value], options: &Options) -> ModelCall {
    let text = format!("A rehearsed summary of {} messages; no language model wrote it.", messages.len());
    let content = vec![json!({"type": "text", "text": text})];
    ModelCall { content, stop_reason: "end_turn".to_owned(), ..reply(head, messages, options) }
}

/// The reply to a conversation.
fn reply(head: &RequestHead, messages: &[Value], options: &Options) -> ModelCall {
    let input = Input::read(messages);
    let asked = serde_json::to_string(messages).unwrap_or_default();
    let id = hex::encode(&blake3::hash(asked.as_bytes()).as_bytes()[..12]);

    let calls = walk::next_calls(&head.tools, &input, &options.walk, options.turns);
    let mut content = Vec::new();
    let stop_reason = if calls.is_empty() {
        let text = answer::text(head.output_schema.as_ref(), &input);
        content.push(json!({"type": "text", "text": text}));
        "end_turn"
    } else {
        content.push(json!({"type": "text", "text": walk::announcement(&calls)}));
        for (number, call) in calls.iter().enumerate() {
            let id = format!("toolu_rehearsal_{id}_{number}");
            content.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": call.arguments}));
        }
        "tool_use"
    };
    let read = head.system.len() + length(&head.tools) + asked.len();
    let usage = Usage { input_tokens: tokens(read), output_tokens: tokens(length(&content)), ..Usage::default() };
    ModelCall {
        content,
        stop_reason: stop_reason.to_owned(),
        model: super::price::REHEARSAL.to_owned(),
        response_id: format!("msg_rehearsal_{id}"),
        usage,
        duration_ms: 0,
    }
}

fn length(values: &[Value]) -> usize {
    values.iter().map(|value| value.to_string().len()).sum()
}

/// About four bytes a token, as for English.
fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
}

/// A number that is the same for the same words, and looks like chance.
fn chance(words: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update(&[0]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// One of a list, by chance.
fn pick<'a, T>(items: &'a [T], words: &[&str]) -> Option<&'a T> {
    let count = u64::try_from(items.len()).ok().filter(|count| *count > 0)?;
    items.get(usize::try_from(chance(words) % count).ok()?)
}

/// An object of one field.
fn object(key: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value.into())])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn head(tools: &[&str]) -> RequestHead {
        let schema = |tool: &str| match tool {
            "Read" => {
                json!({"type": "object", "required": ["file_path"], "properties": {"file_path": {"type": "string"}}})
            }
            "Glob" | "Grep" => {
                json!({"type": "object", "required": ["pattern"], "properties": {"pattern": {"type": "string"}}})
            }
            _ => json!({"type": "object", "required": ["note"], "properties": {"note": {"type": "string"}}}),
        };
        RequestHead {
            alias: "rehearsal".to_owned(),
            provider: "rehearsal".to_owned(),
            model: "rehearsal".to_owned(),
            max_tokens: 1_000,
            system: "You review.".to_owned(),
            tools: tools
                .iter()
                .map(|name| json!({"name": name, "description": "", "input_schema": schema(name)}))
                .collect(),
            ..RequestHead::default()
        }
    }

    /// Plays a conversation to its end, with an answer for each tool.
    fn play(
        head: &RequestHead,
        prompt: &str,
        answer: impl Fn(&str, &Value) -> String,
    ) -> (Vec<Vec<String>>, ModelCall) {
        let options = Options::read(head).unwrap();
        let mut messages = vec![json!({"role": "user", "content": prompt})];
        let mut turns = Vec::new();
        for _ in 0..20 {
            let call = reply(head, &messages, &options);
            assert_eq!(call, reply(head, &messages, &options), "the same request, the same reply");
            let uses: Vec<&Value> = call.content.iter().filter(|block| block["type"] == "tool_use").collect();
            if uses.is_empty() {
                return (turns, call);
            }
            turns.push(uses.iter().map(|u| format!("{} {}", u["name"].as_str().unwrap(), u["input"])).collect());
            let results: Vec<Value> = uses
                .iter()
                .map(|u| json!({"type": "tool_result", "tool_use_id": u["id"], "content": answer(u["name"].as_str().unwrap(), &u["input"])}))
                .collect();
            messages.push(json!({"role": "assistant", "content": call.content}));
            messages.push(json!({"role": "user", "content": results}));
        }
        panic!("the rehearsal does not end");
    }

    #[test]
    fn it_walks_the_read_only_tools_and_reads_what_they_found() {
        let head = head(&["Bash", "Glob", "Grep", "Read", "Write", "mcp__memory__read_graph"]);
        let (turns, last) = play(&head, "Review the change of src/queue.rs for leaks.", |tool, _| match tool {
            "Glob" => "README.md\nsrc/main.rs\nsrc/queue.rs".to_owned(),
            "Grep" => "src/queue.rs:12: // leaks".to_owned(),
            _ => "fn main() {}".to_owned(),
        });
        assert_eq!(turns[0], ["Glob {\"pattern\":\"**/*\"}", "Grep {\"pattern\":\"Review\"}"]);
        assert_eq!(turns[1][0], "Read {\"file_path\":\"src/queue.rs\"}");
        assert_eq!(turns.len(), 2);
        let text = last.content[0]["text"].as_str().unwrap();
        assert!(text.starts_with("Rehearsal (no language model)"), "{text}");
        assert!(
            last.usage.input_tokens > 0 && last.usage.output_tokens > 0 && last.usage.cost_usd.abs() < f64::EPSILON
        );
    }

    #[test]
    fn it_calls_what_it_is_told_to_and_no_more_than_it_may() {
        let tools = ["Bash", "a", "b", "c", "d", "e", "mcp__x__y"];
        let mut head = head(&tools);
        assert_eq!(play(&head, "Go.", |_, _| String::new()).0.len(), 0);
        head.options = json!({"walk": "all"}).as_object().unwrap().clone();
        let calls: Vec<String> = play(&head, "Go.", |_, _| String::new()).0.into_iter().flatten().collect();
        assert_eq!(calls.len(), 6);
        assert!(calls.iter().all(|call| !call.starts_with("Bash")));
        head.options = json!({"walk": ["Bash"]}).as_object().unwrap().clone();
        assert_eq!(play(&head, "Go.", |_, _| String::new()).0.len(), 1);
        head.options = json!({"walk": "all", "turns": 1}).as_object().unwrap().clone();
        assert_eq!(play(&head, "Go.", |_, _| String::new()).0.len(), 1);
        head.options = json!({"walk": "none"}).as_object().unwrap().clone();
        assert_eq!(play(&head, "Go.", |_, _| String::new()).0.len(), 0);
    }

    #[test]
    fn options_that_it_does_not_understand_are_refused() {
        for options in [json!({"latency_ms": -1}), json!({"walk": "some"}), json!({"turns": 1e9})] {
            let head = RequestHead { options: options.as_object().unwrap().clone(), ..head(&[]) };
            assert_eq!(Options::read(&head).unwrap_err().class, FailureClass::Configuration, "{options}");
        }
    }

    #[test]
    fn messages_of_any_shape_do_not_make_it_panic() {
        let head = head(&["Read", "Grep"]);
        let options = Options::read(&head).unwrap();
        for messages in
            [json!([]), json!([null]), json!([{"role": "user"}]), json!([{"role": "assistant", "content": 7}])]
        {
            let call = reply(&head, messages.as_array().unwrap(), &options);
            assert!(!call.content.is_empty());
        }
    }
}
