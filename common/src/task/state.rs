//! The states of a task, as enums that carry their data.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::id::{ApprovalId, CallId, StepKey, TaskId, WorkerId};

/// Where a task is. Exactly one of these at any time (invariant I4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum State {
    /// Accepted; becomes ready at `run_at`.
    Scheduled {
        /// When it becomes ready.
        run_at: Timestamp,
    },
    /// Wants a worker.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// Held by a worker under a lease. The lease itself lives in the store only.
    Running {
        /// The worker that holds the lease.
        worker: WorkerId,
        /// Since when.
        since: Timestamp,
        /// Whether someone asked for its cancellation; its holder obeys at the next append.
        cancel_requested: bool,
        /// Whether the holder has appended anything yet under this lease.
        progressed: bool,
    },
    /// Waits for something; holds no worker slot and no broker message.
    Waiting {
        /// What for.
        wait: Wait,
        /// Since when.
        since: Timestamp,
    },
    /// Finished with an output.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// Stopped because someone asked for it.
    Cancelled {
        /// When.
        at: Timestamp,
        /// Why, in the words of who asked.
        reason: String,
    },
    /// A dead letter: cannot go on by itself. A person can inspect and replay it.
    Dead {
        /// When.
        at: Timestamp,
        /// Why it cannot go on.
        reason: DeadReason,
        /// The failure itself.
        error: Failure,
        /// The step that failed, where it was one.
        step: Option<StepKey>,
    },
}

/// The name of a state: what filters, tables and metrics use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// See [`State::Scheduled`].
    Scheduled,
    /// See [`State::Ready`].
    Ready,
    /// See [`State::Running`].
    Running,
    /// See [`State::Waiting`].
    Waiting,
    /// See [`State::Succeeded`].
    Succeeded,
    /// See [`State::Cancelled`].
    Cancelled,
    /// See [`State::Dead`].
    Dead,
}

impl StateName {
    /// All of them, in the order of a task's life.
    pub const ALL: [Self; 7] =
        [Self::Scheduled, Self::Ready, Self::Running, Self::Waiting, Self::Succeeded, Self::Cancelled, Self::Dead];

    /// The name as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// Whether a task in this state is done (a dead one may still be replayed).
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled | Self::Dead)
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for StateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|name| name.as_str()).collect();
            format!("{text:?} is not a state; use one of {}", all.join(", "))
        })
    }
}

impl State {
    /// The name of this state.
    pub const fn name(&self) -> StateName {
        match self {
            Self::Scheduled { .. } => StateName::Scheduled,
            Self::Ready { .. } => StateName::Ready,
            Self::Running { .. } => StateName::Running,
            Self::Waiting { .. } => StateName::Waiting,
            Self::Succeeded { .. } => StateName::Succeeded,
            Self::Cancelled { .. } => StateName::Cancelled,
            Self::Dead { .. } => StateName::Dead,
        }
    }

    /// The same without what it says of people: how a task shows whose data was erased.
    #[must_use]
    pub fn without_words(&self) -> Self {
        const ERASED: &str = "erased";
        match self.clone() {
            Self::Cancelled { at, .. } => Self::Cancelled { at, reason: ERASED.to_owned() },
            Self::Dead { at, reason, error, step } => {
                Self::Dead { at, reason, error: Failure::new(error.class, ERASED), step }
            }
            state => state,
        }
    }

    /// How the task ended, if it did.
    pub const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Succeeded { .. } => Some(Outcome::Succeeded),
            Self::Cancelled { .. } => Some(Outcome::Cancelled),
            Self::Dead { .. } => Some(Outcome::Dead),
            _ => None,
        }
    }

    /// Whether the task is done.
    pub const fn is_terminal(&self) -> bool {
        self.name().is_terminal()
    }
}

/// What a waiting task waits for: the first of these to come makes it ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The things waited for; at least one.
    pub on: Vec<WaitOn>,
    /// The earliest time at which waiting ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// One thing that a task can wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum WaitOn {
    /// A `sleep` step, or the delay before a retry.
    Timer {
        /// The step that waits.
        step: StepKey,
    },
    /// A person's decision.
    Approval {
        /// Which one.
        approval: ApprovalId,
    },
    /// A child task.
    Child {
        /// Which one.
        task: TaskId,
    },
    /// A person's word on a call of class `once` whose outcome is unknown.
    Outcome {
        /// The step that made the call.
        step: StepKey,
        /// The call.
        call: CallId,
    },
    /// Room in a spent account or a budget.
    Budget {
        /// The step that waits; none: the task as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepKey>,
    },
    /// Room under a rate limit, or a place.
    RateLimit {
        /// The step that waits; none: the task as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepKey>,
    },
    /// A session that another task goes on with.
    Session {
        /// The step that waits.
        step: StepKey,
    },
    /// The answer to a request in a model batch.
    ModelBatch {
        /// The step that waits.
        step: StepKey,
    },
    /// The end of the emergency stop that covers the task.
    Halt,
}

impl WaitOn {
    /// Whether somebody else may make room for it.
    pub const fn is_for_room(&self) -> bool {
        matches!(self, Self::Budget { .. } | Self::RateLimit { .. })
    }

    /// The kind as users and metrics see it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Timer { .. } => "timer",
            Self::Approval { .. } => "approval",
            Self::Child { .. } => "children",
            Self::Outcome { .. } => "outcome",
            Self::Budget { .. } => "budget",
            Self::RateLimit { .. } => "rate_limit",
            Self::Session { .. } => "session",
            Self::ModelBatch { .. } => "model_batch",
            Self::Halt => "halt",
        }
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has an output.
    Succeeded,
    /// It was stopped.
    Cancelled,
    /// It is in the dead-letter queue.
    Dead,
}

/// Why a task is dead. A small closed set: it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// A step failed for good.
    Failed,
    /// Its working time ran out.
    Timeout,
    /// Its budget is spent.
    Budget,
    /// It was leased again and again without one new journal event.
    Poison,
    /// A person rejected it and the pipeline says that this is the end.
    Rejected,
    /// Its journal or its definition cannot be read by this version.
    Unreadable,
    /// A limit of the installation was hit (journal size, number of steps).
    Limit,
}

impl DeadReason {
    /// The reason as users and metrics see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Budget => "budget",
            Self::Poison => "poison",
            Self::Rejected => "rejected",
            Self::Unreadable => "unreadable",
            Self::Limit => "limit",
        }
    }
}

impl std::fmt::Display for DeadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
