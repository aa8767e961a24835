//! What people say to tasks, and what becomes of it.

use common::id::{CallId, PipelineName, QueueName, StepId, StepKey, TaskId};
use common::task::{DeadReason, StateName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /v1/tasks/{id}/cancel`. The body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cancel {
    /// Why, for the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, as they call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `POST /v1/tasks/{id}/raise`: more to spend for a task and each of its steps. At least one of both is named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raise {
    /// Dollars more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Tokens more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Who asks, as they call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `POST /v1/tasks/{id}/retry` and `POST /v1/dead-letters/{id}/replay`. The body
/// may be left out: then the steps that failed get new tries, and all that is
/// done stays done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// This step, and all that need it, start from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub from: Option<StepId>,
    /// A corrected input. Steps that are done keep their results, unless `from` resets them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Who asks, as they call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `POST /v1/tasks/{id}/resolve`: what happened to a call whose outcome is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The call.
    #[schema(value_type = String)]
    pub call: CallId,
    /// The step that made it; needed only if two steps have a call of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub step: Option<StepKey>,
    /// Whether it happened. If not, it is made again.
    pub happened: bool,
    /// What it answered, if it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Who says so, as they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What became of something that was said to a task: 200 if it took effect, 202
/// if a worker holds the task and takes it up at its next append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signalled {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// The state that it is in.
    #[schema(value_type = String)]
    pub state: StateName,
    /// Whether it took effect already.
    pub applied: bool,
}

/// `POST /v1/dead-letters/replay`: all that match, newest first, at a bounded rate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayMany {
    /// Only of this pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pipeline: Option<PipelineName>,
    /// Only of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// Only dead for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<DeadReason>,
    /// At most so many: 1 to 1,000, by default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// So many a second: 1 to 1,000, by default 100. `limit / per_second` is at most 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// Who asks, as they call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a filtered replay did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayedMany {
    /// The tasks that are on their way again.
    #[schema(value_type = Vec<String>)]
    pub replayed: Vec<TaskId>,
    /// Those that were not, and why.
    pub refused: Vec<RefusedReplay>,
    /// Whether there are more that match.
    pub more: bool,
}

/// A dead letter that was not replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedReplay {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// Why not.
    pub reason: String,
}

/// What became of `DELETE /v1/tasks/{id}/data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// Whether it was erased by this request, and not before.
    pub now: bool,
}
