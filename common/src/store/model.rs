//! The requests and answers of a store, and its errors, split by what the
//! caller does next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::blob::BlobOptions;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::entropy::Entropy;
use crate::failure::Failure;
use crate::id::{AppendId, BatchId, Digest, LeaseToken, PipelineName, QueueName, Shard, StepKey, TaskId, WorkerId};
use crate::journal::{Event, Recorded, Submitted};
use crate::task::{DeadReason, Head, IllegalEvent, Refusal, StateName, Wait};

/// What every store is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Leases and timers are judged by it.
    pub clock: StoreClock,
    /// Where lease tokens come from.
    pub entropy: Arc<dyn Entropy>,
    /// What is kept of finished tasks.
    pub retention: Retention,
    /// What is refused.
    pub limits: Limits,
    /// What is done with large values.
    pub blobs: BlobOptions,
    /// Who passes hints on where there is a broker. With it, a store also keeps
    /// each hint until [`super::Store::sent`] says that the broker has it.
    pub doorbell: Option<Arc<dyn Doorbell>>,
}

impl StoreOptions {
    /// The store's own clock, no broker, and the defaults for everything else.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            clock: StoreClock::Own,
            entropy,
            retention: Retention::default(),
            limits: Limits::default(),
            blobs: BlobOptions::default(),
            doorbell: None,
        }
    }
}

/// Whose time a store goes by.
#[derive(Debug, Clone)]
pub enum StoreClock {
    /// Its own: the server's, or the machine's for an embedded store.
    Own,
    /// This one: tests and simulation move time by hand.
    Given(Arc<dyn Clock>),
}

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

impl StoreClock {
    /// The time now, for a store whose own clock is the machine's.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Own => SystemClock.now(),
            Self::Given(clock) => clock.now(),
        }
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
}

/// What a look at a server's settings found, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: a setting's name, or such.
    pub subject: String,
    /// What it is, and what that means for tasks.
    pub said: String,
    /// What to do about it, where there is something to do.
    pub advice: Option<String>,
}

impl Finding {
    /// The subject of the finding that a server may throw tasks away when its memory is full.
    pub const EVICTION: &str = "maxmemory-policy";
    /// The subject of the finding on what a crash of the server's process costs.
    pub const PROCESS: &str = "crash of the process";
    /// The subject of the finding on what a crash of its machine costs.
    pub const MACHINE: &str = "crash of the machine";
    /// The subject of the finding on what the loss of its site costs.
    pub const SITE: &str = "loss of the site";
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works; in some accident it may lose what was accepted, or stop.
    Warning,
    /// Accepted tasks will be lost or the store does not work: do not start.
    Fatal,
}

/// The limits of a store. What goes beyond is refused with a clear error (I7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Submissions in one call. Default 10,000.
    pub submissions: usize,
    /// The input of one task, in bytes of JSON. Default 1 MiB.
    pub input_bytes: usize,
    /// The journal of one task, in bytes, and any value of it; large values count as the references to them.
    /// Default 64 MiB.
    pub journal_bytes: u64,
    /// The large values of one journal that are loaded together, in bytes of JSON. Default 256 MiB.
    pub values_bytes: u64,
    /// Tasks that are ready or scheduled in one queue. Default 10 million.
    pub queue_depth: u64,
    /// Leases in a row without an event of their holder, after which a task is poison. Default 3.
    pub barren_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            submissions: 10_000,
            input_bytes: 1 << 20,
            journal_bytes: 64 << 20,
            values_bytes: 256 << 20,
            queue_depth: 10_000_000,
            barren_attempts: 3,
        }
    }
}

/// What is kept of tasks that are done. The idempotency key goes with its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// For succeeded and cancelled tasks.
    pub finished: Keep,
    /// For dead letters.
    pub dead: Keep,
}

/// How many, how long and how much; `None` is no bound. The oldest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// At most so many tasks. Default 1 million.
    pub count: Option<u64>,
    /// At most for so long, in milliseconds. Default 30 days.
    pub age_ms: Option<u64>,
    /// At most so many bytes of journal. Default 8 GiB.
    pub bytes: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: Some(1_000_000), age_ms: Some(30 * 24 * 3_600_000), bytes: Some(8 << 30) }
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

/// Why a store did not do what was asked, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Try again: busy, out of reach, disk full. Nothing was changed.
    #[error("the store cannot be used right now: {0}")]
    Unavailable(String),
    /// A person must look: the data is damaged, or of a version that this program does not know.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The request goes beyond a limit, or names what does not exist. Repeating it does not help.
    #[error("{0}")]
    Refused(String),
}

/// Why an append was not done.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Give the task up: the lease is over, or was never this one.
    #[error("the lease on task {0} is lost")]
    LeaseLost(TaskId),
    /// Load the journal again: it is not at the version that the writer thinks.
    #[error("task {task} is at version {actual}, not {expected}")]
    Conflict {
        /// The task.
        task: TaskId,
        /// What the writer thought.
        expected: u64,
        /// What is.
        actual: u64,
    },
    /// A fault of the program: these events cannot follow.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
    /// Finish the task: its journal would go beyond its limit.
    #[error("the journal of task {task} would be larger than {limit} bytes (limits.journal)")]
    JournalFull {
        /// The task.
        task: TaskId,
        /// The limit.
        limit: u64,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a signal was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is no such task.
    #[error("there is no task {0}")]
    NotFound(TaskId),
    /// The task does not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}
