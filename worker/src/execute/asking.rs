//! Asking hooks: what every hook is told, around what it is asked about.

use common::config::{HookHandler, PermissionMode};
use common::failure::Failure;
use common::id::StepKey;
use common::journal::{HookRuling, Run};
use common::pipeline::model::Pipeline;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::Executor;
use super::perform::{Done, make_workspace};
use crate::answer::ToolError;
use crate::decide::Performed;
use crate::hooks::{Asking, HookContext};

impl Executor {
    pub(super) fn ask_hooks<'a>(
        &'a self,
        step: &StepKey,
        mut asking: Asking,
        run: &Run,
        pipeline: &'a Pipeline,
    ) -> BoxFuture<'a, Done> {
        let context = HookContext {
            task: run.head.id,
            workspace: self.workspace(run.head.id),
            project: self.project.clone(),
            output_limit: self.config.limits.tool_output.bytes(),
        };
        let mut input = json!({
            // A task is what a session is to Claude Code; its conversation is in the journal and in no file.
            "session_id": run.head.id,
            "transcript_path": "",
            "cwd": context.workspace,
            "permission_mode": mode_name(self.mode(pipeline, run, step)),
            "hook_event_name": asking.event.as_str(),
            "pipeline": pipeline.name.as_str(),
            "step": step,
        });
        let agent = run.agent(step).filter(|_| step.is_subagent());
        if let (Some(agent), Value::Object(input)) = (agent, &mut input) {
            input.insert("agent_id".to_owned(), json!(step));
            input.insert("agent_type".to_owned(), json!(agent));
        }
        if let (Value::Object(input), Value::Object(about)) = (&mut input, asking.input.take()) {
            input.extend(about);
        }
        asking.input = input;
        let (event, call) = (asking.event, asking.call.clone());
        async move {
            let ruling = self.ask_in_workspace(asking, &context).await;
            Done::of(Performed::Hooks { event, call, ruling })
        }
        .boxed()
    }

    async fn ask_in_workspace(&self, asking: Asking, context: &HookContext) -> Result<HookRuling, Failure> {
        let programs =
            asking.hooks.iter().chain(&asking.own).any(|hook| matches!(hook.handler, HookHandler::Command(_)));
        if programs {
            // Without it a program does not start, and has not agreed: what is wrong is said there.
            if let Err(ToolError::Failed(failure) | ToolError::Lost(failure)) = make_workspace(&context.workspace).await
            {
                tracing::warn!(task = %context.task, %failure, "hooks have no directory to run in");
            }
        }
        self.outside.hooks.ask(asking, context).await
    }
}

/// As hooks of Claude Code know it; agents without a mode may do what their tools say.
fn mode_name(mode: Option<PermissionMode>) -> Value {
    mode.map_or(Value::from("default"), |mode| json!(mode))
}
