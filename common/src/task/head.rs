//! The head of a task: what a store keeps beside the journal so that it can
//! queue, list and lease without reading it. Always equal to the fold of the
//! journal through [`Head::apply`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::{State, StateName, WaitOn};
use crate::clock::Timestamp;
use crate::id::{
    ApprovalId, BatchId, CallId, Digest, EntryId, IdempotencyKey, PipelineName, QueueName, StepKey, TaskId,
};
use crate::journal::{Event, Recorded, Submitted, Usage, WakeCause};

/// The task and step that a child task belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The parent task.
    pub task: TaskId,
    /// The step that submitted the child.
    pub step: StepKey,
    /// How many ancestors the child has, from 1.
    pub depth: u32,
}

/// A task without its journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The task.
    pub id: TaskId,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// The definition that it is pinned to.
    pub digest: Digest,
    /// Where it queues.
    pub queue: QueueName,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The key under which it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// What it is a child of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The batch that brought it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The number of its newest event: what an append names as expected.
    pub version: u64,
    /// How many leases it has had.
    pub attempts: u32,
    /// How many leases in a row ended without one event of their holder.
    pub barren_attempts: u32,
    /// How long it has been held by workers, without the present lease, in milliseconds.
    pub worked_ms: u64,
    /// What its model calls have cost so far.
    pub usage: Usage,
    /// Decisions that are wanted from people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_approvals: Vec<ApprovalId>,
    /// Calls of class `once` of which nobody knows whether they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_outcomes: Vec<(StepKey, CallId)>,
    /// Children that are not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_children: Vec<TaskId>,
    /// Requests in model batches that are to be answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_entries: Vec<(StepKey, EntryId)>,
    /// When its data was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Timestamp>,
    /// Where it is.
    pub state: State,
}

/// An event that cannot follow upon the journal so far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event} (number {seq}) is not possible in state {state}: {why}")]
pub struct IllegalEvent {
    /// The event's kind.
    pub event: &'static str,
    /// Its number.
    pub seq: u64,
    /// The state that the task was in.
    pub state: StateName,
    /// What is wrong.
    pub why: &'static str,
}

impl Head {
    /// The head of a task that was just accepted: the fold of its first event.
    pub fn open(id: TaskId, at: Timestamp, submitted: &Submitted) -> Self {
        let state = match submitted.run_at {
            Some(run_at) if run_at > at => State::Scheduled { run_at },
            _ => State::Ready { since: at },
        };
        Self {
            id,
            pipeline: submitted.pipeline.clone(),
            digest: submitted.digest.clone(),
            queue: submitted.queue.clone(),
            priority: submitted.priority.min(9),
            labels: submitted.labels.clone(),
            key: submitted.key.clone(),
            parent: submitted.parent.clone(),
            batch: submitted.batch.clone(),
            created_at: at,
            updated_at: at,
            version: 1,
            attempts: 0,
            barren_attempts: 0,
            worked_ms: 0,
            usage: Usage::default(),
            open_approvals: Vec::new(),
            unknown_outcomes: Vec::new(),
            open_children: Vec::new(),
            open_entries: Vec::new(),
            erased_at: None,
            state,
        }
    }

    /// Folds a whole journal.
    pub fn fold(id: TaskId, journal: &[Recorded]) -> Result<Self, IllegalEvent> {
        let Some((first, rest)) = journal.split_first() else {
            return Err(IllegalEvent {
                event: "nothing",
                seq: 0,
                state: StateName::Scheduled,
                why: "a journal starts with submitted",
            });
        };
        let Event::Submitted(submitted) = &first.event else {
            return Err(IllegalEvent {
                event: first.event.kind(),
                seq: first.seq,
                state: StateName::Scheduled,
                why: "a journal starts with submitted",
            });
        };
        if first.seq != 1 {
            return Err(IllegalEvent {
                event: first.event.kind(),
                seq: first.seq,
                state: StateName::Scheduled,
                why: "a journal is counted from 1",
            });
        }
        let mut head = Self::open(id, first.at, submitted);
        for recorded in rest {
            head.apply(recorded)?;
        }
        Ok(head)
    }

    /// How long workers have held the task up to `now`.
    pub fn worked(&self, now: Timestamp) -> Duration {
        let before = Duration::from_millis(self.worked_ms);
        match &self.state {
            State::Running { since, .. } => before + now.since(*since),
            _ => before,
        }
    }

    /// When the store has to look at the task by itself, if ever (leases aside).
    pub const fn due_at(&self) -> Option<Timestamp> {
        match &self.state {
            State::Scheduled { run_at } => Some(*run_at),
            State::Waiting { wait, .. } => wait.until,
            _ => None,
        }
    }

    /// The one transition function. Either the event is applied and the version
    /// moves on by one, or the head is unchanged and the answer says why not.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), IllegalEvent> {
        let illegal =
            |why| Err(IllegalEvent { event: recorded.event.kind(), seq: recorded.seq, state: self.state.name(), why });
        if recorded.seq != self.version + 1 {
            return illegal("its number does not follow");
        }
        let at = recorded.at;
        let next = match (&recorded.event, &self.state) {
            (Event::Submitted(_), _) => return illegal("a task is submitted once"),
            (_, _) if self.erased_at.is_some() => return illegal("its data was erased"),

            (Event::Leased { attempt, worker }, State::Ready { .. }) => {
                if *attempt != self.attempts + 1 {
                    return illegal("attempts are counted without gaps");
                }
                Some(State::Running { worker: worker.clone(), since: at, cancel_requested: false, progressed: false })
            }
            (Event::Released { .. } | Event::LeaseExpired { .. }, State::Running { .. })
            | (Event::Woken { .. }, State::Scheduled { .. } | State::Waiting { .. })
            | (Event::Replayed { .. }, State::Dead { .. } | State::Cancelled { .. }) => {
                Some(State::Ready { since: at })
            }
            (Event::Parked { wait }, State::Running { .. }) => {
                if wait.on.is_empty() {
                    return illegal("a wait names what it is for");
                }
                Some(State::Waiting { wait: wait.clone(), since: at })
            }

            (Event::CancelRequested { .. }, State::Running { worker, since, progressed, .. }) => Some(State::Running {
                worker: worker.clone(),
                since: *since,
                cancel_requested: true,
                progressed: *progressed,
            }),
            (Event::Cancelled { reason, .. }, state) if !state.is_terminal() => {
                Some(State::Cancelled { at, reason: reason.clone() })
            }
            (Event::Succeeded { .. }, State::Running { .. }) => Some(State::Succeeded { at }),
            // A store finishes a task by itself too: poison, unreadable, a limit.
            (Event::Died { reason, error, step }, state) if !state.is_terminal() => {
                Some(State::Dead { at, reason: *reason, error: error.clone(), step: step.clone() })
            }

            (Event::Erased { .. }, state) if state.is_terminal() => Some(state.without_words()),

            (Event::ApprovalDecided { approval, .. }, state) if !state.is_terminal() => {
                if !self.open_approvals.contains(approval) {
                    return illegal("that decision is not wanted, or was made before");
                }
                self.woken_by(at, |on| matches!(on, WaitOn::Approval { approval: id } if id == approval))
            }
            (Event::OutcomeResolved { step, call, .. }, state) if !state.is_terminal() => {
                if !self.unknown_outcomes.iter().any(|(s, c)| s == step && c == call) {
                    return illegal("the outcome of that call is not in question");
                }
                self.woken_by(at, |on| matches!(on, WaitOn::Outcome { step: s, call: c } if s == step && c == call))
            }
            (Event::ChildFinished { child, .. }, state) if !state.is_terminal() => {
                if !self.open_children.contains(child) {
                    return illegal("that task is not an open child of this one");
                }
                self.woken_by(at, |on| matches!(on, WaitOn::Child { task } if task == child))
            }

            (
                Event::TurnFinished { step, entry: Some(entry), .. } | Event::ModelBatchFailed { step, entry, .. },
                state,
            ) if !state.is_terminal() => {
                if !self.open_entries.iter().any(|(s, e)| s == step && e == entry) {
                    return illegal("that request is in no model batch, or was answered before");
                }
                self.woken_by(at, |on| matches!(on, WaitOn::ModelBatch { step: s } if s == step))
            }

            (Event::BudgetRaised { .. }, state)
                if !matches!(state, State::Succeeded { .. } | State::Cancelled { .. }) =>
            {
                self.woken_by(at, |on| matches!(on, WaitOn::Budget { .. }))
            }
            (Event::PrivateDataSealed { .. }, state) if !state.is_terminal() => None,

            (
                Event::Woken { cause: WakeCause::Room }
                | Event::StepStarted { .. }
                | Event::RoundStarted { .. }
                | Event::Expanded { .. }
                | Event::StepRetrying { .. }
                | Event::StepFinished { .. }
                | Event::SleepStarted { .. }
                | Event::AgentStarted { .. }
                | Event::SessionOpened { .. }
                | Event::SessionAwaited { .. }
                | Event::SessionSaved { .. }
                | Event::SubagentCalled { .. }
                | Event::TurnFinished { .. }
                | Event::ModelBatchJoined { .. }
                | Event::ModelBatchLeft { .. }
                | Event::Compacted { .. }
                | Event::ModelChanged { .. }
                | Event::OtherModel { .. }
                | Event::Prompted { .. }
                | Event::HookDecided { .. }
                | Event::JudgeAsked { .. }
                | Event::GuardTripped { .. }
                | Event::CallIntended { .. }
                | Event::CallFinished { .. }
                | Event::OutcomeUnknown { .. }
                | Event::ApprovalRequested { .. }
                | Event::ApprovalExpired { .. }
                | Event::HeldBack { .. }
                | Event::BudgetNoted { .. }
                | Event::ChildSubmitted { .. },
                State::Running { .. },
            ) => None,

            (_, state) if state.is_terminal() => return illegal("the task is done"),
            _ => return illegal("no transition leads there"),
        };

        self.account(recorded);
        if let Some(next) = next {
            if let State::Running { since, .. } = &self.state
                && next.name() != StateName::Running
            {
                self.worked_ms += u64::try_from(at.since(*since).as_millis()).unwrap_or(u64::MAX);
            }
            self.state = next;
        }
        self.version = recorded.seq;
        self.updated_at = at;
        Ok(())
    }

    /// The state after something came that the task may be waiting for.
    fn woken_by(&self, at: Timestamp, matches: impl Fn(&WaitOn) -> bool) -> Option<State> {
        match &self.state {
            State::Waiting { wait, .. } if wait.on.iter().any(matches) => Some(State::Ready { since: at }),
            _ => None,
        }
    }

    /// The counters and lists that ride along with the state.
    fn account(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Event::Leased { attempt, .. } => self.attempts = *attempt,
            Event::LeaseExpired { .. } => {
                if let State::Running { progressed, .. } = self.state {
                    self.barren_attempts = if progressed { 0 } else { self.barren_attempts + 1 };
                }
            }
            Event::Replayed { reset, .. } => {
                self.barren_attempts = 0;
                self.worked_ms = 0;
                self.open_children.clear();
                self.open_entries.clear();
                self.unknown_outcomes.retain(|(step, _)| !reset.contains(&step.step));
            }
            // Questions lapse with the task, but a call of unknown outcome stays unknown.
            Event::Succeeded { .. } | Event::Cancelled { .. } | Event::Died { .. } => {
                self.open_approvals.clear();
                self.open_entries.clear();
            }
            Event::TurnFinished { call, entry, .. } => {
                self.usage.add(&call.usage);
                self.open_entries.retain(|(_, open)| Some(open) != entry.as_ref());
            }
            Event::Compacted { call, .. } => self.usage.add(&call.usage),
            Event::ModelBatchJoined { step, entry, .. } => self.open_entries.push((step.clone(), entry.clone())),
            Event::ModelBatchLeft { entry, .. } | Event::ModelBatchFailed { entry, .. } => {
                self.open_entries.retain(|(_, open)| open != entry);
            }
            Event::StepFinished { step, .. } => self.open_entries.retain(|(of, _)| of != step),
            Event::RoundStarted { reset, .. } => self.open_entries.retain(|(of, _)| !reset.contains(&of.step)),
            Event::ApprovalRequested { .. } => {
                self.open_approvals.push(ApprovalId { task: self.id, seq: recorded.seq });
            }
            Event::ApprovalDecided { approval, .. } | Event::ApprovalExpired { approval } => {
                self.open_approvals.retain(|open| open != approval);
            }
            Event::OutcomeUnknown { step, call, .. } => self.unknown_outcomes.push((step.clone(), call.clone())),
            Event::OutcomeResolved { step, call, .. } => {
                self.unknown_outcomes.retain(|(s, c)| !(s == step && c == call));
            }
            Event::ChildSubmitted { child, .. } if !self.open_children.contains(child) => {
                self.open_children.push(*child);
            }
            Event::ChildFinished { child, .. } => self.open_children.retain(|open| open != child),
            Event::Erased { .. } => self.erased_at = Some(recorded.at),
            _ => {}
        }
        // Only what the holder itself writes is progress: a stranger's request must not hide a poison task.
        let by_holder = !matches!(
            recorded.event,
            Event::Leased { .. }
                | Event::LeaseExpired { .. }
                | Event::Woken { .. }
                | Event::CancelRequested { .. }
                | Event::ApprovalDecided { .. }
                | Event::OutcomeResolved { .. }
                | Event::BudgetRaised { .. }
                | Event::ChildFinished { .. }
                | Event::PrivateDataSealed { .. }
                | Event::TurnFinished { entry: Some(_), .. }
                | Event::ModelBatchFailed { .. }
        );
        if by_holder && let State::Running { progressed, .. } = &mut self.state {
            *progressed = true;
        }
        if by_holder {
            self.barren_attempts = 0;
        }
    }
}

#[cfg(test)]
mod tests;
