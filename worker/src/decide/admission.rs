//! Whether a tool call that a model wants is one that can be made: within the
//! limits of the step, of a tool that was offered, with arguments that fit.

use common::failure::{Failure, FailureClass};
use common::journal::{Conversation, ToolUse};
use common::pipeline::model::AgentLimits;
use serde_json::Value;

use crate::tools::{self, Tool, ToolSet};

/// Whether a tool call that the model wants is made.
pub(super) enum Verdict<'a> {
    /// If it is permitted; with the schema that the model was told.
    Call(&'a dyn Tool, &'a Value),
    /// The model gets to see why not.
    Refuse(Failure),
    /// The step ends.
    Stop(Failure),
}

/// Why a tool call that the model wants is not made.
pub(super) enum Refusal {
    /// The model gets to see it.
    Told(Failure),
    /// The step ends.
    Final(Failure),
}

pub(super) fn verdict<'a>(
    conversation: &'a Conversation,
    call: &ToolUse,
    made: usize,
    limits: &AgentLimits,
    tools: &'a ToolSet,
) -> Verdict<'a> {
    let at_hand = offered(conversation, call).and_then(|offered| Some((offered, tools.get(&call.name)?)));
    let Some((offered, tool)) = at_hand else {
        let names: Vec<&str> = conversation.head.tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
        let message = format!("there is no tool {:?}; the tools are: {}", call.name, names.join(", "));
        return match within_limits(conversation, call, made, limits) {
            Ok(()) => Verdict::Refuse(Failure::new(FailureClass::InvalidRequest, message)),
            Err(refusal) => refusal.into(),
        };
    };
    match admit(conversation, call, made, limits, offered) {
        Ok(()) => Verdict::Call(tool.as_ref(), &offered["input_schema"]),
        Err(refusal) => refusal.into(),
    }
}

impl From<Refusal> for Verdict<'_> {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Told(error) => Self::Refuse(error),
            Refusal::Final(error) => Self::Stop(error),
        }
    }
}

/// What the model was told of the tool that it calls.
pub(super) fn offered<'a>(conversation: &'a Conversation, call: &ToolUse) -> Option<&'a Value> {
    conversation.head.tools.iter().find(|tool| tool["name"] == call.name.as_str())
}

/// Whether a call is within the limits, and fits what the model was told of the tool.
pub(super) fn admit(
    conversation: &Conversation,
    call: &ToolUse,
    made: usize,
    limits: &AgentLimits,
    offered: &Value,
) -> Result<(), Refusal> {
    within_limits(conversation, call, made, limits)?;
    tools::registry::validate(&offered["input_schema"], &call.input).map_err(|why| {
        let message = format!("the arguments do not fit the schema of {}: {why}", call.name);
        Refusal::Told(Failure::new(FailureClass::InvalidRequest, message))
    })
}

fn within_limits(
    conversation: &Conversation,
    call: &ToolUse,
    made: usize,
    limits: &AgentLimits,
) -> Result<(), Refusal> {
    let limit = |message: String| Failure::new(FailureClass::Limit, message);
    if made >= limits.tool_calls as usize {
        let message = format!("the agent made {made} tool calls, the most it may (limits.tool_calls)");
        return Err(Refusal::Final(limit(message)));
    }
    super::progress::look(conversation, call, limits)
}

/// The tool calls of a conversation, since limits were last counted anew.
pub(super) fn tool_uses(conversation: &Conversation) -> impl Iterator<Item = &ToolUse> {
    conversation.turns.iter().skip(conversation.counted_from).flat_map(|turn| &turn.tool_uses)
}

pub(super) fn calls(conversation: &Conversation) -> usize {
    tool_uses(conversation).count()
}
