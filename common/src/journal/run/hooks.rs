//! What hooks said, in the fold: the ruling itself, and what of it the model gets to see.

use std::sync::Arc;

use super::{CallResult, HookEvent, HookPoint, HookRuling, StepRun};
use crate::id::CallId;
use crate::journal::hook::HookDecision;

impl StepRun {
    /// What hooks said about something, if they were asked.
    pub fn ruling(&self, event: HookEvent, call: Option<&CallId>) -> Option<&HookRuling> {
        self.rulings.get(&HookPoint { event, call: call.cloned() }).map(Arc::as_ref)
    }

    /// The ruling that ends an agent in the middle of its work, if there is one.
    pub fn ended_by_hook(&self) -> Option<(HookEvent, &HookRuling)> {
        let mut rulings = self.rulings.iter().map(|(point, ruling)| (point.event, ruling.as_ref()));
        rulings.find(|(event, ruling)| {
            ruling.decision == HookDecision::End && !matches!(event, HookEvent::Stop | HookEvent::SubagentStop)
        })
    }

    /// For a replay: hooks are asked anew about what has not happened, and about what ended the agent.
    pub(super) fn forget_rulings(&mut self) {
        self.rulings
            .retain(|point, ruling| point.event == HookEvent::PostToolUse && ruling.decision != HookDecision::End);
    }

    pub(super) fn rule(&mut self, event: HookEvent, call: Option<&CallId>, ruling: &HookRuling) {
        self.rulings.insert(HookPoint { event, call: call.cloned() }, Arc::new(ruling.clone()));
        let Some(call) = call else { return };
        let Some(turn) = self.conversation.as_mut().and_then(|conversation| conversation.turn_of(call)) else { return };
        let tool = turn.tool_uses.iter().find(|used| &used.id == call).map_or("", |used| used.name.as_str());
        let after = event == HookEvent::PostToolUse;
        let mut remarks = Vec::new();
        // Why a call was not made is its result.
        if let Some(reason) = ruling.reason.as_ref().filter(|_| after && ruling.decision == HookDecision::Deny) {
            remarks.push(format!("A hook objects to the result of {tool}: {reason}"));
        }
        remarks.extend(ruling.context.iter().map(|text| format!("A hook adds to the call of {tool}: {text}")));
        if !remarks.is_empty() {
            turn.remarks.entry(call.clone()).or_default().extend(remarks);
        }
        if let Some(content) = ruling.updated.as_ref().filter(|_| after) {
            let is_error = ruling.decision == HookDecision::Deny;
            turn.results.insert(call.clone(), CallResult::Done { content: content.clone(), is_error });
        }
    }
}
