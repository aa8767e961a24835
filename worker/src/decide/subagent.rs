//! Agents that work for another one: called by the tool `Agent`, taken from
//! turn to turn like the step's own, and answered for to their caller.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{CallResult, Event, StepOutcome, StepRun, StepStatus, Subagent};
use common::pipeline::model::{AgentStep, Step};
use common::task::WaitOn;
use serde_json::{Value, json};

use super::Deciding;
use super::admission::Refusal;
use super::agent::PARALLEL_CALLS;
use super::permission::{Permit, Wanted};
use crate::tools::agent::{AGENT, AgentCall};

/// Why the caller of agents in the background is told something.
const NEWS: &str = "subagents";

impl Deciding<'_> {
    /// Takes the subagents of an agent further that are not done.
    pub(super) fn subagents(&mut self, step: &Step, caller: &StepKey, agent: &AgentStep) {
        let run = self.run;
        for (key, known, _) in run.subagents(caller).filter(|(_, known, _)| !known.is_done()) {
            match known.status {
                StepStatus::Retrying { not_before } if self.given.now < not_before => {
                    self.wait(WaitOn::Timer { step: key.clone() }, Some(not_before));
                }
                _ => self.agent(step, key, known, agent),
            }
        }
    }

    /// How many subagents of an agent are not done.
    pub(super) fn at_work(&self, caller: &StepKey) -> usize {
        self.run.subagents(caller).filter(|(_, known, _)| !known.is_done()).count()
    }

    /// Calls an agent, or answers for one that is done: how many were started. What ends the caller is the error.
    pub(super) fn call_agent(
        &mut self,
        caller: &StepKey,
        known: &StepRun,
        call: Wanted<'_>,
        admitted: Result<(), Refusal>,
    ) -> Result<usize, Failure> {
        let run = self.run;
        let called = run.subagents(caller).find(|(_, _, subagent)| subagent.call == *call.id);
        if let Some((key, of_subagent, subagent)) = called {
            if let Some(outcome) = of_subagent.outcome() {
                self.answer_call(caller, call.id, AGENT, answer(key, subagent, outcome));
            }
            return Ok(0);
        }
        match admitted {
            Ok(()) => {}
            Err(Refusal::Told(error)) => {
                self.answer_call(caller, call.id, AGENT, CallResult::Failed { error });
                return Ok(0);
            }
            Err(Refusal::Final(error)) => return Err(error),
        }
        let arguments = match self.permit(caller, known, call) {
            Permit::Granted(arguments) => arguments,
            Permit::Pending => return Ok(0),
            Permit::Declined(why) => {
                self.decline_call(caller, call.id, AGENT, &why);
                return Ok(0);
            }
        };
        let wanted = AgentCall::read(&arguments);
        let calls_now = |event: &&Event| matches!(event, Event::SubagentCalled { step, .. } if step.caller().as_ref() == Some(caller));
        let being_called = self.decision.events.iter().filter(calls_now).count();
        let subagent = match wanted.resume {
            Some(id) => self.resumed(caller, id),
            None if self.at_work(caller) + being_called >= PARALLEL_CALLS => return Ok(0),
            None => {
                let number = run.subagents_ever(caller) + being_called + 1;
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                Ok((caller.subagent(number), wanted.agent.to_owned()))
            }
        };
        let (step, agent) = match subagent {
            Ok(subagent) => subagent,
            Err(error) => {
                self.answer_call(caller, call.id, AGENT, CallResult::Failed { error });
                return Ok(0);
            }
        };
        let always = self.given.pipeline.agents.get(&agent).is_some_and(|file| file.background);
        let background = wanted.background || always;
        self.decision.record(Event::SubagentCalled {
            step: step.clone(),
            call: call.id.clone(),
            agent,
            prompt: wanted.prompt.to_owned(),
            background,
        });
        if background {
            let text = format!("Agent {step} works in the background. You are told when it is done.");
            self.answer_call(
                caller,
                call.id,
                AGENT,
                CallResult::Done { content: Value::String(text), is_error: false },
            );
        }
        Ok(1)
    }

    /// A subagent that is to go on, with its agent.
    fn resumed(&self, caller: &StepKey, id: &str) -> Result<(StepKey, String), Failure> {
        let refused = |message: String| Err(Failure::new(FailureClass::InvalidRequest, message));
        let own: Vec<_> = self.run.subagents(caller).collect();
        let named = id.parse::<StepKey>().ok().and_then(|id| own.iter().find(|(key, _, _)| **key == id));
        let Some((key, known, subagent)) = named else {
            let ids: Vec<String> = own.iter().map(|(key, _, _)| key.to_string()).collect();
            let all = if ids.is_empty() { "you called none yet".to_owned() } else { ids.join(", ") };
            return refused(format!("there is no agent {id:?} that could go on; your agents: {all}"));
        };
        let called_now = |event: &Event| matches!(event, Event::SubagentCalled { step, .. } if step == *key);
        if !known.is_done() || self.decision.events.iter().any(called_now) {
            return refused(format!("agent {id} is not done yet"));
        }
        if !known.can_be_resumed() {
            return refused(format!("agent {id} was stopped in the middle of a turn and cannot go on; call a new one"));
        }
        Ok(((*key).clone(), subagent.agent.clone()))
    }

    /// Tells an agent which of its subagents in the background are done; whether there was anything to tell.
    pub(super) fn report(&mut self, caller: &StepKey) -> bool {
        let done = self.run.subagents(caller).filter_map(|(key, known, subagent)| {
            let news = subagent.background && !subagent.reported;
            known.outcome().filter(|_| news).map(|outcome| (key, subagent, outcome))
        });
        let (mut subagents, mut texts) = (Vec::new(), Vec::new());
        for (key, subagent, outcome) in done {
            texts.push(match outcome {
                StepOutcome::Succeeded { output } => format!(
                    "Agent {key} ({}) is done. Its final message:\n{}",
                    subagent.agent,
                    output.as_str().unwrap_or_default()
                ),
                StepOutcome::Failed { error } => format!("Agent {key} ({}) failed: {}", subagent.agent, error.message),
                StepOutcome::Skipped => format!("Agent {key} ({}) did not run.", subagent.agent),
            });
            subagents.push(key.clone());
        }
        if subagents.is_empty() {
            return false;
        }
        let (text, reason) = (texts.join("\n\n"), NEWS.to_owned());
        self.decision.record(Event::Prompted { step: caller.clone(), text, reason, subagents });
        true
    }
}

/// What a caller gets of a subagent that is done: its final message as it is, then its id.
fn answer(key: &StepKey, subagent: &Subagent, outcome: &StepOutcome) -> CallResult {
    match outcome {
        StepOutcome::Succeeded { output } => {
            let id = format!("(agent id: {key}; give it as `resume` to go on with this agent)");
            let text = output.as_str().unwrap_or_default();
            let mut content = Vec::new();
            // An empty text is no content block that the API takes.
            if !text.is_empty() {
                content.push(json!({"type": "text", "text": text}));
            }
            content.push(json!({"type": "text", "text": id}));
            CallResult::Done { content: Value::Array(content), is_error: false }
        }
        StepOutcome::Failed { error } => {
            let message = format!("agent {key} ({}) failed: {}", subagent.agent, error.message);
            CallResult::Failed { error: Failure { message, ..error.clone() } }
        }
        StepOutcome::Skipped => CallResult::Done { content: Value::String(String::new()), is_error: true },
    }
}
