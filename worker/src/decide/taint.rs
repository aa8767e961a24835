//! Text of strangers in what an agent has read: where it came in, how it is
//! marked, and which calls a person is asked about from then on. A fold over the
//! journal: nothing is kept of it. Says nothing of text that an earlier step
//! handed on: whoever builds a prompt of that marks it with the filter `untrusted`.

use std::path::Path;

use common::id::StepKey;
use common::journal::{CallResult, Event, Run, ToolUse};
use common::pipeline::model::{Pipeline, StepKind, Trigger};
use common::pipeline::untrusted::mark;
use serde_json::Value;

use super::Deciding;
use super::permission::Wanted;
use crate::tools::rule::{Reading, Rule, Subject};
use crate::tools::{agent, search};

const WEB: [&str; 1] = ["WebFetch"];
const FILES: [&str; 3] = ["Read", "Glob", "Grep"];
/// Answers of this program itself, whose own sources are judged where they come in.
const OWN: [&str; 4] = [agent::AGENT, search::SEARCH, "Write", "Edit"];

impl Deciding<'_> {
    /// Why a person is asked about a call that rules allow: the agent has read text of strangers.
    pub(super) fn suspicion(&self, key: &StepKey, wanted: Wanted<'_>) -> Option<String> {
        if !wanted.tool.is_some_and(|tool| tool.asks_after_taint(wanted.arguments)) {
            return None;
        }
        let source = tainted_by(self.run, self.given.pipeline, key)?;
        Some(format!("the agent has read text of strangers, from {source}"))
    }
}

/// What taints an agent, by its own file and those of its callers.
fn sources<'a>(run: &'a Run, pipeline: &'a Pipeline, key: &StepKey) -> Vec<&'a str> {
    let line = std::iter::successors(Some(key.clone()), StepKey::caller);
    let of_step = pipeline.step(&key.step).and_then(|step| match &step.kind {
        StepKind::Agent(of_step) => Some(of_step.agent.as_str()),
        _ => None,
    });
    let names = line.filter_map(|key| run.agent(&key).or(of_step));
    names.filter_map(|name| pipeline.agents.get(name)).flat_map(|file| &file.taint).map(String::as_str).collect()
}

/// Where text of strangers came into an agent, its callers and those that it called; nothing if none did.
pub(super) fn tainted_by(run: &Run, pipeline: &Pipeline, key: &StepKey) -> Option<String> {
    let sources = sources(run, pipeline, key);
    if sources.is_empty() {
        return None;
    }
    let by_webhook = pipeline.triggers.iter().any(|trigger| matches!(trigger, Trigger::Webhook(_)));
    if sources.contains(&"webhook") && by_webhook {
        return Some("a webhook".to_owned());
    }
    let conversations = run.family(key).filter_map(|(_, known)| known.conversation.as_ref());
    conversations.flat_map(|conversation| &conversation.turns).find_map(|turn| {
        let answered = |id| matches!(turn.results.get(id), Some(CallResult::Done { .. } | CallResult::Failed { .. }));
        let tainting =
            turn.tool_uses.iter().find(|call| answered(&call.id) && is_from(&sources, &call.name, &call.input));
        tainting.map(|call| call.name.clone())
    })
}

/// Whether the answer of an agent's call is text of strangers.
pub(super) fn taints(run: &Run, pipeline: &Pipeline, key: &StepKey, call: &ToolUse) -> bool {
    is_from(&sources(run, pipeline, key), &call.name, &call.input)
}

/// Whether the answer of a call comes from one of the sources.
fn is_from(sources: &[&str], tool: &str, arguments: &Value) -> bool {
    // What was found by search is known by its own name.
    let (tool, arguments) = match arguments.get("name").and_then(Value::as_str) {
        Some(name) if tool == search::CALL => (name, arguments.get("arguments").unwrap_or(&Value::Null)),
        _ => (tool, arguments),
    };
    sources.iter().any(|source| match *source {
        "webhook" => false,
        "web" => WEB.contains(&tool),
        "files" => FILES.contains(&tool),
        "tools" => !WEB.contains(&tool) && !FILES.contains(&tool) && !OWN.contains(&tool),
        rule => match Rule::parse(rule) {
            Ok(rule) => rule.fits(Subject { tool, arguments, workspace: None::<&Path> }, Reading::Takes),
            // What cannot be read taints: the safe side.
            Err(_) => true,
        },
    })
}

/// Marks the answers of agents' calls that come from one of the sources of their taint, as their prompts get them.
pub fn mark_answers(run: &Run, pipeline: &Pipeline, events: &mut [Event]) {
    for event in events {
        let Event::CallFinished { step, call, tool, result: CallResult::Done { content, .. }, .. } = event else {
            continue;
        };
        let turns = run.step(step).and_then(|known| known.conversation.as_ref()).map(|known| &known.turns);
        let asked = turns.and_then(|turns| turns.last()?.tool_uses.iter().find(|asked| asked.id == *call));
        if let Some(asked) = asked
            && is_from(&sources(run, pipeline, step), tool, &asked.input)
        {
            *content = marked(tool, std::mem::take(content));
        }
    }
}

fn marked(tool: &str, content: Value) -> Value {
    match content {
        Value::String(text) => Value::String(mark(tool, &text)),
        Value::Array(blocks) => Value::Array(blocks.into_iter().map(|block| marked_block(tool, block)).collect()),
        other => Value::String(mark(tool, &other.to_string())),
    }
}

fn marked_block(tool: &str, mut block: Value) -> Value {
    if block["type"] == "text"
        && let Some(text) = block["text"].as_str()
    {
        block["text"] = Value::String(mark(tool, text));
    }
    block
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_from_a_source_by_its_tool() {
        for (sources, tool, expected) in [
            (vec!["web"], "WebFetch", true),
            (vec!["web", "webhook"], "Read", false),
            (vec!["files"], "Grep", true),
            (vec!["tools"], "mcp__crm__find", true),
            (vec!["tools"], "Bash", true),
            (vec!["tools"], "CallTool", true),
            (vec!["tools"], "WebFetch", false),
            (vec!["tools"], "Agent", false),
            (vec!["mcp__crm__*"], "mcp__crm__find", true),
            (vec!["mcp__crm__*"], "mcp__erp__find", false),
            (vec!["Bash(curl:*)"], "Bash", true),
            (vec!["no(rule"], "Read", true),
            (vec![], "WebFetch", false),
        ] {
            assert_eq!(is_from(&sources, tool, &json!({"command": "curl x"})), expected, "{sources:?} {tool}");
        }
    }
}
