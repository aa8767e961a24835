//! What went wrong, classed once: the class decides whether to try again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The class of a failure. A small closed set: users name it in `retry.on`,
/// and it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The other side asks to slow down (429).
    RateLimited,
    /// The other side is overloaded (529, 503).
    Overloaded,
    /// The other side failed (500, 502, 504).
    Unavailable,
    /// No connection, or it broke before an answer was complete.
    Connection,
    /// No answer in time.
    Timeout,
    /// The answer is not what the protocol allows.
    Protocol,
    /// The request itself is wrong (400, 404, 422); repeating it cannot help.
    InvalidRequest,
    /// The conversation is longer than the model can read.
    ContextWindow,
    /// Credentials are missing, wrong or not allowed to do this (401, 403).
    Authentication,
    /// The account cannot pay (402, a reached spend tier).
    Billing,
    /// The task's own budget is spent.
    Budget,
    /// The model declined.
    Refused,
    /// The output does not fit its schema.
    InvalidOutput,
    /// A guard tripped on what the agent was told or came to.
    Guard,
    /// A limit of the step or the installation was hit (turns, tokens, sizes, repetition).
    Limit,
    /// A tool or program says that it failed.
    Tool,
    /// A template or condition cannot be evaluated.
    Template,
    /// A person said no, or did not answer in time.
    Rejected,
    /// A child task did not succeed.
    Child,
    /// A step that this one needs did not succeed.
    Needs,
    /// The pipeline, agent, model or tool is not configured here.
    Configuration,
    /// A worker died while holding the task, again and again.
    Crash,
    /// A fault of this program.
    Internal,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [Self; 23] = [
        Self::RateLimited,
        Self::Overloaded,
        Self::Unavailable,
        Self::Connection,
        Self::Timeout,
        Self::Protocol,
        Self::InvalidRequest,
        Self::ContextWindow,
        Self::Authentication,
        Self::Billing,
        Self::Budget,
        Self::Refused,
        Self::InvalidOutput,
        Self::Guard,
        Self::Limit,
        Self::Tool,
        Self::Template,
        Self::Rejected,
        Self::Child,
        Self::Needs,
        Self::Configuration,
        Self::Crash,
        Self::Internal,
    ];

    /// The name as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::InvalidRequest => "invalid_request",
            Self::ContextWindow => "context_window",
            Self::Authentication => "authentication",
            Self::Billing => "billing",
            Self::Budget => "budget",
            Self::Refused => "refused",
            Self::InvalidOutput => "invalid_output",
            Self::Guard => "guard",
            Self::Limit => "limit",
            Self::Tool => "tool",
            Self::Template => "template",
            Self::Rejected => "rejected",
            Self::Child => "child",
            Self::Needs => "needs",
            Self::Configuration => "configuration",
            Self::Crash => "crash",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later: what `retry.on: [transient]` means.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::Unavailable
                | Self::Connection
                | Self::Timeout
                | Self::Protocol
        )
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failure of a step or a task, as it stands in the journal and as
/// expressions see it (`steps.ID.error.class`, `.message`, `.detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class}: {message}")]
pub struct Failure {
    /// What kind.
    pub class: FailureClass,
    /// For a person: what was wrong, where, and what to do about it. At most [`Failure::MESSAGE_LIMIT`] bytes.
    pub message: String,
    /// For programs and for the dead letter: the refused output, the schema's complaints, the response body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Value>>,
    /// What the other side asked us to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// The longest message that is kept, in bytes.
    pub const MESSAGE_LIMIT: usize = 4096;

    /// A failure with a message and nothing else; the message is cut to its limit.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > Self::MESSAGE_LIMIT {
            let mut end = Self::MESSAGE_LIMIT - '…'.len_utf8();
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Self { class, message, detail: None, retry_after_ms: None }
    }

    /// Adds what programs and the dead letter need to see.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// Adds what the other side asked us to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: std::time::Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = Failure::new(FailureClass::Tool, "é".repeat(5_000));
        assert!(failure.message.len() <= Failure::MESSAGE_LIMIT);
        assert!(failure.message.ends_with('…'));
    }

    #[test]
    fn every_class_is_written_as_it_is_named() {
        for class in FailureClass::ALL {
            assert_eq!(serde_json::to_value(class).ok(), Some(Value::from(class.as_str())));
        }
    }
}
