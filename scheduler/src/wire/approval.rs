//! Decisions that are wanted from people.

use common::clock::Timestamp;
use common::id::{ApprovalId, CallId, Digest, PipelineName, StepKey, TaskId};
use common::journal::{Event, Recorded};
use common::task::Head;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

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
    /// The tool call that is asked about; what is shown are its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub call: Option<CallId>,
    /// Who may decide; empty: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Who has approved already: somebody else must now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
    /// The digest of all this, for a decision that names what it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
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
    /// The digest of what was decided on; if given, it must be that of the approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
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

impl Approval {
    /// The open approval that an event asked for; `None` for any other event.
    pub fn new(head: &Head, recorded: Recorded) -> Option<Self> {
        let Event::ApprovalRequested { step, title, show, expires, terms } = recorded.event else { return None };
        Some(Self {
            id: ApprovalId { task: head.id, seq: recorded.seq },
            task: head.id,
            pipeline: head.pipeline.clone(),
            step,
            title,
            show,
            call: terms.call,
            approvers: terms.approvers,
            approved_by: terms.approved_by,
            digest: terms.digest,
            requested_at: recorded.at,
            expires,
        })
    }
}
