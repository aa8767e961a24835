//! Tools: one trait, one module a kind (built-ins, MCP servers, HTTP tools).
//!
//! A tool acts and answers. It does not journal and does not retry; whether a
//! call may be repeated is decided from its effect class by the executor.

pub mod agent;
pub mod bash;
mod blocking;
pub mod edit;
pub mod glob;
pub mod grep;
pub mod http;
pub mod mcp;
pub mod private;
pub mod read;
pub mod registry;
pub mod result;
pub mod rule;
pub mod search;
mod walk;
pub mod web;
mod workspace;
pub mod write;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::failure::{Failure, FailureClass};
use common::id::TaskId;
use common::journal::Effect;
use serde_json::Value;

use self::rule::Verdict;
pub use crate::answer::{ToolAnswer, ToolError};

/// What a model is told of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name, as agents and rules use it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub input_schema: Value,
}

impl ToolSpec {
    /// As it stands in a request head.
    pub fn to_json(&self) -> Value {
        serde_json::json!({"name": self.name, "description": self.description, "input_schema": self.input_schema})
    }
}

/// A call that is to be made.
#[derive(Debug, Clone)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// The arguments; they fit the tool's schema.
    pub arguments: Value,
    /// The idempotency key: the same for every repetition of this call.
    pub key: String,
    /// What it runs in.
    pub context: CallContext,
}

/// What a call runs in.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The task.
    pub task: TaskId,
    /// The fencing epoch: the number of the attempt.
    pub epoch: u32,
    /// The task's working directory; tools do not leave it. Exists for those of our own that work in it.
    pub workspace: PathBuf,
    /// The most that an answer may have, in bytes.
    pub output_limit: usize,
    /// How long the call may take.
    pub timeout: Duration,
    /// The W3C trace context to hand on.
    pub traceparent: Option<String>,
}

/// Cuts a text to `limit` bytes at the end of a character, and says so.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let omitted = text.len() - end;
    text.truncate(end);
    let _ = write!(text, "\n[… {omitted} bytes left out …]");
    text
}

/// Reads a call's arguments; that they fit the schema was checked before, so
/// this fails only where the schema is less strict than the tool.
pub(crate) fn arguments<T: serde::de::DeserializeOwned>(call: &ToolCall) -> Result<T, ToolError> {
    serde_json::from_value(call.arguments.clone()).map_err(|error| {
        ToolError::Failed(Failure::new(
            FailureClass::InvalidRequest,
            format!("the arguments of {} are not valid: {error}", call.name),
        ))
    })
}

/// Something that agents and `tool` steps can call.
#[async_trait]
pub trait Tool: Send + Sync + std::fmt::Debug {
    /// What a model is told of it.
    fn spec(&self) -> &ToolSpec;

    /// What repeating a call with these arguments may do.
    fn effect(&self, arguments: &Value) -> Effect;

    /// Whether a call with these arguments may be made, as far as its text tells; `workspace` is where it would work.
    fn verdict(&self, arguments: &Value, workspace: Option<&std::path::Path>) -> Verdict {
        let _ = (arguments, workspace);
        Verdict::Allowed
    }

    /// What becomes of a call that somebody else than rules wants a person asked about: in some modes nobody is asked.
    fn asks(&self, why: String) -> Verdict {
        Verdict::Asks(why)
    }

    /// Whether calls reach beyond the worker's machine: what is in their arguments gets out.
    fn reaches_out(&self) -> bool {
        false
    }

    /// Whether a person is asked about a call once its agent has read text of strangers.
    fn asks_after_taint(&self, arguments: &Value) -> bool {
        self.reaches_out() || self.effect(arguments) == Effect::Once
    }

    /// Makes the call. Dropping the future stops it, with everything that it started.
    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError>;
}

/// All tools of an installation that one agent or step may use, by name.
pub type ToolSet = std::collections::BTreeMap<String, Arc<dyn Tool>>;
