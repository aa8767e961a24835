//! What a task begins with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::WhenSpent;
use super::sealed::SealedValues;
use crate::clock::Timestamp;
use crate::id::{BatchId, Digest, GroupKey, IdempotencyKey, PipelineName, QueueName, TaskId};
use crate::task::Parent;

/// The first event of every journal: all that was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// The pipeline by name.
    pub pipeline: PipelineName,
    /// The definition that the task is pinned to for life.
    pub digest: Digest,
    /// Where it queues.
    pub queue: QueueName,
    /// 0 (last) to 9 (first); 4 is normal.
    pub priority: u8,
    /// What it works on.
    pub input: Value,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The key under which it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// The task and step that it is a child of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The batch that brought it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// Its line in that batch, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The group of which only the newest task is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersede: Option<GroupKey>,
    /// The W3C `traceparent` that came in with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The budgets of its ancestors, for which its calls count too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<Allowance>,
    /// The private values that came in with it: what tokens in it stand for.
    #[serde(default, skip_serializing_if = "SealedValues::is_empty")]
    pub sealed: SealedValues,
}

/// What a task and its descendants may spend together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    /// The task whose budget it is.
    pub task: TaskId,
    /// Dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Tokens, in and out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What happens when it is spent.
    #[serde(default)]
    pub then: WhenSpent,
}
