//! Tasks: submitting them, and what they look like.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::clock::Timestamp;
use common::failure::Failure;
use common::id::{
    ApprovalId, BatchId, CallId, Digest, IdempotencyKey, PipelineName, QueueName, StepId, StepKey, TaskId, WorkerId,
};
use common::journal::{GuardTrip, Recorded, Run, StepOutcome, StepRun, StepStatus, Usage};
use common::task::{DeadReason, Head, Parent, State, StateName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

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
    /// What a waiting task waits for: `timer`, `approval`, `children`, `outcome`, `budget`, `rate_limit`,
    /// `session`, `model_batch`, `halt`.
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
    /// When its data was erased: of values and words there are digests only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub erased_at: Option<Timestamp>,
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
    /// `ID`, or `ID[INDEX]` for an item; with `/NUMBER` behind it, a subagent that works for it.
    #[schema(value_type = String)]
    pub id: StepKey,
    /// The agent, of a subagent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The guard that it judges for, of a judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judges: Option<String>,
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
    /// The model that is asked, by its name in `teamster.yaml`, of an agent step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The models that were asked before it and gave up or declined, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models_before: Vec<String>,
    /// What guards found in what it was told and came to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub guards: Vec<GuardTrip>,
    /// The model that answered although another one was asked, by its name at the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// Model calls that were answered, of an agent step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<usize>,
    /// How often its conversation was summarised because it grew too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compactions: u32,
    /// What its model calls cost, of an agent step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Usage>,
    /// The round that a step with `repeat` is in, or ended with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u32,
    /// The child task of a `pipeline` step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub child: Option<TaskId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
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
            erased_at: head.erased_at,
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
        let mut steps: Vec<Step> =
            run.steps.into_iter().map(|(key, step)| Step::new(key, Arc::unwrap_or_clone(step))).collect();
        // Stable: items of one step stay in the order of their index.
        steps.sort_by_key(|step| place(&step.id));
        Self { summary: run.head.into(), input: Arc::unwrap_or_clone(run.input), steps, output: run.output }
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
        let conversation = step.conversation.as_ref();
        Self {
            id,
            agent: step.subagent.map(|subagent| subagent.agent),
            judges: step.judging.map(|judging| judging.guard),
            status,
            output,
            error,
            started_at: step.started_at,
            finished_at: step.finished_at,
            retry_at,
            tries: step.failed_tries + u32::from(under_way),
            model: conversation.map(|known| known.head.alias.clone()),
            models_before: conversation
                .into_iter()
                .flat_map(|c| &c.changes)
                .map(|change| change.from.clone())
                .collect(),
            guards: step.trips,
            answered_by: conversation.and_then(|known| known.other_model.clone()),
            turns: conversation.map(|known| known.turns.len()),
            compactions: conversation.and_then(|known| known.compacted.as_ref()).map_or(0, |last| last.number),
            usage: conversation.map(common::journal::Conversation::usage),
            round: step.round,
            child: step.child.map(|child| child.task),
        }
    }
}
