//! A tool as one agent gets it: its calls checked against the agent's rules,
//! its effect classed by the operator's.

use std::sync::Arc;

use async_trait::async_trait;
use common::journal::Effect;
use serde_json::Value;

use crate::tools::rule::{Effects, PATH_TOOLS, Permissions, Subject, Verdict};
use crate::tools::workspace::{Workspace, show};
use crate::tools::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};

#[derive(Debug)]
pub(super) struct Guarded {
    inner: Arc<dyn Tool>,
    permissions: Arc<Permissions>,
    effects: Arc<Effects>,
}

impl Guarded {
    pub(super) fn new(inner: Arc<dyn Tool>, permissions: Arc<Permissions>, effects: Arc<Effects>) -> Self {
        Self { inner, permissions, effects }
    }

    /// A path is judged as it is written, and as what it leads to through links.
    async fn verdict(&self, call: &ToolCall) -> Verdict {
        let name = self.spec().name.as_str();
        let verdict = |arguments: &Value| {
            self.permissions.verdict(Subject { tool: name, arguments, workspace: Some(&call.context.workspace) })
        };
        let written = verdict(&call.arguments);
        let argument = PATH_TOOLS.iter().find(|(tool, _)| *tool == name).map(|(_, argument)| *argument);
        let Some((argument, path)) =
            argument.and_then(|argument| Some((argument, call.arguments.get(argument)?.as_str()?.to_owned())))
        else {
            return written;
        };
        if written != Verdict::Allowed || !self.permissions.is_about_calls_of(name) {
            return written;
        }
        let root = call.context.workspace.clone();
        let resolved = tokio::task::spawn_blocking(move || {
            let workspace = Workspace::open(&root).ok()?;
            workspace.resolve(&workspace.relative(&path).ok()?).ok()
        });
        // What leads nowhere, or out, is the tool's own to refuse.
        let Ok(Some(resolved)) = resolved.await else { return written };
        let mut arguments = call.arguments.clone();
        arguments[argument] = Value::String(show(&resolved));
        verdict(&arguments)
    }
}

#[async_trait]
impl Tool for Guarded {
    fn spec(&self) -> &ToolSpec {
        self.inner.spec()
    }

    fn effect(&self, arguments: &Value) -> Effect {
        let subject = Subject { tool: &self.spec().name, arguments, workspace: None };
        self.effects.of(subject).unwrap_or_else(|| self.inner.effect(arguments))
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        match self.verdict(&call).await {
            Verdict::Allowed => self.inner.call(call).await,
            Verdict::Refused(why) => Ok(ToolAnswer::error(format!("{} was not called: {why}", call.name))),
        }
    }
}
