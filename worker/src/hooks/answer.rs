//! What the JSON of a hook means: pure. A word that the contract does not have
//! makes an answer one that nobody understands: a misspelt `deny` must not
//! become an agreement.

use common::journal::{HookDecision, HookEvent};
use serde::Deserialize;
use serde_json::Value;

/// The longest text of a hook that goes on to a model or into a journal, in characters.
const TEXT: usize = 10_000;

/// What one hook said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HookAnswer {
    pub(super) decision: HookDecision,
    pub(super) reason: Option<String>,
    pub(super) updated: Option<Value>,
    pub(super) context: Option<String>,
}

/// The fields that every event has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Written {
    r#continue: bool,
    stop_reason: Option<String>,
    decision: Option<Word>,
    reason: Option<String>,
    hook_specific_output: Option<Specific>,
    // For the person at a terminal, of whom there is none here.
    #[serde(rename = "suppressOutput")]
    _suppress_output: Option<bool>,
    #[serde(rename = "systemMessage")]
    _system_message: Option<String>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            r#continue: true,
            stop_reason: None,
            decision: None,
            reason: None,
            hook_specific_output: None,
            _suppress_output: None,
            _system_message: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Specific {
    hook_event_name: String,
    permission_decision: Option<Permission>,
    permission_decision_reason: Option<String>,
    updated_input: Option<serde_json::Map<String, Value>>,
    additional_context: Option<String>,
    #[serde(alias = "updatedMCPToolOutput")]
    updated_tool_output: Option<Value>,
}

/// `decision`: the older way for `PreToolUse`, the only one of the other events.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Approve,
    Block,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Permission {
    Allow,
    Deny,
    Ask,
}

impl HookAnswer {
    /// Reads the text of an answer; no text is no opinion.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub(super) fn of_text(event: HookEvent, text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::default()),
            text => {
                let value = serde_json::from_str(text).map_err(|error| format!("its answer is no JSON: {error}"))?;
                Self::of_value(event, &value)
            }
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub(super) fn of_value(event: HookEvent, value: &Value) -> Result<Self, String> {
        if !value.is_object() {
            return Err("its answer is no JSON object".to_owned());
        }
        let written = Written::deserialize(value).map_err(|error| format!("its answer is not understood: {error}"))?;
        let before_call = event == HookEvent::PreToolUse;
        let mut answer = Self { reason: written.reason, ..Self::default() };
        match written.decision {
            Some(Word::Block) => answer.decision = HookDecision::Deny,
            Some(Word::Approve) if before_call => answer.decision = HookDecision::Allow,
            Some(Word::Approve) | None => {}
        }
        if let Some(specific) = written.hook_specific_output {
            answer.add_specific(event, specific)?;
        }
        if !written.r#continue {
            answer.decision = HookDecision::End;
            answer.reason = written.stop_reason.or(answer.reason);
        }
        answer.reason = answer.reason.map(bounded);
        answer.context = answer.context.filter(|text| !text.is_empty()).map(bounded);
        Ok(answer)
    }

    fn add_specific(&mut self, event: HookEvent, specific: Specific) -> Result<(), String> {
        let Specific {
            hook_event_name,
            permission_decision,
            permission_decision_reason,
            updated_input,
            additional_context,
            updated_tool_output,
        } = specific;
        if hook_event_name != event.as_str() {
            return Err(format!("it was asked about {event} and answers to {:?}", bounded(hook_event_name)));
        }
        let of_other = |key: &str| Err(format!("`{key}` is no answer to {event}"));
        if event != HookEvent::PreToolUse && permission_decision.is_some() {
            return of_other("permissionDecision");
        }
        if event != HookEvent::PreToolUse && updated_input.is_some() {
            return of_other("updatedInput");
        }
        if event != HookEvent::PostToolUse && updated_tool_output.is_some() {
            return of_other("updatedToolOutput");
        }
        if let Some(permission) = permission_decision {
            self.decision = match permission {
                Permission::Allow => HookDecision::Allow,
                Permission::Deny => HookDecision::Deny,
                Permission::Ask => HookDecision::Ask,
            };
            self.reason = permission_decision_reason.or(self.reason.take());
        }
        self.updated = updated_input.map(Value::Object).or(updated_tool_output);
        self.context = additional_context;
        Ok(())
    }

    /// The answer of a hook of those who can tighten and not lift.
    pub(super) fn of_lower(self) -> Self {
        match self.decision {
            HookDecision::Allow => Self { decision: HookDecision::Pass, ..self },
            _ => self,
        }
    }

    /// The answer of a hook that says no in the simplest way.
    pub(super) fn denied(reason: &str) -> Self {
        let reason = Some(reason.trim()).filter(|reason| !reason.is_empty());
        Self { decision: HookDecision::Deny, reason: reason.map(|text| bounded(text.to_owned())), ..Self::default() }
    }
}

/// Cuts a text to what is kept of it.
pub(super) fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value, clippy::unnecessary_wraps)]

    use HookDecision::{Allow, Ask, Deny, End, Pass};
    use HookEvent::{PostToolUse, PreCompact, PreToolUse, Stop, SubagentStop};
    use serde_json::json;

    use super::*;

    fn specific(event: HookEvent, fields: Value) -> Value {
        let mut output = json!({"hookEventName": event.as_str()});
        output.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "hookSpecificOutput": output })
    }

    #[test]
    fn answers_mean_what_the_contract_says() {
        let pre = |fields| specific(PreToolUse, fields);
        let table = [
            (PreToolUse, json!({}), Pass, None),
            (PreToolUse, json!({"suppressOutput": true, "systemMessage": "hi", "continue": true}), Pass, None),
            (PreToolUse, pre(json!({})), Pass, None),
            (PreToolUse, pre(json!({"permissionDecision": "allow"})), Allow, None),
            (PreToolUse, pre(json!({"permissionDecision": "ask", "permissionDecisionReason": "r"})), Ask, Some("r")),
            (PreToolUse, pre(json!({"permissionDecision": "deny", "permissionDecisionReason": "r"})), Deny, Some("r")),
            (PreToolUse, json!({"decision": "approve", "reason": "r"}), Allow, Some("r")),
            (PreToolUse, json!({"decision": "block", "reason": "r"}), Deny, Some("r")),
            (PreToolUse, json!({"continue": false, "stopReason": "s", "decision": "approve"}), End, Some("s")),
            (PreToolUse, json!({"continue": false, "reason": "r"}), End, Some("r")),
            (PostToolUse, json!({"decision": "block", "reason": "r"}), Deny, Some("r")),
            (PostToolUse, specific(PostToolUse, json!({"additionalContext": "c"})), Pass, None),
            (Stop, json!({"decision": "block", "reason": "r"}), Deny, Some("r")),
            (Stop, json!({"decision": "approve"}), Pass, None),
            (SubagentStop, json!({"decision": "block", "reason": "r"}), Deny, Some("r")),
            (PreCompact, json!({"decision": "block"}), Deny, None),
            (PreCompact, json!({"continue": false}), End, None),
        ];
        for (event, value, decision, reason) in table {
            let answer = HookAnswer::of_value(event, &value).unwrap();
            assert_eq!((answer.decision, answer.reason.as_deref()), (decision, reason), "{event} {value}");
        }
    }

    #[test]
    fn what_is_changed_and_added_is_kept() {
        let answer = specific(PreToolUse, json!({"updatedInput": {"command": "ls"}, "additionalContext": "c"}));
        let answer = HookAnswer::of_value(PreToolUse, &answer).unwrap();
        assert_eq!((answer.updated, answer.context.as_deref()), (Some(json!({"command": "ls"})), Some("c")));
        for key in ["updatedToolOutput", "updatedMCPToolOutput"] {
            let answer = HookAnswer::of_value(PostToolUse, &specific(PostToolUse, json!({key: "x"}))).unwrap();
            assert_eq!(answer.updated, Some(json!("x")));
        }
        let long = HookAnswer::of_value(Stop, &json!({"decision": "block", "reason": "é".repeat(20_000)})).unwrap();
        assert_eq!(long.reason.unwrap().chars().count(), TEXT + 1);
    }

    #[test]
    fn what_is_not_of_the_contract_is_no_agreement() {
        let pre = |fields| specific(PreToolUse, fields);
        let table = [
            (PreToolUse, json!("deny")),
            (PreToolUse, json!([{"decision": "block"}])),
            (PreToolUse, json!({"permissionDecision": "deny"})),
            (PreToolUse, json!({"decision": "deny"})),
            (PreToolUse, json!({"continue": "false"})),
            (PreToolUse, pre(json!({"permissionDecision": "denied"}))),
            (PreToolUse, pre(json!({"permisionDecision": "deny"}))),
            (PreToolUse, pre(json!({"updatedInput": "ls"}))),
            (PreToolUse, pre(json!({"updatedToolOutput": 1}))),
            (PreToolUse, specific(PostToolUse, json!({}))),
            (PreToolUse, json!({"hookSpecificOutput": {"permissionDecision": "deny"}})),
            (PostToolUse, specific(PostToolUse, json!({"permissionDecision": "deny"}))),
            (Stop, specific(Stop, json!({"updatedInput": {}}))),
        ];
        for (event, value) in table {
            assert!(HookAnswer::of_value(event, &value).is_err(), "{event} {value}");
        }
        assert_eq!(HookAnswer::of_text(Stop, " \n").unwrap(), HookAnswer::default());
        for text in ["deny", "{", "{} {}", "null"] {
            assert!(HookAnswer::of_text(PreToolUse, text).is_err(), "{text}");
        }
    }
}
