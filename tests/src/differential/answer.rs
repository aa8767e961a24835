//! What a store answered, in a form in which answers of two stores can be compared.

use common::clock::Timestamp;
use common::id::{QueueName, TaskId};
use common::journal::Recorded;
use common::journal::chain::Verified;
use common::store::{
    AppendError, BatchRow, BatchStatus, Definition, Erasure, Hint, Page, Queue, Receipt, Renewal, SignalError,
    Signalled, StoreError,
};
use common::task::{Head, IllegalEvent, Refusal, StateName};

/// A claim without its token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claimed {
    pub(super) task: TaskId,
    pub(super) expires: Timestamp,
    pub(super) journal: Vec<Recorded>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Done,
    Receipts(Vec<Receipt>),
    Claims(Vec<Claimed>),
    Recorded(Vec<Recorded>),
    Renewals(Vec<Renewal>),
    Signalled(Signalled),
    Forgotten(bool),
    Erased(Erasure),
    Chain(Box<Verified>),
    Due { woken: usize, expired: usize, poisoned: usize, removed: usize },
    Head(Option<Box<Head>>),
    Page(Page),
    Queues(Vec<QueueDepth>),
    Definitions(Vec<Definition>),
    Batch(Option<Batch>),
    Rows(Vec<BatchRow>),
    Schedule(Option<Timestamp>),
    Hints(Vec<Hint>),
    Restored(Vec<bool>),
    Refused(Error),
}

/// A queue that has tasks or is paused.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueueDepth {
    name: QueueName,
    paused: bool,
    depth: Vec<(StateName, u64)>,
    oldest_ready: Option<Timestamp>,
}

/// The status of a batch; what it cost in millionths of a dollar, because sums of fractions depend on their order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    status: BatchStatus,
    cost: i64,
}

/// Why something was not done, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Error {
    Refused,
    Damaged,
    LeaseLost(TaskId),
    Conflict { task: TaskId, expected: u64, actual: u64 },
    Illegal(IllegalEvent),
    JournalFull { task: TaskId, limit: u64 },
    NotFound(TaskId),
    Refusal(Refusal),
}

impl Answer {
    /// In a word, for counts.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Claims(claims) if claims.is_empty() => "nothing",
            Self::Head(None) | Self::Batch(None) => "nothing",
            _ => "answered",
        }
    }
}

impl Answer {
    /// For people: a line for each thing that is in it.
    pub(super) fn lines(&self) -> Vec<String> {
        fn each<T: std::fmt::Debug>(all: &[T]) -> Vec<String> {
            all.iter().map(|one| format!("{one:?}")).collect()
        }
        match self {
            Self::Receipts(all) => each(all),
            Self::Claims(all) => each(all),
            Self::Recorded(all) => each(all),
            Self::Queues(all) => each(all),
            Self::Definitions(all) => each(all),
            Self::Rows(all) => each(all),
            Self::Hints(all) => each(all),
            Self::Page(page) => {
                let mut lines = each(&page.tasks);
                lines.push(format!("{:?}", page.next));
                lines
            }
            other => vec![format!("{other:?}")],
        }
    }
}

/// Those that have tasks or are paused.
pub(super) fn queues(queues: Vec<Queue>) -> Answer {
    let depths = queues.into_iter().map(|queue| QueueDepth {
        name: queue.name,
        paused: queue.paused,
        depth: queue.depth.into_iter().filter(|(_, count)| *count > 0).collect(),
        oldest_ready: queue.oldest_ready,
    });
    Answer::Queues(depths.filter(|queue| queue.paused || !queue.depth.is_empty()).collect())
}

pub(super) fn batch(status: Option<BatchStatus>) -> Answer {
    Answer::Batch(status.map(|mut status| {
        #[expect(clippy::cast_possible_truncation, reason = "tests spend little")]
        let cost = (status.cost_usd * 1e6).round() as i64;
        status.cost_usd = 0.0;
        status.tasks.retain(|_, count| *count > 0);
        Batch { status, cost }
    }))
}

/// By task. The number of the event is left out: a store may name a newer one than that which made the task ready.
pub(super) fn hints(hints: &[Hint]) -> Answer {
    let mut hints: Vec<Hint> = hints.iter().map(|hint| Hint { version: 0, ..hint.clone() }).collect();
    hints.sort_by_key(|hint| hint.task);
    Answer::Hints(hints)
}

/// A refusal is an answer; that a store cannot be used is not: then nothing can be compared.
pub(super) fn store(error: StoreError) -> anyhow::Result<Answer> {
    match error {
        StoreError::Refused(_) => Ok(Answer::Refused(Error::Refused)),
        StoreError::Damaged(_) => Ok(Answer::Refused(Error::Damaged)),
        error @ StoreError::Unavailable(_) => Err(error.into()),
    }
}

pub(super) fn append(error: AppendError) -> anyhow::Result<Answer> {
    Ok(Answer::Refused(match error {
        AppendError::LeaseLost(task) => Error::LeaseLost(task),
        AppendError::Conflict { task, expected, actual } => Error::Conflict { task, expected, actual },
        AppendError::Illegal(illegal) => Error::Illegal(illegal),
        AppendError::JournalFull { task, limit } => Error::JournalFull { task, limit },
        AppendError::Store(error) => return store(error),
    }))
}

pub(super) fn signal(error: SignalError) -> anyhow::Result<Answer> {
    Ok(Answer::Refused(match error {
        SignalError::NotFound(task) => Error::NotFound(task),
        SignalError::Refused(refusal) => Error::Refusal(refusal),
        SignalError::Store(error) => return store(error),
    }))
}
