//! What a history asks of every store. A token is named by its task and attempt:
//! each store has tokens of its own.

use std::time::Duration;

use common::clock::Timestamp;
use common::id::{AppendId, BatchId, QueueName, TaskId};
use common::journal::Event;
use common::store::{
    ClaimTasks, Cursor, Definition, Filter, Next, OpenBatch, RejectedRow, Submission, Take, Transcript,
};
use common::task::Signal;

/// The right to write that came with an attempt on a task; one that was never given has attempt 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Token {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
}

/// One call of one operation of a store.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Submit(Vec<Submission>),
    /// From one queue.
    Take(Take),
    /// All that is ready, from several queues.
    TakeAll(Take),
    Claim(ClaimTasks),
    Append {
        token: Token,
        id: AppendId,
        expected: u64,
        events: Vec<Event>,
        next: Next,
    },
    Renew {
        tokens: Vec<Token>,
        lease: Duration,
    },
    Signal(TaskId, Signal),
    Forget(TaskId),
    Erase(TaskId),
    /// What the hashes of a journal say.
    Chain(TaskId),
    /// Until nothing is due.
    Due {
        limit: usize,
    },
    Head(TaskId),
    Journal {
        task: TaskId,
        after: u64,
        limit: usize,
    },
    List {
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
    },
    Queues,
    Pause(QueueName, bool),
    Apply(Definition),
    Definitions,
    OpenBatch(OpenBatch),
    RejectRows(BatchId, Vec<RejectedRow>),
    CloseBatch(BatchId),
    Batch(BatchId),
    BatchRows {
        batch: BatchId,
        after: u64,
        limit: usize,
    },
    ServeSchedule(Timestamp),
    Unsent(Duration),
    /// The hints of these tasks that `unsent` gave last.
    Sent(Vec<TaskId>),
    Restore(Vec<Transcript>),
    /// The process ends, and another one opens the store.
    Reopen,
}

impl Request {
    /// The name of the operation.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Submit(_) => "submit",
            Self::Take(_) => "take",
            Self::TakeAll(_) => "take all",
            Self::Claim(_) => "claim",
            Self::Append { .. } => "append",
            Self::Renew { .. } => "renew",
            Self::Signal(..) => "signal",
            Self::Forget(_) => "forget",
            Self::Erase(_) => "erase",
            Self::Chain(_) => "chain",
            Self::Due { .. } => "due",
            Self::Head(_) => "head",
            Self::Journal { .. } => "journal",
            Self::List { .. } => "list",
            Self::Queues => "queues",
            Self::Pause(..) => "pause",
            Self::Apply(_) => "apply",
            Self::Definitions => "definitions",
            Self::OpenBatch(_) => "open batch",
            Self::RejectRows(..) => "reject rows",
            Self::CloseBatch(_) => "close batch",
            Self::Batch(_) => "batch",
            Self::BatchRows { .. } => "batch rows",
            Self::ServeSchedule(_) => "serve schedule",
            Self::Unsent(_) => "unsent",
            Self::Sent(_) => "sent",
            Self::Restore(_) => "restore",
            Self::Reopen => "reopen",
        }
    }
}
