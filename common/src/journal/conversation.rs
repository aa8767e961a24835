//! The conversation of one agent step, rebuilt from its journal.
//!
//! The neutral form is that of the Messages API; providers that speak another
//! wire translate it. What is rebuilt after a crash is byte for byte what would
//! have been sent without it: JSON objects keep the order of their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::record::{CallResult, ModelCall, Usage};
use super::request::{ModelChoice, RequestHead};
use crate::failure::{Failure, FailureClass};
use crate::id::CallId;

/// The stop reason of a model that declines, in the words of the Messages API.
const REFUSAL: &str = "refusal";

/// A tool call that the model asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// The model's id for it.
    pub id: CallId,
    /// The tool.
    pub name: String,
    /// The arguments.
    pub input: Value,
}

/// One reply of the model, with what came of its tool calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// The reply.
    pub reply: ModelCall,
    /// The tool calls that it asks for, in order.
    pub tool_uses: Vec<ToolUse>,
    /// The results so far.
    pub results: BTreeMap<CallId, CallResult>,
    /// What the loop itself added behind the results.
    pub prompted: Option<Prompted>,
    /// Whether it was paid for and is no longer part of the conversation: another model was asked instead.
    pub set_aside: bool,
}

/// A text that the loop itself said to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompted {
    /// The text.
    pub text: String,
    /// Why.
    pub reason: String,
}

/// All of one agent step's model calls. A clone shares the turns with its original, so that looking
/// ahead costs little however long the conversation is.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// What stays the same in every request, until another model is asked.
    pub head: Arc<RequestHead>,
    /// The first user message.
    pub prompt: Arc<str>,
    /// The replies so far.
    pub turns: Vec<Arc<Turn>>,
    /// The number of turns that were there when the task was last replayed:
    /// limits count from here, so that a replayed step has room to go on.
    pub counted_from: usize,
    /// The number of turns that were there when what stands before them last changed. Their thoughts are not sent
    /// again: they are bound to the model and to the words that they followed upon, and refused elsewhere.
    pub settled: usize,
    /// The changes of models so far.
    pub changes: Vec<ModelChange>,
    /// The model that was last seen to answer without being asked.
    pub other_model: Option<String>,
}

/// A change of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChange {
    /// The model that was asked until then, by its name in `teamster.yaml`.
    pub from: String,
    /// The one that was asked from then on.
    pub to: String,
    /// What went wrong.
    pub why: FailureClass,
}

impl Conversation {
    /// A conversation that has not been answered yet.
    pub fn new(head: RequestHead, prompt: String) -> Self {
        Self {
            head: Arc::new(head),
            prompt: prompt.into(),
            turns: Vec::new(),
            counted_from: 0,
            settled: 0,
            changes: Vec::new(),
            other_model: None,
        }
    }

    /// Adds a reply.
    pub fn answered(&mut self, reply: ModelCall) {
        let tool_uses = reply.content.iter().filter_map(tool_use).collect();
        let turn = Turn { reply, tool_uses, results: BTreeMap::new(), prompted: None, set_aside: false };
        self.turns.push(Arc::new(turn));
    }

    /// Another model is asked from now on. What the one before declined with is set aside.
    pub fn change_model(&mut self, to: &ModelChoice, why: &Failure) {
        let from = self.head.alias.clone();
        self.changes.push(ModelChange { from, to: to.alias.clone(), why: why.class });
        Arc::make_mut(&mut self.head).change_model(to);
        if let Some(turn) = self.turns.last_mut().filter(|turn| turn.reply.stop_reason == REFUSAL) {
            Arc::make_mut(turn).set_aside = true;
        }
        self.settled = self.turns.len();
    }

    /// The turns that are part of the conversation.
    pub fn said(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter().map(Arc::as_ref).filter(|turn| !turn.set_aside)
    }

    /// The tool calls of the last turn that have no result yet, in order.
    pub fn open_calls(&self) -> Vec<&ToolUse> {
        self.turns.last().map_or_else(Vec::new, |turn| {
            turn.tool_uses.iter().filter(|call| !turn.results.contains_key(&call.id)).collect()
        })
    }

    /// The turn that asked for a call.
    pub fn turn_of(&mut self, call: &CallId) -> Option<&mut Turn> {
        let turn = self.turns.iter_mut().rev().find(|turn| turn.tool_uses.iter().any(|u| &u.id == call))?;
        Some(Arc::make_mut(turn))
    }

    /// What all turns cost together.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for turn in &self.turns {
            sum.add(&turn.reply.usage);
        }
        sum
    }

    /// The messages of the next request. All results of one reply stand in one
    /// user message, in the order of the calls, before any text.
    pub fn messages(&self) -> Vec<Value> {
        let mut messages = vec![json!({"role": "user", "content": &*self.prompt})];
        for (number, turn) in self.turns.iter().enumerate().filter(|(_, turn)| !turn.set_aside) {
            messages.push(json!({"role": "assistant", "content": turn.blocks(number < self.settled)}));
            let mut content: Vec<Value> = turn
                .tool_uses
                .iter()
                .filter_map(|call| turn.results.get(&call.id).map(|result| result_block(&call.id, result)))
                .collect();
            if let Some(prompted) = &turn.prompted {
                content.push(json!({"type": "text", "text": prompted.text}));
            }
            if !content.is_empty() {
                messages.push(json!({"role": "user", "content": content}));
            }
        }
        messages
    }

    /// The text of the last reply.
    pub fn last_text(&self) -> String {
        self.turns.last().map_or_else(String::new, |turn| turn.text())
    }
}

impl Turn {
    /// The reply's blocks, as they go back to the model.
    fn blocks(&self, without_thoughts: bool) -> Vec<Value> {
        let is_thought = |block: &&Value| block["type"] == "thinking" || block["type"] == "redacted_thinking";
        self.reply.content.iter().filter(|block| !(without_thoughts && is_thought(block))).cloned().collect()
    }

    /// The text of the reply, without its other blocks.
    pub fn text(&self) -> String {
        let blocks = self.reply.content.iter().filter(|block| block["type"] == "text");
        blocks.filter_map(|block| block["text"].as_str()).collect()
    }
}

fn tool_use(block: &Value) -> Option<ToolUse> {
    if block["type"] != "tool_use" {
        return None;
    }
    Some(ToolUse {
        id: CallId::new(block["id"].as_str()?).ok()?,
        name: block["name"].as_str()?.to_owned(),
        input: block["input"].clone(),
    })
}

fn result_block(id: &CallId, result: &CallResult) -> Value {
    match result {
        CallResult::Done { content, is_error: false } => {
            json!({"type": "tool_result", "tool_use_id": id, "content": content})
        }
        CallResult::Done { content, is_error: true } => {
            json!({"type": "tool_result", "tool_use_id": id, "content": content, "is_error": true})
        }
        CallResult::Failed { error } => {
            json!({"type": "tool_result", "tool_use_id": id, "content": error.message, "is_error": true})
        }
    }
}
