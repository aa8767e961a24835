//! What hooks are asked, and what their word does: before and after calls of
//! tools, and when an agent wants to end. A ruling is journaled before anything
//! follows from it, so that a crash in between finds it and asks nobody again.

use std::sync::Arc;

use common::config::{Hook, Hooks};
use common::failure::{Failure, FailureClass};
use common::id::{CallId, StepKey};
use common::journal::{
    ApprovalAnswer, CallResult, CallState, Conversation, Event, HookDecision, HookEvent, HookRuling, StepOutcome,
    StepRun, ToolUse, Turn,
};
use common::pipeline::model::{AgentStep, Step, StepKind};
use serde_json::{Value, json};

use super::guard::Guarded;
use super::output::{full_text, prompts};
use super::permission::Wanted;
use super::{Action, ActionKey, Deciding};
use crate::hooks::Asking;
use crate::tools::search;

/// Why the loop itself speaks when a hook has an agent go on.
const HOOK: &str = "hook";
/// How often hooks may have an agent go on that wants to end.
const DETOURS: usize = 3;

/// Whether hooks have spoken about something.
pub(super) enum Hooked<'a> {
    /// No hook is about it.
    Silent,
    /// They are being asked.
    Pending,
    /// What they said.
    Ruled(&'a HookRuling),
}

/// Whether an agent may end.
pub(super) enum Ending {
    /// Hooks or people are being asked, or something of it is under way.
    Pending,
    /// It may.
    Allowed,
    /// It is told something instead.
    GoesOn(Event),
    /// It must not: it was told often enough, or a guard says so.
    Refused(Failure),
}

/// Whether the results of a turn may be shown to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    Pending,
    Done,
}

/// Who is asked about what.
pub(super) struct Point<'p> {
    pub event: HookEvent,
    pub call: Option<&'p CallId>,
    /// What matchers are held against.
    pub subject: &'p str,
    /// The agent at work, whose own hooks are asked after those of the installation.
    pub agent: Option<&'p str>,
}

impl Deciding<'_> {
    /// What hooks say about something; has them asked, once.
    pub(super) fn hooked<'k>(
        &mut self,
        key: &StepKey,
        known: &'k StepRun,
        point: &Point<'_>,
        input: impl FnOnce() -> Value,
    ) -> Hooked<'k> {
        if let Some(ruling) = known.ruling(point.event, point.call) {
            return Hooked::Ruled(ruling);
        }
        let (hooks, own) = self.hooks(point);
        if hooks.is_empty() && own.is_empty() {
            return Hooked::Silent;
        }
        let action = ActionKey { step: key.clone(), call: point.call.cloned() };
        if !self.given.in_flight.contains(&action) {
            let asking = Asking { event: point.event, call: point.call.cloned(), input: input(), hooks, own };
            self.act(Action::AskHooks { step: key.clone(), asking: Box::new(asking) });
        }
        Hooked::Pending
    }

    /// The hooks of the installation, and those of the team and the agent.
    fn hooks(&self, point: &Point<'_>) -> (Vec<Arc<Hook>>, Vec<Arc<Hook>>) {
        let about = |hooks: &Hooks, event| hooks.about(event, point.subject).cloned().collect::<Vec<_>>();
        let pipeline = self.given.pipeline;
        let mut own = about(&pipeline.hooks, point.event);
        if let Some(agent) = point.agent.and_then(|name| pipeline.agents.get(name)) {
            own.extend(about(&agent.hooks, point.event));
            // As in Claude Code: for a subagent, what its own file says of its end is meant.
            if point.event == HookEvent::SubagentStop {
                own.extend(about(&agent.hooks, HookEvent::Stop));
            }
        }
        (about(self.given.hooks, point.event), own)
    }

    /// What hooks say about a call that is to be made.
    pub(super) fn before_call<'k>(&mut self, key: &StepKey, known: &'k StepRun, wanted: Wanted<'_>) -> Hooked<'k> {
        let (subject, arguments) = target(wanted.name, wanted.arguments);
        let point = Point { event: HookEvent::PreToolUse, call: Some(wanted.id), subject, agent: wanted.agent };
        self.hooked(
            key,
            known,
            &point,
            || json!({"tool_name": subject, "tool_input": arguments, "tool_use_id": wanted.id}),
        )
    }

    /// Has hooks look at the results of a turn, before the model does.
    pub(super) fn review(&mut self, key: &StepKey, known: &StepRun, turn: &Turn, agent: &AgentStep) -> Review {
        let run = self.run;
        let name = run.agent(key).unwrap_or(&agent.agent);
        let mut review = Review::Done;
        for used in &turn.tool_uses {
            let Some(CallResult::Done { content, is_error: false }) = turn.results.get(&used.id) else { continue };
            let made = made(known, used);
            let (subject, arguments) = target(&used.name, &made);
            let point = Point { event: HookEvent::PostToolUse, call: Some(&used.id), subject, agent: Some(name) };
            let hooked = self.hooked(key, known, &point, || {
                let call = &used.id;
                json!({"tool_name": subject, "tool_input": arguments, "tool_response": content, "tool_use_id": call})
            });
            if matches!(hooked, Hooked::Pending) {
                review = Review::Pending;
            }
        }
        review
    }

    /// Ends an agent as a hook said, once what it has begun is over.
    pub(super) fn wind_up(&mut self, key: &StepKey, known: &StepRun, open: &[&ToolUse], error: Failure) {
        let mut unsettled = self.at_work(key) > 0 || self.is_in_flight(key);
        for call in open {
            if let Some(journaled) = known.calls.get(&call.id)
                && !matches!(journaled.state, CallState::Finished(_))
            {
                self.take_up(key, &call.id, journaled);
                unsettled = true;
            }
        }
        if !unsettled {
            self.stop(key, error);
        }
    }

    /// Ends an agent with its output, if hooks and guards let it.
    pub(super) fn end(&mut self, key: &StepKey, conversation: &Conversation, agent: &AgentStep, output: Value) {
        match self.ending_of(key, conversation, agent, &output) {
            Ending::Pending => {}
            Ending::Allowed => {
                if self.left_session(key) {
                    self.decision.finish_step(key, StepOutcome::Succeeded { output });
                }
            }
            Ending::GoesOn(text) => self.decision.record(text),
            Ending::Refused(error) => self.decision.fail_step(key, error),
        }
    }

    /// Whether an agent may end with an output, as far as hooks and guards say.
    pub(super) fn ending_of(
        &mut self,
        key: &StepKey,
        conversation: &Conversation,
        agent: &AgentStep,
        output: &Value,
    ) -> Ending {
        let run = self.run;
        let Some(known) = run.step(key).filter(|_| !self.is_in_flight(key)) else { return Ending::Pending };
        let name = run.agent(key).unwrap_or(&agent.agent);
        let told = prompts(conversation, HOOK);
        let (event, subject) = if key.is_subagent() { (HookEvent::SubagentStop, name) } else { (HookEvent::Stop, "") };
        let point = Point { event, call: None, subject, agent: Some(name) };
        let hooked = self.hooked(
            key,
            known,
            &point,
            || json!({"stop_hook_active": told > 0, "last_assistant_message": full_text(conversation)}),
        );
        let ruling = match hooked {
            Hooked::Pending => return Ending::Pending,
            Hooked::Ruled(ruling) if ruling.decision == HookDecision::Deny => ruling,
            // What hooks may change by having the agent go on, guards see when it is done.
            Hooked::Silent | Hooked::Ruled(_) => {
                return match self.guarded_output(key, known, agent, output) {
                    Guarded::Clear => Ending::Allowed,
                    Guarded::Pending => Ending::Pending,
                    Guarded::Refused(error) => Ending::Refused(error),
                };
            }
        };
        let reason = ruling.reason.as_deref().unwrap_or("it is not done yet");
        if told >= DETOURS {
            let message = format!("a hook had the agent go on {told} times and does not let it end: {reason}");
            let error = Failure::new(FailureClass::Limit, message).with_detail(json!({ "output": output }));
            return Ending::Refused(error);
        }
        let mut text = format!("You are not done yet; a hook says: {reason}");
        for context in &ruling.context {
            text.push_str("\n\n");
            text.push_str(context);
        }
        let (step, reason) = (key.clone(), HOOK.to_owned());
        Ending::GoesOn(Event::Prompted { step, text, reason, subagents: Vec::new() })
    }

    /// What hooks say about a summary that is to stand for the older part of a conversation.
    pub(super) fn before_compaction<'k>(&mut self, key: &StepKey, known: &'k StepRun) -> Hooked<'k> {
        let run = self.run;
        let agent = run.agent(key).or_else(|| self.given.pipeline.step(&key.step).and_then(agent_of));
        let point = Point { event: HookEvent::PreCompact, call: None, subject: "auto", agent };
        self.hooked(key, known, &point, || json!({"trigger": "auto", "custom_instructions": ""}))
    }
}

/// The agent of a step.
fn agent_of(step: &Step) -> Option<&str> {
    match &step.kind {
        StepKind::Agent(agent) => Some(&agent.agent),
        _ => None,
    }
}

/// How an agent fails that a hook ended.
pub(super) fn ended_by(event: HookEvent, ruling: &HookRuling) -> Failure {
    let reason = ruling.reason.as_deref().unwrap_or("it did not say why");
    Failure::new(FailureClass::Rejected, format!("a {event} hook ended the agent: {reason}"))
}

/// The tool that a call comes down to, and what it is given.
fn target<'a>(tool: &'a str, arguments: &'a Value) -> (&'a str, &'a Value) {
    match (tool, arguments["name"].as_str()) {
        (search::CALL, Some(name)) => (name, &arguments["arguments"]),
        _ => (tool, arguments),
    }
}

/// The arguments of a call with those of the tool that it comes down to changed.
pub(super) fn retargeted(tool: &str, arguments: &Value, updated: &Value) -> Value {
    match (tool, arguments["name"].as_str()) {
        (search::CALL, Some(name)) => json!({"name": name, "arguments": updated}),
        _ => updated.clone(),
    }
}

/// The arguments with which a call was made: a hook or a person may have changed them.
fn made(known: &StepRun, used: &ToolUse) -> Value {
    if let Some(record) = known.calls.get(&used.id).and_then(|call| call.record.as_ref()) {
        return record.arguments.clone();
    }
    let edits = known.permissions.get(&used.id).and_then(|asked| match &asked.answer {
        Some(ApprovalAnswer::Decided(decision)) => decision.edits.clone(),
        _ => None,
    });
    let updated = || {
        let ruling = known.ruling(HookEvent::PreToolUse, Some(&used.id))?;
        Some(retargeted(&used.name, &used.input, ruling.updated.as_ref()?))
    };
    edits.or_else(updated).unwrap_or_else(|| used.input.clone())
}
