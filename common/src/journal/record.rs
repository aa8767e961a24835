//! What events carry: model calls, tool calls, outcomes, decisions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, FailureClass};
use crate::id::{CallId, Digest, StepKey, TaskId};

/// What repeating a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Changes nothing: may be repeated at will.
    Read,
    /// The other side recognises the idempotency key: may be repeated with the same key.
    Keyed,
    /// Must not be repeated: found intended but not done, a person decides.
    Once,
}

/// What a model call cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens read at full price.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the provider's prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read_tokens: u64,
    /// Tokens written to the provider's prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Dollars, by the price table in force.
    pub cost_usd: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Usage {
    /// Adds another call's usage.
    pub fn add(&mut self, other: &Self) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.cost_usd += other.cost_usd;
    }

    /// All tokens, in and out.
    pub fn tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens
    }
}

/// An answered model call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCall {
    /// The reply's content blocks, verbatim and in order, unknown ones included.
    pub content: Vec<Value>,
    /// Why the model stopped, in the words of the Messages API.
    pub stop_reason: String,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// The provider's id of the reply.
    pub response_id: String,
    /// What it cost.
    pub usage: Usage,
    /// How long it took, in milliseconds, the last try only.
    pub duration_ms: u64,
}

/// A tool call, `http` request or program that is about to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The id of the call within its step.
    pub call: CallId,
    /// The tool's name; `http` and `run` for steps of that kind.
    pub tool: String,
    /// What it is called with. Repeating a `keyed` call uses exactly these.
    pub arguments: Value,
    /// What repeating it may do.
    pub effect: Effect,
    /// The idempotency key that goes out with it.
    pub key: String,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum CallResult {
    /// It was answered; for an agent, `content` is what the model sees: a text or a list of content blocks.
    Done {
        /// The answer.
        content: Value,
        /// Whether the tool itself says that this is an error (an exit code, MCP's `isError`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    /// It was not answered, or not in a way that can be used: an agent's model
    /// sees the failure's message as an error result.
    Failed {
        /// The failure.
        error: Failure,
    },
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum StepOutcome {
    /// With an output.
    Succeeded {
        /// The output.
        output: Value,
    },
    /// For good, after its retries.
    Failed {
        /// The last failure.
        error: Failure,
    },
    /// Its condition was false, or a step that it needs was skipped.
    Skipped,
}

/// Why a task that waited goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeCause {
    /// Its time has come.
    Timer,
    /// Someone asked.
    Operator,
    /// The emergency stop that it waited for is over.
    Unhalted,
    /// There may be room under the limit that it waited for.
    Room,
}

/// What happens when a budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenSpent {
    /// The task waits until the window turns or somebody raises the budget.
    #[default]
    Park,
    /// The step fails.
    Fail,
}

/// Why a call has to wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum HoldBack {
    /// A budget is spent, as far as calls under way may spend it.
    Budget {
        /// Its name under `budgets:`, with the value of its label, or the task whose budget it is; and the unit.
        budget: String,
        /// How much is used or reserved: millionths of a dollar, or tokens.
        used: u64,
        /// How much may be.
        limit: u64,
    },
    /// A rate limit is used up, or there is no place for one more at once.
    RateLimit {
        /// Its name under `rate_limits:` with the unit, or `concurrency` with the pipeline and key.
        rate_limit: String,
        /// How much is used or reserved.
        used: u64,
        /// How much may be.
        limit: u64,
    },
    /// Calls to a provider or tool have failed again and again, or it asked for a pause.
    Breaker {
        /// The provider or tool.
        of: String,
        /// The class of what went wrong.
        class: FailureClass,
    },
}

impl HoldBack {
    /// Whether money is missing, and not only time.
    pub fn is_for_budget(&self) -> bool {
        matches!(self, Self::Budget { .. } | Self::Breaker { class: FailureClass::Billing, .. })
    }
}

/// What the answer to an approval is bound to, beside what is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalTerms {
    /// The tool call that may be made or not; nothing for an `approval` step. What is shown are its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// Who may decide; empty: anybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Who has approved before, so that somebody else must now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
    /// The digest of the permissions that were in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Digest>,
    /// The digest of all that the person sees and of the terms: what a decision may name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl ApprovalTerms {
    /// Whether nothing is bound.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// The same with the digest of what is asked.
    #[must_use]
    pub fn sealed(mut self, task: TaskId, step: &StepKey, title: &str, show: &Value) -> Self {
        let Self { call, approvers, approved_by, policy, .. } = &self;
        let asked = serde_json::json!([task, step, title, show, call, approvers, approved_by, policy]);
        self.digest = Some(Digest::of(asked.to_string().as_bytes()));
        self
    }

    /// Whether somebody may decide; else why not.
    ///
    /// # Errors
    /// The reason, for that person.
    pub fn admits(&self, by: &str) -> Result<(), String> {
        if self.approved_by.iter().any(|before| before == by) {
            return Err(format!("{by} has approved it already; somebody else must now"));
        }
        if !self.approvers.is_empty() && !self.approvers.iter().any(|approver| approver == by) {
            return Err(format!("{by} may not decide it; these may: {}", self.approvers.join(", ")));
        }
        Ok(())
    }
}

/// A person's decision on an approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalDecision {
    /// Yes or no.
    pub approved: bool,
    /// Who decided, as the API knows them.
    pub by: String,
    /// In their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What they changed of the thing shown; replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edits: Option<Value>,
}
