//! What guards said: checks that the operator has made of what an agent reads
//! and writes. A guard that trips is journaled before anything follows from it.

use serde::{Deserialize, Serialize};

use crate::id::CallId;

/// What a guard looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardPoint {
    /// What an agent is told: its prompt, and answers of calls that its `taint` counts as text of strangers.
    Input,
    /// What an agent comes to, before it is taken.
    Output,
}

impl GuardPoint {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// What happens when a guard trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardThen {
    /// The step goes on; templates and readers see what tripped.
    Mark,
    /// A person is asked whether the step goes on.
    Ask,
    /// The step fails.
    #[default]
    Fail,
}

/// A guard has tripped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardTrip {
    /// Its name in `teamster.yaml`.
    pub guard: String,
    /// What it looked at.
    pub on: GuardPoint,
    /// The call whose answer it looked at, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// What happens.
    pub then: GuardThen,
    /// What it found: the pattern that fits, what does not fit the schema, or why the judge says so.
    pub found: String,
    /// Some of the text around it, at most some hundred characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
    /// Where in the value: a JSON pointer, empty for the whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
}
