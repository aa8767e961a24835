//! The output of an agent step: what of a reply it is, and what becomes of one
//! that does not fit its schema.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{CallResult, Conversation, StepOutcome, ToolUse, Turn};
use common::pipeline::model::{AgentStep, Step};
use serde_json::{Value, json};

use super::Deciding;
use super::admission::offered;
use super::agent::CONTINUE;
use super::hook::Ending;
use crate::models::output_tool::{STRUCTURED_OUTPUT, output};

/// How often an output that does not fit is sent back.
pub(super) const REPAIRS: usize = 1;
/// Why the model is told something: its output does not fit.
pub(super) const REPAIR: &str = "repair";

/// Whether a call is no call but the output of the step.
pub(super) fn is_output(conversation: &Conversation, call: &ToolUse) -> bool {
    call.name == STRUCTURED_OUTPUT && conversation.head.output_schema.is_some() && offered(conversation, call).is_none()
}

impl Deciding<'_> {
    /// Takes the output that a model gives by the tool for it: ends the step, or says what does not fit.
    pub(super) fn given_output(
        &mut self,
        step: &Step,
        key: &StepKey,
        conversation: &Conversation,
        open: &[&ToolUse],
        agent: &AgentStep,
    ) {
        // Its subagents come to their end first.
        if self.at_work(key) > 0 {
            return;
        }
        let Some((call, others)) = open.split_last() else { return };
        let schema = conversation.head.output_schema.as_ref().unwrap_or(&Value::Null);
        let output = output(schema, &call.input);
        let fits = super::step::fits(step, output);
        let ending = match &fits {
            Ok(()) => self.ending_of(key, conversation, agent, output),
            Err(_) => Ending::Allowed,
        };
        match &ending {
            Ending::Pending => return,
            Ending::Allowed if fits.is_ok() && !self.left_session(key) => return,
            _ => {}
        }
        for other in others {
            let content = Value::String("Only the last answer of a turn counts.".to_owned());
            self.answer_call(key, &other.id, &other.name, CallResult::Done { content, is_error: true });
        }
        match fits {
            Ok(()) => {
                let content = Value::String("Your answer was taken.".to_owned());
                self.answer_call(key, &call.id, &call.name, CallResult::Done { content, is_error: false });
                match ending {
                    Ending::GoesOn(told) => self.decision.record(told),
                    Ending::Refused(error) => self.decision.fail_step(key, error),
                    Ending::Allowed | Ending::Pending => {
                        self.decision.finish_step(key, StepOutcome::Succeeded { output: output.clone() });
                    }
                }
            }
            Err(error) if repairs(conversation) < REPAIRS => {
                let message = format!("{}\nCall {STRUCTURED_OUTPUT} again, with the corrected answer.", error.message);
                self.answer_call(
                    key,
                    &call.id,
                    &call.name,
                    CallResult::Failed { error: Failure::new(error.class, message) },
                );
            }
            Err(error) => {
                let result = CallResult::Failed { error: Failure::new(error.class, error.message.clone()) };
                self.answer_call(key, &call.id, &call.name, result);
                self.decision.fail_step(key, with_attempts(error, conversation));
            }
        }
    }
}

/// How often an output of the step was sent back.
pub(super) fn repairs(conversation: &Conversation) -> usize {
    let counted = conversation.turns.iter().skip(conversation.counted_from);
    let sent_back = |turn: &Turn| {
        let mut calls = turn.tool_uses.iter().filter(|call| is_output(conversation, call));
        calls.any(|call| matches!(turn.results.get(&call.id), Some(CallResult::Failed { .. })))
    };
    prompts(conversation, REPAIR) + counted.filter(|turn| sent_back(turn)).count()
}

/// How often the loop itself has spoken for this reason.
pub(super) fn prompts(conversation: &Conversation, reason: &str) -> usize {
    let counted = conversation.turns.iter().skip(conversation.counted_from);
    counted.filter(|turn| turn.prompted.as_ref().is_some_and(|prompted| prompted.reason == reason)).count()
}

/// The step's output: the text, or what its schema makes of it.
pub(super) fn answer(step: &Step, conversation: &Conversation) -> Result<Value, Failure> {
    let text = full_text(conversation);
    let Some(schema) = &step.output else { return Ok(Value::String(text)) };
    let output: Value = serde_json::from_str(strip_fence(&text)).map_err(|error| {
        Failure::new(
            FailureClass::InvalidOutput,
            format!("the answer is not JSON as {} asks for: {error}", schema.origin),
        )
        .with_detail(json!({"output": text}))
    })?;
    super::step::fits(step, &output)?;
    Ok(output)
}

/// The text of the last reply, with those that were cut off before it.
pub(super) fn full_text(conversation: &Conversation) -> String {
    let turns: Vec<&Turn> = conversation.said().collect();
    let cut_off = turns
        .iter()
        .rev()
        .skip(1)
        .take_while(|turn| turn.prompted.as_ref().is_some_and(|prompted| prompted.reason == CONTINUE))
        .count();
    turns[turns.len() - (cut_off + 1).min(turns.len())..].iter().map(|turn| turn.text()).collect()
}

/// Models like to wrap JSON into a Markdown fence, whatever they are told.
pub(super) fn strip_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

/// Keeps both attempts at an output.
pub(super) fn with_attempts(error: Failure, conversation: &Conversation) -> Failure {
    let attempt = |turn: &Turn| match turn.tool_uses.iter().find(|call| is_output(conversation, call)) {
        Some(call) => Some(call.input.to_string()),
        None => turn.tool_uses.is_empty().then(|| turn.text()),
    };
    let attempts: Vec<String> = conversation.said().rev().filter_map(attempt).take(REPAIRS + 1).collect();
    let detail = json!({"attempts": attempts.into_iter().rev().collect::<Vec<_>>(), "last": error.detail});
    error.with_detail(detail)
}
