//! Calls that touch the outside: intent, repetition and outcome (invariant I5).
//!
//! A call that is not `read` is intended in the journal before it starts. One
//! that is found intended and not in flight was cut short: a `keyed` call is
//! made again with the same key, a `once` call is put before a person.

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::{CallId, StepKey, TaskId};
use common::journal::{Call, CallRecord, CallResult, CallState, Effect, Event, Run, StepOutcome, StepRun};
use common::pipeline::model::{HttpStep, Pipeline, RunStep, Step, StepKind};
use common::task::WaitOn;
use serde_json::{Value, json};

use super::permission::{Permit, Wanted};
use super::{Action, ActionKey, Deciding};
use crate::tools::{ToolAnswer, ToolError};

/// The idempotency key of a call: the same for every repetition, on every
/// worker; another one after a replay that resets the step.
pub fn idempotency_key(task: TaskId, step: &StepKey, generation: u32, call: Option<&CallId>) -> String {
    let call = call.map_or("", CallId::as_str);
    let hash = blake3::hash(format!("{task}\n{step}\n{generation}\n{call}").as_bytes());
    hash.to_hex()[..32].to_owned()
}

impl Deciding<'_> {
    /// A step that is one call: `tool`, `http`, `run`.
    pub(super) fn single_call(&mut self, step: &Step, key: &StepKey, known: &StepRun) {
        if self.is_in_flight(key) {
            return;
        }
        let open = known.calls.iter().find(|(_, call)| !matches!(call.state, CallState::Finished(_)));
        if let Some((id, call)) = open {
            return self.take_up(key, id, call);
        }
        // A person said what the call answered.
        let told = known.calls.values().rev().find_map(|call| match &call.state {
            CallState::Finished(CallResult::Done { content, is_error: false }) => Some(content.clone()),
            _ => None,
        });
        if let Some(output) = told {
            return self.output(step, key, output);
        }
        if let StepKind::Tool(_) = step.kind
            && !self.given.tools.contains_key(key)
        {
            return self.act(Action::Prepare { step: key.clone(), start: false });
        }
        match self.new_call(step, key, known) {
            Ok(record) => self.begin_permitted(step, key, known, record),
            Err(error) => self.decision.fail_step(key, error),
        }
    }

    /// Starts the call of a step, if the rules of the installation let it.
    fn begin_permitted(&mut self, step: &Step, key: &StepKey, known: &StepRun, call: CallRecord) {
        let tools = self.given.tools;
        let tool = tools.get(key).and_then(|set| set.get(&call.tool));
        let Some(tool) = tool.filter(|_| matches!(step.kind, StepKind::Tool(_))) else { return self.begin(key, call) };
        let who = format!("step {key}");
        let wanted = Wanted {
            id: &call.call,
            name: &call.tool,
            tool: Some(tool.as_ref()),
            arguments: &call.arguments,
            schema: &tool.spec().input_schema,
            who: &who,
            agent: None,
        };
        match self.permit(key, known, wanted) {
            Permit::Granted(arguments) => self.begin(key, CallRecord { arguments, ..call }),
            Permit::Pending => {}
            Permit::Declined(why) => {
                let message = format!("{} was not called: {why}", call.tool);
                self.decision.fail_step(key, Failure::new(FailureClass::Rejected, message));
            }
        }
    }

    /// Starts a call, with its intent where it has one.
    pub(super) fn begin(&mut self, key: &StepKey, call: CallRecord) {
        if !self.cleared(key, Some(&call)) {
            return;
        }
        if is_intended(call.effect) {
            self.decision.record(Event::CallIntended { step: key.clone(), call: call.clone() });
        }
        self.act(Action::Call { step: key.clone(), call });
    }

    /// A call of which the journal knows, that is not answered and not in flight.
    pub(super) fn take_up(&mut self, key: &StepKey, id: &CallId, call: &Call) {
        let in_flight = ActionKey { step: key.clone(), call: Some(id.clone()) };
        if self.given.in_flight.contains(&in_flight) {
            return;
        }
        match (&call.state, &call.record) {
            (CallState::Unknown { .. }, _) => self.wait(WaitOn::Outcome { step: key.clone(), call: id.clone() }, None),
            (CallState::Cleared, Some(record)) => {
                if self.may_call(key, record) {
                    self.begin(key, record.clone());
                }
            }
            (CallState::Intended { .. }, Some(record)) if record.effect == Effect::Once => {
                let error = Failure::new(
                    FailureClass::Crash,
                    format!("the worker was lost while it called {}; nobody knows whether it happened", record.tool),
                );
                self.decision.record(Event::OutcomeUnknown { step: key.clone(), call: id.clone(), error });
            }
            (CallState::Intended { .. }, Some(record)) => {
                if self.may_call(key, record) && self.cleared(key, Some(record)) {
                    self.act(Action::Call { step: key.clone(), call: record.clone() });
                }
            }
            (CallState::Finished(_), _) | (_, None) => {}
        }
    }

    /// Whether the tool of a call is at hand; if not yet, asks for it.
    fn may_call(&mut self, key: &StepKey, record: &CallRecord) -> bool {
        let looked_up = record.tool == HTTP || record.tool == RUN || self.given.tools.contains_key(key);
        let asked =
            self.decision.actions.iter().any(|action| matches!(action, Action::Prepare { step, .. } if step == key));
        if !looked_up && !asked && !self.is_in_flight(key) {
            self.act(Action::Prepare { step: key.clone(), start: false });
        }
        looked_up
    }

    fn new_call(&mut self, step: &Step, key: &StepKey, known: &StepRun) -> Result<CallRecord, Failure> {
        let scope = self.scope_of(key);
        let (tool, arguments, effect) = match &step.kind {
            StepKind::Http(http) => (HTTP.to_owned(), http_arguments(http, &scope)?, http.effect),
            StepKind::Run(run) => (RUN.to_owned(), self.run_arguments(run, &scope)?, run.effect),
            StepKind::Tool(tool) => {
                let arguments = tool.arguments.render(&scope)?;
                let at_hand = self.given.tools.get(key).and_then(|set| set.get(&tool.tool)).ok_or_else(|| {
                    Failure::new(
                        FailureClass::Configuration,
                        format!(
                            "there is no tool {} on this worker; see `mcp_servers` and `tools` in teamster.yaml",
                            tool.tool
                        ),
                    )
                })?;
                let effect = tool.effect.unwrap_or_else(|| at_hand.effect(&arguments));
                (tool.tool.clone(), arguments, effect)
            }
            other => {
                return Err(Failure::new(
                    FailureClass::Internal,
                    format!("a step of kind {} is no call", other.name()),
                ));
            }
        };
        let number = known.calls.len() + 1;
        let call = CallId::new(format!("{}-{number}", step.kind.name()))
            .map_err(|error| Failure::new(FailureClass::Internal, error.to_string()))?;
        let key = idempotency_key(self.run.head.id, key, known.generation, None);
        Ok(CallRecord { call, tool, arguments, effect, key })
    }

    fn run_arguments(&self, run: &RunStep, scope: &common::pipeline::template::Scope<'_>) -> Result<Value, Failure> {
        let command = run.command.iter().map(|part| part.render_text(scope)).collect::<Result<Vec<_>, _>>()?;
        let stdin = match &run.stdin {
            Some(template) => template.render(scope)?,
            None => self.whole_task(),
        };
        Ok(json!({"command": command, "stdin": stdin}))
    }

    /// What a program reads that is not told otherwise.
    fn whole_task(&self) -> Value {
        let steps: serde_json::Map<String, Value> = self
            .run
            .steps
            .iter()
            .filter(|(key, _)| key.index.is_none() && !key.is_subagent())
            .filter_map(|(key, step)| match step.outcome()? {
                StepOutcome::Succeeded { output } => {
                    Some((key.to_string(), json!({"status": "succeeded", "output": output})))
                }
                StepOutcome::Failed { error } => Some((key.to_string(), json!({"status": "failed", "error": error}))),
                StepOutcome::Skipped => Some((key.to_string(), json!({"status": "skipped"}))),
            })
            .collect();
        json!({"input": self.run.input, "steps": steps})
    }
}

/// The tool name of `http` steps in the journal.
pub const HTTP: &str = "http";
/// The tool name of `run` steps in the journal.
pub const RUN: &str = "run";

/// What of a request is journaled: all but its headers, which may hold secrets.
fn http_arguments(http: &HttpStep, scope: &common::pipeline::template::Scope<'_>) -> Result<Value, Failure> {
    let url = http.url.render_text(scope)?;
    let mut arguments = json!({"method": http.method, "url": url});
    if let Some(template) = &http.json {
        arguments["json"] = template.render(scope)?;
    }
    Ok(arguments)
}

/// Whether a call has an intent in the journal.
fn is_intended(effect: Effect) -> bool {
    effect != Effect::Read
}

/// What a failure leads to.
pub(super) struct Retry<'a> {
    pub run: &'a Run,
    pub pipeline: &'a Pipeline,
    pub key: &'a StepKey,
    pub now: Timestamp,
    pub unit: f64,
}

impl Retry<'_> {
    /// Another try, or the end of the step.
    pub(super) fn after(&self, error: Failure) -> Vec<Event> {
        let step = self.key.clone();
        match self.wait(&error) {
            Some(wait) => vec![Event::StepRetrying { step, error, not_before: self.now.plus(wait) }],
            None => vec![Event::StepFinished { step, outcome: StepOutcome::Failed { error } }],
        }
    }

    pub(super) fn wait(&self, error: &Failure) -> Option<Duration> {
        let policy = self.step().and_then(|step| step.retry.as_ref()).unwrap_or(&self.pipeline.retry);
        let failed_before = self.run.step(self.key).map_or(0, |known| known.failed_tries);
        policy.next_try(failed_before + 1, error, self.unit)
    }

    fn step(&self) -> Option<&Step> {
        self.pipeline.step(&self.key.step)
    }

    pub(super) fn conclude_call(
        &self,
        call: &CallRecord,
        answer: Result<ToolAnswer, ToolError>,
        duration_ms: u64,
    ) -> Vec<Event> {
        let finished = |result| Event::CallFinished {
            step: self.key.clone(),
            call: call.call.clone(),
            tool: call.tool.clone(),
            result,
            duration_ms,
        };
        let of_agent = self.step().is_some_and(|step| matches!(step.kind, StepKind::Agent(_)));
        match answer {
            Ok(ToolAnswer { content, is_error }) if of_agent => vec![finished(CallResult::Done { content, is_error })],
            Ok(ToolAnswer { content, is_error: false }) => {
                let outcome = match self.step().map_or(Ok(()), |step| super::step::fits(step, &content)) {
                    Ok(()) => StepOutcome::Succeeded { output: content.clone() },
                    Err(error) => StepOutcome::Failed { error },
                };
                let result = CallResult::Done { content, is_error: false };
                vec![finished(result), Event::StepFinished { step: self.key.clone(), outcome }]
            }
            Ok(ToolAnswer { content, is_error: true }) => {
                let error = Failure::new(
                    FailureClass::Tool,
                    format!("{} answered with an error: {}", call.tool, text(&content)),
                );
                let mut events = vec![finished(CallResult::Done { content: content.clone(), is_error: true })];
                events.extend(self.after(error.with_detail(content)));
                events
            }
            // The call is in question, and only a person can say what became of it.
            Err(ToolError::Lost(error)) if call.effect == Effect::Once => {
                vec![Event::OutcomeUnknown { step: self.key.clone(), call: call.call.clone(), error }]
            }
            // It may be made again with the same key: it stays intended until it is answered or given up.
            Err(ToolError::Lost(error)) if call.effect == Effect::Keyed && self.wait(&error).is_some() => {
                self.after(error)
            }
            // An agent's model sees what went wrong and decides itself what to do about it.
            Err(ToolError::Lost(error) | ToolError::Failed(error)) if of_agent => {
                vec![finished(CallResult::Failed { error })]
            }
            Err(ToolError::Lost(error) | ToolError::Failed(error)) => {
                let mut events = vec![finished(CallResult::Failed { error: error.clone() })];
                events.extend(self.after(error));
                events
            }
        }
    }
}

fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
