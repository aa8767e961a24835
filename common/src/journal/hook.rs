//! What hooks said: programs and services that the operator has asked at certain
//! points of an agent's work. An answer is journaled before anything is done
//! because of it, so that nobody is asked twice.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::CallId;

/// When hooks are asked, in the words of Claude Code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookEvent {
    /// Before a tool call is judged and made.
    PreToolUse,
    /// After a tool call was answered without an error, before the model sees the answer.
    PostToolUse,
    /// When the agent of a step wants to end.
    Stop,
    /// When a subagent wants to end.
    SubagentStop,
    /// Before a conversation is compacted.
    PreCompact,
}

impl HookEvent {
    /// Every event.
    pub const ALL: [Self; 5] = [Self::PreToolUse, Self::PostToolUse, Self::Stop, Self::SubagentStop, Self::PreCompact];

    /// The name as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreToolUse => "PreToolUse",
            Self::PostToolUse => "PostToolUse",
            Self::Stop => "Stop",
            Self::SubagentStop => "SubagentStop",
            Self::PreCompact => "PreCompact",
        }
    }
}

impl std::fmt::Display for HookEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is to become of that which hooks were asked about; of several answers the last in this order holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookDecision {
    /// Nothing was said about it.
    #[default]
    Pass,
    /// It may be, where only a mode would have asked a person.
    Allow,
    /// A person is asked first.
    Ask,
    /// It may not be: `deny` of `PreToolUse`, `block` of the other events.
    Deny,
    /// The agent ends (`continue: false`).
    End,
}

impl HookDecision {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
            Self::End => "end",
        }
    }
}

/// What came of asking all hooks that are about one thing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HookRuling {
    /// What is to become of it.
    pub decision: HookDecision,
    /// Why, as the hook says that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `PreToolUse`: the arguments instead of those that the model chose. Of `PostToolUse`: what the model sees
    /// instead of the tool's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Value>,
    /// What the model is told beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
    /// Who was asked, in order.
    pub ran: Vec<HookRun>,
}

/// One hook that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// The beginning of its command, or its URL without what may be secret.
    pub hook: String,
    /// What it said.
    pub decision: HookDecision,
    /// Why it could not be asked, or not be understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a ruling is about, within a step and since its last turn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookPoint {
    /// When the hooks were asked.
    pub event: HookEvent,
    /// The call, where it is one.
    pub call: Option<CallId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_written_as_it_is_named() {
        for event in HookEvent::ALL {
            assert_eq!(serde_json::to_value(event).ok(), Some(Value::from(event.as_str())));
        }
    }

    #[test]
    fn deny_beats_ask_beats_allow() {
        use HookDecision::{Allow, Ask, Deny, End, Pass};
        let mut all = [Deny, Pass, End, Ask, Allow];
        all.sort();
        assert_eq!(all, [Pass, Allow, Ask, Deny, End]);
        for decision in all {
            assert_eq!(serde_json::to_value(decision).ok(), Some(Value::from(decision.as_str())));
        }
    }
}
