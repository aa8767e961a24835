//! The fold of a whole journal: everything that `decide` and the readers of a
//! task need to know. One transition function, used live and on recovery.

mod approval;
mod entry;
mod family;
mod follow;
mod guards;
mod held;
mod hooks;
mod round;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub use self::approval::{Approval, ApprovalAnswer};
pub use self::entry::{Entry, EntryState};
pub use self::family::Subagent;
pub use self::held::{Held, Raised};
pub use self::session::{SessionRun, SessionState};
use super::chain::Reading;
use super::conversation::Conversation;
use super::conversation::Prompted;
use super::event::{Event, Recorded};
use super::guard::GuardTrip;
use super::hook::{HookEvent, HookPoint, HookRuling};
use super::judge::Judging;
use super::record::{CallRecord, CallResult, StepOutcome};
use super::sealed::SealedValues;
use super::submitted::Submitted;
use crate::clock::Timestamp;
use crate::failure::{Failure, FailureClass};
use crate::id::{ApprovalId, CallId, StepKey, TaskId};
use crate::task::{Head, IllegalEvent, Outcome};

/// A task with all that its journal says. A clone shares what it can with its original: looking one
/// event ahead must not cost more the longer the journal is.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The life of the task as a whole.
    pub head: Head,
    /// What was submitted.
    pub submitted: Arc<Submitted>,
    /// What it works on: the submitted input, or the one that a replay corrected.
    pub input: Arc<Value>,
    /// Every step that anything is known of.
    pub steps: BTreeMap<StepKey, Arc<StepRun>>,
    /// The task's output, once it succeeded.
    pub output: Option<Value>,
    /// Who asked for its cancellation, and why, while it runs.
    pub cancel: Option<(String, String)>,
    /// What stands in the way of the task as a whole.
    pub held: Option<Held>,
    /// The highest level of each budget that was noted, in percent.
    pub noted: BTreeMap<String, u8>,
    /// What it was given to spend beyond its budget.
    pub raised: Raised,
    /// How often it was replayed.
    pub replays: u32,
    /// What the tokens of private values stand for, encrypted.
    pub sealed: Arc<SealedValues>,
}

/// What is known of one step, or of one item of a step that fans out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepRun {
    /// Where it is.
    pub status: StepStatus,
    /// How many tries have failed since the step was started or replayed; of an agent, since its last answered turn.
    pub failed_tries: u32,
    /// How often a replay made it start from nothing: part of its idempotency keys.
    pub generation: u32,
    /// When anything was first known of it.
    pub started_at: Option<Timestamp>,
    /// When it was done.
    pub finished_at: Option<Timestamp>,
    /// How long its model and tool calls took in all, in milliseconds.
    pub busy_ms: u64,
    /// The last failure of a try, also when the step went on to succeed.
    pub last_error: Option<Failure>,
    /// Its calls that are not `read`, and every answered call of a step that is no agent.
    pub calls: BTreeMap<CallId, Arc<Call>>,
    /// The conversation of an agent step.
    pub conversation: Option<Conversation>,
    /// Who called it and with what, for a subagent.
    pub subagent: Option<Subagent>,
    /// What it was asked about, for a judge.
    pub judging: Option<Judging>,
    /// The items of a step that fans out.
    pub items: Option<Vec<Value>>,
    /// The end of a `sleep` step.
    pub sleep_until: Option<Timestamp>,
    /// The approval that it asks for.
    pub approval: Option<Approval>,
    /// The approvals that it asks for before it makes calls.
    pub permissions: BTreeMap<CallId, Arc<Approval>>,
    /// What hooks said since its last turn, and about its calls.
    pub rulings: BTreeMap<HookPoint, Arc<HookRuling>>,
    /// What guards found in what it was told and came to.
    pub trips: Vec<GuardTrip>,
    /// The child task of a `pipeline` step.
    pub child: Option<Child>,
    /// The conversation across tasks that it goes on with.
    pub session: Option<SessionRun>,
    /// The round that a step with `repeat` is in, from 1.
    pub round: u32,
    /// How it ended in the round before this one.
    pub before: Option<StepOutcome>,
    /// What stands in the way of its next call.
    pub held: Option<Held>,
    /// Its newest request in a model batch.
    pub entry: Option<Entry>,
}

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum StepStatus {
    /// Nothing was done yet.
    #[default]
    Pending,
    /// Started and not done.
    Started,
    /// A try failed; the next may start at `not_before`.
    Retrying {
        /// When.
        not_before: Timestamp,
    },
    /// Done.
    Done(StepOutcome),
}

/// A call of which the journal knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What was intended; nothing for a `read` call, which is journaled only when done.
    pub record: Option<CallRecord>,
    /// Where it is.
    pub state: CallState,
}

/// Where a call is.
#[derive(Debug, Clone, PartialEq)]
pub enum CallState {
    /// Started under this attempt and not known to be done. Under a later
    /// attempt this means that the worker was lost in between.
    Intended {
        /// The attempt that started it.
        attempt: u32,
    },
    /// Nobody knows whether it happened; a person is asked.
    Unknown {
        /// What was seen.
        error: Failure,
    },
    /// A person says that it did not happen: it may be made again.
    Cleared,
    /// Answered.
    Finished(CallResult),
}

/// The child task of a `pipeline` step.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// The child.
    pub task: TaskId,
    /// How it ended, with its output or failure.
    pub ended: Option<(Outcome, Value)>,
}

impl StepRun {
    /// How the step ended, if it did.
    pub const fn outcome(&self) -> Option<&StepOutcome> {
        match &self.status {
            StepStatus::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether the step is done, in whatever way.
    pub const fn is_done(&self) -> bool {
        matches!(self.status, StepStatus::Done(_))
    }
}

impl Run {
    /// Folds a whole journal.
    pub fn fold(id: TaskId, journal: &[Recorded]) -> Result<Self, IllegalEvent> {
        let head = Head::fold(id, journal.get(..1).unwrap_or_default())?;
        let Some(Recorded { event: Event::Submitted(submitted), .. }) = journal.first() else {
            // `Head::fold` accepts no other first event.
            return Err(IllegalEvent {
                event: "nothing",
                seq: 0,
                state: head.state.name(),
                why: "a journal starts with submitted",
            });
        };
        let mut run = Self {
            input: Arc::new(submitted.input.clone()),
            submitted: Arc::new((**submitted).clone()),
            head,
            steps: BTreeMap::new(),
            output: None,
            cancel: None,
            held: None,
            noted: BTreeMap::new(),
            raised: Raised::default(),
            replays: 0,
            sealed: Arc::new(submitted.sealed.clone()),
        };
        // Without its data a journal does not say any more who asked for what: what was appended was checked then.
        let erased = Reading::of(journal) == Reading::Erased;
        for recorded in &journal[1..] {
            if erased {
                run.head.apply(recorded)?;
                run.apply_task(recorded);
                run.apply_step(recorded);
            } else {
                run.apply(recorded)?;
            }
        }
        Ok(run)
    }

    /// What is known of a step.
    pub fn step(&self, key: &StepKey) -> Option<&StepRun> {
        self.steps.get(key).map(Arc::as_ref)
    }

    /// Applies one event, or leaves everything as it was and says why it cannot follow.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), IllegalEvent> {
        if let Err(why) = self.check_step(&recorded.event) {
            return Err(IllegalEvent {
                event: recorded.event.kind(),
                seq: recorded.seq,
                state: self.head.state.name(),
                why,
            });
        }
        self.head.apply(recorded)?;
        self.apply_task(recorded);
        self.apply_step(recorded);
        self.apply_session(recorded);
        if let Event::RoundStarted { step, round, reset } = &recorded.event {
            self.start_round(step, *round, reset);
        }
        Ok(())
    }

    fn apply_task(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Event::Succeeded { output } => self.output = Some(output.clone()),
            Event::CancelRequested { by, reason } => self.cancel = Some((by.clone(), reason.clone())),
            Event::Woken { .. } => self.retry_held(recorded.at),
            Event::HeldBack { step: None, why, until } => {
                self.held = Some(Held::again(self.held.as_ref(), why, *until));
            }
            Event::BudgetNoted { budget, percent, .. } => {
                let noted = self.noted.entry(budget.clone()).or_default();
                *noted = (*noted).max(*percent);
            }
            Event::BudgetRaised { usd, tokens, .. } => {
                self.raised.usd += usd.unwrap_or(0.0);
                self.raised.tokens = self.raised.tokens.saturating_add(tokens.unwrap_or(0));
                self.noted.clear();
                self.retry_held(recorded.at);
            }
            Event::PrivateDataSealed { entries } => Arc::make_mut(&mut self.sealed).add_all(entries),
            Event::Replayed { reset, input, sealed, .. } => {
                self.cancel = None;
                self.held = None;
                self.replays += 1;
                if !sealed.is_empty() {
                    Arc::make_mut(&mut self.sealed).add_all(sealed);
                }
                if let Some(input) = input {
                    self.input = Arc::new(input.clone());
                }
                for (key, step) in &mut self.steps {
                    // How a subagent failed is its caller's to deal with, who knows it or will be told.
                    let stays = match &step.status {
                        StepStatus::Done(StepOutcome::Succeeded { .. } | StepOutcome::Skipped) => true,
                        StepStatus::Done(StepOutcome::Failed { .. }) => key.is_subagent(),
                        _ => false,
                    };
                    // A judge that gave no verdict is not asked for one again: another one is.
                    if step.judging.is_some() && matches!(step.status, StepStatus::Done(StepOutcome::Failed { .. })) {
                        Arc::make_mut(step).judging = None;
                    }
                    if reset.contains(&key.step) {
                        *step = Arc::new(StepRun { generation: step.generation + 1, ..StepRun::default() });
                    } else if !stays {
                        Arc::make_mut(step).reopen();
                    }
                }
            }
            Event::ApprovalDecided { approval, decision } => {
                self.answer_approval(*approval, &ApprovalAnswer::Decided(decision.clone()));
            }
            Event::ApprovalExpired { approval } => self.answer_approval(*approval, &ApprovalAnswer::Expired),
            Event::Prompted { subagents, .. } => {
                for step in subagents {
                    if let Some(known) = self.steps.get_mut(step).and_then(|step| Arc::make_mut(step).subagent.as_mut())
                    {
                        known.reported = true;
                    }
                }
            }
            Event::ChildFinished { child, outcome, result } => {
                let is_of = |step: &Arc<StepRun>| step.child.as_ref().is_some_and(|known| known.task == *child);
                for step in self.steps.values_mut().filter(|step| is_of(step)) {
                    if let Some(known) = &mut Arc::make_mut(step).child {
                        known.ended = Some((*outcome, result.clone()));
                    }
                }
            }
            _ => {}
        }
    }

    fn apply_step(&mut self, recorded: &Recorded) {
        let Some(key) = recorded.event.step() else { return };
        let attempt = self.head.attempts;
        let id = ApprovalId { task: self.head.id, seq: recorded.seq };
        let step = Arc::make_mut(self.steps.entry(key.clone()).or_default());
        step.started_at.get_or_insert(recorded.at);
        if let Event::HeldBack { why, until, .. } = &recorded.event {
            step.held = Some(Held::again(step.held.as_ref(), why, *until));
        } else {
            step.held = None;
        }
        if !matches!(recorded.event, Event::StepFinished { .. } | Event::StepRetrying { .. }) {
            step.status = StepStatus::Started;
        }
        step.follow_entry(recorded);
        match &recorded.event {
            Event::Expanded { items, .. } => step.items = Some(items.clone()),
            Event::StepRetrying { error, not_before, .. } => {
                step.failed_tries += 1;
                step.last_error = Some(error.clone());
                if let Some(conversation) = &mut step.conversation {
                    conversation.overflowed |= error.class == FailureClass::ContextWindow;
                }
                step.status = StepStatus::Retrying { not_before: *not_before };
            }
            Event::StepFinished { outcome, .. } => {
                if let StepOutcome::Failed { error } = outcome {
                    step.failed_tries += 1;
                    step.last_error = Some(error.clone());
                }
                step.finished_at = Some(recorded.at);
                step.status = StepStatus::Done(outcome.clone());
            }
            Event::SleepStarted { until, .. } => step.sleep_until = Some(*until),
            Event::AgentStarted { head, prompt, .. } => {
                let mut conversation = Conversation::new((**head).clone(), prompt.clone());
                if let Some(session) = &step.session {
                    conversation.history = Arc::clone(&session.history);
                }
                step.conversation = Some(conversation);
            }
            Event::TurnFinished { call, entry, .. } => {
                // Waiting for a model batch is no work.
                step.busy_ms += if entry.is_some() { 0 } else { call.duration_ms };
                // What was answered is behind it: tries count for the request that is next.
                step.failed_tries = 0;
                // What was said about the turn before is done with.
                step.rulings.clear();
                if let Some(conversation) = &mut step.conversation {
                    conversation.answered((**call).clone());
                }
            }
            Event::Compacted { call, kept_from, .. } => {
                step.busy_ms += call.duration_ms;
                step.failed_tries = 0;
                if let Some(conversation) = &mut step.conversation {
                    conversation.compact(call, *kept_from);
                }
            }
            Event::ModelChanged { to, why, .. } => {
                // Each model has tries of its own.
                step.failed_tries = 0;
                if let Some(conversation) = &mut step.conversation {
                    conversation.change_model(to, why);
                }
            }
            Event::OtherModel { answered, .. } => {
                if let Some(conversation) = &mut step.conversation {
                    conversation.other_model = Some(answered.clone());
                }
            }
            Event::SubagentCalled { call, agent, prompt, background, .. } => {
                step.call_subagent(Subagent {
                    agent: agent.clone(),
                    call: call.clone(),
                    prompt: prompt.clone(),
                    background: *background,
                    reported: false,
                });
            }
            Event::Prompted { text, reason, .. } => {
                if let Some(turn) = step.conversation.as_mut().and_then(|c| c.turns.last_mut()) {
                    Arc::make_mut(turn).prompted = Some(Prompted { text: text.clone(), reason: reason.clone() });
                }
            }
            Event::HookDecided { event, call, ruling, .. } => step.rule(*event, call.as_ref(), ruling),
            Event::JudgeAsked { judging, .. } => step.judging = Some((**judging).clone()),
            Event::GuardTripped { trip, .. } => step.trip_guard(trip),
            Event::CallIntended { call, .. } => {
                let state = CallState::Intended { attempt };
                step.calls.insert(call.call.clone(), Arc::new(Call { record: Some(call.clone()), state }));
            }
            Event::CallFinished { call, result, duration_ms, .. } => {
                step.busy_ms += duration_ms;
                step.finish_call(call, result);
            }
            Event::OutcomeUnknown { call, error, .. } => {
                if let Some(known) = step.calls.get_mut(call) {
                    Arc::make_mut(known).state = CallState::Unknown { error: error.clone() };
                }
            }
            Event::OutcomeResolved { call, happened: Some(content), .. } => {
                step.finish_call(call, &CallResult::Done { content: content.clone(), is_error: false });
            }
            Event::OutcomeResolved { call, happened: None, .. } => {
                if let Some(known) = step.calls.get_mut(call) {
                    Arc::make_mut(known).state = CallState::Cleared;
                }
            }
            Event::ApprovalRequested { expires, show, terms, .. } => {
                let asked =
                    Approval { id, expires: *expires, show: show.clone(), terms: (**terms).clone(), answer: None };
                match &terms.call {
                    Some(call) => drop(step.permissions.insert(call.clone(), Arc::new(asked))),
                    None => step.approval = Some(asked),
                }
            }
            Event::ChildSubmitted { child, .. } => step.child = Some(Child { task: *child, ended: None }),
            _ => {}
        }
    }
}

impl StepRun {
    fn finish_call(&mut self, call: &CallId, result: &CallResult) {
        let record = self.calls.get(call).and_then(|known| known.record.clone());
        if let Some(turn) = self.conversation.as_mut().and_then(|c| c.turn_of(call)) {
            turn.results.insert(call.clone(), result.clone());
            if let Some(conversation) = &mut self.conversation {
                conversation.note_cut(result);
            }
            if record.is_none() {
                return;
            }
        }
        self.calls.insert(call.clone(), Arc::new(Call { record, state: CallState::Finished(result.clone()) }));
    }

    /// New tries for a step that had failed or was cut short; what its journal holds already stays.
    fn reopen(&mut self) {
        self.status = StepStatus::Started;
        self.failed_tries = 0;
        self.busy_ms = 0;
        self.finished_at = None;
        // The question lapsed and the child ended with the task: ask, and submit, anew.
        self.approval = None;
        self.permissions.clear();
        self.release_session();
        self.held = None;
        self.entry = None;
        self.forget_rulings();
        self.trips.clear();
        if self.child.take().is_some() {
            self.generation += 1;
        }
        if let Some(conversation) = &mut self.conversation {
            conversation.counted_from = conversation.turns.len();
        }
    }
}

#[cfg(test)]
mod tests;
