//! Errors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

impl From<common::submission::Complaint> for Complaint {
    fn from(complaint: common::submission::Complaint) -> Self {
        Self { pointer: complaint.pointer, message: complaint.message }
    }
}
