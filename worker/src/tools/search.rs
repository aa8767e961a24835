//! Large sets of tools, offered by search instead of all at once.
//!
//! What a model is told of its tools is fixed for the life of a conversation, so
//! tools that it finds cannot be added: it calls them through `CallTool`. To
//! the journal that is one call like any other, with the effect class of the
//! tool behind it; that tool's own permissions and schema hold.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use common::journal::Effect;
use serde::Deserialize;
use serde_json::{Value, json};

use super::registry::validate;
use super::rule::Verdict;
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSet, ToolSpec, arguments};

/// The name of the tool that finds others.
pub const SEARCH: &str = "ToolSearch";
/// The name of the tool that calls what was found.
pub const CALL: &str = "CallTool";

/// Tools that one search finds if it does not say.
const FOUND: usize = 5;
/// The most that it may ask for.
const MOST: usize = 20;
/// Words of a query that are looked at.
const WORDS: usize = 32;

/// The two tools that stand for all of these.
pub(super) fn stand_ins(tools: &ToolSet) -> [Arc<dyn Tool>; 2] {
    let tools = Arc::new(tools.clone());
    [Arc::new(ToolSearch::new(Arc::clone(&tools))), Arc::new(CallTool::new(tools))]
}

/// Finds tools by what they are called and what they are for.
#[derive(Debug)]
struct ToolSearch {
    spec: ToolSpec,
    tools: Arc<ToolSet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    query: String,
    #[serde(default)]
    limit: Option<usize>,
}

impl ToolSearch {
    fn new(tools: Arc<ToolSet>) -> Self {
        let mut servers: Vec<&str> = tools.keys().filter_map(|name| name.split("__").nth(1)).collect();
        servers.dedup();
        let description = format!(
            "Finds tools of the servers {} by words of their names and descriptions. There are {} tools, and they are not \
             listed elsewhere. The answer has the name, the description and the input schema of each tool that fits, the \
             best first. Call them with {CALL}.",
            servers.join(", "),
            tools.len()
        );
        let input_schema = json!({
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words, such as: create contact"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "description": "How many tools at most"}
            },
            "required": ["query"],
            "additionalProperties": false
        });
        Self { spec: ToolSpec { name: SEARCH.to_owned(), description, input_schema }, tools }
    }
}

#[async_trait]
impl Tool for ToolSearch {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Read
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let query: Query = arguments(&call)?;
        let specs: Vec<&ToolSpec> = self.tools.values().map(|tool| tool.spec()).collect();
        let found = ranked(&specs, &query.query, query.limit.unwrap_or(FOUND).clamp(1, MOST));
        if found.is_empty() {
            return Ok(ToolAnswer::text("No tool fits. Try other words, or fewer."));
        }
        // Whole tools only: half a schema is of no use.
        let mut room = call.context.output_limit;
        let mut shown: Vec<String> = Vec::new();
        for spec in found {
            let tool = spec.to_json().to_string();
            if tool.len() < room {
                room -= tool.len() + 1;
                shown.push(tool);
            }
        }
        Ok(ToolAnswer::text(shown.join("\n")))
    }
}

/// Calls a tool that was found.
#[derive(Debug)]
struct CallTool {
    spec: ToolSpec,
    tools: Arc<ToolSet>,
}

/// The tool behind a call, and what it is given.
struct Target<'a> {
    tool: &'a Arc<dyn Tool>,
    arguments: Value,
}

impl CallTool {
    fn new(tools: Arc<ToolSet>) -> Self {
        let description = format!("Calls a tool that {SEARCH} found, with arguments that fit its input schema.");
        let input_schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "The tool's whole name"},
                "arguments": {"type": "object", "description": "The arguments of that tool"}
            },
            "required": ["name"],
            "additionalProperties": false
        });
        Self { spec: ToolSpec { name: CALL.to_owned(), description, input_schema }, tools }
    }

    fn target(&self, arguments: &Value) -> Option<Target<'_>> {
        let tool = self.tools.get(arguments.get("name")?.as_str()?)?;
        let arguments = arguments.get("arguments").cloned().unwrap_or_else(|| json!({}));
        Some(Target { tool, arguments })
    }
}

#[async_trait]
impl Tool for CallTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    /// That of the tool behind it; where there is none, nothing will happen.
    fn effect(&self, arguments: &Value) -> Effect {
        self.target(arguments).map_or(Effect::Read, |target| target.tool.effect(&target.arguments))
    }

    /// As the tool behind it is.
    fn asks_after_taint(&self, arguments: &Value) -> bool {
        self.target(arguments).is_some_and(|target| target.tool.asks_after_taint(&target.arguments))
    }

    /// That on the tool behind it.
    fn verdict(&self, arguments: &Value, workspace: Option<&Path>) -> Verdict {
        self.target(arguments).map_or(Verdict::Allowed, |target| target.tool.verdict(&target.arguments, workspace))
    }

    /// All tools of a set are judged alike.
    fn asks(&self, why: String) -> Verdict {
        match self.tools.values().next() {
            Some(tool) => tool.asks(why),
            None => Verdict::Asks(why),
        }
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let Some(Target { tool, arguments }) = self.target(&call.arguments) else {
            let name = call.arguments.get("name").and_then(Value::as_str).unwrap_or_default();
            return Ok(ToolAnswer::error(format!("there is no tool {name:?}; look for one with {SEARCH}")));
        };
        let spec = tool.spec();
        if let Err(why) = validate(&spec.input_schema, &arguments) {
            let schema = &spec.input_schema;
            let message = format!("{} was not called: the arguments do not fit its schema: {why}\n{schema}", spec.name);
            return Ok(ToolAnswer::error(super::cut(message, call.context.output_limit)));
        }
        tool.call(ToolCall { name: spec.name.clone(), arguments, ..call }).await
    }
}

/// The tools that fit a query, the best first: words in the name count more than
/// words in the description, whole words more than parts.
fn ranked<'a>(specs: &[&'a ToolSpec], query: &str, limit: usize) -> Vec<&'a ToolSpec> {
    let asked = words(query);
    let mut fitting: Vec<(u32, &ToolSpec)> = specs
        .iter()
        .map(|spec| {
            let (name, description) = (words(&spec.name), words(&spec.description));
            let points = |word: &String| {
                let within = |words: &[String]| words.iter().any(|other| other.contains(word.as_str()));
                match word {
                    _ if name.contains(word) => 8,
                    _ if within(&name) => 4,
                    _ if description.contains(word) => 2,
                    _ if within(&description) => 1,
                    _ => 0,
                }
            };
            let whole = if spec.name.eq_ignore_ascii_case(query.trim()) { 1000 } else { 0 };
            (asked.iter().take(WORDS).map(points).sum::<u32>() + whole, *spec)
        })
        .filter(|(points, _)| *points > 0)
        .collect();
    fitting.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name.cmp(&right.name)));
    fitting.into_iter().take(limit).map(|(_, spec)| spec).collect()
}

/// The words of a text in lower case; `createContact` and `create_contact` have two.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in text.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        after_lower = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str, limit: usize) -> Vec<String> {
        let specs: Vec<ToolSpec> = [
            ("mcp__crm__create_contact", "Adds a person."),
            ("mcp__crm__getContact", "Reads a person by id."),
            ("mcp__crm__list_deals", "All deals of a contact."),
            ("mcp__mail__send", "Sends a message."),
        ]
        .into_iter()
        .map(|(name, description)| ToolSpec {
            name: name.to_owned(),
            description: description.to_owned(),
            input_schema: json!({}),
        })
        .collect();
        ranked(&specs.iter().collect::<Vec<_>>(), query, limit).into_iter().map(|spec| spec.name.clone()).collect()
    }

    #[test]
    fn words_in_the_name_count_more_than_words_in_the_description() {
        let all = ["mcp__crm__create_contact", "mcp__crm__getContact", "mcp__crm__list_deals"];
        assert_eq!(names("contact", 9), all);
        assert_eq!(names("contact", 2), all[..2]);
        assert_eq!(names("Get CONTACT!", 1), ["mcp__crm__getContact"]);
        assert_eq!(names("mess", 9), ["mcp__mail__send"], "a part of a word fits too");
        assert_eq!(names("mcp__mail__send", 1), ["mcp__mail__send"]);
        assert!(names("weather", 9).is_empty() && names("", 9).is_empty());
    }

    #[test]
    fn a_name_is_taken_apart_into_words() {
        assert_eq!(words("mcp__crm__createContact-v2 HTTP é"), ["mcp", "crm", "create", "contact", "v2", "http", "é"]);
    }
}
