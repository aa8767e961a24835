//! Deliveries of webhooks, and health.

use common::id::{PipelineName, TaskId};
use common::task::StateName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to a delivery: 202 if it made a task, 200 if it made none that is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivered {
    /// The tasks, one for each pipeline that wants the event.
    pub tasks: Vec<DeliveredTask>,
}

/// A task that a delivery made, now or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveredTask {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// Its pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// The state that it is in.
    #[schema(value_type = String)]
    pub state: StateName,
}

/// The answer of `/healthz` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded: …` when everything works and something is slower than it could be.
    pub status: String,
}
