//! Batches and their rows.

use std::collections::BTreeMap;

use common::clock::Timestamp;
use common::id::{BatchId, PipelineName, TaskId};
use common::store;
use common::store::RejectedRow;
use common::task::{DeadReason, StateName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The answer to `POST /v1/batches`: everything in it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchReceipt {
    /// The batch.
    #[schema(value_type = String)]
    pub id: BatchId,
    /// Rows that made a new task.
    pub accepted: u64,
    /// Rows whose task existed before.
    pub duplicates: u64,
    /// Rows that made no task.
    pub rejected: u64,
    /// The first thousand of those; `GET /v1/batches/{id}/results` has all.
    #[schema(value_type = Vec<Object>)]
    pub rejections: Vec<RejectedRow>,
}

/// `GET /v1/batches/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    /// The batch.
    #[schema(value_type = String)]
    pub id: BatchId,
    /// The pipeline that its rows are for.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// When it was first posted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Whether all of its rows have been read.
    pub closed: bool,
    /// Whether all of its rows have been read and all of its tasks are done.
    pub done: bool,
    /// Rows that are tasks.
    pub total: u64,
    /// Those, by the state of the task.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub tasks: BTreeMap<StateName, u64>,
    /// Rows whose task existed before.
    pub duplicates: u64,
    /// Rows that made no task.
    pub rejected: u64,
    /// The first hundred of those.
    #[schema(value_type = Vec<Object>)]
    pub rejections: Vec<RejectedRow>,
    /// What its tasks have cost so far, in dollars.
    pub cost_usd: f64,
}

/// One line of `GET /v1/batches/{id}/results`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchResult {
    /// The row's line in the file, from 1.
    pub line: u64,
    /// Its task, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub id: Option<TaskId>,
    /// `rejected`, `removed` (by retention), or the state of the task.
    pub state: String,
    /// The task's output, once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Why there is none: of a rejected row, a cancelled or a dead task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the task is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dead_reason: Option<DeadReason>,
    /// What the task has cost so far, in dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl From<store::BatchStatus> for Batch {
    fn from(status: store::BatchStatus) -> Self {
        let unfinished = status.tasks.iter().any(|(state, count)| !state.is_terminal() && *count > 0);
        Self {
            id: status.id,
            pipeline: status.pipeline,
            created_at: status.created_at,
            closed: status.closed,
            done: status.closed && !unfinished,
            total: status.tasks.values().sum(),
            tasks: status.tasks,
            duplicates: status.duplicates,
            rejected: status.rejected,
            rejections: status.rejections,
            cost_usd: status.cost_usd,
        }
    }
}
