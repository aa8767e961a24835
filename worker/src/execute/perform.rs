//! Performing one action: everything that touches the outside world.
//!
//! What an action needs of the journal and the definition is gathered before
//! the future starts, so that a future owns all it works on and may be dropped
//! at any time.

use std::path::PathBuf;
use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::{StepKey, TaskId};
use common::journal::{CallRecord, Conversation, RequestHead, Run};
use common::pipeline::model::{Pipeline, RunStep, Step, StepKind};
use common::pipeline::template::Scope;
use common::span::Span;
use futures::FutureExt;
use futures::future::BoxFuture;
use sandbox::Sandbox;
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::Instant;

use super::batch::heed;
use super::child::Child;
use super::{Executor, internal, session, workspace};
use crate::decide::{Action, HTTP, Performed, Purpose, RUN, summary_request};
use crate::http::HttpRequest;
use crate::models::{Answered, ModelRequest};
use crate::process::{self, Ended, Program};
use crate::quota::Grant;
use crate::tools::{self, CallContext, ToolAnswer, ToolCall, ToolError, ToolSet};

/// How long a call may take where nothing says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);
/// The exit code by which a program says that it may work later (`EX_TEMPFAIL` of sysexits.h).
const TEMPORARY: i32 = 75;

/// What came of an action.
pub(super) struct Done {
    pub performed: Performed,
    /// The tools that were looked up for it.
    pub tools: Option<ToolSet>,
    /// The leave that was given.
    pub grant: Option<Grant>,
    /// For how long a provider takes no more calls of the model.
    pub pause: Option<Duration>,
}

impl Done {
    pub(super) fn of(performed: Performed) -> Self {
        Self { performed, tools: None, grant: None, pause: None }
    }
}

impl Executor {
    pub(super) fn perform<'a>(
        &'a self,
        action: Action,
        run: &Run,
        pipeline: &'a Pipeline,
        tools: Option<&ToolSet>,
        places_asked: u64,
        now: Timestamp,
    ) -> BoxFuture<'a, Done> {
        match action {
            Action::TakePlace { step, key } => self.take_place(&step, &key, places_asked, run, pipeline, now),
            Action::Reserve { step, call, way } => self.reserve(&step, call.as_ref(), way, run, pipeline, now),
            Action::Prepare { step, start } => self.prepare(step, start, run, pipeline),
            Action::CallModel { step, purpose } => self.call_model(&step, purpose, run, pipeline),
            Action::JoinBatch { step, until } => self.join_batch(&step, until, run),
            Action::HeedModelBatch { step } => heed(run, &step),
            Action::Call { step, call } => self.call(&step, call, run, pipeline, tools),
            Action::AskHooks { step, asking } => self.ask_hooks(&step, *asking, run, pipeline),
            Action::OpenSession { step, session } => {
                let opening = session::Opening::of(run, step, session);
                async move { Done::of(Performed::Opened(self.open_session(opening).await)) }.boxed()
            }
            Action::SaveSession { step } => match session::Closing::of(run, step) {
                Some(closing) => async move {
                    let session = closing.session().clone();
                    Done::of(Performed::Saved { session, kept: self.save_session(closing).await })
                }
                .boxed(),
                None => failed(Performed::Opened(Err(internal("there is no session to be left")))),
            },
            Action::SubmitChild { step, input } => {
                let child = Child::of(run, pipeline, &step, input);
                async move { Done::of(Performed::Child(self.submit_child(child).await)) }.boxed()
            }
        }
    }

    fn call_model<'a>(
        &'a self,
        key: &StepKey,
        purpose: Purpose,
        run: &Run,
        pipeline: &'a Pipeline,
    ) -> BoxFuture<'a, Done> {
        let conversation = run.step(key).and_then(|known| known.conversation.as_ref());
        let Some((head, messages)) = conversation.map(|known| request(known, purpose)) else {
            let answer = Err(internal("there is no conversation to go on with"));
            return failed(Performed::Model { purpose, answer });
        };
        let no_tools = purpose != Purpose::Turn;
        let timeout = remaining(pipeline.step(&key.step), run, key);
        let traceparent = run.submitted.traceparent.clone();
        // Before the request goes out: a call whose answer is lost with its worker is seen here only.
        tracing::debug!(task = %run.head.id, step = %key, model = head.model, "calls the model");
        async move {
            let answer = async {
                let provider = self.outside.models.provider(&head.provider)?;
                let request = ModelRequest { head: &head, messages, no_tools, traceparent };
                tokio::time::timeout(timeout, provider.call(request))
                    .await
                    .unwrap_or_else(|_| Err(timed_out("the model", timeout)))
            };
            let (answer, pause) = match answer.await {
                Ok(Answered { call, pause }) => (Ok(call), pause),
                Err(error) => (Err(error), None),
            };
            Done { pause, ..Done::of(Performed::Model { purpose, answer }) }
        }
        .boxed()
    }

    fn call<'a>(
        &'a self,
        key: &StepKey,
        call: CallRecord,
        run: &Run,
        pipeline: &'a Pipeline,
        tools: Option<&ToolSet>,
    ) -> BoxFuture<'a, Done> {
        let step = pipeline.step(&key.step);
        let context = self.context(run, remaining(step, run, key));
        // What goes out may hold private values; what is journaled of it does not.
        let outgoing = self.outgoing(&call, run, &context.workspace);
        let sent = outgoing.as_ref().unwrap_or(&call);
        let reveal = |text: String| self.revealed(text, outgoing.is_some(), run);
        let answer: BoxFuture<'a, Result<ToolAnswer, ToolError>> =
            match (call.tool.as_str(), step.map(|step| &step.kind)) {
                (HTTP, Some(StepKind::Http(step))) => {
                    let scope = self.scope_of(run, pipeline, key);
                    let headers = step
                        .headers
                        .iter()
                        .map(|(name, value)| Ok((name.clone(), reveal(value.render_text(&scope)?).into())))
                        .collect();
                    self.http_step(sent, headers, context).boxed()
                }
                (RUN, Some(StepKind::Run(step))) => {
                    let env = self.program_env(step, run, pipeline, key, &call, &context);
                    let env = env.map(|env| env.into_iter().map(|(name, value)| (name, reveal(value))).collect());
                    run_program(sent.arguments.clone(), env, self.outside.programs.clone(), context).boxed()
                }
                _ => call_tool(sent, tools, context).boxed(),
            };
        async move {
            let started = Instant::now();
            let answer = answer.await;
            let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Done::of(Performed::Call { call, answer, duration_ms })
        }
        .boxed()
    }

    fn http_step<'a>(
        &'a self,
        call: &CallRecord,
        headers: Result<Vec<(String, SecretString)>, Failure>,
        context: CallContext,
    ) -> impl Future<Output = Result<ToolAnswer, ToolError>> + Send + use<'a> {
        let (arguments, key, effect) = (call.arguments.clone(), call.key.clone(), call.effect);
        async move {
            let request = HttpRequest {
                method: arguments["method"].as_str().unwrap_or_default().to_owned(),
                url: arguments["url"].as_str().unwrap_or_default().to_owned(),
                headers: headers.map_err(ToolError::Failed)?,
                json: arguments.get("json").cloned(),
                key: (effect != common::journal::Effect::Read).then_some(key),
                traceparent: context.traceparent,
                timeout: context.timeout,
                response_limit: context.output_limit,
            };
            let answer = self.outside.http.send(request).await?;
            Ok(ToolAnswer { content: answer.into_value(), is_error: false })
        }
    }

    fn program_env(
        &self,
        step: &RunStep,
        run: &Run,
        pipeline: &Pipeline,
        key: &StepKey,
        call: &CallRecord,
        context: &CallContext,
    ) -> Result<Vec<(String, String)>, Failure> {
        let scope = self.scope_of(run, pipeline, key);
        let mut extra = vec![
            ("TEAMSTER_TASK".to_owned(), context.task.to_string()),
            ("TEAMSTER_IDEMPOTENCY_KEY".to_owned(), call.key.clone()),
            ("TEAMSTER_EPOCH".to_owned(), context.epoch.to_string()),
        ];
        for (name, value) in &step.env {
            extra.push((name.clone(), value.render_text(&scope)?));
        }
        Ok(process::environment(&context.workspace, extra))
    }

    fn context(&self, run: &Run, timeout: Duration) -> CallContext {
        CallContext {
            task: run.head.id,
            epoch: run.head.attempts,
            workspace: self.workspace(run.head.id),
            output_limit: self.config.limits.tool_output.bytes(),
            timeout,
            traceparent: run.submitted.traceparent.clone(),
        }
    }

    pub(super) fn workspace(&self, task: TaskId) -> PathBuf {
        self.workspaces.join(task.to_string())
    }

    pub(super) async fn remove_workspace(&self, task: TaskId) {
        match tokio::fs::remove_dir_all(self.workspace(task)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%task, %error, "the working directory of a finished task could not be removed");
            }
            _ => {}
        }
    }

    pub(super) fn scope_of<'a>(&'a self, run: &'a Run, pipeline: &'a Pipeline, key: &StepKey) -> Scope<'a> {
        crate::decide::scope_of(pipeline, run, &self.env, key)
    }
}

pub(super) async fn make_workspace(path: &std::path::Path) -> Result<(), ToolError> {
    tokio::fs::create_dir_all(path).await.map_err(|error| {
        let message = format!("the working directory {} cannot be made: {error} (worker.workspaces)", path.display());
        ToolError::Failed(Failure::new(FailureClass::Configuration, message))
    })
}

/// What a model is sent.
fn request(conversation: &Conversation, purpose: Purpose) -> (RequestHead, Vec<Value>) {
    let (mut head, messages) = match purpose {
        Purpose::Turn => ((*conversation.head).clone(), conversation.messages()),
        Purpose::Summary { kept_from, cut } => summary_request(conversation, kept_from, cut),
    };
    if conversation.cut {
        head.tools.push(tools::result::spec().to_json());
    }
    (head, messages)
}

fn failed<'a>(performed: Performed) -> BoxFuture<'a, Done> {
    async move { Done::of(performed) }.boxed()
}

fn call_tool(
    call: &CallRecord,
    tools: Option<&ToolSet>,
    context: CallContext,
) -> impl Future<Output = Result<ToolAnswer, ToolError>> + Send + use<> {
    let tool = tools.and_then(|set| set.get(&call.tool)).cloned();
    let call = ToolCall { name: call.tool.clone(), arguments: call.arguments.clone(), key: call.key.clone(), context };
    async move {
        let Some(tool) = tool else {
            let message = format!(
                "there is no tool {} on this worker; see `mcp_servers` and `tools` in teamster.yaml",
                call.name
            );
            return Err(ToolError::Failed(Failure::new(FailureClass::Configuration, message)));
        };
        if workspace::is_used_by(&call.name) {
            make_workspace(&call.context.workspace).await?;
        }
        tool.call(call).await
    }
}

async fn run_program(
    arguments: Value,
    env: Result<Vec<(String, String)>, Failure>,
    sandbox: Sandbox,
    context: CallContext,
) -> Result<ToolAnswer, ToolError> {
    make_workspace(&context.workspace).await?;
    let parts = arguments["command"].as_array().into_iter().flatten();
    let argv: Vec<String> = parts.filter_map(|part| part.as_str().map(str::to_owned)).collect();
    let name = argv.first().cloned().unwrap_or_default();
    let program = Program {
        argv,
        cwd: context.workspace,
        env: env.map_err(ToolError::Failed)?,
        sandbox,
        stdin: Some(arguments["stdin"].to_string().into_bytes()),
        timeout: context.timeout,
        output_limit: context.output_limit,
    };
    let outcome = process::run_program(program).await.map_err(ToolError::Failed)?;
    program_answer(&name, &outcome, context.timeout)
}

/// What a program left, as the step's answer.
fn program_answer(name: &str, outcome: &process::ProgramOutcome, timeout: Duration) -> Result<ToolAnswer, ToolError> {
    let stderr = || outcome.stderr.text();
    match outcome.ended {
        Ended::Exited(0) if outcome.stdout.omitted() > 0 => {
            let message = format!("{name} wrote more than a step's output may have (limits.tool_output)");
            Err(ToolError::Failed(Failure::new(FailureClass::Limit, message)))
        }
        Ended::Exited(0) => {
            let text = outcome.stdout.text();
            let content = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Ok(ToolAnswer { content, is_error: false })
        }
        Ended::Exited(TEMPORARY) => {
            let message = format!("{name} says that it may work later (exit code {TEMPORARY}): {}", stderr());
            Err(ToolError::Failed(Failure::new(FailureClass::Unavailable, message)))
        }
        Ended::Exited(code) => {
            let detail = serde_json::json!({"exit_code": code, "stdout": outcome.stdout.text(), "stderr": stderr()});
            let failure = Failure::new(FailureClass::Tool, format!("{name} ended with exit code {code}: {}", stderr()));
            Err(ToolError::Failed(failure.with_detail(detail)))
        }
        Ended::Signalled(signal) => {
            let failure =
                Failure::new(FailureClass::Tool, format!("{name} was ended by signal {signal}: {}", stderr()));
            Err(ToolError::Lost(failure))
        }
        Ended::TimedOut => Err(ToolError::Lost(timed_out(name, timeout))),
    }
}

fn timed_out(what: &str, timeout: Duration) -> Failure {
    Failure::new(FailureClass::Timeout, format!("{what} did not answer within {}", Span::clamped(timeout)))
}

/// How long the next call of a step may take: a try of a step as a whole, or
/// what an agent has left.
pub(super) fn remaining(step: Option<&Step>, run: &Run, key: &StepKey) -> Duration {
    let Some(timeout) = step.and_then(|step| step.timeout) else { return CALL_TIMEOUT };
    let busy = match step.map(|step| &step.kind) {
        Some(StepKind::Agent(_)) => Duration::from_millis(run.busy_ms(key)),
        _ => Duration::ZERO,
    };
    timeout.get().saturating_sub(busy)
}
