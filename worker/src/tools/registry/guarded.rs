//! A tool as one agent gets it: its calls checked against the agent's rules,
//! its effect classed by the operator's.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use common::config::PermissionMode;
use common::journal::Effect;
use serde_json::Value;

use crate::tools::rule::{Effects, PATH_TOOLS, Permissions, Policy, Rules, Subject, Tier, Verdict};
use crate::tools::workspace::{Workspace, show};
use crate::tools::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};

/// What an agent may do, and what repeating its calls may do.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) own: Permissions,
    pub(super) rules: Arc<Rules>,
    pub(super) mode: Option<PermissionMode>,
    pub(super) tiers: Vec<Arc<Tier>>,
    pub(super) effects: Arc<Effects>,
}

impl Judge {
    pub(super) fn policy(&self) -> Policy<'_> {
        Policy { own: &self.own, rules: &self.rules, mode: self.mode, tiers: &self.tiers }
    }
}

#[derive(Debug)]
pub(super) struct Guarded {
    inner: Arc<dyn Tool>,
    judge: Arc<Judge>,
}

impl Guarded {
    pub(super) fn new(inner: Arc<dyn Tool>, judge: Arc<Judge>) -> Self {
        Self { inner, judge }
    }

    /// Why a call is refused. A path is judged as it is written, and as what it leads to through links: a person was
    /// asked about what is written.
    async fn refusal(&self, call: &ToolCall) -> Option<String> {
        let name = self.spec().name.as_str();
        let verdict = |arguments: &Value| self.verdict(arguments, Some(&call.context.workspace));
        let written = match verdict(&call.arguments) {
            Verdict::Refused(why) => return Some(why),
            written => written,
        };
        let argument = PATH_TOOLS.iter().find(|(tool, _)| *tool == name).map(|(_, argument)| *argument)?;
        let path = call.arguments.get(argument)?.as_str()?.to_owned();
        if !self.judge.policy().is_about_calls_of(name) {
            return None;
        }
        let root = call.context.workspace.clone();
        let resolved = tokio::task::spawn_blocking(move || {
            let workspace = Workspace::open(&root).ok()?;
            workspace.resolve(&workspace.relative(&path).ok()?).ok()
        });
        // What leads nowhere, or out, is the tool's own to refuse.
        let Ok(Some(resolved)) = resolved.await else { return None };
        let mut arguments = call.arguments.clone();
        arguments[argument] = Value::String(show(&resolved));
        match (verdict(&arguments), written) {
            (Verdict::Refused(why), _) => Some(why),
            (Verdict::Asks(why) | Verdict::Unruled(why), Verdict::Allowed) => {
                Some(format!("the path leads through a link to one that is to be named itself: {why}"))
            }
            _ => None,
        }
    }
}

#[async_trait]
impl Tool for Guarded {
    fn spec(&self) -> &ToolSpec {
        self.inner.spec()
    }

    fn effect(&self, arguments: &Value) -> Effect {
        let subject = Subject { tool: &self.spec().name, arguments, workspace: None };
        self.judge.effects.of(subject).unwrap_or_else(|| self.inner.effect(arguments))
    }

    fn reaches_out(&self) -> bool {
        self.inner.reaches_out()
    }

    fn asks_after_taint(&self, arguments: &Value) -> bool {
        let subject = Subject { tool: &self.spec().name, arguments, workspace: None };
        let risky = self.reaches_out() || self.effect(arguments) == Effect::Once;
        risky && !self.judge.policy().trusts(subject)
    }

    fn verdict(&self, arguments: &Value, workspace: Option<&Path>) -> Verdict {
        self.judge.policy().verdict(Subject { tool: &self.spec().name, arguments, workspace })
    }

    fn asks(&self, why: String) -> Verdict {
        self.judge.policy().asks(why)
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        match self.refusal(&call).await {
            None => self.inner.call(call).await,
            Some(why) => Ok(ToolAnswer::error(format!("{} was not called: {why}", call.name))),
        }
    }
}
