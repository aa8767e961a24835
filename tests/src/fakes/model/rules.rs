//! What the Messages API refuses: the strict schema of a request, and the rules
//! that a schema cannot say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static FIRST: LazyLock<Validator> =
    LazyLock::new(|| compile(include_str!("../../../data/model-api/anthropic-2023-06-01-streaming.schema.json")));
static SECOND: LazyLock<Validator> =
    LazyLock::new(|| compile(include_str!("../../../data/model-api/anthropic-2026-10-21-streaming.schema.json")));

fn compile(text: &str) -> Validator {
    let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a JSON Schema")
}

/// What the server said so far, as far as later requests must repeat it.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Blocks, byte for byte.
    blocks: BTreeSet<String>,
    /// Thoughts by their signature.
    thoughts: BTreeMap<String, String>,
    /// Contents that ended with `pause_turn`: a request may end with one.
    paused: BTreeSet<String>,
}

impl Said {
    /// Notes a reply.
    pub(super) fn note(&mut self, content: &[Value], stop_reason: &str) {
        for block in content {
            self.blocks.insert(block.to_string());
            if let (Some(signature), true) = (block["signature"].as_str(), block["type"] == "thinking") {
                self.thoughts.insert(signature.to_owned(), block.to_string());
            }
        }
        if stop_reason == "pause_turn" {
            self.paused.insert(Value::from(content.to_vec()).to_string());
        }
    }

    /// Why a request is refused.
    pub(super) fn violation(&self, version: &str, request: &Value) -> Option<String> {
        let validator = match version {
            "2023-06-01" => &FIRST,
            "2026-10-21" => &SECOND,
            other => return Some(format!("anthropic-version: {other:?} is not a valid version")),
        };
        let known = self.without_blocks_of_ours(request);
        if let Some(error) = validator.iter_errors(&known).next() {
            return Some(format!("{}: {error}", error.instance_path()));
        }
        marks(request).or_else(|| tools(request)).or_else(|| self.messages(&request["messages"]))
    }

    /// A block that the server itself made up is accepted if it comes back as it was.
    fn without_blocks_of_ours(&self, request: &Value) -> Value {
        let mut request = request.clone();
        for message in request["messages"].as_array_mut().into_iter().flatten() {
            if message["role"] == "assistant"
                && let Some(blocks) = message["content"].as_array_mut()
            {
                blocks.retain(|block| !self.blocks.contains(&block.to_string()));
            }
        }
        request
    }

    fn messages(&self, messages: &Value) -> Option<String> {
        let messages = messages.as_array()?;
        let Some(last) = messages.last() else { return Some("messages: at least one message is required".to_owned()) };
        if messages[0]["role"] != "user" {
            return Some("messages: first message must use the \"user\" role".to_owned());
        }
        if last["role"] == "assistant" && !self.paused.contains(&last["content"].to_string()) {
            return Some("messages: this model does not support assistant message prefill".to_owned());
        }
        let mut open: Vec<&str> = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, message) in messages.iter().enumerate() {
            let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
            if message["content"].as_str().is_some_and(str::is_empty) || message["content"] == Value::Array(Vec::new())
            {
                return Some(format!("messages.{number}: messages must have non-empty content"));
            }
            let wrong = blocks
                .iter()
                .find_map(|block| self.block(block))
                .or_else(|| if message["role"] == "user" { results(&open, blocks) } else { thinking_last(blocks) });
            if let Some(wrong) = wrong {
                return Some(format!("messages.{number}: {wrong}"));
            }
            open = blocks.iter().filter(|block| block["type"] == "tool_use").filter_map(|b| b["id"].as_str()).collect();
            if let Some(twice) = open.iter().find(|id| !seen.insert(**id)) {
                return Some(format!("messages.{number}: `tool_use` ids must be unique: {twice}"));
            }
        }
        None
    }

    fn block(&self, block: &Value) -> Option<String> {
        match block["type"].as_str() {
            Some("text") if block["text"].as_str().is_none_or(|text| text.trim().is_empty()) => {
                Some("text content blocks must contain non-whitespace text".to_owned())
            }
            Some("thinking") => {
                let said = self.thoughts.get(block["signature"].as_str().unwrap_or_default());
                let now = block.to_string();
                let altered = said.is_some_and(|said| *said != now);
                altered.then(|| "`thinking` blocks in the latest assistant message cannot be modified".to_owned())
            }
            _ => None,
        }
    }
}

/// Every call of the message before has its result here, first of all and once.
fn results(open: &[&str], blocks: &[Value]) -> Option<String> {
    let is_result = |block: &&Value| block["type"] == "tool_result";
    let ids: Vec<&str> = blocks.iter().filter(is_result).filter_map(|block| block["tool_use_id"].as_str()).collect();
    if let Some(missing) = open.iter().find(|id| !ids.contains(id)) {
        return Some(format!("`tool_use` ids were found without `tool_result` blocks immediately after: {missing}"));
    }
    if let Some(unexpected) = ids.iter().find(|id| !open.contains(id)) {
        return Some(format!("unexpected `tool_use_id` found in `tool_result` blocks: {unexpected}"));
    }
    if ids.len() != open.len() {
        return Some("each `tool_use` must have a single result".to_owned());
    }
    let first = blocks.iter().take_while(is_result).count();
    (first != ids.len()).then(|| "`tool_result` blocks must come before any other content".to_owned())
}

fn thinking_last(blocks: &[Value]) -> Option<String> {
    let last = blocks.last()?;
    let thinks = last["type"] == "thinking" || last["type"] == "redacted_thinking";
    thinks.then(|| "the final block in an assistant message cannot be `thinking`".to_owned())
}

fn marks(request: &Value) -> Option<String> {
    let mut count = 0;
    let mut wrong = None;
    visit(request, &mut |fields| {
        if fields.contains_key("cache_control") {
            count += 1;
            if fields.get("type").is_some_and(|kind| kind == "thinking" || kind == "redacted_thinking") {
                wrong = Some("cache_control cannot be set for thinking blocks".to_owned());
            }
        }
    });
    if count > 4 {
        return Some(format!("a maximum of 4 blocks with cache_control may be provided. Found {count}"));
    }
    wrong
}

fn visit(value: &Value, look: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            look(fields);
            fields.values().for_each(|field| visit(field, look));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, look)),
        _ => {}
    }
}

fn tools(request: &Value) -> Option<String> {
    let mut names = BTreeSet::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        let name = tool["name"].as_str().unwrap_or_default();
        let valid = (1..=128).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !valid {
            return Some(format!("tools: the name {name:?} should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"));
        }
        if !names.insert(name) {
            return Some(format!("tools: tool names must be unique: {name}"));
        }
        if tool["input_schema"]["type"] != "object" {
            return Some(format!("tools: input_schema.type of {name}: field required, and must be \"object\""));
        }
    }
    None
}
