//! What comes of a call to the outside: an answer, or what is known instead.
//! Plain data, beneath everything that calls and everything that decides.

use common::failure::Failure;
use serde_json::Value;

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolAnswer {
    /// A text, or a list of content blocks in the form of the Messages API.
    pub content: Value,
    /// Whether the tool itself says that this is an error.
    pub is_error: bool,
}

impl ToolAnswer {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: Value::String(text.into()), is_error: false }
    }

    /// What the tool has to say against the call; the model sees it and can do better.
    pub fn error(text: impl Into<String>) -> Self {
        Self { content: Value::String(text.into()), is_error: true }
    }
}

/// Why a tool did not answer, by what may be done next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It did not happen, or it was answered in a way that cannot be used: repeating it is a decision like any other.
    #[error(transparent)]
    Failed(Failure),
    /// Nobody knows whether it happened (it broke off, it timed out): only a call
    /// that may be repeated is repeated (invariant I5).
    #[error(transparent)]
    Lost(Failure),
}
