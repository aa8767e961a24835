//! The body of a request: a pure function of the head and the messages.
//!
//! The conversation is kept in the neutral form of the Messages API and is
//! translated anew for each request: the same conversation always gives the
//! same bytes. Blocks that only the other wire knows (thinking, server tools)
//! are left out.

use common::failure::{Failure, FailureClass};
use common::journal::RequestHead;
use serde_json::{Map, Value, json};

use super::super::output::{self, Output};
use super::super::output_tool::STRUCTURED_OUTPUT;

/// Fields that the agent loop decides; options cannot.
const RESERVED: [&str; 8] =
    ["model", "messages", "tools", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"];

/// What servers of this wire do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's own: the limit of a reply is `max_completion_tokens`, which counts reasoning too.
    OpenAi,
    /// Everyone else's: the limit is `max_tokens`.
    Compatible,
}

impl Dialect {
    pub(super) fn of(base_url: &str) -> Self {
        let host = reqwest::Url::parse(base_url).ok().and_then(|url| url.host_str().map(str::to_owned));
        if host.as_deref() == Some("api.openai.com") { Self::OpenAi } else { Self::Compatible }
    }

    const fn limit(self) -> &'static str {
        match self {
            Self::OpenAi => "max_completion_tokens",
            Self::Compatible => "max_tokens",
        }
    }
}

/// Builds the body. Refuses options that cannot be sent, and a conversation of nothing.
pub(super) fn body(dialect: Dialect, head: &RequestHead, messages: &[Value], no_tools: bool) -> Result<Value, Failure> {
    let mut options = head.options.clone();
    output::refuse_reserved(head, &RESERVED)?;
    // Not `strict`: that takes few schemas, and the step validates the output in any case.
    let output = Output::of(head, |schema| Some(schema.clone()));
    let forced = matches!(output, Output::Tool(_)) && !options.contains_key("tool_choice");
    let system = output.system(&head.system, forced);
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(head.model));
    body.insert(dialect.limit().to_owned(), json!(head.max_tokens));
    body.insert("stream".to_owned(), json!(true));
    // Without it a stream does not say what it cost.
    body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    if let Some(effort) = options.shift_remove("effort") {
        body.insert("reasoning_effort".to_owned(), effort);
    }
    body.extend(options);
    if no_tools && !head.tools.is_empty() {
        body.insert("tool_choice".to_owned(), json!("none"));
    }
    if forced {
        let choice = match head.tools.as_slice() {
            [] => json!({"type": "function", "function": {"name": STRUCTURED_OUTPUT}}),
            _ => json!("required"),
        };
        body.insert("tool_choice".to_owned(), choice);
    }
    if let Output::Format(schema) = &output {
        let format = json!({"type": "json_schema", "json_schema": {"name": "output", "schema": schema}});
        body.insert("response_format".to_owned(), format);
    }
    let mut tools: Vec<Value> = head.tools.iter().map(function).collect();
    if let Output::Tool(tool) = &output {
        tools.push(function(tool));
    }
    if !tools.is_empty() {
        body.insert("tools".to_owned(), Value::Array(tools));
    }
    let translated: Vec<Value> = messages.iter().flat_map(translate).collect();
    if translated.is_empty() {
        let text = "the prompt is empty: there is nothing to ask the model; give the step a prompt";
        return Err(Failure::new(FailureClass::InvalidRequest, text));
    }
    let system = (!system.is_empty()).then(|| json!({"role": "system", "content": system}));
    body.insert("messages".to_owned(), system.into_iter().chain(translated).collect());
    Ok(Value::Object(body))
}

fn function(tool: &Value) -> Value {
    json!({"type": "function", "function": {
        "name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"],
    }})
}

/// A message of the neutral form as messages of this wire.
fn translate(message: &Value) -> Vec<Value> {
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    let blocks = match &message["content"] {
        Value::Array(blocks) => Value::Array(blocks.clone()),
        Value::String(content) => text(content),
        Value::Null => return Vec::new(),
        other => text(&other.to_string()),
    };
    let blocks = blocks.as_array().map(Vec::as_slice).unwrap_or_default();
    if message["role"] == "assistant" { assistant(blocks).into_iter().collect() } else { user(blocks) }
}

fn assistant(blocks: &[Value]) -> Option<Value> {
    let content = texts(blocks);
    let calls: Vec<Value> = blocks
        .iter()
        .filter(|block| block["type"] == "tool_use")
        .map(|block| {
            // Arguments that were no JSON are kept, and go back, as the text that they were.
            let arguments = match &block["input"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            json!({"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}})
        })
        .collect();
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    message.insert("content".to_owned(), if content.is_empty() { Value::Null } else { json!(content) });
    match (content.is_empty(), calls.is_empty()) {
        (true, true) => return None,
        (_, false) => drop(message.insert("tool_calls".to_owned(), Value::Array(calls))),
        (false, true) => {}
    }
    Some(Value::Object(message))
}

/// Results first, one message each; then what else was said, as one message.
fn user(blocks: &[Value]) -> Vec<Value> {
    let (results, rest): (Vec<&Value>, Vec<&Value>) = blocks.iter().partition(|block| block["type"] == "tool_result");
    let mut messages: Vec<Value> = results
        .into_iter()
        .map(|result| {
            let mut content = match &result["content"] {
                Value::String(text) => text.clone(),
                Value::Array(parts) => parts.iter().map(as_text).collect::<Vec<_>>().join("\n"),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            if result["is_error"] == true {
                // This wire has no mark for it.
                content = format!("Error: {content}");
            }
            json!({"role": "tool", "tool_call_id": result["tool_use_id"], "content": content})
        })
        .collect();
    let parts: Vec<Value> = rest.into_iter().filter_map(part).collect();
    match parts.as_slice() {
        [] => {}
        // A lone text is written as every server of this wire takes it.
        [only] if only["type"] == "text" => messages.push(json!({"role": "user", "content": only["text"]})),
        _ => messages.push(json!({"role": "user", "content": parts})),
    }
    messages
}

fn texts(blocks: &[Value]) -> String {
    blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str()).collect()
}

/// A part of a tool's result, which can only be a text here.
fn as_text(part: &Value) -> String {
    match part["type"].as_str() {
        Some("text") => part["text"].as_str().unwrap_or_default().to_owned(),
        Some(kind) => format!("[{kind} left out: this API takes only text as the result of a tool]"),
        None => part.to_string(),
    }
}

fn part(block: &Value) -> Option<Value> {
    match block["type"].as_str()? {
        "text" => {
            let text = block["text"].as_str().filter(|text| !text.trim().is_empty())?;
            Some(json!({"type": "text", "text": text}))
        }
        "image" => {
            let source = &block["source"];
            let url = match source["type"].as_str()? {
                "base64" => format!("data:{};base64,{}", source["media_type"].as_str()?, source["data"].as_str()?),
                _ => source["url"].as_str()?.to_owned(),
            };
            Some(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::journal::{ModelSettings, Structured};

    use super::*;
    use crate::models::samples::{head, with_options};

    #[test]
    fn a_turn_with_tools_is_told_as_calls_and_one_message_a_result() {
        let messages = [
            json!({"role": "user", "content": "Go."}),
            json!({"role": "assistant", "content": [
                {"type": "thinking", "thinking": "…", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "Read", "input": {"z": 1, "a": "é"}},
                {"type": "tool_use", "id": "b", "name": "Read", "input": {}}]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "one"},
                {"type": "tool_result", "tool_use_id": "b", "is_error": true, "content": [
                    {"type": "text", "text": "no"}, {"type": "image", "source": {}}]},
                {"type": "text", "text": "Go on."}]}),
        ];
        let body = body(Dialect::OpenAi, &head(), &messages, false).unwrap();
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Go."},
                {"role": "assistant", "content": "I look.", "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "Read", "arguments": "{\"z\":1,\"a\":\"é\"}"}},
                    {"id": "b", "type": "function", "function": {"name": "Read", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "one"},
                {"role": "tool", "tool_call_id": "b",
                 "content": "Error: no\n[image left out: this API takes only text as the result of a tool]"},
                {"role": "user", "content": "Go on."},
            ])
        );
        assert_eq!(body["tools"][0]["function"]["parameters"], json!({"type": "object"}));
    }

    #[test]
    fn the_limit_of_a_reply_has_the_name_that_the_server_knows() {
        let messages = [json!({"role": "user", "content": "Go."})];
        for (base_url, field) in
            [("https://api.openai.com/v1", "max_completion_tokens"), ("http://127.0.0.1:11434/v1", "max_tokens")]
        {
            let body = body(Dialect::of(base_url), &head(), &messages, false).unwrap();
            assert_eq!(body[field], 1_000, "{base_url}");
        }
    }

    #[test]
    fn an_output_schema_is_a_format_a_tool_or_told_in_words() {
        let messages = [json!({"role": "user", "content": "Go."})];
        let schema = json!({"type": "object", "properties": {"score": {"type": "integer"}}});
        let as_format = RequestHead { output_schema: Some(schema.clone()), ..head() };
        let told = body(Dialect::OpenAi, &as_format, &messages, false).unwrap();
        assert_eq!(told["response_format"]["json_schema"]["schema"], schema);
        let asked = |structured| {
            let settings = ModelSettings { structured, ..ModelSettings::default() };
            RequestHead { output_schema: Some(schema.clone()), settings, tools: Vec::new(), ..head() }
        };
        let by_tool = body(Dialect::OpenAi, &asked(Structured::Tool), &messages, false).unwrap();
        assert_eq!(by_tool["tools"][0]["function"]["parameters"], schema);
        assert_eq!(by_tool["tool_choice"]["function"]["name"], "StructuredOutput");
        let in_words = asked(Structured::Prompt);
        let told = body(Dialect::OpenAi, &in_words, &messages, false).unwrap();
        assert!(told.get("response_format").is_none());
        assert!(told["messages"][0]["content"].as_str().unwrap().contains("\"score\""));
    }

    #[test]
    fn options_pass_and_those_of_the_loop_are_refused() {
        let messages = [json!({"role": "user", "content": "Go."})];
        let told =
            body(Dialect::OpenAi, &with_options(&json!({"effort": "low", "seed": 7})), &messages, false).unwrap();
        assert_eq!((&told["reasoning_effort"], &told["seed"]), (&json!("low"), &json!(7)));
        for wrong in [json!({"stream": false}), json!({"n": 2}), json!({"output_format": "xml"})] {
            let failure = body(Dialect::OpenAi, &with_options(&wrong), &messages, false).unwrap_err();
            assert_eq!(failure.class, FailureClass::Configuration, "{wrong}");
        }
    }

    #[test]
    fn nothing_to_ask_is_refused() {
        for messages in [json!([]), json!([{"role": "user", "content": ""}]), json!([{"role": "user", "content": []}])]
        {
            let failure = body(Dialect::OpenAi, &head(), messages.as_array().unwrap(), false).unwrap_err();
            assert_eq!(failure.class, FailureClass::InvalidRequest, "{messages}");
        }
    }
}
