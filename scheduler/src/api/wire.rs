//! What goes over the wire: the requests and answers of the HTTP API.
//!
//! The server writes these types and clients read them, so that both agree by
//! construction. Requests refuse unknown keys; answers may grow new ones.

use std::collections::BTreeMap;

use common::clock::Timestamp;
use common::failure::Failure;
use common::id::{
    ApprovalId, BatchId, CallId, Digest, IdempotencyKey, PipelineName, QueueName, StepId, StepKey, TaskId, WorkerId,
};
use common::journal::{Event, Recorded, Run, StepOutcome, StepRun, StepStatus, Usage};
use common::store::{self, RejectedRow};
use common::task::{DeadReason, Head, Parent, State, StateName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

// ---- submitting -----------------------------------------------------------------

/// `POST /v1/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    /// The pipeline, by the definition that is current now.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// What it works on; checked against the pipeline's input schema. Default `{}`.
    #[serde(default = "empty_object")]
    pub input: Value,
    /// The same key for the same pipeline is answered with the same task. 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// Where it queues; by default as the pipeline says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// 0 (last) to 9 (first); by default as the pipeline says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9)]
    pub priority: Option<u8>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Timestamp>,
    /// For people and filters; they win over the labels that the pipeline gives. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// The answer to a submit: 202 for a new task, 200 for the old one of a repeated key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// The state that it is in.
    #[schema(value_type = String)]
    pub state: StateName,
}

// ---- tasks ----------------------------------------------------------------------

/// A task without what its journal holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskSummary {
    /// The task.
    #[schema(value_type = String, format = "uuid")]
    pub id: TaskId,
    /// `scheduled`, `ready`, `running`, `waiting`, `succeeded`, `cancelled` or `dead`.
    #[schema(value_type = String)]
    pub state: StateName,
    /// Its pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// The definition that it is pinned to.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Where it queues.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The key under which it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// The task and step that it is a child of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parent: Option<Parent>,
    /// The batch that brought it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When it becomes ready, of a scheduled one; when waiting ends by itself, of a waiting one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// What a waiting task waits for: `timer`, `approval`, `children`, `outcome`, `budget`, `rate_limit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_on: Vec<String>,
    /// The worker that holds a running task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub worker: Option<WorkerId>,
    /// Whether a running task was asked to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// How many leases it has had.
    pub attempts: u32,
    /// What its model calls have cost so far, in dollars.
    pub cost_usd: f64,
    /// The tokens of its model calls so far, in and out.
    pub tokens: u64,
    /// Those tokens, by kind.
    #[schema(value_type = Object)]
    pub usage: Usage,
    /// Decisions that are wanted from people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub open_approvals: Vec<ApprovalId>,
    /// Calls of which nobody knows whether they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_outcomes: Vec<UnknownOutcome>,
    /// Why it is dead: `failed`, `timeout`, `budget`, `poison`, `rejected`, `unreadable`, `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dead_reason: Option<DeadReason>,
    /// The step that failed, of a dead one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dead_step: Option<StepKey>,
    /// The failure of a dead one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub error: Option<Failure>,
    /// Why it was stopped, of a cancelled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// The number of its newest event.
    pub version: u64,
}

/// A call of which nobody knows whether it happened: see `POST /v1/tasks/{id}/resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnknownOutcome {
    /// The step that made it.
    #[schema(value_type = String)]
    pub step: StepKey,
    /// The call.
    #[schema(value_type = String)]
    pub call: CallId,
}

/// `GET /v1/tasks/{id}`: the fold of the whole journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// What the list shows too.
    #[serde(flatten)]
    pub summary: TaskSummary,
    /// What it works on.
    pub input: Value,
    /// Every step that anything is known of, in the order of the pipeline.
    pub steps: Vec<Step>,
    /// Its output, once it succeeded.
    pub output: Option<Value>,
}

/// A step of a task, or one item of a step that fans out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// `ID`, or `ID[INDEX]` for an item.
    #[schema(value_type = String)]
    pub id: StepKey,
    /// Where it is.
    pub status: StepState,
    /// Its output, once it succeeded.
    pub output: Option<Value>,
    /// Its failure, if it failed; the last one, if it is tried again.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Failure>,
    /// When anything was first known of it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it was done.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// When the next try may start, if it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<Timestamp>,
    /// How many tries were started.
    pub tries: u32,
    /// Model calls that were answered, of an agent step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<usize>,
    /// What its model calls cost, of an agent step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Usage>,
    /// The child task of a `pipeline` step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub child: Option<TaskId>,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Nothing was done yet.
    Pending,
    /// Started and not done.
    Started,
    /// A try failed and another one follows.
    Retrying,
    /// Done, with an output.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Its condition was false, or a step that it needs was skipped.
    Skipped,
}

/// A page of tasks, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskSummary>,
    /// Give this as `cursor` to go on; `null` at the end.
    pub next: Option<String>,
}

/// A page of dead letters, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    /// The tasks, all in state `dead`.
    pub dead_letters: Vec<TaskSummary>,
    /// Give this as `cursor` to go on; `null` at the end.
    pub next: Option<String>,
}

/// A page of a journal, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JournalPage {
    /// The events, `{seq, at, event: {type, …}}` each.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Recorded>,
    /// Give this as `after` to go on; `null` at the end.
    pub next: Option<u64>,
}

// ---- what people say to tasks ---------------------------------------------------

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

/// `POST /v1/dead-letters/replay`: all that match, oldest matches last, at a bounded rate.
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

// ---- approvals ------------------------------------------------------------------

/// A decision that is wanted from a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// Its id: `TASK.NUMBER`.
    #[schema(value_type = String)]
    pub id: ApprovalId,
    /// The task that asks.
    #[schema(value_type = String, format = "uuid")]
    pub task: TaskId,
    /// Its pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// The step that asks.
    #[schema(value_type = String)]
    pub step: StepKey,
    /// One line.
    pub title: String,
    /// What is to be decided on.
    pub show: Value,
    /// Since when it is asked.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// When the question lapses.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// A page of open approvals, newest task first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalPage {
    /// The approvals.
    pub approvals: Vec<Approval>,
    /// Give this as `cursor` to go on; `null` at the end.
    pub next: Option<String>,
}

/// `POST /v1/approvals/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Yes or no.
    pub decision: Decision,
    /// In one's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What was changed of the thing shown; replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edits: Option<Value>,
    /// Who decides, as they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

// ---- batches --------------------------------------------------------------------

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

// ---- pipelines and queues -------------------------------------------------------

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

// ---- webhooks, health, errors ---------------------------------------------------

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
    /// `ok`.
    pub status: String,
}

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: `urn:teamster:problem:NAME`, a stable name for programs.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong here, and what to do about it.
    pub detail: String,
    /// The path that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What was wrong where, if the request was wrong in places. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Complaint>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Complaint {
    /// Where, as a JSON Pointer (RFC 6901) into the body; empty for the whole.
    pub pointer: String,
    /// What.
    pub message: String,
}

// ---- from the types of the store ------------------------------------------------

impl From<Head> for TaskSummary {
    fn from(head: Head) -> Self {
        let due_at = head.due_at();
        let state = head.state.name();
        let mut summary = Self {
            id: head.id,
            state,
            pipeline: head.pipeline,
            digest: head.digest,
            queue: head.queue,
            priority: head.priority,
            labels: head.labels,
            idempotency_key: head.key,
            parent: head.parent,
            batch: head.batch,
            created_at: head.created_at,
            updated_at: head.updated_at,
            due_at,
            waiting_on: Vec::new(),
            worker: None,
            cancel_requested: false,
            attempts: head.attempts,
            cost_usd: head.usage.cost_usd,
            tokens: head.usage.tokens(),
            usage: head.usage,
            open_approvals: head.open_approvals,
            unknown_outcomes: head
                .unknown_outcomes
                .into_iter()
                .map(|(step, call)| UnknownOutcome { step, call })
                .collect(),
            dead_reason: None,
            dead_step: None,
            error: None,
            cancel_reason: None,
            version: head.version,
        };
        match head.state {
            State::Running { worker, cancel_requested, .. } => {
                summary.worker = Some(worker);
                summary.cancel_requested = cancel_requested;
            }
            State::Waiting { wait, .. } => {
                summary.waiting_on = wait.on.iter().map(|on| on.kind().to_owned()).collect();
                summary.waiting_on.dedup();
            }
            State::Cancelled { reason, .. } => summary.cancel_reason = Some(reason),
            State::Dead { reason, error, step, .. } => {
                summary.dead_reason = Some(reason);
                summary.dead_step = step;
                summary.error = Some(error);
            }
            State::Scheduled { .. } | State::Ready { .. } | State::Succeeded { .. } => {}
        }
        summary
    }
}

impl Task {
    /// A task from the fold of its journal; `order` names the steps of its
    /// pipeline in the order of the file (steps that it lacks come last).
    pub fn new(run: Run, order: &[StepId]) -> Self {
        let place = |key: &StepKey| order.iter().position(|id| id == &key.step).unwrap_or(usize::MAX);
        let mut steps: Vec<Step> = run.steps.into_iter().map(|(key, step)| Step::new(key, step)).collect();
        // Stable: items of one step stay in the order of their index.
        steps.sort_by_key(|step| place(&step.id));
        Self { summary: run.head.into(), input: run.input, steps, output: run.output }
    }
}

impl Step {
    fn new(id: StepKey, step: StepRun) -> Self {
        let (status, output, error, retry_at) = match step.status {
            StepStatus::Pending => (StepState::Pending, None, step.last_error, None),
            StepStatus::Started => (StepState::Started, None, step.last_error, None),
            StepStatus::Retrying { not_before } => (StepState::Retrying, None, step.last_error, Some(not_before)),
            StepStatus::Done(StepOutcome::Succeeded { output }) => (StepState::Succeeded, Some(output), None, None),
            StepStatus::Done(StepOutcome::Failed { error }) => (StepState::Failed, None, Some(error), None),
            StepStatus::Done(StepOutcome::Skipped) => (StepState::Skipped, None, None, None),
        };
        let under_way = matches!(status, StepState::Started | StepState::Succeeded);
        Self {
            id,
            status,
            output,
            error,
            started_at: step.started_at,
            finished_at: step.finished_at,
            retry_at,
            tries: step.failed_tries + u32::from(under_way),
            turns: step.conversation.as_ref().map(|c| c.turns.len()),
            usage: step.conversation.as_ref().map(common::journal::Conversation::usage),
            child: step.child.map(|child| child.task),
        }
    }
}

impl Approval {
    /// The open approval that an event asked for; `None` for any other event.
    pub fn new(head: &Head, recorded: Recorded) -> Option<Self> {
        let Event::ApprovalRequested { step, title, show, expires } = recorded.event else { return None };
        Some(Self {
            id: ApprovalId { task: head.id, seq: recorded.seq },
            task: head.id,
            pipeline: head.pipeline.clone(),
            step,
            title,
            show,
            requested_at: recorded.at,
            expires,
        })
    }
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

impl From<store::Queue> for Queue {
    fn from(queue: store::Queue) -> Self {
        Self { name: queue.name, paused: queue.paused, depth: queue.depth, oldest_ready: queue.oldest_ready }
    }
}
