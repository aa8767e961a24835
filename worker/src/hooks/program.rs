//! Hooks that are commands: started as the program of a `run` step is, in the
//! task's working directory.

use std::time::Duration;

use common::failure::{Failure, FailureClass};
use common::journal::HookEvent;
use common::span::Span;
use sandbox::Sandbox;
use serde_json::Value;

use super::HookContext;
use super::answer::HookAnswer;
use crate::process::{Ended, Program, ProgramOutcome, environment};

/// The exit code that says no.
const NO: i32 = 2;
/// Characters of stderr in a message.
const STDERR: usize = 500;

pub(super) fn of(command: &str, input: &Value, timeout: Duration, sandbox: Sandbox, context: &HookContext) -> Program {
    let extra = [
        ("TEAMSTER_TASK".to_owned(), context.task.to_string()),
        // By this name scripts that were written for Claude Code find what lies beside them.
        ("CLAUDE_PROJECT_DIR".to_owned(), context.project.to_string_lossy().into_owned()),
    ];
    Program {
        argv: ["sh", "-c", command].map(str::to_owned).to_vec(),
        cwd: context.workspace.clone(),
        env: environment(&context.workspace, extra),
        sandbox,
        stdin: Some(input.to_string().into_bytes()),
        timeout,
        output_limit: context.output_limit,
    }
}

/// What a command's end means.
pub(super) fn answer(
    event: HookEvent,
    name: &str,
    timeout: Duration,
    outcome: &ProgramOutcome,
) -> Result<HookAnswer, Failure> {
    let stderr = || outcome.stderr.text().trim().chars().take(STDERR).collect::<String>();
    let failed = |class, what: String| {
        let said = stderr();
        Err(Failure::new(class, if said.is_empty() { what } else { format!("{what}: {said}") }))
    };
    match outcome.ended {
        Ended::Exited(0) if outcome.stdout.omitted() > 0 => {
            failed(FailureClass::Protocol, "its answer is larger than limits.tool_output".to_owned())
        }
        Ended::Exited(0) => {
            HookAnswer::of_text(event, &outcome.stdout.text()).map_err(|why| Failure::new(FailureClass::Protocol, why))
        }
        Ended::Exited(NO) => Ok(match HookAnswer::denied(&outcome.stderr.text()) {
            answer @ HookAnswer { reason: Some(_), .. } => answer,
            answer => HookAnswer { reason: Some(format!("{name} says no, and not why")), ..answer },
        }),
        Ended::Exited(code) => failed(FailureClass::Tool, format!("it ended with exit code {code}")),
        Ended::Signalled(signal) => failed(FailureClass::Tool, format!("it was ended by signal {signal}")),
        Ended::TimedOut => {
            failed(FailureClass::Timeout, format!("it did not answer within {}", Span::clamped(timeout)))
        }
    }
}
