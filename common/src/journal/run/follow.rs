//! Which event may follow what a journal holds of its step.

use std::sync::Arc;

use super::{Approval, Call, CallState, Run, StepRun};
use crate::id::{CallId, StepKey};
use crate::journal::Event;

impl Run {
    /// What the head cannot know: whether the event fits its step.
    pub(super) fn check_step(&self, event: &Event) -> Result<(), &'static str> {
        let Some(key) = event.step() else { return Ok(()) };
        let step = self.step(key);
        if let Event::SubagentCalled { call, .. } = event {
            return self.check_subagent(key, step, call);
        }
        if let Event::JudgeAsked { .. } = event {
            return self.check_judge(key, step);
        }
        if step.is_some_and(StepRun::is_done) {
            return Err("the step is done");
        }
        let conversation = step.and_then(|s| s.conversation.as_ref());
        match event {
            Event::AgentStarted { .. } if conversation.is_some() => Err("the agent was started before"),
            Event::TurnFinished { .. } | Event::ModelChanged { .. } | Event::Compacted { .. }
                if conversation.is_none() =>
            {
                Err("the agent was not started")
            }
            Event::ModelBatchJoined { .. } if conversation.is_none() => Err("the agent was not started"),
            Event::ModelBatchJoined { .. } if step.is_some_and(|s| s.waiting_entry().is_some()) => {
                Err("the request before waits for its answer")
            }
            Event::TurnFinished { entry: Some(entry), .. }
            | Event::ModelBatchLeft { entry, .. }
            | Event::ModelBatchFailed { entry, .. }
                if step.and_then(StepRun::waiting_entry).is_none_or(|known| known.id != *entry) =>
            {
                Err("the step waits for no such request")
            }
            Event::Compacted { kept_from, .. } if conversation.is_some_and(|c| *kept_from > c.turns.len()) => {
                Err("a summary cannot stand for turns to come")
            }
            Event::TurnFinished { .. } | Event::Compacted { .. }
                if conversation.is_some_and(|c| !c.open_calls().is_empty()) =>
            {
                Err("calls of the turn before have no results")
            }
            Event::Prompted { .. } if conversation.is_none_or(|c| c.turns.is_empty()) => {
                Err("there is no turn to answer")
            }
            Event::HookDecided { event, call, .. } => match step {
                Some(step) if step.ruling(*event, call.as_ref()).is_some() => Err("the hooks were asked before"),
                _ => Ok(()),
            },
            Event::GuardTripped { trip, .. } => match step {
                Some(step) if step.trip(trip).is_some() => Err("the guard spoke of it before"),
                _ => Ok(()),
            },
            Event::Expanded { .. } if step.is_some_and(|s| s.items.is_some()) => Err("the step has its items"),
            Event::CallIntended { call, .. } => match step.and_then(|s| s.calls.get(&call.call)).map(Arc::as_ref) {
                None | Some(Call { state: CallState::Cleared | CallState::Intended { .. }, .. }) => Ok(()),
                Some(_) => Err("the call was answered, or its outcome is in question"),
            },
            Event::CallFinished { call, .. } => {
                let answered =
                    step.and_then(|s| s.calls.get(call)).is_some_and(|c| matches!(c.state, CallState::Finished(_)));
                let in_turn = conversation.is_some_and(|c| c.turns.iter().any(|turn| turn.results.contains_key(call)));
                if answered || in_turn { Err("the call was answered before") } else { Ok(()) }
            }
            Event::OutcomeUnknown { call, .. } => match step.and_then(|s| s.calls.get(call)).map(Arc::as_ref) {
                Some(Call { state: CallState::Intended { .. }, .. }) => Ok(()),
                _ => Err("only an intended call can have an unknown outcome"),
            },
            Event::ApprovalRequested { terms, .. } => {
                let asked = step.and_then(|step| match &terms.call {
                    Some(call) => step.permissions.get(call).map(Arc::as_ref),
                    None => step.approval.as_ref(),
                });
                match asked {
                    // Once more: of somebody else, or under other permissions.
                    Some(Approval { answer: Some(_), .. }) | None => Ok(()),
                    Some(_) => Err("the approval was asked for before"),
                }
            }
            Event::ChildSubmitted { .. } if step.is_some_and(|s| s.child.is_some()) => Err("the step has its child"),
            _ => Ok(()),
        }
    }

    fn check_judge(&self, key: &StepKey, step: Option<&StepRun>) -> Result<(), &'static str> {
        let caller = key.caller().and_then(|caller| self.step(&caller)).ok_or("a judge judges an agent")?;
        if caller.is_done() || caller.conversation.is_none() {
            return Err("the agent that is to be judged is not at work");
        }
        match step {
            Some(step) if step.judging.is_some() || step.subagent.is_some() || step.conversation.is_some() => {
                Err("somebody else has this number")
            }
            _ => Ok(()),
        }
    }

    fn check_subagent(&self, key: &StepKey, step: Option<&StepRun>, call: &CallId) -> Result<(), &'static str> {
        let caller = key.caller().ok_or("a subagent has a caller")?;
        let conversation = self.step(&caller).and_then(|caller| caller.conversation.as_ref());
        if conversation.is_none_or(|known| !known.open_calls().iter().any(|open| &open.id == call)) {
            return Err("its caller did not make this call, or has its answer");
        }
        match step {
            Some(step) if step.subagent.is_some() && !step.can_be_resumed() => Err("the subagent cannot go on"),
            _ => Ok(()),
        }
    }
}
