//! The conversation of one agent step, rebuilt from its journal.
//!
//! The neutral form is that of the Messages API; providers that speak another
//! wire translate it. What is rebuilt after a crash is byte for byte what would
//! have been sent without it: JSON objects keep the order of their keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::record::{CallResult, ModelCall, Usage};
use super::request::{ModelChoice, RequestHead};
use super::shown;
use crate::failure::{Failure, FailureClass};
use crate::id::CallId;

/// The stop reason of a model that declines, in the words of the Messages API.
const REFUSAL: &str = "refusal";
/// The stop reason of a reply that ends where the context window does.
const WINDOW_EXCEEDED: &str = "model_context_window_exceeded";
/// Why an agent that had come to its end is told something: it is to go on.
pub(super) const RESUME: &str = "resume";

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
    /// What hooks added behind the results, by the call that it is about.
    pub remarks: BTreeMap<CallId, Vec<String>>,
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
    /// What was said in earlier tasks of the session, as messages.
    pub history: Arc<Vec<Value>>,
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
    /// The summary that stands for the older turns.
    pub compacted: Option<Compacted>,
    /// What all summaries so far cost.
    pub summaries: Usage,
    /// Whether the model said that the conversation is too long, and nothing was done about it yet.
    pub overflowed: bool,
    /// Whether a result was too long to be shown whole: then the model has a tool to read on.
    pub cut: bool,
}

/// A summary in place of the older part of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// The summary.
    pub summary: Arc<str>,
    /// How many turns, from the first, it stands for.
    pub kept_from: usize,
    /// How many turns there were when it was made.
    pub at_turn: usize,
    /// How many summaries there were, this one included.
    pub number: u32,
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
            history: Arc::default(),
            prompt: prompt.into(),
            turns: Vec::new(),
            counted_from: 0,
            settled: 0,
            changes: Vec::new(),
            other_model: None,
            compacted: None,
            summaries: Usage::default(),
            overflowed: false,
            cut: false,
        }
    }

    /// Adds a reply.
    pub fn answered(&mut self, reply: ModelCall) {
        let tool_uses = reply.content.iter().filter_map(tool_use).collect();
        let (results, remarks) = (BTreeMap::new(), BTreeMap::new());
        self.turns.push(Arc::new(Turn { reply, tool_uses, results, remarks, prompted: None, set_aside: false }));
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

    /// A summary stands for the turns before `kept_from` from now on. One without words changes nothing but the cost.
    pub fn compact(&mut self, call: &ModelCall, kept_from: usize) {
        self.summaries.add(&call.usage);
        let summary = text(&call.content);
        if summary.trim().is_empty() {
            return;
        }
        // What a full window cut off is no reply to go on from.
        if let Some(turn) = self.turns.last_mut().filter(|turn| turn.is_cut_by_window() && turn.tool_uses.is_empty()) {
            Arc::make_mut(turn).set_aside = true;
        }
        let number = self.compacted.as_ref().map_or(0, |before| before.number) + 1;
        let summary = summary.trim().into();
        self.compacted = Some(Compacted { summary, kept_from, at_turn: self.turns.len(), number });
        self.settled = self.turns.len();
        self.overflowed = false;
    }

    /// Notes whether a result is too long to be shown whole.
    pub(super) fn note_cut(&mut self, result: &CallResult) {
        if !self.cut && self.head.context.shown.is_some_and(|limit| shown::whole(result).len() > limit) {
            self.cut = true;
            // There is one tool more now, and thoughts are bound to the tools before them.
            self.settled = self.turns.len();
        }
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

    /// What all turns and summaries cost together.
    pub fn usage(&self) -> Usage {
        let mut sum = self.summaries;
        for turn in &self.turns {
            sum.add(&turn.reply.usage);
        }
        sum
    }

    /// The messages of the next request. All results of one reply stand in one
    /// user message, in the order of the calls, before any text.
    pub fn messages(&self) -> Vec<Value> {
        // A summary stands for the earlier tasks too.
        let history = if self.compacted.is_some() { &[][..] } else { &self.history };
        let mut messages = history.to_vec();
        messages.push(json!({"role": "user", "content": self.opening()}));
        let from = self.compacted.as_ref().map_or(0, |compacted| compacted.kept_from);
        let kept = self.turns.iter().enumerate().skip(from);
        for (number, turn) in kept.filter(|(_, turn)| !turn.set_aside) {
            messages.push(json!({"role": "assistant", "content": turn.blocks(number < self.settled)}));
            let mut content: Vec<Value> = turn
                .tool_uses
                .iter()
                .filter_map(|call| {
                    turn.results.get(&call.id).map(|result| result_block(&call.id, result, self.head.context.shown))
                })
                .collect();
            let remarks = turn.tool_uses.iter().filter_map(|call| turn.remarks.get(&call.id)).flatten();
            content.extend(remarks.map(|text| json!({"type": "text", "text": text})));
            if let Some(prompted) = &turn.prompted {
                content.push(json!({"type": "text", "text": prompted.text}));
            }
            if !content.is_empty() {
                messages.push(json!({"role": "user", "content": content}));
            }
        }
        messages
    }

    /// All that was said, for another task to go on from: without thoughts, which are bound to what stands around them
    /// here, and with an answer to every call.
    pub fn transcript(&self) -> Vec<Value> {
        let mut settled = self.clone();
        settled.settled = settled.turns.len();
        let mut messages = settled.messages();
        let taken = |call: &&ToolUse| json!({"type": "tool_result", "tool_use_id": call.id, "content": "Your answer was taken."});
        let open: Vec<Value> = self.open_calls().iter().map(taken).collect();
        if !open.is_empty() {
            messages.push(json!({"role": "user", "content": open}));
        }
        messages
    }

    /// The first message: what the agent was asked, and the summary of what came of it where there is one.
    fn opening(&self) -> Cow<'_, str> {
        let Some(Compacted { summary, kept_from, .. }) = &self.compacted else { return Cow::Borrowed(&self.prompt) };
        let gone = &self.turns[..(*kept_from).min(self.turns.len())];
        let mut text = self.prompt.to_string();
        let prompted = |turn: &Arc<Turn>| turn.prompted.clone();
        // What it was asked later is as much of a goal as what it was asked first.
        if let Some(asked) = gone.iter().rev().filter_map(prompted).find(|said| said.reason == RESUME) {
            text.push_str("\n\nLater you were asked:\n");
            text.push_str(&asked.text);
        }
        text.push_str(
            "\n\n<summary>\nThe conversation grew long. This is what happened in it before what follows:\n\n",
        );
        text.push_str(summary);
        text.push_str("\n</summary>");
        // Said behind the last turn that is gone, and not answered by it.
        if let Some(said) = gone.last().and_then(prompted).filter(|said| said.reason != RESUME) {
            text.push_str("\n\n");
            text.push_str(&said.text);
        }
        Cow::Owned(text)
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
        text(&self.reply.content)
    }

    /// Whether the reply ends where the model's context window does.
    pub fn is_cut_by_window(&self) -> bool {
        self.reply.stop_reason == WINDOW_EXCEEDED
    }
}

fn text(content: &[Value]) -> String {
    content.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str()).collect()
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

fn result_block(id: &CallId, result: &CallResult, limit: Option<usize>) -> Value {
    if let Some(content) = limit.and_then(|limit| shown::cut(id, result, limit)) {
        let is_error = !matches!(result, CallResult::Done { is_error: false, .. });
        let mut block = json!({"type": "tool_result", "tool_use_id": id, "content": content});
        if is_error {
            block["is_error"] = Value::Bool(true);
        }
        return block;
    }
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
