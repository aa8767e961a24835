//! The body of a request: a pure function of the head and the messages.
//!
//! The same conversation always gives the same bytes, also when it was rebuilt
//! after a crash: that keeps the API's prompt cache warm. Blocks of the model go
//! back untouched; only what the API is known to refuse is left out.

use common::failure::{Failure, FailureClass};
use common::journal::{CacheTtl, RequestHead};
use serde_json::{Map, Value, json};

use super::super::output::{self, Output};
use super::super::output_tool::STRUCTURED_OUTPUT;
use super::schema;

/// Fields that the agent loop decides; options cannot.
const RESERVED: [&str; 6] = ["model", "max_tokens", "messages", "system", "tools", "stream"];

/// Block types that can carry a cache mark. Blocks of the model are left alone.
const MARKABLE: [&str; 5] = ["text", "image", "document", "search_result", "tool_result"];

/// Builds the body. Refuses options that cannot be sent, and a conversation of nothing.
pub(super) fn body(head: &RequestHead, messages: &[Value], no_tools: bool) -> Result<Value, Failure> {
    let mut options = head.options.clone();
    output::refuse_reserved(head, &RESERVED)?;
    let ttl = head.settings.cache;
    let output = Output::of(head, schema::narrowed);
    let forced = tool_choice(head, &output, &options);
    let system = output.system(&head.system, forced.is_some());

    let mut body = Map::new();
    body.insert("model".to_owned(), json!(head.model));
    body.insert("max_tokens".to_owned(), json!(head.max_tokens));
    body.insert("stream".to_owned(), json!(true));
    let config = output_config(head, &mut options, &output)?;
    body.extend(forced.map(|choice| ("tool_choice".to_owned(), choice)));
    body.extend(options);
    if no_tools && !head.tools.is_empty() {
        body.insert("tool_choice".to_owned(), json!({"type": "none"}));
    }
    if !config.is_empty() {
        body.insert("output_config".to_owned(), Value::Object(config));
    }
    let mut tools = head.tools.clone();
    if let Output::Tool(tool) = output {
        tools.push(tool);
    }
    if !tools.is_empty() {
        // With a mark of their own, tools stay in the cache when the system prompt is another one.
        if let Some(Value::Object(last)) = tools.last_mut() {
            mark(last, ttl);
        }
        body.insert("tools".to_owned(), Value::Array(tools));
    }
    if !system.is_empty() {
        let mut text = Map::from_iter([("type".to_owned(), json!("text")), ("text".to_owned(), json!(system))]);
        mark(&mut text, ttl);
        body.insert("system".to_owned(), json!([text]));
    }
    let mut messages = normal_form(messages);
    if messages.is_empty() {
        let text = "the prompt is empty: there is nothing to ask the model; give the step a prompt";
        return Err(Failure::new(FailureClass::InvalidRequest, text));
    }
    mark_turns(&mut messages, ttl);
    body.insert("messages".to_owned(), messages.into_iter().map(Message::into_value).collect());
    Ok(Value::Object(body))
}

/// What makes the model give its answer by the tool for it: nothing where it thinks, or where the operator says
/// otherwise.
fn tool_choice(head: &RequestHead, output: &Output, options: &Map<String, Value>) -> Option<Value> {
    let Output::Tool(_) = output else { return None };
    if output::thinks(options) || options.contains_key("tool_choice") {
        return None;
    }
    Some(if head.tools.is_empty() {
        json!({"type": "tool", "name": STRUCTURED_OUTPUT})
    } else {
        json!({"type": "any"})
    })
}

fn output_config(
    head: &RequestHead,
    options: &mut Map<String, Value>,
    output: &Output,
) -> Result<Map<String, Value>, Failure> {
    let mut config = match options.shift_remove("output_config") {
        None => Map::new(),
        Some(Value::Object(config)) => config,
        Some(other) => {
            return Err(output::wrong_option(head, &format!("output_config is {other}, and must be an object")));
        }
    };
    if let Some(effort) = options.shift_remove("effort") {
        config.insert("effort".to_owned(), effort);
    }
    if let Output::Format(schema) = output {
        config.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
    }
    Ok(config)
}

/// A message whose content is a list of blocks.
struct Message {
    role: String,
    blocks: Vec<Value>,
}

impl Message {
    fn into_value(self) -> Value {
        json!({"role": self.role, "content": self.blocks})
    }
}

/// The messages as the API takes them: texts as blocks (so that a message reads
/// the same with and without a mark), nothing empty, neighbours of one role joined.
fn normal_form(messages: &[Value]) -> Vec<Message> {
    let mut normal: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        let role = message["role"].as_str().unwrap_or("user");
        let mut blocks: Vec<Value> = match &message["content"] {
            Value::Array(blocks) => blocks.clone(),
            Value::Null => Vec::new(),
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            other => vec![json!({"type": "text", "text": other.to_string()})],
        };
        blocks.retain(|block| !is_empty_text(block));
        if role == "assistant" {
            // A reply may not end with thinking; one that does called no tool, so that it may go.
            while blocks.last().is_some_and(is_thinking) {
                blocks.pop();
            }
        } else {
            blocks.iter_mut().for_each(tidy);
        }
        if blocks.is_empty() {
            continue;
        }
        match normal.last_mut() {
            Some(last) if last.role == role => last.blocks.append(&mut blocks),
            _ => normal.push(Message { role: role.to_owned(), blocks }),
        }
    }
    normal
}

/// The API refuses texts of white space only; a model may still send one.
fn is_empty_text(block: &Value) -> bool {
    block["type"] == "text" && block["text"].as_str().is_some_and(|text| text.trim().is_empty())
}

fn is_thinking(block: &Value) -> bool {
    block["type"] == "thinking" || block["type"] == "redacted_thinking"
}

/// Makes a block of ours fit: no marks but those set here, and tool results of text or blocks.
fn tidy(block: &mut Value) {
    let Value::Object(fields) = block else { return };
    fields.shift_remove("cache_control");
    if fields.get("type").is_none_or(|kind| kind != "tool_result") {
        return;
    }
    match fields.get_mut("content") {
        Some(Value::Array(parts)) => {
            parts.retain(|part| !is_empty_text(part));
            for part in parts.iter_mut().filter_map(Value::as_object_mut) {
                part.shift_remove("cache_control");
            }
            if parts.is_empty() {
                fields.shift_remove("content");
            }
        }
        Some(Value::String(_)) | None => {}
        Some(other) => *other = Value::String(other.to_string()),
    }
}

/// Marks the ends of the last two user turns: the newer one is written to the
/// cache, the older one is where the request before wrote it. (The API looks back
/// only 20 blocks from a mark, and one turn can have more results.)
fn mark_turns(messages: &mut [Message], ttl: CacheTtl) {
    let user_turns = messages.iter_mut().rev().filter(|message| message.role == "user").take(2);
    for message in user_turns {
        let last = message
            .blocks
            .iter_mut()
            .rev()
            .filter_map(Value::as_object_mut)
            .find(|block| block.get("type").and_then(Value::as_str).is_some_and(|kind| MARKABLE.contains(&kind)));
        if let Some(block) = last {
            mark(block, ttl);
        }
    }
}

/// One of at most four marks: up to here, the API keeps what it has read.
fn mark(fields: &mut Map<String, Value>, ttl: CacheTtl) {
    let mark = match ttl {
        CacheTtl::Minutes => json!({"type": "ephemeral"}),
        CacheTtl::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
    };
    fields.insert("cache_control".to_owned(), mark);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::journal::{ModelSettings, Structured};

    use super::*;
    use crate::models::samples::{head, with_options};

    fn conversation(turns: usize) -> Vec<Value> {
        let mut messages = vec![json!({"role": "user", "content": "Go."})];
        for turn in 0..turns {
            let id = format!("toolu_{turn}");
            messages.push(json!({"role": "assistant", "content": [
                {"type": "thinking", "thinking": "…", "signature": "s"},
                {"type": "tool_use", "id": id, "name": "Read", "input": {}}]}));
            messages.push(json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": id, "content": "x"}]}));
        }
        messages
    }

    fn marks(body: &Value) -> usize {
        body.to_string().matches("cache_control").count()
    }

    fn unmarked(mut body: Value) -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(fields) => {
                    fields.shift_remove("cache_control");
                    fields.values_mut().for_each(strip);
                }
                Value::Array(items) => items.iter_mut().for_each(strip),
                _ => {}
            }
        }
        strip(&mut body);
        body
    }

    #[test]
    fn the_same_conversation_gives_the_same_bytes_with_at_most_four_marks() {
        for turns in 0..6 {
            let body_of = || body(&head(), &conversation(turns), false).unwrap();
            assert_eq!(body_of().to_string(), body_of().to_string());
            assert!((2..=4).contains(&marks(&body_of())), "{turns} turns");
        }
    }

    #[test]
    fn a_longer_conversation_begins_with_the_shorter_one_but_for_its_marks() {
        let messages = |turns: usize| unmarked(body(&head(), &conversation(turns), false).unwrap())["messages"].clone();
        for turns in 0..6 {
            let shorter = messages(turns).as_array().unwrap().clone();
            assert_eq!(messages(turns + 1).as_array().unwrap()[..shorter.len()], shorter);
        }
    }

    #[test]
    fn the_place_of_the_last_mark_is_marked_again_in_the_next_request() {
        let marked = |turns: usize, at: usize| {
            let body = body(&head(), &conversation(turns), false).unwrap();
            body["messages"][at]["content"][0]["cache_control"].is_object()
        };
        assert!(marked(2, 4) && marked(3, 4) && marked(3, 6));
        assert!(!marked(3, 2));
    }

    #[test]
    fn without_a_system_prompt_the_last_tool_carries_the_mark() {
        let body = body(&RequestHead { system: String::new(), ..head() }, &conversation(0), false).unwrap();
        assert!(body["tools"][0]["cache_control"].is_object());
        assert!(body.get("system").is_none());
    }

    #[test]
    fn what_the_api_refuses_is_left_out_and_its_neighbours_are_joined() {
        let messages = [
            json!({"role": "user", "content": "Go."}),
            json!({"role": "assistant", "content": [{"type": "text", "text": " \n"}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "Go on."}]}),
            json!({"role": "assistant", "content": [
                {"type": "text", "text": "Well"}, {"type": "thinking", "thinking": "", "signature": ""}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "Yes?"}]}),
        ];
        let body = unmarked(body(&head(), &messages, false).unwrap());
        let expected = json!([
            {"role": "user", "content": [{"type": "text", "text": "Go."}, {"type": "text", "text": "Go on."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Well"}]},
            {"role": "user", "content": [{"type": "text", "text": "Yes?"}]}]);
        assert_eq!(body["messages"], expected);
    }

    #[test]
    fn a_cache_of_an_hour_is_asked_for_at_each_mark() {
        let settings = ModelSettings { cache: CacheTtl::Hour, ..ModelSettings::default() };
        let body = body(&RequestHead { settings, ..head() }, &conversation(3), false).unwrap();
        assert_eq!(marks(&body), 4);
        assert_eq!(body.to_string().matches("\"ttl\":\"1h\"").count(), 4);
        assert_eq!(body["tools"][0]["cache_control"]["ttl"], "1h");
    }

    #[test]
    fn a_model_that_is_to_answer_in_words_keeps_its_tools_and_may_call_none() {
        let body = body(&head(), &conversation(1), true).unwrap();
        assert_eq!((&body["tool_choice"], body["tools"].as_array().unwrap().len()), (&json!({"type": "none"}), 1));
    }

    #[test]
    fn blocks_of_the_model_go_back_untouched() {
        let blocks = json!([
            {"zeta": 1, "type": "hologram", "alpha": [1, 2]},
            {"type": "thinking", "thinking": "Hm", "signature": "EqQB=="},
            {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"b": 1, "a": 2}}]);
        let messages = [
            json!({"role": "user", "content": "Go."}),
            json!({"role": "assistant", "content": blocks}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": {"odd": 1}}]}),
        ];
        let body = body(&head(), &messages, false).unwrap();
        assert_eq!(body["messages"][1]["content"].to_string(), blocks.to_string());
        assert_eq!(body["messages"][2]["content"][0]["content"], json!("{\"odd\":1}"));
    }

    #[test]
    fn options_go_where_the_api_wants_them() {
        let options = json!({"effort": "low", "temperature": 0.5, "thinking": {"type": "adaptive"}});
        let schema = json!({"type": "object", "properties": {"score": {"type": "integer"}}});
        let head = RequestHead { output_schema: Some(schema), ..with_options(&options) };
        let body = body(&head, &conversation(0), false).unwrap();
        assert_eq!(body["temperature"], 0.5);
        assert_eq!(body["output_config"]["effort"], "low");
        assert_eq!(body["output_config"]["format"]["schema"]["additionalProperties"], false);
        assert!(body.get("effort").is_none());
    }

    #[test]
    fn a_schema_that_the_api_cannot_hold_is_that_of_a_tool_which_the_model_must_call() {
        let schema = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let alone = RequestHead { output_schema: Some(schema.clone()), tools: Vec::new(), ..head() };
        let told = body(&alone, &conversation(0), false).unwrap();
        assert!(told.get("output_config").is_none());
        assert_eq!(told["tools"][0]["input_schema"], schema);
        assert_eq!(told["tool_choice"], json!({"type": "tool", "name": "StructuredOutput"}));
        let with_others = RequestHead { tools: head().tools, ..alone.clone() };
        let told = body(&with_others, &conversation(0), false).unwrap();
        assert_eq!(told["tool_choice"], json!({"type": "any"}));
        assert_eq!(told["tools"][1]["name"], "StructuredOutput");
        let options = json!({"thinking": {"type": "adaptive"}}).as_object().cloned().unwrap();
        let told = body(&RequestHead { options, ..with_others }, &conversation(0), false).unwrap();
        assert!(told.get("tool_choice").is_none(), "the API refuses to force a tool upon a model that thinks");
        assert!(told["system"][0]["text"].as_str().unwrap().contains("StructuredOutput"));
    }

    #[test]
    fn an_operator_can_have_the_schema_told_in_words_or_by_a_tool() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let settings = |structured| ModelSettings { structured, ..ModelSettings::default() };
        let asked = |structured| {
            let head = RequestHead { output_schema: Some(schema.clone()), settings: settings(structured), ..head() };
            body(&head, &conversation(0), false).unwrap()
        };
        let (words, tool) = (asked(Structured::Prompt), asked(Structured::Tool));
        assert!(words.get("output_config").is_none() && words["tools"].as_array().unwrap().len() == 1);
        assert!(words["system"][0]["text"].as_str().unwrap().contains(&schema.to_string()));
        assert!(tool.get("output_config").is_none() && tool["tools"].as_array().unwrap().len() == 2);
    }

    #[test]
    fn options_that_the_loop_decides_are_refused() {
        let refused = body(&with_options(&json!({"stream": false})), &conversation(0), false).unwrap_err();
        assert_eq!(refused.class, FailureClass::Configuration);
        assert!(body(&with_options(&json!({"output_config": 7})), &conversation(0), false).is_err());
        assert!(body(&with_options(&json!({"output_format": "yaml"})), &conversation(0), false).is_err());
    }

    #[test]
    fn an_empty_prompt_is_refused_before_it_costs_a_request() {
        let refused = body(&head(), &[json!({"role": "user", "content": "  "})], false).unwrap_err();
        assert_eq!(refused.class, FailureClass::InvalidRequest);
    }
}
