//! Hooks: programs and services of the operator that are asked before and after
//! what agents do, by the contract of Claude Code's hooks.
//!
//! JSON goes to the stdin of a command, or as a `POST` to a URL. A command
//! answers with its exit code (0: what stands on stdout as JSON; 2: no, for the
//! reason on stderr), a service with status 2xx and the same JSON. Whoever does
//! not answer in time, breaks down, or cannot be understood has not agreed:
//! what it was asked about is not done. Asks, and journals nothing.

mod answer;
mod gathering;
mod program;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use common::config::{Hook, HookHandler};
use common::failure::Failure;
use common::id::{CallId, TaskId};
use common::journal::{HookEvent, HookRuling};
use sandbox::Sandbox;
use serde_json::Value;

use self::answer::HookAnswer;
use self::gathering::Gathering;
use crate::http::HttpClient;

/// What hooks are asked about, and which.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Why they are asked.
    pub event: HookEvent,
    /// The call that it is about, where it is one.
    pub call: Option<CallId>,
    /// What they are told, an object.
    pub input: Value,
    /// The hooks of the installation, in the order in which they are asked.
    pub hooks: Vec<Arc<Hook>>,
    /// Those of the team and of the agent, which are asked after them. They can refuse, and allow nothing that a mode
    /// of the installation asks about.
    pub own: Vec<Arc<Hook>>,
}

/// What hooks are asked in.
#[derive(Debug, Clone)]
pub struct HookContext {
    /// The task.
    pub task: TaskId,
    /// The working directory of the task. Exists if one of the hooks is a program.
    pub workspace: PathBuf,
    /// The directory of `teamster.yaml`, where scripts of the project are.
    pub project: PathBuf,
    /// The most that an answer may have, in bytes.
    pub output_limit: usize,
}

/// Asks hooks.
#[derive(Debug)]
pub struct HookRunner {
    http: HttpClient,
    /// As the programs of `run` steps.
    sandbox: Sandbox,
}

impl HookRunner {
    /// One that confines programs in this way.
    pub fn new(http: HttpClient, sandbox: Sandbox) -> Self {
        Self { http, sandbox }
    }

    /// Asks the hooks one after the other: each sees what those before it changed. What one denies, no other is asked
    /// about. Dropping the future stops the hook that is being asked.
    ///
    /// # Errors
    /// Why a hook could not be asked, or not be understood, where there is nothing that could be refused instead: the
    /// agent wants to end, or its conversation is to be compacted.
    pub async fn ask(&self, asking: Asking, context: &HookContext) -> Result<HookRuling, Failure> {
        let Asking { event, mut input, hooks, own, .. } = asking;
        let mut gathering = Gathering::new(event);
        let of_installation = hooks.len();
        for (number, hook) in hooks.into_iter().chain(own).enumerate() {
            let started = Instant::now();
            let answer = self.ask_one(event, &hook, &input, context).await;
            let answer = answer.map(|answer| if number < of_installation { answer } else { answer.of_lower() });
            let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Err(failure) = &answer {
                tracing::warn!(task = %context.task, hook = hook.name(), %event, %failure, "a hook did not judge");
            }
            if gathering.add(hook.name(), answer, duration_ms)?.is_break() {
                break;
            }
            gathering.update(&mut input);
        }
        Ok(gathering.ruling())
    }

    async fn ask_one(
        &self,
        event: HookEvent,
        hook: &Hook,
        input: &Value,
        context: &HookContext,
    ) -> Result<HookAnswer, Failure> {
        let timeout = hook.timeout.get();
        match &hook.handler {
            HookHandler::Command(command) => {
                let program = program::of(command, input, timeout, self.sandbox.clone(), context);
                program::answer(event, &hook.name(), timeout, &crate::process::run_program(program).await?)
            }
            HookHandler::Http { url, headers } => {
                let request = service::request(url, headers, input, timeout, context.output_limit)?;
                service::answer(event, self.http.send(request).await)
            }
        }
    }
}
