//! Why a store did not do what was asked, split by what the caller does next.

use crate::id::TaskId;
use crate::task::{IllegalEvent, Refusal};

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

impl StoreError {
    /// The same for another caller of what failed.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Unavailable(why) => Self::Unavailable(why.clone()),
            Self::Damaged(why) => Self::Damaged(why.clone()),
            Self::Refused(why) => Self::Refused(why.clone()),
        }
    }
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
