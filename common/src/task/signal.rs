//! What comes to a task from outside its lease: decisions, cancellation,
//! replay. [`admit`] is the pure rule that every store asks; a store adds only
//! the atomicity.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::head::Head;
use super::state::{Outcome, State, StateName, WaitOn};
use crate::failure::Failure;
use crate::id::{ApprovalId, CallId, EntryId, StepId, StepKey, TaskId};
use crate::journal::{ApprovalDecision, Event, ModelCall, SealedValues, WakeCause};

/// A message to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// Stop it.
    Cancel {
        /// Who asks.
        by: String,
        /// Why.
        reason: String,
    },
    /// End its waiting now.
    Wake,
    /// The emergency stop that it waits for is over.
    Unhalt,
    /// There may be room now under the limit that it waits for.
    Room,
    /// Give it more to spend.
    Raise {
        /// Who does.
        by: String,
        /// Dollars more.
        usd: Option<f64>,
        /// Tokens more.
        tokens: Option<u64>,
    },
    /// Decide an approval.
    Decide {
        /// Which one.
        approval: ApprovalId,
        /// The decision.
        decision: ApprovalDecision,
    },
    /// Say what became of a call whose outcome is unknown.
    Resolve {
        /// The step that made the call.
        step: StepKey,
        /// The call.
        call: CallId,
        /// Who says so.
        by: String,
        /// What it answered, if it happened.
        happened: Option<Value>,
    },
    /// A child is done.
    ChildFinished {
        /// The child.
        child: TaskId,
        /// How it ended.
        outcome: Outcome,
        /// Its output, or why it has none.
        result: Value,
    },
    /// A request in a model batch was answered.
    ModelAnswered {
        /// The step that made it.
        step: StepKey,
        /// The request.
        entry: EntryId,
        /// The answer.
        call: Box<ModelCall>,
    },
    /// A request in a model batch was not answered.
    ModelFailed {
        /// The step that made it.
        step: StepKey,
        /// The request.
        entry: EntryId,
        /// Why.
        error: Failure,
    },
    /// Send a dead or cancelled task on its way again.
    Replay {
        /// Who asks.
        by: String,
        /// The steps that run anew.
        reset: Vec<StepId>,
        /// A corrected input.
        input: Option<Value>,
        /// The private values in it.
        #[serde(default, skip_serializing_if = "SealedValues::is_empty")]
        sealed: SealedValues,
    },
    /// Private values come in: what tokens stand for in the signal that follows.
    Seal {
        /// Their ciphertexts.
        entries: SealedValues,
    },
}

/// What is to be done with a signal.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// Append this event now.
    Apply(Box<Event>),
    /// A worker holds the task: keep the signal for its holder, who takes it up
    /// at its next append.
    Keep,
}

/// Why a signal is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The task's state does not allow it.
    #[error("the task is {state}: {why}")]
    State {
        /// The state that it is in.
        state: StateName,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The same question was answered before.
    #[error("{0} was decided before; a decision is made once")]
    Decided(String),
    /// There is no such question.
    #[error("{0} is not a question that this task asks")]
    Unknown(String),
}

/// Decides what a signal does to a task, given those that already wait for its holder.
pub fn admit(head: &Head, kept: &[Signal], signal: &Signal) -> Result<Admission, Refusal> {
    let refuse = |why| Err(Refusal::State { state: head.state.name(), why });
    let running = matches!(head.state, State::Running { .. });
    let terminal = head.state.is_terminal();
    let event = match signal {
        Signal::Cancel { .. } if terminal => return refuse("there is nothing left to cancel"),
        Signal::Cancel { by, reason } => Event::Cancelled { by: by.clone(), reason: reason.clone() },
        Signal::Wake => match head.state {
            State::Scheduled { .. } | State::Waiting { .. } => Event::Woken { cause: WakeCause::Operator },
            _ => return refuse("only a scheduled or waiting task can be woken"),
        },
        Signal::Unhalt => match &head.state {
            State::Waiting { wait, .. } if wait.on.contains(&WaitOn::Halt) => {
                Event::Woken { cause: WakeCause::Unhalted }
            }
            _ => return refuse("it does not wait for the end of a halt"),
        },
        Signal::Room => match &head.state {
            State::Waiting { wait, .. } if wait.on.iter().any(WaitOn::is_for_room) => {
                Event::Woken { cause: WakeCause::Room }
            }
            // Something of it may wait while something else is under way.
            State::Running { .. } => Event::Woken { cause: WakeCause::Room },
            _ => return refuse("it does not wait for room under a limit"),
        },
        Signal::Raise { .. } if matches!(head.state, State::Succeeded { .. } | State::Cancelled { .. }) => {
            return refuse("it has nothing left to spend it on");
        }
        Signal::Raise { by, usd, tokens } => Event::BudgetRaised { by: by.clone(), usd: *usd, tokens: *tokens },
        Signal::Decide { approval, decision } => {
            let before = kept.iter().any(|k| matches!(k, Signal::Decide { approval: a, .. } if a == approval));
            if before {
                return Err(Refusal::Decided(format!("approval {approval}")));
            }
            if !head.open_approvals.contains(approval) {
                return Err(Refusal::Unknown(format!("approval {approval}")));
            }
            Event::ApprovalDecided { approval: *approval, decision: decision.clone() }
        }
        Signal::Resolve { step, call, by, happened } => {
            let name = || format!("the outcome of call {call} of step {step}");
            if kept.iter().any(|k| matches!(k, Signal::Resolve { step: s, call: c, .. } if s == step && c == call)) {
                return Err(Refusal::Decided(name()));
            }
            if !head.unknown_outcomes.iter().any(|(s, c)| s == step && c == call) {
                return Err(Refusal::Unknown(name()));
            }
            Event::OutcomeResolved {
                step: step.clone(),
                call: call.clone(),
                by: by.clone(),
                happened: happened.clone(),
            }
        }
        Signal::ChildFinished { .. } if terminal => return refuse("it no longer waits for its children"),
        Signal::ChildFinished { child, outcome, result } => {
            // A child may finish before its parent has journaled that it exists: the holder sorts that out.
            if !running && !head.open_children.contains(child) {
                return Err(Refusal::Unknown(format!("child {child}")));
            }
            Event::ChildFinished { child: *child, outcome: *outcome, result: result.clone() }
        }
        Signal::ModelAnswered { step, entry, call } => {
            awaited(head, kept, step, entry)?;
            Event::TurnFinished { step: step.clone(), call: call.clone(), entry: Some(entry.clone()) }
        }
        Signal::ModelFailed { step, entry, error } => {
            awaited(head, kept, step, entry)?;
            Event::ModelBatchFailed { step: step.clone(), entry: entry.clone(), error: error.clone() }
        }
        Signal::Seal { .. } if terminal => return refuse("nothing comes in any more"),
        Signal::Seal { entries } => Event::PrivateDataSealed { entries: entries.clone() },
        Signal::Replay { .. } if head.erased_at.is_some() => {
            return refuse("its data was erased: nothing is left to go on with; submit it anew");
        }
        Signal::Replay { by, reset, input, sealed } => match head.state {
            State::Dead { .. } | State::Cancelled { .. } => {
                let (by, reset, input, sealed) = (by.clone(), reset.clone(), input.clone(), sealed.clone());
                Event::Replayed { by, reset, input, sealed }
            }
            _ => return refuse("only a dead or cancelled task can be replayed"),
        },
    };
    Ok(if running { Admission::Keep } else { Admission::Apply(Box::new(event)) })
}

/// Whether a request in a model batch is to be answered still.
fn awaited(head: &Head, kept: &[Signal], step: &StepKey, entry: &EntryId) -> Result<(), Refusal> {
    if kept.iter().any(|kept| kept.answers() == Some(entry)) {
        return Err(Refusal::Decided(format!("request {entry}")));
    }
    let is_open = head.open_entries.iter().any(|(s, e)| s == step && e == entry);
    if is_open { Ok(()) } else { Err(Refusal::Unknown(format!("request {entry}"))) }
}

impl Signal {
    /// The request in a model batch of which it tells.
    const fn answers(&self) -> Option<&EntryId> {
        match self {
            Self::ModelAnswered { entry, .. } | Self::ModelFailed { entry, .. } => Some(entry),
            _ => None,
        }
    }

    /// The event that a kept signal becomes when its holder takes it up, in the
    /// state that the task is in then. `None` if it has lost its meaning.
    pub fn take_up(&self, head: &Head) -> Option<Event> {
        if let (Self::Cancel { by, reason }, State::Running { .. }) = (self, &head.state) {
            return Some(Event::CancelRequested { by: by.clone(), reason: reason.clone() });
        }
        if let (Self::Room, State::Running { .. }) = (self, &head.state) {
            return Some(Event::Woken { cause: WakeCause::Room });
        }
        if let (Self::ChildFinished { child, outcome, result }, State::Running { .. }) = (self, &head.state) {
            return head.open_children.contains(child).then(|| Event::ChildFinished {
                child: *child,
                outcome: *outcome,
                result: result.clone(),
            });
        }
        if matches!(head.state, State::Running { .. }) {
            // The rules for a task at rest hold for everything else; ask them as if it were.
            let mut resting = head.clone();
            resting.state = State::Ready { since: head.updated_at };
            return match admit(&resting, &[], self) {
                Ok(Admission::Apply(event)) if !matches!(*event, Event::Woken { .. } | Event::Replayed { .. }) => {
                    Some(*event)
                }
                _ => None,
            };
        }
        match admit(head, &[], self) {
            Ok(Admission::Apply(event)) => Some(*event),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
