//! The agent loop, one decision at a time: build the request, ask the model,
//! make the tool calls it wants, until it ends its turn with a valid output or
//! a limit is reached.

use common::failure::{Failure, FailureClass};
use common::id::{CallId, StepKey};
use common::journal::shown::READ_RESULT;
use common::journal::{CallRecord, CallResult, CallState, Conversation, Event, StepRun, ToolUse, Turn, Usage};
use common::pipeline::model::{AgentLimits, AgentStep, Step};
use serde_json::{Value, json};

use super::admission::{Refusal, Verdict, admit, calls, offered, tool_uses, verdict};
use super::effect::idempotency_key;
use super::guard::Guarded;
use super::hook::{Review, ended_by};
use super::output::{REPAIR, REPAIRS, answer, prompts, repairs, with_attempts};
use super::permission::{Permit, Wanted};
use super::{Action, ActionKey, Deciding, compaction, fallback, output};
use crate::tools::agent::AGENT;
use crate::tools::{self, Tool};

/// How often a reply that was cut off is asked to go on.
const CONTINUATIONS: usize = 3;
/// Tool calls of one step that run at once.
pub(super) const PARALLEL_CALLS: usize = 8;

/// Why the model is told something: its reply was cut off.
pub(super) const CONTINUE: &str = "continue";

impl Deciding<'_> {
    pub(super) fn agent(&mut self, step: &Step, key: &StepKey, known: &StepRun, agent: &AgentStep) {
        self.subagents(step, key, agent);
        if !self.holds_session(key, known, agent) {
            return;
        }
        let Some(conversation) = &known.conversation else {
            if !self.is_in_flight(key) {
                self.act(Action::Prepare { step: key.clone(), start: true });
            }
            return;
        };
        if let Some(timeout) = step.timeout
            && u128::from(self.run.busy_ms(key)) >= timeout.get().as_millis()
            && !self.is_in_flight(key)
        {
            let error =
                Failure::new(FailureClass::Timeout, format!("the agent was at work for {timeout}, its whole timeout"));
            return self.decision.fail_step(key, error);
        }
        if self.in_model_batch(key, known, conversation) {
            return;
        }
        match self.guarded_prompt(key, known, agent) {
            Guarded::Clear => {}
            Guarded::Pending => return,
            Guarded::Refused(error) => return self.stop(key, error),
        }
        let Some(turn) = conversation.turns.last() else { return self.ask(step, key, conversation, agent) };
        let open = conversation.open_calls();
        if let Some((event, ruling)) = known.ended_by_hook() {
            return self.wind_up(key, known, &open, ended_by(event, ruling));
        }
        let review = self.review(key, known, turn, agent);
        if open.iter().any(|call| !output::is_output(conversation, call)) {
            return self.tool_calls(key, known, conversation, &open, agent);
        }
        if !open.is_empty() {
            return self.given_output(step, key, conversation, &open, agent);
        }
        if review == Review::Pending {
            return;
        }
        match self.guarded_answers(key, known, turn, agent) {
            Guarded::Clear => {}
            Guarded::Pending => return,
            Guarded::Refused(error) => return self.stop(key, error),
        }
        if turn.prompted.is_none() && !self.is_in_flight(key) && self.report(key) {
            return;
        }
        if turn.prompted.is_some() || !turn.tool_uses.is_empty() || turn.set_aside {
            return self.ask(step, key, conversation, agent);
        }
        self.ended(step, key, conversation, turn, agent);
    }

    /// Asks for the next turn, if the limits leave room for it.
    fn ask(&mut self, step: &Step, key: &StepKey, conversation: &Conversation, agent: &AgentStep) {
        if self.is_in_flight(key) {
            return;
        }
        if let Err(error) = self.room(key, conversation, agent) {
            return self.decision.fail_step(key, error);
        }
        if !self.affords(step, key, conversation) {
            return;
        }
        // On a worker that has just taken the task up, the tools are at hand before the next turn asks for one.
        if !conversation.head.tools.is_empty() && !self.given.tools.contains_key(key) {
            return self.act(Action::Prepare { step: key.clone(), start: false });
        }
        self.call_model(key, compaction::room(conversation));
    }

    fn room(&self, key: &StepKey, conversation: &Conversation, agent: &AgentStep) -> Result<(), Failure> {
        let limits = self.limits(key, agent);
        let limit = |what: String| Err(Failure::new(FailureClass::Limit, what));
        let turns = conversation.turns.len() - conversation.counted_from.min(conversation.turns.len());
        if turns >= limits.turns as usize {
            return limit(format!(
                "the agent took {turns} turns, the most it may (limits.turns, or maxTurns of the agent)"
            ));
        }
        let monologue = super::progress::monologue(conversation);
        if monologue >= limits.monologue as usize {
            return limit(format!(
                "the agent took {monologue} turns in a row without calling a tool (limits.monologue)"
            ));
        }
        self.room_for_use(key, &limits)
    }

    /// Whether the limits of an agent leave room for another paid call of it, or of a judge of it.
    pub(super) fn room_for_use(&self, key: &StepKey, limits: &AgentLimits) -> Result<(), Failure> {
        let limit = |what: String| Err(Failure::new(FailureClass::Limit, what));
        // What subagents and judges use counts too.
        let mut usage = Usage::default();
        for known in self.run.family(key).filter_map(|(_, known)| known.conversation.as_ref()) {
            usage.add(&known.usage());
        }
        if limits.tokens.is_some_and(|most| usage.tokens() >= most) {
            return limit(format!("the agent used {} tokens, more than it may (limits.tokens)", usage.tokens()));
        }
        if limits.usd.is_some_and(|most| usage.cost_usd >= most) {
            return limit(format!("the agent spent ${:.4}, more than it may (limits.usd)", usage.cost_usd));
        }
        Ok(())
    }

    pub(super) fn limits(&self, key: &StepKey, agent: &AgentStep) -> AgentLimits {
        let name = self.run.agent(key).unwrap_or(&agent.agent);
        let of_agent = self.given.pipeline.agents.get(name).and_then(|file| file.max_turns);
        AgentLimits { turns: agent.limits.turns.min(of_agent.unwrap_or(u32::MAX)), ..agent.limits }
    }

    /// Makes the calls of a turn that are not answered.
    fn tool_calls(
        &mut self,
        key: &StepKey,
        known: &StepRun,
        conversation: &Conversation,
        open: &[&ToolUse],
        agent: &AgentStep,
    ) {
        let Some(tools) = self.given.tools.get(key) else {
            if !self.is_in_flight(key) {
                self.act(Action::Prepare { step: key.clone(), start: false });
            }
            return;
        };
        let limits = self.limits(key, agent);
        let mut flying = self.at_work(key) + self.given.in_flight.iter().filter(|flying| &flying.step == key).count();
        for call in open {
            let action = ActionKey { step: key.clone(), call: Some(call.id.clone()) };
            if self.given.in_flight.contains(&action) || flying >= PARALLEL_CALLS {
                continue;
            }
            let before = self.decision.actions.len();
            let made = self.calls_before(key, conversation, call);
            if call.name == AGENT
                && let Some(offered) = offered(conversation, call)
            {
                let who = self.run.agent(key).unwrap_or(&agent.agent);
                let schema = &offered["input_schema"];
                let (name, arguments) = (AGENT, &call.input);
                let wanted = Wanted { id: &call.id, name, tool: None, arguments, schema, who, agent: Some(who) };
                match self.call_agent(key, known, wanted, admit(conversation, call, made, &limits, offered)) {
                    Ok(started) => flying += started + self.decision.actions.len() - before,
                    Err(_) if flying > 0 || before > 0 => {}
                    Err(error) => return self.stop(key, error),
                }
                continue;
            }
            if output::is_output(conversation, call) {
                continue;
            }
            if conversation.cut && call.name == READ_RESULT {
                match self.read_result(key, conversation, call, made, &limits) {
                    Ok(()) => {}
                    Err(_) if flying > 0 || before > 0 => {}
                    Err(error) => return self.stop(key, error),
                }
                continue;
            }
            match known.calls.get(&call.id) {
                Some(journaled) if !matches!(journaled.state, CallState::Finished(_)) => {
                    self.take_up(key, &call.id, journaled);
                }
                _ => match verdict(conversation, call, made, &limits, tools) {
                    Verdict::Call(tool, schema) => {
                        let who = self.run.agent(key).unwrap_or(&agent.agent);
                        let (name, arguments, agent) = (call.name.as_str(), &call.input, Some(who));
                        let wanted = Wanted { id: &call.id, name, tool: Some(tool), arguments, schema, who, agent };
                        self.call_permitted(key, known, call, tool, wanted);
                    }
                    Verdict::Refuse(error) => self.answer_call(key, &call.id, &call.name, CallResult::Failed { error }),
                    // What was begun in this turn comes to its end first.
                    Verdict::Stop(_) if flying > 0 || before > 0 => {}
                    Verdict::Stop(error) => return self.stop(key, error),
                },
            }
            flying += self.decision.actions.len() - before;
        }
    }

    /// Makes a call if rules and people let it, or says why not.
    fn call_permitted(&mut self, key: &StepKey, known: &StepRun, call: &ToolUse, tool: &dyn Tool, wanted: Wanted<'_>) {
        match self.permit(key, known, wanted) {
            Permit::Granted(arguments) => {
                let record = CallRecord {
                    call: call.id.clone(),
                    tool: call.name.clone(),
                    effect: tool.effect(&arguments),
                    arguments,
                    key: idempotency_key(self.run.head.id, key, known.generation, Some(&call.id)),
                };
                self.begin(key, record);
            }
            Permit::Pending => {}
            Permit::Declined(why) => self.decline_call(key, &call.id, &call.name, &why),
        }
    }

    /// Tells the model why a call is not made.
    pub(super) fn decline_call(&mut self, key: &StepKey, call: &CallId, tool: &str, why: &str) {
        let content = Value::String(format!("{tool} was not called: {why}"));
        self.answer_call(key, call, tool, CallResult::Done { content, is_error: true });
    }

    /// Answers a call that reads on in a result of the journal. What ends the step is the error.
    fn read_result(
        &mut self,
        key: &StepKey,
        conversation: &Conversation,
        call: &ToolUse,
        made: usize,
        limits: &AgentLimits,
    ) -> Result<(), Failure> {
        let read = match admit(conversation, call, made, limits, &tools::result::spec().to_json()) {
            Ok(()) => tools::result::read(conversation, &call.input)
                .map_err(|why| Failure::new(FailureClass::InvalidRequest, why)),
            Err(Refusal::Told(error)) => Err(error),
            Err(Refusal::Final(error)) => return Err(error),
        };
        let result = match read {
            Ok(text) => CallResult::Done { content: Value::String(text), is_error: false },
            Err(error) => CallResult::Failed { error },
        };
        self.answer_call(key, &call.id, &call.name, result);
        Ok(())
    }

    /// Answers a call without making one.
    pub(super) fn answer_call(&mut self, key: &StepKey, call: &CallId, tool: &str, result: CallResult) {
        let (step, call, tool) = (key.clone(), call.clone(), tool.to_owned());
        self.decision.record(Event::CallFinished { step, call, tool, result, duration_ms: 0 });
    }

    /// Fails an agent instead of what was to become of its calls.
    pub(super) fn stop(&mut self, key: &StepKey, error: Failure) {
        let concerns = |step: &StepKey| step == key || step.caller().as_ref() == Some(key);
        self.decision.events.retain(|event| !event.step().is_some_and(concerns));
        self.decision.fail_step(key, error);
    }

    /// How many tool calls the step made before this one, those of its subagents included.
    fn calls_before(&self, key: &StepKey, conversation: &Conversation, call: &ToolUse) -> usize {
        // The answer of a judge is no call, whichever way it gives it.
        let others = self.run.family(key).filter(|(other, known)| *other != key && known.judging.is_none());
        let of_others: usize = others.filter_map(|(_, known)| known.conversation.as_ref()).map(calls).sum();
        let own = tool_uses(conversation).take_while(|other| other.id != call.id).count();
        of_others + own
    }

    /// The model wants nothing more: its answer, or why there is none.
    fn ended(&mut self, step: &Step, key: &StepKey, conversation: &Conversation, turn: &Turn, agent: &AgentStep) {
        let prompt = |text: String, reason: &str| Event::Prompted {
            step: key.clone(),
            text,
            reason: reason.to_owned(),
            subagents: Vec::new(),
        };
        match turn.reply.stop_reason.as_str() {
            "pause_turn" => self.ask(step, key, conversation, agent),
            "refusal" => {
                let error =
                    Failure::new(FailureClass::Refused, format!("the model {} refused to answer", turn.reply.model));
                let error = error.with_detail(json!({"text": conversation.last_text()}));
                match fallback::declined(key, conversation, &error) {
                    Some(event) => self.decision.record(event),
                    None => self.decision.fail_step(key, error),
                }
            }
            "max_tokens" if prompts(conversation, CONTINUE) < CONTINUATIONS => {
                self.decision.record(prompt(
                    "You were cut off. Go on exactly where you stopped, without repeating anything.".to_owned(),
                    CONTINUE,
                ));
            }
            "max_tokens" => {
                let message = format!(
                    "the reply was cut off {} times at {} tokens (limits.max_tokens)",
                    CONTINUATIONS + 1,
                    conversation.head.max_tokens
                );
                self.decision.fail_step(key, Failure::new(FailureClass::Limit, message));
            }
            "model_context_window_exceeded" if self.is_in_flight(key) => {}
            "model_context_window_exceeded" => {
                if self.affords(step, key, conversation) {
                    self.call_model(key, compaction::overflow(conversation));
                }
            }
            // Subagents in the background: there is news to come.
            _ if self.at_work(key) > 0 => {}
            _ if key.is_subagent() => {
                self.end(key, conversation, agent, Value::String(output::full_text(conversation)));
            }
            _ => match answer(step, conversation) {
                Ok(output) => self.end(key, conversation, agent, output),
                Err(error) if repairs(conversation) < REPAIRS => {
                    let text = format!("{}\nAnswer again, with the corrected JSON and nothing else.", error.message);
                    self.decision.record(prompt(text, REPAIR));
                }
                Err(error) => self.decision.fail_step(key, with_attempts(error, conversation)),
            },
        }
    }
}
