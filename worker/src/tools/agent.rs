//! The tool `Agent`: what a model is told of it. It is not called like others:
//! a subagent is a conversation in the journal of the same task, and `decide`
//! takes it from turn to turn.

use common::pipeline::model::Agent;
use serde_json::{Value, json};

use super::ToolSpec;

/// The name of the tool.
pub const AGENT: &str = "Agent";
/// The argument that names the agent.
pub const SUBAGENT_TYPE: &str = "subagent_type";

/// A call of the tool, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentCall<'a> {
    /// The agent.
    pub agent: &'a str,
    /// What it is told.
    pub prompt: &'a str,
    /// Whether the caller wants to go on meanwhile.
    pub background: bool,
    /// The id of the subagent that is to go on.
    pub resume: Option<&'a str>,
}

impl<'a> AgentCall<'a> {
    /// Reads arguments that fit the schema.
    pub fn read(arguments: &'a Value) -> Self {
        let text = |name: &str| arguments[name].as_str();
        Self {
            agent: text(SUBAGENT_TYPE).unwrap_or_default(),
            prompt: text("prompt").unwrap_or_default(),
            background: arguments["run_in_background"].as_bool().unwrap_or_default(),
            resume: text("resume").filter(|id| !id.is_empty()),
        }
    }
}

/// What a model is told of the tool, if there is anybody to call.
pub fn spec(agents: &[(&str, &Agent)]) -> Option<ToolSpec> {
    if agents.is_empty() {
        return None;
    }
    let mut description =
        "Gives a task to another agent, which works on it with tools of its own and answers with its \
        final message. It sees nothing of this conversation but the prompt. Several calls in one turn run at the same \
        time. Agents:"
            .to_owned();
    for (name, agent) in agents {
        description.push_str("\n- ");
        description.push_str(name);
        if !agent.description.is_empty() {
            description.push_str(": ");
            description.push_str(&agent.description);
        }
    }
    let names: Vec<&str> = agents.iter().map(|(name, _)| *name).collect();
    let input_schema = json!({
        "type": "object",
        "properties": {
            "description": {"type": "string", "description": "What the task is, in three to five words."},
            "prompt": {"type": "string", "description": "The task, with everything that the agent must know."},
            SUBAGENT_TYPE: {"type": "string", "enum": names, "description": "Which agent."},
            "run_in_background": {
                "type": "boolean",
                "description": "Go on at once; you are told when the agent is done. By default you wait for it.",
            },
            "resume": {
                "type": "string",
                "description": "The id of an agent that you called before and that is done: it goes on with all that it knows.",
            },
        },
        "required": ["description", "prompt", SUBAGENT_TYPE],
        "additionalProperties": false,
    });
    Some(ToolSpec { name: AGENT.to_owned(), description, input_schema })
}
