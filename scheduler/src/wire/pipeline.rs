//! Pipelines and queues.

use std::collections::BTreeMap;

use common::clock::Timestamp;
use common::id::{Digest, PipelineName, QueueName, StepId};
use common::store;
use common::task::StateName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `PUT /v1/definitions`: makes these the current ones of their names, all or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The definitions, at most 1,000.
    pub definitions: Vec<NamedDefinition>,
}

/// A definition with everything that it refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedDefinition {
    /// The pipeline's name.
    #[schema(value_type = String)]
    pub name: PipelineName,
    /// The definition, as `teamster apply` writes it.
    pub body: String,
}

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The pipelines, in the order of the request.
    pub pipelines: Vec<AppliedPipeline>,
}

/// A pipeline after an apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppliedPipeline {
    /// Its name.
    #[schema(value_type = String)]
    pub name: PipelineName,
    /// Its current definition.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Whether it was another one before, or none.
    pub changed: bool,
}

/// `GET /v1/pipelines`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PipelineList {
    /// The pipelines, by name.
    pub pipelines: Vec<PipelineSummary>,
}

/// A pipeline by its current definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PipelineSummary {
    /// Its name.
    #[schema(value_type = String)]
    pub name: PipelineName,
    /// Its current definition.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// For people.
    pub description: String,
    /// Where its tasks queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// `webhook NAME`, `schedule CRON TIMEZONE`.
    pub triggers: Vec<String>,
    /// The ids of its steps, in order.
    #[schema(value_type = Vec<String>)]
    pub steps: Vec<StepId>,
    /// The JSON Schema of its input.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Why this version cannot run it, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// `GET /v1/queues`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueList {
    /// Every queue that has tasks or is paused, by name.
    pub queues: Vec<Queue>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Its name.
    #[schema(value_type = String)]
    pub name: QueueName,
    /// Whether it is paused: tasks are accepted, none is taken.
    pub paused: bool,
    /// How many of its unfinished tasks are in each state, and how many are dead.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub depth: BTreeMap<StateName, u64>,
    /// Since when the oldest ready task has been ready.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_ready: Option<Timestamp>,
}

/// The answer to pausing or resuming a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueuePaused {
    /// The queue.
    #[schema(value_type = String)]
    pub name: QueueName,
    /// Whether it is paused now.
    pub paused: bool,
}

impl From<store::Queue> for Queue {
    fn from(queue: store::Queue) -> Self {
        Self { name: queue.name, paused: queue.paused, depth: queue.depth, oldest_ready: queue.oldest_ready }
    }
}
