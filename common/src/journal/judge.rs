//! Judges in the journal: what an agent was asked to judge. It is a conversation
//! of its own beside that of the agent whose text it is, in the line of its
//! subagents; its end is the verdict.

use serde::{Deserialize, Serialize};

use super::guard::GuardPoint;
use crate::id::{CallId, Digest};

/// What a judge was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judging {
    /// The guard, by its name in `teamster.yaml`.
    pub guard: String,
    /// What the guard looks at.
    pub on: GuardPoint,
    /// The call whose answer is judged, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// Of the text and of who judges it: another text, or another judge, is judged anew.
    pub digest: Digest,
}

/// What a judge answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Whether the text trips the guard.
    pub tripped: bool,
    /// Why, in the words of the judge.
    pub why: String,
}
