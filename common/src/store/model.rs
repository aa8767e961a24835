//! The requests and answers of a store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::id::{AppendId, BatchId, Digest, LeaseToken, PipelineName, QueueName, Shard, StepKey, TaskId, WorkerId};
use crate::journal::{Event, EventHash, Recorded, Seal, Submitted};
use crate::task::{DeadReason, Head, StateName, Wait};

/// That a task is ready: what a broker carries. It may come late, twice or not
/// at all; whoever gets it claims the task in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The task.
    pub task: TaskId,
    /// The number of the event that made it ready.
    pub version: u64,
    /// Where it queues.
    pub queue: QueueName,
    /// 0 (last) to 9 (first).
    pub priority: u8,
}

impl Hint {
    /// That a task is ready, as of its newest event.
    pub fn of(head: &Head) -> Self {
        Self { task: head.id, version: head.version, queue: head.queue.clone(), priority: head.priority }
    }
}

/// Hears of tasks that an operation made ready, once that is durable. Must not
/// block: what it cannot take it drops, and the store gives it again by
/// [`super::Store::unsent`].
pub trait Doorbell: Send + Sync + std::fmt::Debug {
    /// These became ready.
    fn ring(&self, hints: Vec<Hint>);
}

/// A task with its whole journal, as it goes from one store to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// The task.
    pub id: TaskId,
    /// All of its events.
    pub journal: Vec<Recorded>,
    /// The hash of each, as far as they have any; fewer, if the last have none. With none at all, the chain is made
    /// where the task comes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<Option<EventHash>>,
    /// The newest seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

impl Transcript {
    /// A task of which no hashes are known.
    pub const fn bare(id: TaskId, journal: Vec<Recorded>) -> Self {
        Self { id, journal, hashes: Vec::new(), seal: None }
    }
}

/// A task to be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    id: TaskId,
    task: Submitted,
}

impl Submission {
    /// A task, and the id that it gets if it is new. Its shard is that of its
    /// parent, else that of its idempotency key, else as the id has it.
    pub fn new(id: TaskId, task: Submitted) -> Self {
        let shard = match (&task.parent, &task.key) {
            (Some(parent), _) => parent.task.shard(),
            (None, Some(key)) => Shard::of_key(&task.pipeline, key),
            (None, None) => id.shard(),
        };
        Self { id: id.in_shard(shard), task }
    }

    /// The id that it gets, if it is new.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task.
    pub fn task(&self) -> &Submitted {
        &self.task
    }

    /// The id and the task.
    pub fn into_parts(self) -> (TaskId, Submitted) {
        (self.id, self.task)
    }
}

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The task: the new one, or the old one of the same key.
    pub id: TaskId,
    /// The state that it is in.
    pub state: StateName,
    /// Whether it is new.
    pub created: bool,
}

/// Which tasks to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Who takes.
    pub worker: WorkerId,
    /// From which queues; empty for all.
    pub queues: Vec<QueueName>,
    /// At most so many.
    pub max: usize,
    /// For how long.
    pub lease: Duration,
}

/// Named tasks to be leased (a broker's hints).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimTasks {
    /// Who claims.
    pub worker: WorkerId,
    /// Which tasks.
    pub tasks: Vec<TaskId>,
    /// For how long.
    pub lease: Duration,
}

/// A leased task with its journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The task, running.
    pub task: TaskId,
    /// The right to write its journal.
    pub token: LeaseToken,
    /// Until when, by the store's clock.
    pub expires: Timestamp,
    /// Its whole journal, the `leased` event included.
    pub journal: Vec<Recorded>,
}

/// An append to a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// The task.
    pub task: TaskId,
    /// The right to write.
    pub token: LeaseToken,
    /// Names this append: the same id again gets the same answer.
    pub id: AppendId,
    /// The number of the newest event that the writer has seen.
    pub expected: u64,
    /// The events, in order. May be empty.
    pub events: Vec<Event>,
    /// What happens to the task in the same step.
    pub next: Next,
}

/// What an append does to the task, beside its events.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The holder goes on.
    Continue,
    /// Nothing can go on until something comes.
    Park(Wait),
    /// Another worker shall go on.
    Release {
        /// Why.
        reason: String,
    },
    /// It is done.
    Succeed {
        /// The task's output.
        output: Value,
    },
    /// It is stopped, as was asked.
    Cancel {
        /// Who asked.
        by: String,
        /// Why.
        reason: String,
    },
    /// It cannot go on by itself.
    Die {
        /// Why.
        reason: DeadReason,
        /// The failure itself.
        error: Failure,
        /// The step that failed, where it was one.
        step: Option<StepKey>,
    },
}

impl Next {
    /// The event that says so in the journal.
    pub fn into_event(self) -> Option<Event> {
        match self {
            Self::Continue => None,
            Self::Park(wait) => Some(Event::Parked { wait }),
            Self::Release { reason } => Some(Event::Released { reason }),
            Self::Succeed { output } => Some(Event::Succeeded { output }),
            Self::Cancel { by, reason } => Some(Event::Cancelled { by, reason }),
            Self::Die { reason, error, step } => Some(Event::Died { reason, error, step }),
        }
    }
}

/// The answer to an append: all that was added to the journal, in order: the
/// events, the one of `next`, and those of signals that were kept for the
/// holder. The holder folds all of them; if it then does not find the task
/// running, it holds the task no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// What was added.
    pub recorded: Vec<Recorded>,
}

/// Leases to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renew {
    /// The leases that a worker holds.
    pub leases: Vec<(TaskId, LeaseToken)>,
    /// For how long from now.
    pub lease: Duration,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It holds until then.
    Renewed {
        /// By the store's clock.
        expires: Timestamp,
        /// Whether signals wait to be taken up by an append.
        signals: bool,
    },
    /// It is gone: stop touching the outside world for this task.
    Lost,
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalled {
    /// It took effect; the state that the task is in now.
    Applied(StateName),
    /// A worker holds the task and takes the signal up at its next append.
    Requested,
}

/// What became of a request to erase a task's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// It is erased now.
    Erased,
    /// It was erased before.
    Before,
}

/// What [`super::Store::due`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// Scheduled and waiting tasks that became ready.
    pub woken: usize,
    /// Leases that had expired.
    pub expired: usize,
    /// Of those, tasks that were found to be poison.
    pub poisoned: usize,
    /// Finished tasks that retention removed.
    pub removed: usize,
    /// Reservations that lapsed or were forgotten, and meters of which nothing is left to be said.
    pub lapsed: usize,
    /// When the next one is due, as far as is known now. In the past if the
    /// limit was reached and more is due.
    pub next: Option<Timestamp>,
}

/// Which tasks to list. Everything given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// In one of these states; empty for any.
    pub states: Vec<StateName>,
    /// Of this pipeline.
    pub pipeline: Option<PipelineName>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Children of this task.
    pub parent: Option<TaskId>,
    /// Dead for this reason.
    pub dead_reason: Option<DeadReason>,
    /// With an approval that waits for a person.
    pub awaiting_approval: bool,
}

/// Where a page ended. Opaque to users; tasks are listed by descending id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub TaskId);

/// Some tasks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Head>,
    /// Where to go on, if there may be more.
    pub next: Option<Cursor>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Whether it is paused.
    pub paused: bool,
    /// How many of its unfinished tasks are in each state, and how many are dead.
    pub depth: BTreeMap<StateName, u64>,
    /// Since when the oldest ready task has been ready.
    pub oldest_ready: Option<Timestamp>,
}

/// A pipeline definition as it is kept: `body` is what `pipeline::Bundle` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The pipeline's name.
    pub name: PipelineName,
    /// The digest of the body.
    pub digest: Digest,
    /// The definition with everything that it refers to.
    pub body: Arc<str>,
}

/// A batch that is about to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBatch {
    /// Its id.
    pub id: BatchId,
    /// The pipeline that its rows are for.
    pub pipeline: PipelineName,
}

/// A row that made no task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRow {
    /// Its line, from 1, as an editor counts.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// How far a batch is.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatus {
    /// Its id.
    pub id: BatchId,
    /// The pipeline that its rows are for.
    pub pipeline: PipelineName,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Whether all of its rows have been read.
    pub closed: bool,
    /// Rows that are tasks, by the state of the task.
    pub tasks: BTreeMap<StateName, u64>,
    /// Of those, rows whose task existed before.
    pub duplicates: u64,
    /// Rows that made no task: how many, and the first hundred of them.
    pub rejected: u64,
    /// The first hundred of them.
    pub rejections: Vec<RejectedRow>,
    /// What the tasks have cost so far, in dollars.
    pub cost_usd: f64,
}

/// A row of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRow {
    /// Its line, from 1.
    pub line: u64,
    /// What became of it.
    pub state: BatchRowState,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchRowState {
    /// It is a task (boxed: heads are large).
    Task(Box<Head>),
    /// It is a task that retention has removed.
    Removed(TaskId),
    /// It made no task.
    Rejected(String),
}
