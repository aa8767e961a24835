//! What agents may do in this installation, and what is asked of a person first.

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// How calls are judged that no rule is about: the modes of Claude Code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PermissionMode {
    /// Reading is allowed, everything else is asked.
    Default,
    /// As `default`, and files of the working directory may be changed.
    AcceptEdits,
    /// Reading is allowed, everything else is refused.
    Plan,
    /// As `default`, but what would be asked is refused.
    DontAsk,
    /// Everything is allowed. Only where the operator says `allow_bypass`.
    BypassPermissions,
}

/// `permissions:`. Deny beats ask beats allow. Rules are those of agents: `Read`, `Bash(git push:*)`, `mcp__crm__*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// What is allowed without a question, where a mode would ask.
    pub allow: Vec<String>,
    /// What a person is asked about first.
    pub ask: Vec<String>,
    /// What is refused.
    pub deny: Vec<String>,
    /// Calls that nobody is asked about although their agent has read text of strangers (`taint` of its file).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<String>,
    /// The mode of agents that name none. Without any, an agent may do what its `tools` say.
    pub mode: Option<PermissionMode>,
    /// Whether agents may have the mode `bypassPermissions`.
    pub allow_bypass: bool,
    /// Who may decide on calls; empty: anybody.
    pub approvers: Vec<String>,
    /// How many people must approve a call, 1 to 10. Default 1.
    pub votes: u32,
    /// When a question lapses, and the call is refused. Default 24 h.
    pub expires: Span,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            ask: Vec::new(),
            deny: Vec::new(),
            trust: Vec::new(),
            mode: None,
            allow_bypass: false,
            approvers: Vec::new(),
            votes: 1,
            expires: Span::from_secs(24 * 3_600),
        }
    }
}
