//! Judges: agents that say whether a text trips a guard. A judge is a short
//! conversation beside that of the agent whose text it is, paid for and journaled
//! like any other: what it answered is not asked again after a crash, and its
//! verdict on a text holds for that text. Whatever keeps it from a verdict is
//! for the guard to deal with, and never a verdict that nothing was found.

use common::config::Judge;
use common::failure::{Failure, FailureClass};
use common::id::{CallId, Digest, StepKey, Token};
use common::journal::{
    CallResult, ContextRules, Conversation, Event, GuardPoint, Judging, ModelChoice, RequestHead, StepOutcome,
    StepStatus, Turn, Verdict,
};
use common::pipeline::model::{AgentStep, Step};
use common::pipeline::untrusted::{self, mark};
use common::private;
use common::task::WaitOn;
use serde_json::{Value, json};

use super::agent::PARALLEL_CALLS;
use super::compaction::Room;
use super::output::{REPAIR, REPAIRS, is_output, strip_fence, with_attempts};
use super::{Deciding, fallback};
use crate::models::output_tool::{STRUCTURED_OUTPUT, output};

/// The most tokens of a verdict, with the thoughts before it.
const LONGEST_VERDICT: u32 = 2_000;

const ORDER: &str = "You judge one text, and you see nothing else. Answer in JSON: `tripped` is true if the text is what \
    you are to look for, and also if you cannot tell; else it is false. `why` says the reason in one sentence.";

/// A text that is to be judged.
pub(super) struct Matter<'t> {
    /// The guard.
    pub guard: String,
    pub on: GuardPoint,
    /// The call whose answer it is.
    pub call: Option<&'t CallId>,
    pub value: &'t Value,
}

/// What a judge says.
pub(super) enum Judged {
    /// Nothing yet.
    Pending,
    Passed,
    /// With the reason.
    Tripped(String),
    /// It gave no verdict.
    Failed(Failure),
}

impl Deciding<'_> {
    /// What a judge says of a text; has it asked, once.
    pub(super) fn judged(&mut self, key: &StepKey, agent: &AgentStep, judge: &Judge, matter: &Matter<'_>) -> Judged {
        let run = self.run;
        let text = matter.text();
        let judging = matter.judging(judge, &text);
        let Some((own, known, _)) = run.judges(key).find(|(_, _, asked)| **asked == judging) else {
            return match self.call_judge(key, judge, judging, &text) {
                Ok(()) => Judged::Pending,
                Err(error) => Judged::Failed(error),
            };
        };
        match &known.status {
            StepStatus::Done(StepOutcome::Succeeded { output }) => match read(output) {
                Ok(Verdict { tripped: false, .. }) => Judged::Passed,
                Ok(Verdict { tripped: true, why }) => Judged::Tripped(why),
                Err(error) => Judged::Failed(error),
            },
            StepStatus::Done(StepOutcome::Failed { error }) => Judged::Failed(error.clone()),
            StepStatus::Done(StepOutcome::Skipped) => {
                Judged::Failed(Failure::new(FailureClass::Internal, "the judge was skipped"))
            }
            StepStatus::Retrying { not_before } if self.given.now < *not_before => {
                self.wait(WaitOn::Timer { step: own.clone() }, Some(*not_before));
                Judged::Pending
            }
            StepStatus::Pending | StepStatus::Started | StepStatus::Retrying { .. } => {
                if let (Some(step), Some(conversation)) = (self.given.pipeline.step(&key.step), &known.conversation) {
                    self.hear(step, own, agent, conversation);
                }
                Judged::Pending
            }
        }
    }

    /// Puts a text before a judge.
    fn call_judge(&mut self, key: &StepKey, judge: &Judge, judging: Judging, text: &str) -> Result<(), Failure> {
        let called_now =
            |event: &&Event| matches!(event, Event::JudgeAsked { step, .. } if step.caller().as_ref() == Some(key));
        let being_called = self.decision.events.iter().filter(called_now).count();
        let at_work = self.run.judges(key).filter(|(_, known, _)| !known.is_done()).count();
        if at_work + being_called >= PARALLEL_CALLS {
            return Ok(());
        }
        if key.lineage.len() >= StepKey::MAX_DEPTH {
            let message = format!("agents that judge and are judged are at most {} deep", StepKey::MAX_DEPTH);
            return Err(Failure::new(FailureClass::Limit, message));
        }
        let head = self.head_of(judge, text)?;
        let number = self.run.subagents_ever(key) + being_called + 1;
        let step = key.subagent(u32::try_from(number).unwrap_or(u32::MAX));
        let of = judging.on.as_str();
        let prompt = format!("This is the {of} of another agent.\n\n{}", mark(of, text));
        self.decision.record(Event::JudgeAsked { step: step.clone(), judging: Box::new(judging) });
        self.decision.record(Event::AgentStarted { step, head: Box::new(head), prompt });
        Ok(())
    }

    fn head_of(&self, judge: &Judge, text: &str) -> Result<RequestHead, Failure> {
        let (model, fallback) = self.given.models.choose(judge.model.as_deref(), None, judge.effort.as_deref())?;
        let tokens = Token::all_in(text).next().map(|_| private::NOTICE);
        let parts = [Some(judge.system.as_str()).filter(|system| !system.is_empty()), Some(ORDER), tokens];
        let parts: Vec<&str> = parts.into_iter().flatten().chain([untrusted::NOTICE]).collect();
        let ModelChoice { alias, provider, model, options, settings } = model;
        Ok(RequestHead {
            alias,
            provider,
            model,
            max_tokens: LONGEST_VERDICT,
            system: parts.join("\n\n"),
            tools: Vec::new(),
            output_schema: Some(schema()),
            options,
            settings,
            fallback,
            context: ContextRules::default(),
        })
    }

    /// Takes a judge further: asks its model, or makes a verdict of what that said.
    fn hear(&mut self, step: &Step, key: &StepKey, agent: &AgentStep, conversation: &Conversation) {
        if self.is_in_flight(key) {
            return;
        }
        let is_answered = |turn: &Turn| !turn.tool_uses.is_empty() && conversation.open_calls().is_empty();
        let said = conversation.turns.last();
        if let Some(turn) = said.filter(|turn| !turn.set_aside && turn.prompted.is_none() && !is_answered(turn)) {
            return self.sentence(key, conversation, turn);
        }
        let limits = key.caller().map_or(agent.limits, |judged| self.limits(&judged, agent));
        if let Err(error) = self.room_for_use(key, &limits) {
            return self.decision.fail_step(key, error);
        }
        if self.affords(step, key, conversation) {
            self.call_model(key, Room::Enough);
        }
    }

    /// Makes a verdict of what a judge said.
    fn sentence(&mut self, key: &StepKey, conversation: &Conversation, turn: &Turn) {
        let fail = |class, why: &str| Failure::new(class, format!("the model {} {why}", turn.reply.model));
        let error = match turn.reply.stop_reason.as_str() {
            "refusal" => {
                let error = fail(FailureClass::Refused, "refused to judge");
                if let Some(event) = fallback::declined(key, conversation, &error) {
                    return self.decision.record(event);
                }
                error
            }
            "max_tokens" => fail(FailureClass::Limit, &format!("came to no verdict in {LONGEST_VERDICT} tokens")),
            "model_context_window_exceeded" => fail(FailureClass::ContextWindow, "cannot read so much at once"),
            _ => match verdict(conversation, turn) {
                Ok(verdict) => {
                    let output = json!(verdict);
                    return self.decision.finish_step(key, StepOutcome::Succeeded { output });
                }
                Err(error) => {
                    let counted = conversation.turns.iter().skip(conversation.counted_from);
                    if counted.filter(|turn| !turn.set_aside).count() <= REPAIRS {
                        return self.send_back(key, turn, &error);
                    }
                    with_attempts(error, conversation)
                }
            },
        };
        self.decision.fail_step(key, error);
    }

    /// Has a judge answer once more.
    fn send_back(&mut self, key: &StepKey, turn: &Turn, error: &Failure) {
        for call in &turn.tool_uses {
            let message = format!("{}\nCall {STRUCTURED_OUTPUT} with the corrected answer.", error.message);
            let result = CallResult::Failed { error: Failure::new(error.class, message) };
            self.answer_call(key, &call.id, &call.name, result);
        }
        if turn.tool_uses.is_empty() {
            let text = format!("{}\nAnswer again, with nothing but the JSON.", error.message);
            let (step, reason) = (key.clone(), REPAIR.to_owned());
            self.decision.record(Event::Prompted { step, text, reason, subagents: Vec::new() });
        }
    }
}

impl Matter<'_> {
    fn text(&self) -> String {
        self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned)
    }

    fn judging(&self, judge: &Judge, text: &str) -> Judging {
        let digest = Digest::of(format!("{}\n{text}", judge.digest()).as_bytes());
        Judging { guard: self.guard.clone(), on: self.on, call: self.call.cloned(), digest }
    }
}

/// What a judge must answer.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"tripped": {"type": "boolean"}, "why": {"type": "string"}},
        "required": ["tripped", "why"],
        "additionalProperties": false,
    })
}

fn verdict(conversation: &Conversation, turn: &Turn) -> Result<Verdict, Failure> {
    if let Some(call) = turn.tool_uses.iter().rev().find(|call| is_output(conversation, call)) {
        return read(output(&schema(), &call.input));
    }
    let said = serde_json::from_str::<Value>(strip_fence(&turn.text()));
    read(&said.map_err(|error| invalid(&error))?)
}

fn read(said: &Value) -> Result<Verdict, Failure> {
    serde_json::from_value(said.clone()).map_err(|error| invalid(&error))
}

fn invalid(error: &serde_json::Error) -> Failure {
    Failure::new(FailureClass::InvalidOutput, format!("the answer is not the JSON that was asked for: {error}"))
}
